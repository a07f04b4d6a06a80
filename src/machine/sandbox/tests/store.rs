//! Checkpoint, snapshot and handoff.

use super::*;
use ProcessFact::{Done, ForceKilled};

// ----- checkpoint

#[test]
fn a_confirmed_checkpoint_resolves_and_ends_the_session() {
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
fn only_a_running_sandbox_is_stored_one_operation_at_a_time() {
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
    assert!(fixture.says(again).contains("already in progress"));
    let (checkpoint, again) = (fixture.checkpoint(), fixture.checkpoint());
    assert!(fixture.says(again).contains("already in progress"));
    fixture.say("SANDBOX_CHECKPOINTING");
    let again = fixture.checkpoint();
    assert!(fixture.says(again).contains("already in progress"));
    let late = fixture.snapshot();
    assert!(fixture.says(late).contains("being checkpointed"));
    fixture.say_all("FILESYSTEM_SNAPSHOT_CREATED CHECKPOINTED");
    for request in [snapshot, checkpoint] {
        assert_eq!(fixture.answer(request), Some(Ok(SandboxReply::Done)));
    }
}

#[test]
fn a_checkpoint_refused_for_an_exec_leaves_the_sandbox_running() {
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
fn a_checkpoint_refused_during_a_kill_does_not_arm_reconnection() {
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
fn a_checkpoint_not_enabled_is_refused_before_it_is_sent() {
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

    // The options of an attached sandbox are unknown, so the server decides.
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
fn deleted_alone_does_not_confirm_a_checkpoint() {
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
fn a_checkpoint_times_out_and_never_reconnects() {
    let mut silent = Fixture::running();
    let checkpoint = silent.checkpoint();
    assert_eq!(silent.pass_until_due(), Duration::from_secs(600));
    assert!(matches!(
        silent.failure(checkpoint),
        Failure::Timeout { .. }
    ));

    // The loss of the link crossed with the command that makes a loss final.
    let mut crossed = Fixture::running();
    let checkpoint = crossed.checkpoint();
    crossed.cut();
    assert!(matches!(crossed.end(), Some(SandboxEnd::LinkLost { .. })));
    assert_eq!(crossed.failure(checkpoint).effect(), Effect::Unknown);
    assert_eq!(crossed.control().last(), Some(&CLOSE));
}

// ----- snapshot

#[test]
fn a_snapshot_is_answered_and_the_sandbox_continues() {
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
fn a_timed_out_snapshots_answer_is_not_the_next_ones() {
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
fn an_unanswered_snapshot_does_not_take_the_next_answer() {
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
fn a_snapshot_answer_before_an_outage_is_not_the_next_ones() {
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

// ----- handoff

#[test]
fn a_sandbox_handed_to_another_client_does_not_take_itself_back() {
    let mut fixture = Fixture::executing();
    fixture.call(|sandbox| sandbox.kill_process(P1));
    fixture.say("SANDBOX_EXECUTION_DONE");
    fixture.exec();
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    fixture.forget();
    fixture.say("SANDBOX_LOCK_RELEASE_REQUESTED");
    assert_eq!(fixture.control(), [DISABLE_RECONNECT], "at once");
    fixture.say_all("CHECKPOINTING EXECUTION_FORCE_KILLED EXECUTION_DONE");
    assert_eq!(fixture.told(), [(P2, ForceKilled), (P2, Done)]);
    fixture.say_all("DELETING LOCK_RELEASING LOCK_RELEASED DELETED CHECKPOINTED");
    assert_eq!(fixture.end(), Some(SandboxEnd::HandedOff));
    assert_eq!(
        fixture.control().last(),
        Some(&CLOSE),
        "the server may never close"
    );
}

#[test]
fn nothing_rearms_reconnection_after_a_handoff() {
    let mut refused = Fixture::executing();
    refused.say("SANDBOX_LOCK_RELEASE_REQUESTED");
    refused.checkpoint();
    refused.forget();
    refused.say_because("SANDBOX_EXECUTION_IN_PROGRESS_ERROR", "no");
    assert_eq!(refused.control(), [confirm(1), DISABLE_RECONNECT]);

    let (mut early, _) = Fixture::attaching();
    early.say_all("LOCK_RELEASE_REQUESTED RUNNING");
    assert_eq!(early.control().last(), Some(&DISABLE_RECONNECT));

    let mut crossed = Fixture::executing();
    crossed.say("SANDBOX_LOCK_RELEASE_REQUESTED");
    crossed.cut();
    assert!(matches!(crossed.end(), Some(SandboxEnd::LinkLost { .. })));
    assert_eq!(crossed.control().last(), Some(&CLOSE));
}

#[test]
fn a_handoff_without_its_last_status_is_a_handoff() {
    for lost in [false, true] {
        let mut fixture = Fixture::running();
        fixture.say_all("LOCK_RELEASE_REQUESTED CHECKPOINTING LOCK_RELEASED DELETED");
        if lost {
            fixture.lose();
        } else {
            fixture.pass_until_due();
        }
        assert_eq!(fixture.end(), Some(SandboxEnd::HandedOff));
    }
}
