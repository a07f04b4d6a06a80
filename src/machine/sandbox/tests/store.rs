//! Checkpoint, snapshot, and the kill of the sandbox.

use super::*;

// ----- checkpoint

#[test]
fn checkpoint_answers_when_the_server_confirmed_it_and_ends_the_session() {
    let mut fixture = Fixture::running();
    let checkpoint = fixture.checkpoint();
    assert_eq!(fixture.sent(), [r#"{"action":"checkpoint"}"#]);
    assert_eq!(fixture.control(), [DISABLE_RECONNECT]);
    fixture.say_all("CHECKPOINTING DELETING DELETED");
    assert_eq!(fixture.answer(checkpoint), None);
    fixture.say("SANDBOX_CHECKPOINTED");
    assert_eq!(fixture.answer(checkpoint), Some(Ok(SandboxReply::Done)));
    assert_eq!(fixture.end(), Some(SandboxEnd::Checkpointed));
    assert_eq!(fixture.control().last(), Some(&CLOSE));
    assert!(fixture.end().is_some_and(|end| end.is_reattachable()));
}

#[test]
fn checkpoint_and_snapshot_are_for_a_running_sandbox_and_not_twice_at_once() {
    for (mut fixture, part) in [
        (Fixture::creating().0, "being created"),
        (Fixture::reconnecting(), "reconnecting"),
    ] {
        fixture.forget();
        for request in [fixture.checkpoint(), fixture.snapshot()] {
            assert!(fixture.says(request).contains(part));
        }
        assert_eq!((fixture.sent(), fixture.control()), (vec![], vec![]));
    }
    let mut fixture = Fixture::running();
    let (snapshot, again) = (fixture.snapshot(), fixture.snapshot());
    assert!(fixture.says(again).contains("already under way"));
    let (checkpoint, again) = (fixture.checkpoint(), fixture.checkpoint());
    assert!(fixture.says(again).contains("already under way"));
    fixture.say("SANDBOX_CHECKPOINTING");
    let again = fixture.checkpoint();
    assert!(fixture.says(again).contains("already under way"));
    let late = fixture.snapshot();
    assert!(fixture.says(late).contains("being checkpointed"));
    fixture.say_all("FILESYSTEM_SNAPSHOT_CREATED CHECKPOINTED");
    for request in [snapshot, checkpoint] {
        assert_eq!(fixture.answer(request), Some(Ok(SandboxReply::Done)));
    }
}

#[test]
fn a_checkpoint_refused_because_an_exec_runs_fails_and_the_sandbox_goes_on() {
    let mut fixture = Fixture::executing();
    let checkpoint = fixture.checkpoint();
    fixture.say("SANDBOX_CHECKPOINTING");
    fixture.forget();
    fixture.say_because("SANDBOX_EXECUTION_IN_PROGRESS_ERROR", "Cannot checkpoint.");
    assert!(fixture.says(checkpoint).contains("Cannot checkpoint."));
    assert_eq!(fixture.state(), SandboxState::Running);
    assert_eq!(fixture.control(), [confirm(1)], "armed again");
    fixture.print("on");
    assert_eq!(fixture.output().len(), 1);
    fixture.say("SANDBOX_EXECUTION_DONE");
    let again = fixture.checkpoint();
    fixture.say_all("CHECKPOINTING CHECKPOINTED");
    assert_eq!(fixture.answer(again), Some(Ok(SandboxReply::Done)));
}

#[test]
fn a_checkpoint_refused_in_the_middle_of_a_kill_does_not_arm_the_connection() {
    let mut fixture = Fixture::executing();
    fixture.checkpoint();
    fixture.kill();
    fixture.say("SANDBOX_CHECKPOINTING");
    fixture.forget();
    fixture.say_because("SANDBOX_EXECUTION_IN_PROGRESS_ERROR", "no");
    assert_eq!(fixture.control(), [confirm(1), DISABLE_RECONNECT]);
    assert_eq!(fixture.state(), SandboxState::Killing);
}

#[test]
fn a_fatal_checkpoint_error_fails_with_the_reason_and_closes() {
    let mut fixture = Fixture::running();
    let checkpoint = fixture.checkpoint();
    fixture.say("SANDBOX_CHECKPOINTING");
    fixture.say_because("SANDBOX_CHECKPOINT_ERROR", "not configured");
    assert!(fixture.says(checkpoint).contains("not configured"));
    assert!(matches!(fixture.end(), Some(SandboxEnd::Failed { .. })));
    assert_eq!(fixture.control().last(), Some(&CLOSE));
}

#[test]
fn a_checkpoint_that_was_not_enabled_is_refused_before_it_is_sent() {
    let (mut fixture, _) = Fixture::creating_with(Configuration::default());
    fixture.frame(IDENTITY);
    fixture.say("SANDBOX_RUNNING");
    fixture.forget();
    let checkpoint = fixture.checkpoint();
    assert!(
        fixture
            .says(checkpoint)
            .contains("`enable_sandbox_checkpoint`")
    );
    assert_eq!(fixture.failure(checkpoint).effect(), Effect::NotApplied);
    assert_eq!((fixture.sent(), fixture.control()), (vec![], vec![]));
    assert_eq!(fixture.state(), SandboxState::Running);

    // What an attached sandbox was created with is not known: the server decides.
    let (mut attached, _) = Fixture::attaching();
    attached.say("SANDBOX_RUNNING");
    attached.forget();
    attached.checkpoint();
    assert_eq!(attached.sent(), [r#"{"action":"checkpoint"}"#]);
}

#[test]
fn the_effect_of_a_checkpoint_is_unknown_after_a_fatal_error() {
    for status in [
        "SANDBOX_CHECKPOINT_ERROR",
        "SANDBOX_ERROR",
        "SANDBOX_LOCK_RENEWAL_ERROR",
    ] {
        let mut fixture = Fixture::running();
        let checkpoint = fixture.checkpoint();
        fixture.say("SANDBOX_CHECKPOINTING");
        fixture.say_because(status, "the reason");
        let effect = fixture.failure(checkpoint).effect();
        assert_eq!(effect, Effect::Unknown, "{status}");
        assert!(fixture.says(checkpoint).contains("the reason"), "{status}");
    }
}

#[test]
fn deleted_alone_is_no_word_for_a_checkpoint() {
    for lost in [false, true] {
        let mut fixture = Fixture::running();
        let checkpoint = fixture.checkpoint();
        fixture.say_all("CHECKPOINTING DELETING DELETED");
        if lost {
            fixture.lose();
        } else {
            assert_eq!(fixture.pass_until_due(), Duration::from_secs(10));
        }
        assert_eq!(fixture.end(), Some(SandboxEnd::Deleted));
        assert_eq!(fixture.failure(checkpoint).effect(), Effect::Unknown);
    }
}

#[test]
fn a_checkpoint_is_bounded_in_time_and_never_comes_back_by_itself() {
    let mut silent = Fixture::running();
    let checkpoint = silent.checkpoint();
    assert_eq!(silent.pass_until_due(), Duration::from_secs(600));
    assert!(matches!(
        silent.failure(checkpoint),
        Failure::Timeout { .. }
    ));

    // The loss of the link and the news that it is final crossed.
    let mut crossed = Fixture::running();
    let checkpoint = crossed.checkpoint();
    crossed.cut();
    assert!(matches!(crossed.end(), Some(SandboxEnd::LinkLost { .. })));
    assert_eq!(crossed.failure(checkpoint).effect(), Effect::Unknown);
    assert_eq!(crossed.control().last(), Some(&CLOSE));
}

// ----- snapshot

#[test]
fn snapshot_answers_as_the_server_does_and_the_sandbox_goes_on() {
    let mut fixture = Fixture::executing();
    let good = fixture.snapshot();
    assert_eq!(
        fixture.sent(),
        [r#"{"action":"snapshot_filesystem","name":"snap"}"#]
    );
    fixture.say_all("FILESYSTEM_SNAPSHOT_CREATING FILESYSTEM_SNAPSHOT_CREATED");
    assert_eq!(fixture.answer(good), Some(Ok(SandboxReply::Done)));
    let bad = fixture.snapshot();
    fixture.say_because("SANDBOX_FILESYSTEM_SNAPSHOT_ERROR", "disk full");
    assert!(fixture.says(bad).contains("disk full"));
    assert_eq!(fixture.state(), SandboxState::Running);
    assert_eq!(fixture.told(), []);
}

#[test]
fn the_answer_to_a_snapshot_that_timed_out_is_not_that_of_the_next() {
    let mut fixture = Fixture::running();
    let first = fixture.snapshot();
    assert_eq!(fixture.pass_until_due(), Duration::from_secs(600));
    assert!(matches!(fixture.failure(first), Failure::Timeout { .. }));
    let second = fixture.snapshot();
    fixture.say("SANDBOX_FILESYSTEM_SNAPSHOT_CREATED");
    assert_eq!(fixture.answer(second), None);
    fixture.say_because("SANDBOX_FILESYSTEM_SNAPSHOT_ERROR", "no");
    assert!(fixture.answer(second).is_some_and(|answer| answer.is_err()));
}

#[test]
fn a_snapshot_whose_answer_never_comes_does_not_take_that_of_the_next() {
    for lost in [false, true] {
        let mut fixture = Fixture::running();
        fixture.snapshot();
        fixture.say("SANDBOX_FILESYSTEM_SNAPSHOT_CREATING");
        if lost {
            fixture.cut();
            fixture.link();
            fixture.say("SANDBOX_RUNNING");
        } else {
            fixture.pass_until_due();
        }
        for _ in 0..2 {
            let next = fixture.snapshot();
            fixture.say_all("FILESYSTEM_SNAPSHOT_CREATING FILESYSTEM_SNAPSHOT_CREATED");
            assert_eq!(fixture.answer(next), Some(Ok(SandboxReply::Done)));
        }
    }
}

#[test]
fn the_answer_to_a_snapshot_before_an_outage_is_not_that_of_the_next() {
    let mut fixture = Fixture::running();
    fixture.snapshot();
    fixture.say("SANDBOX_FILESYSTEM_SNAPSHOT_CREATING");
    fixture.cut();
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    let next = fixture.snapshot();
    fixture.say("SANDBOX_FILESYSTEM_SNAPSHOT_CREATED");
    assert_eq!(fixture.answer(next), None, "that was the first");
    fixture.say("SANDBOX_FILESYSTEM_SNAPSHOT_CREATING");
    fixture.say_because("SANDBOX_FILESYSTEM_SNAPSHOT_ERROR", "disk full");
    assert!(fixture.says(next).contains("disk full"));
}

// ----- kill

#[test]
fn kill_is_idempotent_and_answers_when_the_server_confirmed_it() {
    let mut fixture = Fixture::executing();
    let kills = [fixture.kill(), fixture.kill()];
    assert_eq!(fixture.sent(), [KILL_SANDBOX]);
    assert_eq!(fixture.control(), [DISABLE_RECONNECT]);
    fixture.say_all("KILLING DELETING DELETED");
    assert_eq!(fixture.answer(kills[0]), None);
    fixture.say("SANDBOX_KILLED");
    let late = fixture.kill();
    for kill in kills.into_iter().chain([late]) {
        assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
    }
    assert_eq!(fixture.end(), Some(SandboxEnd::Killed));
    assert_eq!(fixture.sent(), [""; 0]);
}

#[test]
fn a_kill_that_nobody_confirms_is_an_error_and_can_be_tried_again() {
    let mut fixture = Fixture::running();
    let first = fixture.kill();
    fixture.pass(Duration::from_secs(10));
    let second = fixture.kill();
    assert_eq!(fixture.pass_until_due(), Duration::from_secs(20));
    assert!(matches!(fixture.failure(first), Failure::Timeout { .. }));
    assert_eq!(fixture.answer(second), None);
    fixture.forget();
    let third = fixture.kill();
    assert_eq!(fixture.sent(), [KILL_SANDBOX]);
    fixture.lose();
    for kill in [second, third] {
        assert_eq!(fixture.failure(kill).effect(), Effect::Unknown);
    }
}

#[test]
fn a_kill_that_was_sent_is_never_said_not_to_have_been_applied() {
    let mut fixture = Fixture::running();
    let first = fixture.kill();
    fixture.pass(Duration::from_secs(10));
    let second = fixture.kill();
    fixture.pass_until_due();
    fixture.lose();
    assert!(fixture.answer(first).is_some());
    assert_eq!(fixture.failure(second).effect(), Effect::Unknown);
}

#[test]
fn a_failed_kill_says_why_and_the_sandbox_goes_on_armed() {
    let mut fixture = Fixture::running();
    let kills = [fixture.kill(), fixture.kill()];
    fixture.say("SANDBOX_KILLING");
    fixture.forget();
    fixture.say_because("SANDBOX_KILL_ERROR", "busy");
    for kill in kills {
        assert!(fixture.says(kill).contains("busy"));
    }
    assert_eq!(fixture.state(), SandboxState::Running);
    assert_eq!(fixture.control(), [confirm(1)]);
    fixture.kill();
    assert_eq!(fixture.sent(), [KILL_SANDBOX]);
}

#[test]
fn kill_of_a_sandbox_that_may_still_live_names_the_state() {
    let mut lost = Fixture::running();
    lost.lose();
    let mut in_use = Fixture::attaching().0;
    in_use.say("SANDBOX_IN_USE");
    for (mut fixture, part) in [
        (Fixture::creating().0, "being created"),
        (Fixture::attaching().0, "being attached"),
        (lost, "link was lost"),
        (in_use, "another client is attached"),
    ] {
        let kill = fixture.kill();
        assert!(fixture.says(kill).contains(part), "{part}");
    }
}

#[test]
fn kill_of_a_sandbox_that_the_server_said_is_gone_is_granted() {
    let mut checkpointed = Fixture::running();
    checkpointed.say("SANDBOX_CHECKPOINTED");
    let mut not_created = Fixture::creating().0;
    not_created.say_because("SANDBOX_CREATION_ERROR", "no room");
    let mut lock_lost = Fixture::running();
    lock_lost.say_because("SANDBOX_LOCK_RENEWAL_ERROR", "lost");
    for mut fixture in [checkpointed, not_created, lock_lost] {
        assert!(fixture.end().is_some());
        fixture.forget();
        let kill = fixture.kill();
        assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
        assert_eq!(fixture.sent(), [""; 0]);
    }
}

/// These end the session. The server did not say that the sandbox is gone.
const SESSION_ERRORS: &[&str] = &[
    "SANDBOX_ERROR",
    "SANDBOX_CHECKPOINT_ERROR",
    "SANDBOX_RESTORE_ERROR",
    "SANDBOX_NOT_FOUND",
    "SANDBOX_IN_USE",
    "SANDBOX_PERMISSION_DENIAL_ERROR",
];

#[test]
fn a_kill_after_a_fatal_error_has_an_unknown_effect() {
    for status in SESSION_ERRORS {
        let mut fixture = Fixture::running();
        fixture.say_because(status, "the reason");
        fixture.forget();
        let kill = fixture.kill();
        assert_eq!(fixture.failure(kill).effect(), Effect::Unknown, "{status}");
        assert!(fixture.says(kill).contains("attach to it"), "{status}");
        assert_eq!(fixture.sent(), [""; 0]);
    }
    for status in ["SANDBOX_ERROR", "SANDBOX_CHECKPOINT_ERROR"] {
        let mut fixture = Fixture::running();
        fixture.say_because(status, "the reason");
        assert!(fixture.end().is_some_and(|end| end.is_reattachable()));
    }
}

#[test]
fn a_fatal_error_does_not_confirm_a_pending_kill() {
    for status in SESSION_ERRORS {
        let mut fixture = Fixture::running();
        let kill = fixture.kill();
        fixture.say_because(status, "the reason");
        let effect = fixture.failure(kill).effect();
        assert_eq!(effect, Effect::Unknown, "{status}");
    }
}

#[test]
fn a_kill_after_a_handoff_has_nothing_to_kill() {
    let mut fixture = Fixture::running();
    fixture.say_all("LOCK_RELEASE_REQUESTED CHECKPOINTING CHECKPOINTED");
    assert_eq!(fixture.end(), Some(SandboxEnd::HandedOff));
    let kill = fixture.kill();
    assert!(matches!(fixture.answer(kill), Some(Ok(_))));
}

/// A kill asked for in an outage, and the idle timeout during it.
#[test]
fn a_kill_of_what_may_be_checkpointed_has_an_unknown_effect() {
    let mut fixture = Fixture::attaching().0;
    fixture.say("SANDBOX_RUNNING");
    fixture.cut();
    let kill = fixture.kill();
    fixture.link();
    fixture.say_all("DELETING DELETED");
    assert_eq!(fixture.end(), Some(SandboxEnd::MaybeCheckpointed));
    assert_eq!(fixture.failure(kill).effect(), Effect::Unknown);
    // Later, there is nothing left to kill.
    let kill = fixture.kill();
    assert!(matches!(fixture.answer(kill), Some(Ok(_))));
}

#[test]
fn a_kill_that_a_checkpoint_overtakes_is_no_success() {
    let mut fixture = Fixture::running();
    let kill = fixture.kill();
    fixture.say_all("CHECKPOINTING DELETED CHECKPOINTED");
    assert_eq!(fixture.failure(kill).effect(), Effect::Unknown);
}

#[test]
fn a_kill_during_an_outage_is_sent_once_the_sandbox_runs_again() {
    let mut fixture = Fixture::reconnecting();
    let kill = fixture.kill();
    fixture.link();
    assert_eq!(fixture.sent(), [""; 0], "not before it runs");
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [RECONNECT, KILL_SANDBOX]);
    assert_eq!(fixture.control(), [confirm(2), DISABLE_RECONNECT]);
    fixture.say_all("KILLING DELETED KILLED");
    assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
}

#[test]
fn a_kill_during_an_outage_that_does_not_end_was_not_applied() {
    let mut given_up = Fixture::reconnecting();
    let kill = given_up.kill();
    given_up.lose();
    assert_eq!(given_up.failure(kill).effect(), Effect::NotApplied);

    let mut late = Fixture::reconnecting();
    let kill = late.kill();
    assert_eq!(late.pass_until_due(), Duration::from_secs(30));
    assert!(matches!(late.failure(kill), Failure::LinkLost { .. }));
}

#[test]
fn a_kill_that_times_out_in_an_outage_is_still_sent_after_it_and_says_so() {
    let mut fixture = Fixture::reconnecting();
    let kill = fixture.kill();
    fixture.pass_until_due();
    assert_eq!(fixture.failure(kill).effect(), Effect::Unknown);
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [RECONNECT, KILL_SANDBOX]);
}

#[test]
fn a_kill_whose_news_crossed_the_loss_of_the_link_is_sent_again() {
    let mut fixture = Fixture::executing();
    let kill = fixture.kill();
    fixture.cut();
    fixture.link();
    fixture.forget();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [RECONNECT, KILL_SANDBOX]);
    fixture.say("SANDBOX_KILLED");
    assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
}

#[test]
fn deleted_is_the_word_for_a_kill_whose_own_end_never_comes() {
    for lost in [false, true] {
        let mut fixture = Fixture::running();
        let kill = fixture.kill();
        fixture.say_all("KILLING DELETING DELETED");
        if lost {
            fixture.lose();
        } else {
            assert_eq!(fixture.pass_until_due(), Duration::from_secs(10));
        }
        assert_eq!(fixture.end(), Some(SandboxEnd::Killed));
        assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
    }
}

#[test]
fn a_sandbox_deleted_while_idle_is_over_at_once() {
    let mut fixture = Fixture::running();
    fixture.say_all("DELETING DELETED");
    assert_eq!(fixture.end(), Some(SandboxEnd::Deleted));
    assert_eq!(fixture.control(), [DISABLE_RECONNECT, CLOSE]);
    let kill = fixture.kill();
    assert_eq!(fixture.answer(kill), Some(Ok(SandboxReply::Done)));
    let exec = fixture.exec();
    assert!(fixture.says(exec).contains("it was idle too long"));
}

#[test]
fn a_sandbox_that_is_deleted_may_have_been_checkpointed_where_it_was_asked_for() {
    let (mut asked, _) = Fixture::creating_with(Configuration {
        enable_checkpoint: true,
        enable_idle_timeout_auto_checkpoint: true,
        ..Configuration::default()
    });
    asked.frame(IDENTITY);
    // Of a sandbox that was attached to, the client does not know.
    for mut fixture in [asked, Fixture::attaching().0] {
        fixture.say_all("RUNNING DELETING DELETED");
        let end = fixture.end().expect("the end");
        assert!(end.is_reattachable());
        assert!(
            end.to_string().contains("attach to it to restore it"),
            "{end}"
        );
        let kill = fixture.kill();
        assert!(matches!(fixture.answer(kill), Some(Ok(_))));
    }
}

#[test]
fn deleted_never_ends_as_checkpointed_after_a_failed_kill() {
    let mut fixture = Fixture::running();
    fixture.kill();
    fixture.say_all("KILLING DELETED");
    fixture.say_because("SANDBOX_KILL_ERROR", "half done");
    fixture.pass(Duration::from_secs(10));
    assert_eq!(fixture.end(), Some(SandboxEnd::Deleted));
}

#[test]
fn a_kill_or_checkpoint_by_someone_else_is_seen() {
    let mut killed = Fixture::executing();
    killed.say("SANDBOX_KILLING");
    assert_eq!(killed.state(), SandboxState::Killing);
    killed.say_all("DELETED KILLED");
    assert_eq!(killed.end(), Some(SandboxEnd::Killed));
    let mut deleted = Fixture::executing();
    deleted.say_all("CHECKPOINTING DELETED");
    assert!(deleted.control().contains(&DISABLE_RECONNECT));
    deleted.cut();
    assert_eq!(
        deleted.end(),
        Some(SandboxEnd::Deleted),
        "not dialled again"
    );
}

#[test]
fn requests_that_wait_for_a_status_are_known() {
    let mut fixture = Fixture::executing();
    assert!(!fixture.sandbox.is_awaited());
    fixture.snapshot();
    assert!(fixture.sandbox.is_awaited());
    fixture.say("SANDBOX_FILESYSTEM_SNAPSHOT_CREATED");
    assert!(!fixture.sandbox.is_awaited());
    fixture.kill();
    assert!(fixture.sandbox.is_awaited());
}
