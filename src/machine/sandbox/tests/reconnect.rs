//! Loss of the link, and reconnects.

use super::*;
use ProcessFact::{Done, ForceKilled, LinkDown, LinkUp};

#[test]
fn a_running_process_survives_an_outage() {
    let mut fixture = Fixture::executing();
    fixture.cut();
    assert_eq!(fixture.state(), SandboxState::Reconnecting);
    assert_eq!(fixture.told(), [(P1, LinkDown)]);
    assert!(!fixture.sandbox.can_send(P1));
    fixture.cut();
    assert_eq!(fixture.told(), [], "once");
    fixture.link();
    assert!(!fixture.sandbox.can_send(P1), "not before it runs");
    assert_eq!(fixture.sent(), [""; 0]);
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [RECONNECT]);
    assert_eq!(fixture.told(), [(P1, LinkUp)]);
    assert_eq!(fixture.control(), [confirm(2)]);
    assert!(fixture.events().contains(&SandboxEvent::Reconnected));
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert_eq!(fixture.told(), [], "said again, no news");
    fixture.print("tail");
    fixture.say("SANDBOX_EXECUTION_DONE");
    assert_eq!(fixture.output(), [(P1, "tail".into())]);
    assert_eq!(fixture.told(), [(P1, Done)]);
}

#[test]
fn reconnect_is_never_sent_without_an_exec() {
    let mut idle = Fixture::running();
    let mut ended = Fixture::executing();
    ended.say("SANDBOX_EXECUTION_DONE");
    let mut refused = Fixture::running();
    refused.exec();
    refused.say_because("SANDBOX_EXECUTION_ERROR", "no");
    for fixture in [&mut idle, &mut ended, &mut refused] {
        fixture.cut();
        fixture.link();
        fixture.forget();
        fixture.say("SANDBOX_RUNNING");
        assert_eq!(fixture.sent(), [""; 0]);
        assert_eq!(fixture.state(), SandboxState::Running);
    }
}

#[test]
fn an_unanswered_exec_is_killed_after_the_outage() {
    let starting = Fixture::running;
    let (mut asked, mut cancelled, mut late) = (starting(), starting(), starting());
    asked.exec();
    cancelled.exec();
    cancelled.call(|sandbox| sandbox.abandon_process(P1));
    late.exec();
    late.pass_until_due();
    for mut fixture in [asked, cancelled, late] {
        fixture.cut();
        assert_eq!(fixture.sandbox.process(), None, "the sandbox is not busy");
        fixture.cut();
        fixture.link();
        fixture.forget();
        fixture.say("SANDBOX_RUNNING");
        // A `reconnect` for an exec that the server doesn't know would be fatal.
        assert_eq!(fixture.sent(), [KILL_PROCESS]);
        fixture.cut();
        fixture.link();
        fixture.say("SANDBOX_RUNNING");
        assert_eq!(fixture.sent(), [KILL_PROCESS], "until it is answered");

        fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_DONE");
        fixture.exec();
        fixture.say_all("EXECUTION_RUNNING EXECUTION_FORCE_KILLED");
        assert_eq!(fixture.told(), [(P2, LinkUp)], "that was the first");
        fixture.cut();
        fixture.link();
        fixture.forget();
        fixture.say("SANDBOX_RUNNING");
        assert_eq!(fixture.sent(), [RECONNECT], "it was answered");
    }
}

/// The link was lost while an exec started, and another exec waits. The server still has the first.
fn after_a_lost_start() -> (Fixture, RequestId) {
    let mut fixture = Fixture::running();
    fixture.exec();
    fixture.cut();
    let second = fixture.exec();
    fixture.link();
    fixture.forget();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    (fixture, second)
}

#[test]
fn an_exec_waits_for_the_kill_of_an_exec_that_was_cut_off() {
    const EXEC: &str = r#"{"language":"bash","code":"true"}"#;
    for answers in [
        ["EXECUTION_FORCE_KILLED", "EXECUTION_DONE"],
        ["EXECUTION_DONE", "EXECUTION_FORCE_KILLED"],
    ] {
        let (mut fixture, second) = after_a_lost_start();
        fixture.say_all(answers[0]);
        assert_eq!(fixture.sent(), [""; 0], "{answers:?}");
        fixture.say_all(answers[1]);
        assert_eq!(fixture.sent(), [EXEC], "{answers:?}");
        fixture.say("SANDBOX_EXECUTION_RUNNING");
        assert_eq!(fixture.answer(second), Some(Ok(SandboxReply::Started(P2))));
        assert_eq!(fixture.told(), [(P2, LinkUp)]);
    }

    // If nothing ran, no `DONE` follows.
    let (mut fixture, _) = after_a_lost_start();
    fixture.say_all("EXECUTION_FORCE_KILLED");
    assert_eq!(fixture.pass_until_due(), Duration::from_millis(500));
    assert_eq!(fixture.sent(), [EXEC]);

    let (mut fixture, _) = after_a_lost_start();
    fixture.say_because("SANDBOX_EXECUTION_FORCE_KILL_ERROR", "no");
    assert_eq!(fixture.sent(), [EXEC], "the server decides");
}

