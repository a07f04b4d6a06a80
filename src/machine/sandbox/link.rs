//! What the connection says: a link opened, a frame came, the link is lost.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Exec, ExecPhase, Mode, Pending, Sandbox, SandboxAction};
use crate::{
    machine::{
        Effect, Epoch, Failure, LinkError, ProcessFact, ProcessId, SandboxEnd, SandboxEvent,
        SandboxState, later,
    },
    protocol::{ClientMessage, OutputView, Pairing, ParseError, Received, ServerMessage, Version},
};

impl Sandbox {
    /// A link is open, and speaks this version.
    pub fn handle_opened(&mut self, epoch: Epoch, version: Version, now: Instant) {
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        self.link = Some(epoch);
        self.version = version;
        self.ready_due = Some(later(now, self.timeouts.ready));
        if let (SandboxState::Creating, Mode::Create(configuration)) = (&self.state, &self.mode) {
            self.actions
                .push_back(SandboxAction::Send(configuration.encode()));
        }
    }

    /// A frame came over a link.
    pub fn handle_frame(&mut self, epoch: Epoch, frame: &Bytes, now: Instant) {
        if let Some((process, output)) = self.handle_frame_or_output(epoch, frame, now) {
            let output = SandboxAction::Output(process, output.into_piece(frame));
            self.actions.push_back(output);
        }
    }

    /// A frame came over a link. Output, by far the most frequent and never held back, is given back at once and still in
    /// its frame, with whose it is: it comes after the actions that there are.
    #[must_use]
    pub fn handle_frame_or_output<'a>(
        &mut self,
        epoch: Epoch,
        frame: &'a Bytes,
        now: Instant,
    ) -> Option<(ProcessId, OutputView<'a>)> {
        if self.link != Some(epoch) || matches!(self.state, SandboxState::Ended(_)) {
            return None;
        }
        match ServerMessage::read(frame, self.version) {
            Ok(Received::Output(output)) => {
                let process = self.whose_output(&output)?;
                return Some((process, output));
            }
            Ok(Received::Message(ServerMessage::Output(piece))) => self.handle_output(piece),
            Ok(Received::Message(message)) => {
                let is_status = matches!(message, ServerMessage::Status(_));
                for message in self.pairing.accept(message).into_iter().flatten() {
                    self.handle_fact(message, now);
                }
                if !self.pairing.is_waiting() || matches!(self.state, SandboxState::Ended(_)) {
                    self.reason_due = None;
                } else if is_status {
                    // It is this status that waits now.
                    self.reason_due = Some(later(now, self.timeouts.reason));
                }
            }
            Err(error) => {
                self.flush_pairing(now);
                self.handle_malformed(&error);
            }
        }
        None
    }

    /// The link is lost, and another attempt follows.
    pub fn handle_reconnecting(
        &mut self,
        attempt: u32,
        delay: Duration,
        cause: LinkError,
        now: Instant,
    ) {
        self.drop_link(now);
        match self.state {
            SandboxState::Ended(_) => return,
            // The server was too busy for the first link.
            SandboxState::Creating | SandboxState::Attaching => {
                return self.event(SandboxEvent::Reconnecting {
                    attempt,
                    delay,
                    cause,
                });
            }
            _ => {}
        }
        // The news that a loss is final, and the loss, may have crossed.
        if self.handing_off || self.checkpoint.is_some() || self.deleted_due.is_some() {
            return self.handle_lost(cause, attempt.saturating_sub(1), now);
        }
        // A kill that may not have left is sent again.
        self.kill_sent = false;
        self.leftover_link_down();
        if self.state != SandboxState::Reconnecting {
            self.set_state(SandboxState::Reconnecting);
            if let Some(exec) = &self.exec {
                self.actions
                    .push_back(SandboxAction::Tell(exec.process, ProcessFact::LinkDown));
            }
            self.named_link_down();
            if cause.is_too_large() {
                self.handle_too_large();
            }
            self.fail_unanswered();
        }
        self.event(SandboxEvent::Reconnecting {
            attempt,
            delay,
            cause,
        });
    }

    /// The link is lost for good.
    pub fn handle_lost(&mut self, cause: LinkError, attempts: u32, now: Instant) {
        let opened = self.link.is_some() || attempts > 0;
        self.drop_link(now);
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        if opened {
            self.event(SandboxEvent::GaveUp {
                cause: cause.clone(),
                attempts,
            });
        }
        let end = match self.deleted_due {
            // What the server said before it closed counts.
            Some(_) => self.end_after_deleted(),
            None => SandboxEnd::LinkLost { cause, attempts },
        };
        self.finish(end);
    }

    /// The connection was closed as asked.
    pub fn handle_closed(&mut self, now: Instant) {
        self.drop_link(now);
        self.finish(SandboxEnd::Closed);
    }

    pub(super) fn flush_pairing(&mut self, now: Instant) {
        self.reason_due = None;
        if let Some(fact) = self.pairing.flush() {
            self.handle_fact(fact, now);
        }
    }

    pub(super) fn drop_link(&mut self, now: Instant) {
        // First: what the held status brings about must not be sent any more.
        self.link = None;
        self.flush_pairing(now);
        self.pairing = Pairing::default();
        self.ready_due = None;
        // `kills_owed` stays: the server queues answers for the next link. One too many costs little,
        // one too few makes the answer to an old kill the end of a new process.
    }

    /// What was asked over the lost link and cannot be answered any more.
    pub(super) fn fail_unanswered(&mut self) {
        let lost = |what| Failure::LinkLost {
            what,
            effect: Effect::Unknown,
        };
        if let Some(Exec {
            process,
            phase: phase @ (ExecPhase::Starting { .. } | ExecPhase::Abandoned { running: false }),
        }) = &self.exec
        {
            let process = *process;
            if let ExecPhase::Starting { request, .. } = *phase {
                self.settle(request, Err(lost("confirm the start of the process")));
            }
            // Whether the server ever heard of it is not known, so it must not be asked to go on
            // with its output. But nobody has a handle to it.
            self.lost_start = Some(process);
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::SandboxEnded(SandboxEnd::Closed),
            ));
            self.exec = None;
        }
        if let Some(Pending { request, .. }) = self.snapshot.take() {
            self.snapshots_late += 1;
            self.settle(request, Err(lost("confirm the filesystem snapshot")));
        }
    }

    pub(super) fn handle_not_ready(&mut self) {
        let after = self.timeouts.ready;
        match self.state {
            SandboxState::Creating | SandboxState::Attaching => {
                if matches!(self.mode, Mode::Create(_)) && self.identity.is_some() {
                    // It is there, and nobody will get a handle to it.
                    self.send(&ClientMessage::KillSandbox);
                }
                let waited = format!("no SANDBOX_RUNNING within {after:?} of the connection");
                self.finish(SandboxEnd::NotReady { waited });
            }
            SandboxState::Reconnecting => {
                if let Some(epoch) = self.link {
                    self.actions.push_back(SandboxAction::RefuseLink(
                        epoch,
                        LinkError::NotReady { after },
                    ));
                }
            }
            _ => {}
        }
    }

    pub(super) fn handle_malformed(&mut self, error: &ParseError) {
        self.violation(error.to_string());
    }
}
