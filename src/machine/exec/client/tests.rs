//! Tables and properties of the process machine.

#![allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]

mod v2;

use std::time::Duration;

use super::*;
use crate::{
    machine::{Effect, stream::MAX_PIECE},
    protocol::ClientMessage,
};

struct Fixture {
    process: Process,
    now: Instant,
}

impl Fixture {
    fn running() -> Self {
        let config = ProcessConfig {
            stdin_budget: 10,
            ..ProcessConfig::default()
        };
        let mut fixture = Self {
            process: Process::new(config),
            now: Instant::now(),
        };
        fixture.fact(ProcessFact::LinkUp);
        fixture
    }
    fn fact(&mut self, fact: ProcessFact) -> Vec<ProcessAction> {
        self.process.handle_fact(fact, self.now);
        self.actions()
    }
    fn actions(&mut self) -> Vec<ProcessAction> {
        let mut actions: Vec<_> = std::iter::from_fn(|| self.process.poll_action()).collect();
        // Under v1, the end of the process is also the end of the output, and nothing follows it.
        if actions
            .iter()
            .any(|it| matches!(it, ProcessAction::Ended { .. }))
        {
            assert_eq!(actions.pop(), Some(ProcessAction::Settled));
            assert!(matches!(actions.pop(), Some(ProcessAction::OutputEnded(_))));
        }
        actions
    }
    fn write(&mut self, request: u64, data: &str) -> Vec<ProcessAction> {
        self.process
            .write_stdin(RequestId(request), data.to_owned());
        self.actions()
    }
}

fn done(request: u64) -> ProcessAction {
    ProcessAction::Settle(RequestId(request), Ok(ProcessReply::Done))
}
fn end(request: u64, end: ProcessEnd) -> ProcessAction {
    ProcessAction::Settle(RequestId(request), Ok(ProcessReply::End(end)))
}
fn ended(end: ProcessEnd) -> ProcessAction {
    ProcessAction::Ended {
        end,
        stdin_unsent: 0,
    }
}
fn stdin(number: u64, data: &str) -> ProcessAction {
    ProcessAction::SendStdin {
        number,
        frame: ClientMessage::stdin(data).encode().into(),
    }
}

#[test]
fn all_waiters_learn_the_end() {
    let mut process = Fixture::running();
    process.process.wait(RequestId(1));
    process.process.wait(RequestId(2));
    let unknown = ProcessEnd::Unknown;
    assert_eq!(
        process.fact(ProcessFact::Done),
        [
            ended(unknown.clone()),
            end(1, unknown.clone()),
            end(2, unknown.clone())
        ]
    );
    process.process.wait(RequestId(3));
    assert_eq!(process.actions(), [end(3, unknown)]);
}

#[test]
fn kill_is_confirmed_by_the_server_in_either_order() {
    for facts in [
        [ProcessFact::Done, ProcessFact::ForceKilled],
        [ProcessFact::ForceKilled, ProcessFact::Done],
    ] {
        let mut process = Fixture::running();
        process.process.kill(Some(RequestId(1)), process.now);
        process.process.kill(Some(RequestId(2)), process.now);
        assert_eq!(process.actions(), [ProcessAction::SendKill]);
        let actions: Vec<_> = facts
            .into_iter()
            .flat_map(|fact| process.fact(fact))
            .collect();
        assert_eq!(actions, [ended(ProcessEnd::Killed), done(1), done(2)]);
        process.process.kill(Some(RequestId(3)), process.now);
        assert_eq!(
            process.actions(),
            [done(3)],
            "kill of a finished process succeeds at once"
        );
    }
}

#[test]
fn force_killed_without_done_ends_the_process_after_the_grace() {
    let mut process = Fixture::running();
    process.process.kill(Some(RequestId(1)), process.now);
    process.actions();
    assert_eq!(process.fact(ProcessFact::ForceKilled), []);
    let due = process.process.poll_timeout().expect("the grace");
    process.process.handle_timeout(due);
    assert_eq!(process.actions(), [ended(ProcessEnd::Killed), done(1)]);
}

#[test]
fn an_unconfirmed_kill_fails_and_can_be_repeated() {
    let mut process = Fixture::running();
    process.process.kill(Some(RequestId(1)), process.now);
    process.actions();
    process.now = process.process.poll_timeout().expect("the timeout");
    process.process.handle_timeout(process.now);
    let after = Duration::from_secs(10);
    let timeout = Failure::Timeout {
        what: "the kill of the process",
        after,
    };
    assert_eq!(
        process.actions(),
        [ProcessAction::Settle(RequestId(1), Err(timeout))]
    );
    process.process.kill(Some(RequestId(2)), process.now);
    assert_eq!(process.actions(), [ProcessAction::SendKill]);
}

