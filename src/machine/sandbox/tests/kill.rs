//! The kill of the sandbox, including an abandoned one.

use super::*;

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
fn an_unconfirmed_kill_is_an_error_and_can_be_retried() {
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
fn a_sent_kill_never_counts_as_not_applied() {
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
fn a_failed_kill_reports_why_and_reconnects_stay_armed() {
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
        (lost, "connection was lost"),
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

/// Errors that end the session without a report that the sandbox is gone.
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

/// A kill is requested during a reconnect, and the idle timeout deletes the sandbox meanwhile.
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
    // A later kill finds nothing left to kill.
    let kill = fixture.kill();
    assert!(matches!(fixture.answer(kill), Some(Ok(_))));
}

#[test]
fn a_checkpoint_does_not_confirm_a_kill() {
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
fn a_kill_that_times_out_in_an_outage_is_still_sent_after_it() {
    let mut fixture = Fixture::reconnecting();
    let kill = fixture.kill();
    fixture.pass_until_due();
    assert_eq!(fixture.failure(kill).effect(), Effect::Unknown);
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [RECONNECT, KILL_SANDBOX]);
}

#[test]
fn a_kill_that_crosses_the_loss_of_the_link_is_sent_again() {
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
fn deleted_confirms_a_kill_without_killed() {
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

// ----- abandoned

/// A sandbox that was dropped while it was created, and now runs.
fn abandoned() -> Fixture {
    let (mut fixture, _) = Fixture::creating();
    fixture.call(Sandbox::detach);
    fixture.frame(IDENTITY);
    fixture.forget();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [KILL_SANDBOX]);
    assert_eq!(fixture.control(), [confirm(1), DISABLE_RECONNECT]);
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.state(), SandboxState::Killing);
    fixture
}

#[test]
fn a_sandbox_dropped_while_it_is_created_is_killed_not_leaked() {
    let mut fixture = abandoned();
    fixture.say_all("KILLING DELETING DELETED KILLED");
    assert_eq!(fixture.end(), Some(SandboxEnd::Killed));
    assert_over(&mut fixture, "killed");
}

#[test]
fn the_kill_of_a_dropped_sandbox_is_bounded_in_time() {
    let mut silent = abandoned();
    assert_eq!(silent.pass_until_due(), Duration::from_secs(30));
    assert_eq!(silent.end(), Some(SandboxEnd::Closed));

    let mut refused = abandoned();
    refused.say_because("SANDBOX_KILL_ERROR", "no");
    assert_eq!(refused.end(), Some(SandboxEnd::Closed));

    let mut deleted = abandoned();
    for _ in 0..100 {
        deleted.say("SANDBOX_DELETED");
        deleted.pass(Duration::from_secs(1));
    }
    assert_eq!(deleted.end(), Some(SandboxEnd::Killed));

    let (mut never_ready, _) = Fixture::creating();
    never_ready.call(Sandbox::detach);
    never_ready.pass_until_due();
    assert_over(&mut never_ready, "never ready");
}

/// The handle is dropped and the link is lost just when the sandbox was opened.
#[test]
fn an_unclaimed_sandbox_dropped_in_an_outage_is_killed_after_it() {
    let dropped = || {
        let mut fixture = Fixture::running();
        fixture.cut();
        let now = fixture.now;
        fixture.call(|sandbox| sandbox.abandon(now));
        fixture.call(Sandbox::detach);
        assert_eq!(fixture.end(), None);
        fixture
    };
    let mut back = dropped();
    back.link();
    back.say("SANDBOX_RUNNING");
    assert_eq!(back.sent(), [KILL_SANDBOX]);
    back.say("SANDBOX_KILLED");
    assert_over(&mut back, "killed");

    let mut away = dropped();
    assert_eq!(away.pass_until_due(), Duration::from_secs(30));
    assert_over(&mut away, "not for ever");
}

#[test]
fn a_lost_link_does_not_confirm_the_kill_of_a_dropped_sandbox() {
    let mut fixture = abandoned();
    fixture.lose();
    assert!(matches!(fixture.end(), Some(SandboxEnd::LinkLost { .. })));
}

#[test]
fn a_refused_kill_ends_an_unclaimed_sandbox() {
    let mut fixture = Fixture::running();
    fixture.kill();
    fixture.say("SANDBOX_KILLING");
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.end(), None, "the kill is seen through");
    fixture.say_because("SANDBOX_KILL_ERROR", "busy");
    assert_eq!(fixture.end(), Some(SandboxEnd::Closed));
}

/// A sandbox with `kill_on_drop` whose last handle is dropped during a checkpoint.
fn dropped_while_checkpointing() -> Fixture {
    let mut fixture = Fixture::running();
    fixture.checkpoint();
    fixture.say("SANDBOX_CHECKPOINTING");
    fixture.forget();
    let now = fixture.now;
    fixture.call(|sandbox| sandbox.abandon(now));
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.end(), None, "the outcome is waited for");
    fixture
}

#[test]
fn a_sandbox_dropped_in_a_refused_checkpoint_is_killed() {
    let mut refused = dropped_while_checkpointing();
    refused.say_because("SANDBOX_EXECUTION_IN_PROGRESS_ERROR", "no");
    assert_eq!(refused.sent(), [KILL_SANDBOX]);
    refused.say("SANDBOX_KILLED");
    assert_over(&mut refused, "killed");

    let mut stored = dropped_while_checkpointing();
    stored.say("SANDBOX_CHECKPOINTED");
    assert_eq!(stored.end(), Some(SandboxEnd::Checkpointed));
    assert_eq!(stored.sent(), [""; 0]);

    let mut silent = dropped_while_checkpointing();
    assert_eq!(silent.pass_until_due(), Duration::from_secs(30));
    assert_over(&mut silent, "not for ever");
}
