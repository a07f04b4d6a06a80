//! The invariants, during a history and at its end.

use super::{
    client::{Answer, Asked},
    process::Exec,
    server::Served,
    world::World,
};
use crate::{
    machine::{Effect, Finish, ProcessEnd, ProcessReply, SandboxEnd, SandboxReply},
    protocol::{EndReason, ExecEnd, ExecId},
};

impl World {
    /// Compares the answers that the client gave with the state of the server.
    pub(super) fn judge(&mut self) {
        for (id, asked, answer) in std::mem::take(&mut self.client.answers) {
            match answer {
                Answer::Sandbox(Ok(SandboxReply::Started(_))) => {
                    assert!(self.server.ran.contains(&id), "{id:?} does not run");
                }
                Answer::Sandbox(Ok(other)) => panic!("{other:?}"),
                Answer::Sandbox(Err(failure)) => {
                    if failure.effect() == Effect::NotApplied {
                        self.never_ran.push(id);
                    }
                }
                Answer::Process(Ok(reply)) => self.judge_success(&id, &asked, reply),
                Answer::Process(Err(_)) => {
                    assert!(!matches!(asked, Asked::Wait), "a wait has no error");
                }
            }
        }
        for id in &self.never_ran {
            assert!(!self.server.ran.contains(id), "{id:?} runs all the same");
        }
        for exec in self.client.execs.values() {
            self.judge_exec(exec);
        }
    }

    fn judge_success(&mut self, id: &ExecId, asked: &Asked, reply: ProcessReply) {
        let served = self.server.truth(id);
        match (asked, reply) {
            (Asked::Wait, ProcessReply::End(_)) => {}
            (Asked::Kill, ProcessReply::Done) => {
                let over = served.is_some_and(Served::is_over);
                assert!(over, "{id:?} was not killed");
                let held = served.is_some_and(|served| served.program.is_held);
                assert!(!held, "the child of {id:?} was not killed");
            }
            (Asked::Flush(written), ProcessReply::Done) => {
                let fed = served.map_or(0, |served| served.fed);
                assert!(fed >= *written, "{id:?} was not flushed");
            }
            (Asked::Write(bytes), ProcessReply::Done) => {
                let mut execs = self.client.execs.values_mut();
                let exec = execs.find(|exec| exec.id == *id).expect("an exec");
                exec.accepted += bytes;
            }
            (Asked::Close, ProcessReply::Done) => {}
            (asked, reply) => panic!("{reply:?} to {asked:?}"),
        }
    }

    fn judge_exec(&self, exec: &Exec) {
        let Some(served) = self.server.truth(&exec.id) else {
            return;
        };
        for (heard, printed) in exec.heard.iter().zip(&served.program.printed) {
            assert!(printed.starts_with(heard), "other output of {:?}", exec.id);
        }
        if let Some(end) = &exec.ended
            && !exec.left
        {
            let truth = served.exec.end().expect("an end");
            assert_eq!(*end, expected(truth), "the end of {:?}", exec.id);
        }
    }

    /// Checks the invariants at the end of a history.
    pub(super) fn verdict(&self) {
        let pending = &self.client.pending;
        assert!(pending.is_empty(), "never answered: {pending:?}");
        for exec in self.client.execs.values() {
            self.verdict_of(exec);
        }
    }

    fn verdict_of(&self, exec: &Exec) {
        let id = &exec.id;
        assert!(exec.ended.is_some(), "{id:?} never ended");
        assert!(
            exec.output_ended.is_some(),
            "the output of {id:?} never ended"
        );
        assert!(exec.settled, "{id:?} never settled");
        assert_eq!(exec.machine.poll_timeout(), None);
        let Some(served) = self.server.truth(id) else {
            assert!(!exec.claimed || exec.left, "{id:?} never ran");
            return;
        };
        self.verdict_of_input(exec, served);
        if exec.left || exec.abandoned {
            return;
        }
        assert_eq!(exec.heard, served.program.printed, "the output of {id:?}");
        let finish = match served.exec.end().expect("an end").output_cut {
            true => Finish::Cut,
            false => Finish::Complete,
        };
        assert_eq!(exec.output_ended, Some(finish), "the output of {id:?}");
        let settled = served.exec.is_settled() && served.exec.kept() == 0;
        assert!(
            settled || self.is_farewell_lost(id),
            "{id:?} is kept by the server"
        );
    }

    /// Checks that the process read a prefix of each client's input, in order, and all input of the
    /// last client.
    fn verdict_of_input(&self, exec: &Exec, served: &Served) {
        let none = Vec::new();
        let before = self.written_before.get(&exec.id).unwrap_or(&none);
        let read = &served.program.read;
        let mut reached = std::collections::BTreeSet::from([0]);
        for written in before {
            reached = reached
                .iter()
                .flat_map(|&at| at..=at + common(&read[at..], written))
                .collect();
        }
        let matches = |&at: &usize| {
            let rest = &read[at..];
            let part = !served.program.read_all || exec.left || exec.closed_before;
            (part || rest.len() == exec.accepted) && exec.written.starts_with(rest)
        };
        assert!(reached.iter().any(matches), "the input of {:?}", exec.id);
    }
}

fn common(one: &[u8], two: &[u8]) -> usize {
    one.iter()
        .zip(two)
        .take_while(|(one, two)| one == two)
        .count()
}

fn expected(end: &ExecEnd) -> ProcessEnd {
    match (end.reason, end.exit_code, end.signal) {
        (EndReason::Exited, Some(code), _) => ProcessEnd::Exited(code),
        (EndReason::Exited, None, Some(signal)) => ProcessEnd::Signaled(signal),
        (EndReason::Killed, ..) => ProcessEnd::Killed,
        (EndReason::TimedOut, ..) => ProcessEnd::TimedOut,
        (EndReason::SandboxLost, ..) => ProcessEnd::SandboxLost {
            end: SandboxEnd::ProcessLost { reason: None },
        },
        other => panic!("{other:?}"),
    }
}