#[test]
fn a_kill_during_an_outage_is_sent_when_the_link_is_back() {
    let mut process = Fixture::running();
    process.fact(ProcessFact::LinkDown);
    process.process.kill(Some(RequestId(1)), process.now);
    assert_eq!(process.actions(), []);
    assert_eq!(process.fact(ProcessFact::LinkUp), [ProcessAction::SendKill]);
}

#[test]
fn a_process_killed_by_someone_else_ends_as_killed() {
    let mut process = Fixture::running();
    process.fact(ProcessFact::ForceKilled);
    assert_eq!(process.fact(ProcessFact::Done), [ended(ProcessEnd::Killed)]);
}

#[test]
fn a_lost_sandbox_ends_a_process_as_lost_and_fails_its_kills() {
    let mut process = Fixture::running();
    process.process.wait(RequestId(1));
    process.process.kill(Some(RequestId(2)), process.now);
    process.actions();
    let lost = SandboxEnd::HandedOff;
    let actions = process.fact(ProcessFact::SandboxEnded(lost.clone()));
    assert_eq!(
        actions[0],
        ended(ProcessEnd::SandboxLost { end: lost.clone() })
    );
    assert!(matches!(
        &actions[1],
        ProcessAction::Settle(
            RequestId(2),
            Err(Failure::SandboxEnded {
                effect: Effect::Unknown,
                ..
            })
        )
    ));
    assert_eq!(actions[2], end(1, ProcessEnd::SandboxLost { end: lost }));
}

#[test]
fn stdin_sends_one_message_and_buffers_the_rest() {
    let mut process = Fixture::running();
    assert_eq!(process.write(1, "a"), [done(1), stdin(1, "a")]);
    assert_eq!(process.write(2, "b"), [done(2)]);
    assert_eq!(process.write(3, "c"), [done(3)]);
    assert_eq!(process.fact(ProcessFact::StdinWritten(1)), [stdin(2, "bc")]);
    assert_eq!(
        process.fact(ProcessFact::StdinWritten(1)),
        [],
        "an old number says nothing"
    );
}

#[test]
fn a_write_over_the_budget_waits_its_turn() {
    let mut process = Fixture::running();
    assert_eq!(
        process.write(1, "0123456789ABCDEF")[0],
        done(1),
        "a large one goes alone"
    );
    assert_eq!(process.write(2, "x"), []);
    assert_eq!(process.write(3, "y"), []);
    assert_eq!(
        process.fact(ProcessFact::StdinWritten(1)),
        [done(2), done(3), stdin(2, "xy")]
    );
}

#[test]
fn a_caller_that_stopped_waiting_leaves_nothing_behind() {
    let mut process = Fixture::running();
    process.write(1, "0123456789");
    process.write(2, "large as well");
    process.write(3, "c");
    process.process.flush_stdin(RequestId(4));
    process.process.wait(RequestId(5));
    assert!(process.process.is_awaited(false));
    for request in [2, 4, 5] {
        process.process.cancel(RequestId(request));
    }
    assert!(!process.process.is_awaited(false));
    assert_eq!(
        process.fact(ProcessFact::StdinWritten(1)),
        [done(3), stdin(2, "c")],
        "a cancelled write is not sent"
    );
    let end = ProcessEnd::Unknown;
    let stdin_unsent = 1;
    assert_eq!(
        process.fact(ProcessFact::Done),
        [ProcessAction::Ended { end, stdin_unsent }]
    );
}

#[test]
fn a_kill_whose_caller_stopped_waiting_is_still_a_kill() {
    let mut process = Fixture::running();
    process.process.kill(Some(RequestId(1)), process.now);
    process.process.cancel(RequestId(1));
    assert_eq!(process.actions(), [ProcessAction::SendKill]);
    assert_eq!(process.fact(ProcessFact::Done), [ended(ProcessEnd::Killed)]);
}

#[test]
fn stdin_that_a_lost_link_did_not_take_is_sent_again() {
    let mut process = Fixture::running();
    process.write(1, "one ");
    process.write(2, "two ");
    process.fact(ProcessFact::LinkDown);
    assert_eq!(process.write(3, "x"), [done(3)], "queued during the outage");
    assert_eq!(
        process.fact(ProcessFact::StdinWritten(1)),
        [],
        "late news of the dead link"
    );
    assert_eq!(process.fact(ProcessFact::LinkUp), [stdin(2, "one two x")]);
}

