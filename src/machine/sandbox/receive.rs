//! Passes each message of the server to its concern.

use std::time::Instant;

use bytes::Bytes;

use super::{Sandbox, SandboxAction};
use crate::{
    machine::{Epoch, LinkError, ProcessId, SandboxEnd, SandboxEvent, SandboxState},
    protocol::{
        ExecId, OutputPiece, OutputView, Received, ServerMessage, Severity, Status, StatusUpdate,
        StdStream,
    },
};

impl Sandbox {
    /// Handles a frame of a link. Output becomes an action.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn handle_frame(&mut self, epoch: Epoch, frame: &Bytes, now: Instant) {
        if let Some((process, output)) = self.handle_frame_or_output(epoch, frame, now) {
            let output = output.into_piece(frame);
            self.actions.push(SandboxAction::Output(process, output));
        }
    }

    /// Handles a frame of a link. Output is by far the most frequent message and is never held
    /// back, so it is returned at once, still in its frame, with its process. The caller must
    /// deliver it after all earlier actions.
    #[must_use]
    pub fn handle_frame_or_output<'a>(
        &mut self,
        epoch: Epoch,
        frame: &'a Bytes,
        now: Instant,
    ) -> Option<(ProcessId, OutputView<'a>)> {
        if self.life.link != Some(epoch) || self.life.is_over() {
            return None;
        }
        let version = self.version();
        if let Some(output) = ServerMessage::read_output(frame, version) {
            let exec = output.place.map(|(exec, _)| exec);
            let process = self.process_of_output(exec, output.stream, output.data.len());
            return process.map(|process| (process, output));
        }
        let message = match ServerMessage::read(frame, version) {
            Ok(Received::ExecStatus(status, update)) if !status.expects_reason() => {
                self.flush_pairing(now);
                if !self.life.is_over() {
                    let status = self.observe_status(status, None);
                    self.handle_exec_status(status, None, update);
                }
                return None;
            }
            Ok(received) => received.into_message(),
            Err(error) => {
                self.flush_pairing(now);
                self.violation(error.to_string());
                return None;
            }
        };
        let is_status = matches!(message, ServerMessage::Status(_));
        for message in self.v1.pairing.accept(message).into_iter().flatten() {
            self.handle_message(message, now);
        }
        self.update_reason_due(is_status, now);
        None
    }

    fn handle_output(&mut self, piece: OutputPiece) {
        let exec = piece.place.as_ref().map(|place| place.exec.as_str());
        if let Some(process) = self.process_of_output(exec, piece.stream, piece.data.len()) {
            self.actions.push(SandboxAction::Output(process, piece));
        }
    }

    fn process_of_output(
        &mut self,
        exec: Option<&str>,
        stream: StdStream,
        bytes: usize,
    ) -> Option<ProcessId> {
        let Some(exec) = exec else {
            return self.process_of_v1_output(stream, bytes);
        };
        let process = self.execs.find(exec);
        if process.is_none() {
            self.actions.event(SandboxEvent::StrayOutput { bytes });
        }
        process
    }

    pub(super) fn handle_message(&mut self, message: ServerMessage, now: Instant) {
        if self.life.is_over() {
            return;
        }
        match message {
            ServerMessage::Output(piece) | ServerMessage::BinaryOutput(piece) => {
                self.handle_output(piece);
            }
            ServerMessage::Status(update) => self.handle_status(update, now),
            ServerMessage::Identity(identity) => self.handle_identity(identity),
            ServerMessage::Error(error) => {
                let reason = self.life.redact(error.message);
                self.actions.event(SandboxEvent::Reason(reason));
            }
            ServerMessage::StdinAck { exec, offset } => self.handle_stdin_taken(&exec, offset),
            ServerMessage::Unknown(unknown) => {
                let event = unknown.event.map(|event| self.life.redact(event));
                self.actions.event(SandboxEvent::UnknownEvent { event });
            }
        }
    }

    /// Reports a status to subscribers. Returns the status without secrets.
    fn observe_status(&mut self, status: Status, reason: Option<&str>) -> Status {
        let status = match status {
            Status::Unknown(name) => Status::from_wire(&self.life.redact(name.into())),
            known => known,
        };
        if self.actions.observed {
            self.actions.event(SandboxEvent::Status {
                status: status.clone(),
                reason: reason.map(str::to_owned),
            });
        }
        status
    }

    fn handle_status(&mut self, update: StatusUpdate, now: Instant) {
        let reason = update.message.map(|reason| self.life.redact(reason));
        let status = self.observe_status(update.status, reason.as_deref());
        if let Some(exec) = update.exec {
            return self.handle_exec_status(status, reason, exec.map(ExecId::as_str));
        }
        match status {
            Status::SandboxRunning => {
                self.handle_running(update.features.unwrap_or_default(), now);
            }
            Status::SandboxInUse if self.life.state == SandboxState::Reconnecting => {
                self.actions.refuse_link(self.life.link, LinkError::InUse)
            }
            Status::SandboxDeleting => self.life.deleting = true,
            Status::SandboxDeleted => self.handle_deleted(now),
            Status::SandboxLifetimeEnded => self.handle_lifetime_ended(),

            Status::SandboxKilling => self.leave_running(SandboxState::Killing),
            Status::SandboxKilled => self.finish(SandboxEnd::Killed),
            Status::SandboxKillError => self.handle_kill_refused(&status, reason.as_deref()),

            Status::SandboxCheckpointing => self.leave_running(SandboxState::Checkpointing),
            Status::SandboxCheckpointed => self.handle_checkpointed(),
            Status::ExecutionInProgressError => {
                self.handle_checkpoint_refused(status, reason, now);
            }
            Status::SandboxLockReleaseRequested => self.handle_lock_release(),
            Status::FilesystemSnapshotCreating
            | Status::FilesystemSnapshotCreated
            | Status::FilesystemSnapshotError => self.handle_snapshot_status(status, reason),

            Status::ExecutionRunning
            | Status::ExecutionDone
            | Status::ExecutionForceKilled
            | Status::ExecutionForceKillError
            | Status::ExecutionError
            | Status::ExecutionUnsupportedLanguageError => {
                self.handle_v1_status(status, reason, now);
            }

            status => {
                if let Severity::Fatal | Severity::FatalWithoutReason = status.severity() {
                    self.finish(SandboxEnd::Failed { status, reason });
                }
            }
        }
    }
}
