//! How a sandbox answers the requests of its client. The texts are those of the recordings of the
//! cloud-run-sandbox server.

use super::task::{End, Sandbox};
use crate::protocol::{ClientMessage, Status};

impl Sandbox {
    /// Answers a request. Returns how the sandbox ends, if the request ends it.
    pub(super) fn answer(&mut self, request: ClientMessage<'static>) -> Option<End> {
        match request {
            ClientMessage::Exec(exec) => self.exec(exec.language, exec.code),
            // As in the recordings of the cloud-run-sandbox server: an unknown request is handled
            // like an exec request without a language.
            ClientMessage::Unknown => self.exec(None, None),
            ClientMessage::Stdin { data } => self.stdin(data),
            ClientMessage::KillProcess => self.kill_process(),
            ClientMessage::KillSandbox => return Some(End::Killed),
            ClientMessage::SnapshotFilesystem { name } => self.snapshot(name.as_deref()),
            ClientMessage::Checkpoint => return self.checkpoint(),
            ClientMessage::Reconnect => self.reconnect(),
            ClientMessage::Named(exec, request) => self.answer_named(exec, request),
        }
        None
    }

    /// Answers a checkpoint request. Returns `End::Checkpointed` unless it refuses the request.
    fn checkpoint(&mut self) -> Option<End> {
        self.status(Status::SandboxCheckpointing);
        let execs = &self.state.execs;
        let v1 = execs.v1.as_ref();
        if execs.is_alive() || v1.is_some_and(|it| it.exec.is_in_progress()) {
            self.refuse(
                Status::ExecutionInProgressError,
                "Cannot checkpoint while an execution is in progress.".to_owned(),
            );
            return None;
        }
        if !self.settings.config.enable_checkpoint {
            let id = &self.id;
            self.checkpoint_failed(&format!(
                "Sandbox {id} is not configured for checkpointing."
            ));
            return None;
        }
        Some(End::Checkpointed)
    }

    pub(super) fn checkpoint_failed(&mut self, why: &str) {
        let reason = format!("Failed to checkpoint sandbox {}: {why}", self.id);
        self.fail(Status::SandboxCheckpointError, reason);
    }
}