#[test]
fn stdin_that_was_never_sent_is_reported_at_the_end() {
    let mut process = Fixture::running();
    process.fact(ProcessFact::LinkDown);
    process.write(1, "12345");
    process.write(2, "678901");
    process.process.flush_stdin(RequestId(3));
    assert_eq!(process.actions(), []);
    let actions = process.fact(ProcessFact::Done);
    assert_eq!(
        actions[0],
        ProcessAction::Ended {
            end: ProcessEnd::Unknown,
            stdin_unsent: 5
        }
    );
    assert!(matches!(
        actions[1],
        ProcessAction::Settle(RequestId(2), Err(Failure::ProcessEnded { .. }))
    ));
    assert!(matches!(
        actions[2],
        ProcessAction::Settle(RequestId(3), Err(Failure::ProcessEnded { .. }))
    ));
    assert!(matches!(
        process.write(4, "z")[..],
        [ProcessAction::Settle(
            RequestId(4),
            Err(Failure::ProcessEnded { .. })
        )]
    ));
}

#[test]
fn flush_answers_when_the_link_took_everything() {
    let mut process = Fixture::running();
    process.process.flush_stdin(RequestId(1));
    assert_eq!(process.actions(), [done(1)]);
    process.write(2, "abc");
    process.process.flush_stdin(RequestId(3));
    assert_eq!(process.actions(), []);
    assert_eq!(process.fact(ProcessFact::StdinWritten(1)), [done(3)]);
}

#[test]
fn large_stdin_is_cut_between_code_points() {
    let mut process = Fixture::running();
    let data = "é".repeat(MAX_PIECE);
    let mut actions = process.write(1, &data);
    let (mut joined, mut number) = (String::new(), 0);
    while let Some(ProcessAction::SendStdin { frame, .. }) = actions.pop() {
        let text = frame.into_text();
        let Ok(ClientMessage::Stdin { data: Some(piece) }) =
            ClientMessage::parse_as(text.as_bytes(), crate::protocol::Version::V1)
        else {
            panic!()
        };
        assert!(piece.len() <= MAX_PIECE);
        joined.push_str(&piece);
        number += 1;
        actions = process.fact(ProcessFact::StdinWritten(number));
    }
    assert_eq!(joined, data);
}

#[test]
fn a_kill_after_the_sandbox_was_lost_is_not_confirmed() {
    for (sandbox, granted) in [
        (SandboxEnd::Killed, true),
        (SandboxEnd::Deleted, true),
        (SandboxEnd::Closed, false),
        (SandboxEnd::HandedOff, false),
    ] {
        let mut process = Fixture::running();
        process.fact(ProcessFact::SandboxEnded(sandbox));
        process.process.kill(Some(RequestId(1)), process.now);
        let actions = process.actions();
        let [ProcessAction::Settle(RequestId(1), answer)] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(answer.is_ok(), granted);
        if let Err(failure) = answer {
            assert_eq!(failure.effect(), Effect::NotApplied);
        }
    }
}

#[test]
fn a_kill_that_was_never_sent_was_not_applied() {
    for (sent, effect) in [(true, Effect::Unknown), (false, Effect::NotApplied)] {
        let mut process = Fixture::running();
        if !sent {
            process.fact(ProcessFact::LinkDown);
        }
        process.process.kill(Some(RequestId(1)), process.now);
        process.actions();
        let actions = process.fact(ProcessFact::SandboxEnded(SandboxEnd::Closed));
        let Some(ProcessAction::Settle(_, Err(failure))) = actions.last() else {
            panic!("{actions:?}")
        };
        assert_eq!(failure.effect(), effect);
    }
}

#[test]
fn a_kill_that_times_out_in_an_outage_is_sent_after_it() {
    let mut process = Fixture::running();
    process.fact(ProcessFact::LinkDown);
    process.process.kill(Some(RequestId(1)), process.now);
    process
        .process
        .handle_timeout(process.now + ProcessConfig::default().kill_timeout);
    let actions = process.actions();
    let [ProcessAction::Settle(RequestId(1), Err(failure))] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(failure.effect(), Effect::Unknown);
    assert_eq!(process.fact(ProcessFact::LinkUp), [ProcessAction::SendKill]);
}

#[test]
fn a_refused_second_kill_does_not_undo_the_first() {
    let mut process = Fixture::running();
    process.process.kill(Some(RequestId(1)), process.now);
    process.fact(ProcessFact::ForceKilled);
    let refused = Failure::ProcessEnded { what: "kill" };
    assert_eq!(process.fact(ProcessFact::KillRefused(refused)), []);
    assert_eq!(
        process.fact(ProcessFact::Done),
        [ended(ProcessEnd::Killed), done(1)]
    );
}

#[test]
fn endless_timeouts_do_not_panic() {
    let mut process = Process::new(ProcessConfig {
        kill_timeout: Duration::MAX,
        kill_grace: Duration::MAX,
        stdin_budget: usize::MAX,
    });
    let now = Instant::now();
    process.kill(Some(RequestId(1)), now);
    process.handle_fact(ProcessFact::ForceKilled, now);
    process.write_stdin(RequestId(2), "x");
    process.handle_timeout(now + Duration::from_secs(1_000_000));
    assert_eq!(process.end, None);
}