#[test]
fn an_exec_waits_for_a_kill_no_longer_than_its_timeout() {
    let (mut fixture, second) = after_a_lost_start();
    assert_eq!(fixture.pass_until_due(), Duration::from_secs(60));
    assert_eq!(fixture.failure(second).effect(), Effect::NotApplied);
    assert_eq!(fixture.sent(), [""; 0]);
    let third = fixture.exec();
    assert_eq!(fixture.sent().len(), 1, "the next one does not wait");
    assert_eq!(fixture.answer(third), None);

    // An exec that is requested after the reconnect waits, too.
    let mut fixture = Fixture::running();
    fixture.exec();
    fixture.cut();
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    fixture.forget();
    fixture.exec();
    assert_eq!(fixture.sent(), [""; 0]);
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_DONE");
    assert_eq!(fixture.sent().len(), 1);
}

#[test]
fn an_exec_during_an_outage_waits_for_the_link() {
    let mut fixture = Fixture::running();
    fixture.cut();
    let exec = fixture.exec();
    let second = fixture.exec();
    assert!(
        matches!(fixture.failure(second), Failure::ProcessRunning { .. }),
        "one waits at a time"
    );
    fixture.cut();
    fixture.link();
    assert_eq!(fixture.sent(), [""; 0], "not before the sandbox runs");
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [r#"{"language":"bash","code":"true"}"#]);
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert!(matches!(
        fixture.answer(exec),
        Some(Ok(SandboxReply::Started(_)))
    ));
}

#[test]
fn an_exec_in_an_outage_of_a_busy_sandbox_is_refused() {
    let mut fixture = Fixture::reconnecting();
    let exec = fixture.exec();
    assert!(matches!(
        fixture.failure(exec),
        Failure::ProcessRunning { .. }
    ));
    fixture.call(|sandbox| sandbox.abandon_process(P1));
    let exec = fixture.exec();
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [RECONNECT, KILL_PROCESS]);
    fixture.say_all("EXECUTION_RUNNING EXECUTION_FORCE_KILLED EXECUTION_DONE");
    assert_eq!(fixture.answer(exec), None);
    assert_eq!(fixture.sent(), [r#"{"language":"bash","code":"true"}"#]);
}

#[test]
fn an_exec_waiting_for_a_link_settles_in_every_case() {
    let waiting = || {
        let mut fixture = Fixture::running();
        fixture.cut();
        let exec = fixture.exec();
        (fixture, exec)
    };
    let (mut late, exec) = waiting();
    assert_eq!(late.pass_until_due(), Duration::from_secs(60));
    assert!(late.says(exec).contains("reconnecting"));
    assert_eq!(late.failure(exec).effect(), Effect::NotApplied);

    let (mut lost, exec) = waiting();
    lost.lose();
    assert_eq!(lost.failure(exec).effect(), Effect::NotApplied);

    let (mut killed, exec) = waiting();
    killed.kill();
    killed.link();
    killed.say("SANDBOX_RUNNING");
    assert_eq!(killed.sent(), [KILL_SANDBOX]);
    assert!(killed.says(exec).contains("being killed"));
}

#[test]
fn a_busy_server_leaves_the_creation_waiting() {
    let mut fixture = Fixture::new(Mode::Create(Configuration::default()));
    let open = fixture.ask(Sandbox::open);
    fixture.cut();
    assert_eq!(fixture.state(), SandboxState::Creating);
    assert_eq!(fixture.answer(open), None);
    fixture.link();
    fixture.frame(IDENTITY);
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.answer(open), Some(Ok(SandboxReply::Ready)));
}

#[test]
fn unanswered_requests_fail_with_the_link() {
    let mut fixture = Fixture::running();
    let (exec, snapshot) = (fixture.exec(), fixture.snapshot());
    fixture.cut();
    for request in [exec, snapshot] {
        assert!(matches!(fixture.failure(request), Failure::LinkLost { .. }));
        assert_eq!(fixture.failure(request).effect(), Effect::Unknown);
    }
    let told = fixture.told();
    assert!(
        matches!(told.last(), Some((P1, ProcessFact::SandboxEnded(_)))),
        "its actor must end: {told:?}"
    );
    assert_eq!(fixture.sandbox.process(), None);
}

#[test]
fn in_use_during_a_reconnect_is_retried() {
    let mut fixture = Fixture::reconnecting();
    for epoch in 2..5 {
        fixture.link();
        fixture.say("SANDBOX_IN_USE");
        assert_eq!(fixture.control(), [refuse(epoch, LinkError::InUse)]);
        assert_eq!(fixture.state(), SandboxState::Reconnecting);
        fixture.cut();
    }
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.state(), SandboxState::Running);
}

