//! What is due, and what happens when nothing came in time.

use std::time::Instant;

use super::{Exec, ExecPhase, Pending, Sandbox, queue::RUN_CODE};
use crate::machine::{Effect, Failure, SandboxEnd, SandboxState};

impl Sandbox {
    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let exec = match &self.exec {
            Some(Exec {
                phase: ExecPhase::Starting { due, .. },
                ..
            }) => Some(*due),
            _ => None,
        };
        [
            self.reason_due,
            self.ready_due,
            exec,
            self.named.poll_timeout(),
            self.kills.first().map(|kill| kill.due),
            self.deleted_due,
            self.queued.as_ref().map(|queued| queued.due),
            self.leftover.as_ref().and_then(|leftover| leftover.due),
            self.abandoned_due,
            self.checkpoint.as_ref().map(|checkpoint| checkpoint.due),
            self.snapshot.as_ref().map(|snapshot| snapshot.due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| now >= due);
        if is_due(self.reason_due) {
            self.flush_pairing(now);
        }
        if is_due(self.ready_due) {
            self.ready_due = None;
            // What the server said last is a better reason than that it said no more.
            self.flush_pairing(now);
            self.handle_not_ready();
        }
        if let Some(exec) = &mut self.exec
            && let ExecPhase::Starting { request, due } = exec.phase
            && now >= due
        {
            let process = exec.process;
            exec.phase = ExecPhase::Abandoned { running: false };
            let after = self.timeouts.exec;
            self.settle(
                request,
                Err(Failure::Timeout {
                    what: "the start of the process",
                    after,
                }),
            );
            self.kill_process(process);
        }
        self.time_named(now);
        if is_due(self.leftover.as_ref().and_then(|leftover| leftover.due)) {
            self.forget_leftover();
        }
        if self.queued.as_ref().is_some_and(|queued| now >= queued.due) {
            // The next exec does not wait for it.
            self.leftover = None;
            if self.state == SandboxState::Reconnecting {
                self.refuse_queued(Failure::WrongState {
                    what: RUN_CODE,
                    state: self.state.clone(),
                });
            } else {
                self.refuse_queued(Failure::ProcessRunning { what: RUN_CODE });
                if let Some(process) = self.process() {
                    self.give_up_abandoned(process);
                }
            }
        }
        while self.kills.first().is_some_and(|kill| now >= kill.due) {
            let Pending { request, .. } = self.kills.remove(0);
            self.kill_sent = false;
            let failure = if self.state == SandboxState::Reconnecting {
                Failure::LinkLost {
                    what: "confirm the kill of the sandbox",
                    // It stays asked for, and is sent when the link is back.
                    effect: Effect::Unknown,
                }
            } else {
                Failure::Timeout {
                    what: "the kill of the sandbox",
                    after: self.timeouts.kill,
                }
            };
            self.settle(request, Err(failure));
            if self.abandoned {
                self.finish(SandboxEnd::Closed);
            }
        }
        if is_due(self.deleted_due) {
            let end = self.end_after_deleted();
            self.finish(end);
        }
        if is_due(self.abandoned_due) {
            self.finish(SandboxEnd::Closed);
        }
        let after = self.timeouts.store;
        if let Some(Pending { request, .. }) = self.checkpoint.take_if(|pending| now >= pending.due)
        {
            self.settle(
                request,
                Err(Failure::Timeout {
                    what: "the checkpoint",
                    after,
                }),
            );
        }
        if let Some(Pending { request, .. }) = self.snapshot.take_if(|pending| now >= pending.due) {
            self.snapshots_late += 1;
            self.settle(
                request,
                Err(Failure::Timeout {
                    what: "the filesystem snapshot",
                    after,
                }),
            );
        }
    }
}
