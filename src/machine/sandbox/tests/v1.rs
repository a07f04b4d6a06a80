//! Protocol v1: exec, output, stdin and kill of a process, errors and their reasons.

use super::*;
use crate::machine::sandbox::v1::MAX_KILLS;
use ProcessFact::{Done, ForceKilled, LinkUp};

#[test]
fn exec_answers_when_the_server_says_that_it_runs() {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    assert_eq!(fixture.sent(), [r#"{"language":"bash","code":"true"}"#]);
    assert_eq!(fixture.answer(exec), None);
    assert!(!fixture.sandbox.can_send(P1));
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert_eq!(fixture.answer(exec), Some(Ok(SandboxReply::Started(P1))));
    assert_eq!(fixture.told(), [(P1, LinkUp)]);
    assert!(fixture.sandbox.can_send(P1));
    fixture.print("a");
    fixture.print("b");
    assert_eq!(fixture.output(), [(P1, "a".into()), (P1, "b".into())]);
    fixture.say("SANDBOX_EXECUTION_DONE");
    assert_eq!(fixture.told(), [(P1, Done)]);
    assert!(!fixture.sandbox.can_send(P1));
}

#[test]
fn several_run_in_sequence_each_with_its_own_number() {
    let mut fixture = Fixture::running();
    for n in 1..5 {
        let exec = fixture.exec();
        fixture.say_all("EXECUTION_RUNNING EXECUTION_DONE");
        let process = ProcessId(n);
        assert_eq!(
            fixture.answer(exec),
            Some(Ok(SandboxReply::Started(process)))
        );
        assert_eq!(fixture.told(), [(process, LinkUp), (process, Done)]);
    }
}

#[test]
fn a_second_exec_is_refused_by_the_client() {
    let mut fixture = Fixture::running();
    let first = fixture.exec();
    fixture.forget();
    let second = fixture.exec();
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    let third = fixture.exec();
    for request in [second, third] {
        assert_eq!(
            fixture.failure(request),
            Failure::ProcessRunning { what: "run code" }
        );
    }
    assert!(fixture.answer(first).is_some_and(|answer| answer.is_ok()));
    assert_eq!(fixture.sent(), [""; 0]);
    fixture.print("first");
    assert_eq!(fixture.output(), [(P1, "first".into())]);
}

#[test]
fn exec_elsewhere_than_in_a_running_sandbox_names_the_state() {
    let mut checkpointing = Fixture::running();
    checkpointing.say("SANDBOX_CHECKPOINTING");
    let mut killing = Fixture::running();
    killing.kill();
    let mut ended = Fixture::running();
    ended.say("SANDBOX_DELETED");
    for (mut fixture, part) in [
        (Fixture::creating().0, "being created"),
        (Fixture::attaching().0, "being attached"),
        (checkpointing, "being checkpointed"),
        (killing, "being killed"),
        (ended, "over: the server deleted it"),
    ] {
        fixture.forget();
        let exec = fixture.exec();
        let says = fixture.says(exec);
        assert!(
            says.starts_with("cannot run code: the sandbox is ") && says.contains(part),
            "{says}"
        );
        assert_eq!(fixture.sent(), [""; 0]);
    }
}

#[test]
fn a_refused_exec_fails_and_the_sandbox_continues() {
    for status in [
        "SANDBOX_EXECUTION_ERROR",
        "SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR",
    ] {
        let mut fixture = Fixture::running();
        let exec = fixture.exec();
        fixture.say_because(status, "Unsupported language: 'ruby'.");
        assert!(
            fixture
                .says(exec)
                .contains("Unsupported language: 'ruby'. (SANDBOX_EX")
        );
        assert_eq!(fixture.failure(exec).effect(), Effect::NotApplied);
        assert_eq!(fixture.told(), [(P1, Done)], "its actor must end");

        // The `DONE` after a refusal doesn't belong to the next exec.
        let next = fixture.exec();
        fixture.say("SANDBOX_EXECUTION_DONE");
        assert_eq!((fixture.answer(next), fixture.told()), (None, vec![]));
        fixture.say("SANDBOX_EXECUTION_RUNNING");
        assert_eq!(fixture.answer(next), Some(Ok(SandboxReply::Started(P2))));
    }
}

#[test]
fn a_refused_exec_without_a_reason_fails_after_the_grace() {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    fixture.say("SANDBOX_EXECUTION_ERROR");
    assert_eq!(fixture.answer(exec), None);
    fixture.pass_until_due();
    assert!(fixture.says(exec).contains("SANDBOX_EXECUTION_ERROR"));
    fixture.reason("late");
    assert!(
        fixture
            .events()
            .contains(&SandboxEvent::Reason("late".into()))
    );
}

#[test]
fn an_error_while_a_process_runs_does_not_end_it() {
    let mut fixture = Fixture::executing();
    fixture.say_because(
        "SANDBOX_EXECUTION_ERROR",
        "An execution is already in progress.",
    );
    fixture.say_because("SANDBOX_STDIN_ERROR", "malformed");
    fixture.say_because("SANDBOX_EXECUTION_UNSUPPORTED_LANGUAGE_ERROR", "x");
    fixture.print("still here");
    assert_eq!(fixture.output(), [(P1, "still here".into())]);
    assert_eq!(fixture.told(), []);
}

#[test]
fn a_stdin_answer_does_not_refuse_the_next_process() {
    let mut fixture = Fixture::executing();
    fixture.say("SANDBOX_EXECUTION_DONE");
    let next = fixture.exec();
    fixture.say_because(
        "SANDBOX_EXECUTION_ERROR",
        "No process is running in the sandbox.",
    );
    assert_eq!(fixture.answer(next), None);
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert_eq!(fixture.answer(next), Some(Ok(SandboxReply::Started(P2))));
}

#[test]
fn output_of_no_process_is_an_event() {
    let mut fixture = Fixture::running();
    fixture.print("stray");
    assert_eq!(fixture.events(), [SandboxEvent::StrayOutput { bytes: 5 }]);
    fixture.exec();
    fixture.print("early");
    assert_eq!(fixture.output(), []);
}

#[test]
fn a_kill_is_sent_only_for_the_running_process() {
    let mut fixture = Fixture::executing();
    fixture.call(|sandbox| sandbox.kill_process(P2));
    assert_eq!(fixture.sent(), [""; 0]);
    fixture.call(|sandbox| sandbox.kill_process(P1));
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_DONE");
    assert_eq!(fixture.told(), [(P1, ForceKilled), (P1, Done)]);
    fixture.call(|sandbox| sandbox.kill_process(P1));
    assert_eq!(fixture.sent(), [""; 0]);
}

#[test]
fn a_refused_kill_of_the_process_goes_to_the_process() {
    let mut fixture = Fixture::executing();
    fixture.call(|sandbox| sandbox.kill_process(P1));
    fixture.say_because("SANDBOX_EXECUTION_FORCE_KILL_ERROR", "no such pid");
    let told = fixture.told();
    let [(P1, ProcessFact::KillRefused(failure))] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(failure.to_string().contains("no such pid"));
    fixture.say_because("SANDBOX_EXECUTION_FORCE_KILL_ERROR", "not requested");
    assert_eq!(fixture.told(), []);
}

#[test]
fn force_killed_after_done_does_not_concern_the_next_process() {
    let mut fixture = Fixture::executing();
    fixture.call(|sandbox| sandbox.kill_process(P1));
    fixture.say("SANDBOX_EXECUTION_DONE");
    fixture.exec();
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_RUNNING");
    assert_eq!(fixture.told(), [(P1, Done), (P2, LinkUp)]);
    fixture.say("SANDBOX_EXECUTION_FORCE_KILLED");
    assert_eq!(fixture.told(), [(P2, ForceKilled)], "killed by the server");
}

#[test]
fn force_killed_does_not_concern_a_process_not_started() {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    fixture.say("SANDBOX_EXECUTION_FORCE_KILLED");
    assert_eq!(fixture.told(), []);
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert!(fixture.answer(exec).is_some_and(|answer| answer.is_ok()));
}

/// A sandbox whose exec did not start in time, so that a kill was sent.
fn start_timed_out() -> Fixture {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    fixture.forget();
    assert_eq!(fixture.pass_until_due(), Duration::from_secs(60));
    assert!(
        matches!(fixture.failure(exec), Failure::Timeout { after, .. } if after.as_secs() == 60)
    );
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    fixture
}

#[test]
fn an_exec_waits_for_the_end_of_one_that_is_being_killed() {
    let mut fixture = Fixture::executing();
    fixture.call(|sandbox| sandbox.abandon_process(P1));
    fixture.forget();
    let next = fixture.exec();
    assert_eq!((fixture.answer(next), fixture.sent()), (None, vec![]));
    let third = fixture.exec();
    assert!(
        matches!(fixture.failure(third), Failure::ProcessRunning { .. }),
        "one waits at a time"
    );
    fixture.say("SANDBOX_EXECUTION_DONE");
    assert_eq!(fixture.sent().len(), 1, "sent as soon as there is room");
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_RUNNING");
    assert_eq!(fixture.answer(next), Some(Ok(SandboxReply::Started(P2))));
}

#[test]
fn an_exec_behind_a_failed_kill_is_refused() {
    let waiting = || {
        let mut fixture = Fixture::executing();
        fixture.call(|sandbox| sandbox.kill_process(P1));
        let next = fixture.exec();
        fixture.forget();
        assert_eq!(fixture.answer(next), None);
        (fixture, next)
    };
    let (mut refused, next) = waiting();
    refused.say_because("SANDBOX_EXECUTION_FORCE_KILL_ERROR", "no");
    assert!(matches!(
        refused.failure(next),
        Failure::ProcessRunning { .. }
    ));

    let (mut late, next) = waiting();
    late.pass_until_due();
    assert!(matches!(late.failure(next), Failure::ProcessRunning { .. }));

    let (mut killed, next) = waiting();
    killed.say_all("KILLING DELETING DELETED KILLED");
    assert_eq!(killed.failure(next).effect(), Effect::NotApplied);

    let (mut lost, next) = waiting();
    lost.lose();
    assert_eq!(lost.failure(next).effect(), Effect::NotApplied);
    for mut fixture in [refused, late, killed, lost] {
        assert_eq!(fixture.sent(), Vec::<String>::new(), "it never left");
    }
}

#[test]
fn an_abandoned_process_with_a_failed_kill_frees_the_sandbox() {
    let mut refused = Fixture::executing();
    refused.call(|sandbox| sandbox.abandon_process(P1));
    let waiting = refused.exec();
    refused.forget();
    refused.say_because("SANDBOX_EXECUTION_FORCE_KILL_ERROR", "no");
    assert!(matches!(
        &refused.told()[..],
        [
            (P1, ProcessFact::KillRefused(_)),
            (P1, ProcessFact::SandboxEnded(_))
        ]
    ));
    assert_eq!(refused.sent().len(), 1, "the server decides");
    // The end of the first exec doesn't end the second.
    refused.say_all("EXECUTION_DONE EXECUTION_RUNNING");
    assert_eq!(refused.answer(waiting), Some(Ok(SandboxReply::Started(P2))));

    let mut silent = Fixture::executing();
    silent.call(|sandbox| sandbox.abandon_process(P1));
    let waiting = silent.exec();
    silent.forget();
    silent.pass_until_due();
    assert!(matches!(
        silent.failure(waiting),
        Failure::ProcessRunning { .. }
    ));
    assert_eq!(silent.sandbox.process(), None);
    silent.exec();
    assert_eq!(silent.sent().len(), 1, "the server decides");
}

#[test]
fn an_exec_that_starts_too_late_is_killed() {
    let mut fixture = start_timed_out();
    fixture.say_all("EXECUTION_RUNNING EXECUTION_FORCE_KILLED");
    assert_eq!(fixture.sent(), [KILL_PROCESS], "now there is one to kill");
    fixture.print("unwanted output");
    assert_eq!((fixture.output(), fixture.events().len()), (vec![], 2));
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_DONE");
    let next = fixture.exec();
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert_eq!(fixture.answer(next), Some(Ok(SandboxReply::Started(P2))));
}

#[test]
fn a_kill_before_the_start_is_no_end_of_what_starts_after_it() {
    let mut fixture = start_timed_out();
    let next = fixture.exec();
    fixture.say("SANDBOX_EXECUTION_FORCE_KILLED");
    assert_eq!((fixture.told(), fixture.sent()), (vec![], vec![]));
    // A late start must not be taken for the start of the next exec.
    fixture.say("SANDBOX_EXECUTION_RUNNING");
    assert_eq!((fixture.answer(next), fixture.sent().len()), (None, 1));
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_DONE EXECUTION_RUNNING");
    assert_eq!(fixture.answer(next), Some(Ok(SandboxReply::Started(P2))));
}

#[test]
fn a_kill_of_a_refused_exec_does_not_concern_the_next() {
    let mut fixture = start_timed_out();
    fixture.say_because("SANDBOX_EXECUTION_ERROR", "no memory");
    assert_eq!(fixture.told(), [(P1, Done)]);
    fixture.exec();
    fixture.say_all("EXECUTION_RUNNING EXECUTION_FORCE_KILLED");
    assert_eq!(fixture.told(), [(P2, LinkUp)]);
}

#[test]
fn an_exec_abandoned_before_its_start_is_answered_and_killed() {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    fixture.forget();
    for _ in 0..2 {
        fixture.call(|sandbox| sandbox.abandon_process(P1));
    }
    assert!(matches!(fixture.failure(exec), Failure::Cancelled { .. }));
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    assert_eq!(fixture.sandbox.poll_timeout(), None);
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_RUNNING");
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    fixture.say("SANDBOX_EXECUTION_DONE");
    assert_eq!(fixture.sandbox.process(), None);
}

#[test]
fn a_process_that_ends_before_its_start_leaves_no_request() {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    fixture.call(|sandbox| sandbox.process_ended(P1));
    assert!(fixture.answer(exec).is_some());
    assert_eq!(fixture.sandbox.process(), None);
}

#[test]
fn an_abandoned_process_is_killed_and_gives_no_output() {
    let mut fixture = Fixture::executing();
    fixture.call(|sandbox| sandbox.abandon_process(P1));
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    assert!(!fixture.sandbox.can_send(P1));
    fixture.print("x");
    assert_eq!(fixture.output(), []);
    fixture.say_all("EXECUTION_FORCE_KILLED EXECUTION_DONE");
    assert_eq!(fixture.told(), [(P1, ForceKilled), (P1, Done)]);
}

#[test]
fn the_number_of_tracked_kills_is_bounded() {
    let mut fixture = Fixture::executing();
    for _ in 0..10_000 {
        fixture.call(|sandbox| sandbox.kill_process(P1));
    }
    assert_eq!(fixture.sandbox.v1.kills.len(), MAX_KILLS);
}

#[test]
fn the_process_learns_the_end_of_the_sandbox_once() {
    for status in ["SANDBOX_KILLED", "SANDBOX_DELETED", "SANDBOX_NOT_FOUND"] {
        let mut fixture = Fixture::executing();
        fixture.say(status);
        let end = fixture.end().expect("ended");
        assert_eq!(fixture.told(), [(P1, ProcessFact::SandboxEnded(end))]);
        fixture.lose();
        fixture.call(Sandbox::detach);
        assert_eq!(fixture.told(), []);
    }
    let mut starting = Fixture::running();
    let exec = starting.exec();
    starting.lose();
    assert_eq!(starting.failure(exec).effect(), Effect::Unknown);
    assert_eq!(starting.told().len(), 1);
}

#[test]
fn a_reason_in_the_status_itself_counts_at_once() {
    let (mut fixture, _) = Fixture::creating();
    fixture.frame(
        r#"{"event":"status_update","status":"SANDBOX_CREATION_ERROR","message":"no room"}"#,
    );
    let end = fixture.end().expect("ended").to_string();
    assert_eq!(end, "SANDBOX_CREATION_ERROR: no room");
}

#[test]
fn a_reason_that_never_comes_is_waited_for_one_second() {
    let (mut fixture, open) = Fixture::creating();
    fixture.say("SANDBOX_CREATION_ERROR");
    assert_eq!(fixture.answer(open), None);
    assert_eq!(fixture.pass_until_due(), Duration::from_secs(1));
    assert_eq!(
        fixture.end().expect("ended").to_string(),
        "SANDBOX_CREATION_ERROR"
    );
    assert!(fixture.answer(open).is_some());
    assert_over(&mut fixture, "no reason");
}

#[test]
fn a_reason_that_comes_late_is_an_event() {
    let mut fixture = Fixture::executing();
    fixture.say("SANDBOX_STDIN_ERROR");
    fixture.pass_until_due();
    fixture.reason("too late");
    assert!(
        fixture
            .events()
            .contains(&SandboxEvent::Reason("too late".into()))
    );
    assert_eq!(fixture.state(), SandboxState::Running);
}

#[test]
fn each_error_status_has_its_own_wait_for_its_reason() {
    let mut fixture = Fixture::running();
    let exec = fixture.exec();
    fixture.say("SANDBOX_STDIN_ERROR");
    fixture.pass(Duration::from_millis(900));
    fixture.say("SANDBOX_EXECUTION_ERROR");
    fixture.pass(Duration::from_millis(900));
    assert_eq!(fixture.answer(exec), None);
    fixture.reason("no shell");
    assert!(fixture.says(exec).contains("no shell"));
}

#[test]
fn detach_kills_unclaimed_starts() {
    let mut fixture = Fixture::running();
    fixture.exec();
    fixture.sent();
    fixture.call(Sandbox::detach);
    assert_eq!(fixture.sent(), [KILL_PROCESS]);
    assert_eq!(fixture.end(), Some(SandboxEnd::Closed));
}