#[test]
fn a_link_on_which_the_sandbox_does_not_get_ready_is_refused() {
    let mut fixture = Fixture::reconnecting();
    fixture.link();
    assert_eq!(fixture.pass_until_due(), Duration::from_secs(60));
    let after = Duration::from_secs(60);
    assert_eq!(
        fixture.control(),
        [refuse(2, LinkError::NotReady { after })]
    );
    assert_eq!(fixture.sandbox.poll_timeout(), None);
}

#[test]
fn giving_up_fails_everything_with_the_last_cause() {
    let mut fixture = Fixture::reconnecting();
    let kill = fixture.kill();
    fixture.call(|sandbox| {
        let lost = LinkFact::Lost {
            cause: LinkError::InUse,
            attempts: 7,
        };
        sandbox.handle_link(lost, Instant::now());
    });
    let end = SandboxEnd::LinkLost {
        cause: LinkError::InUse,
        attempts: 7,
    };
    assert_eq!(fixture.end(), Some(end.clone()));
    assert!(
        fixture
            .says(kill)
            .contains("7 attempts to reconnect failed: the server says that another")
    );
    assert_eq!(fixture.told(), [(P1, ProcessFact::SandboxEnded(end))]);
}

#[test]
fn a_process_abandoned_during_an_outage_is_killed_after_it() {
    let mut fixture = Fixture::reconnecting();
    fixture.call(|sandbox| sandbox.abandon_process(P1));
    fixture.link();
    fixture.call(|sandbox| sandbox.kill_process(P1));
    assert_eq!(fixture.sent(), [""; 0]);
    fixture.say("SANDBOX_RUNNING");
    assert_eq!(fixture.sent(), [RECONNECT, KILL_PROCESS]);
    fixture.say_all("EXECUTION_RUNNING EXECUTION_FORCE_KILLED EXECUTION_DONE");
    assert_eq!(fixture.sandbox.process(), None);
}

#[test]
fn a_late_kill_answer_does_not_concern_a_later_process() {
    let mut fixture = Fixture::executing();
    fixture.call(|sandbox| sandbox.kill_process(P1));
    fixture.cut();
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    fixture.call(|sandbox| sandbox.kill_process(P1));
    fixture.forget();
    // Both answers arrive, because the server had queued one.
    fixture.say_all("EXECUTION_RUNNING EXECUTION_FORCE_KILLED EXECUTION_DONE");
    fixture.exec();
    fixture.say_all("EXECUTION_RUNNING EXECUTION_FORCE_KILLED");
    assert_eq!(
        fixture.told(),
        [(P1, ForceKilled), (P1, Done), (P2, LinkUp)]
    );
}

#[test]
fn nothing_but_running_arms_the_connection() {
    let mut reconnecting = Fixture::reconnecting();
    reconnecting.link();
    for mut fixture in [Fixture::attaching().0, Fixture::creating().0, reconnecting] {
        for status in Status::KNOWN.iter().filter(|status| !status.ends_session()) {
            if *status != Status::SandboxRunning && !status.as_str().contains("EXECUTION_") {
                fixture.say_because(status.as_str(), "stray");
            }
        }
        fixture.frame(r#"{"event":"status_update","status":"SANDBOX_EXECUTION_IN_PROGRESS_ERROR","message":"stray"}"#);
        let control = fixture.control();
        assert!(
            !control
                .iter()
                .any(|c| matches!(c, Control::Link(LinkCommand::Confirm(_))))
        );
    }
}

/// `SANDBOX_RUNNING` while the sandbox runs means that there is no exec to resume. It concerns the
/// process of the `reconnect`, not one that started later.
#[test]
fn a_process_started_after_the_resumed_one_is_answered() {
    let mut fixture = Fixture::executing();
    fixture.cut();
    fixture.link();
    fixture.say("SANDBOX_RUNNING");
    fixture.say("SANDBOX_EXECUTION_DONE");
    let next = fixture.exec();
    fixture.say("SANDBOX_RUNNING");
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert!(fixture.answer(next).is_some_and(|answer| answer.is_ok()));
}
