//! What a sandbox does when its client asks for something, and what it answers: in the recorded words.

use super::task::{End, Sandbox};
use crate::{
    protocol::{ClientMessage, Status},
    server::session::client_link::Link,
};

impl Sandbox {
    /// Does what was asked; says so when the sandbox ends by it.
    pub(super) fn answer(&mut self, request: ClientMessage<'static>) -> Option<End> {
        let _together = self.state.link.as_ref().map(Link::cork);
        match request {
            ClientMessage::Exec(exec) => self.exec(exec.language, exec.code),
            // As recorded: what is nothing else is an exec without a language.
            ClientMessage::Unknown => self.exec(None, None),
            ClientMessage::Stdin { data } => self.stdin(data),
            ClientMessage::KillProcess => match &self.state.exec {
                Some(exec) => {
                    exec.control.kill();
                    self.state.kills += 1;
                }
                None => self.status(Status::ExecutionForceKilled),
            },
            ClientMessage::KillSandbox => return Some(End::Killed),
            ClientMessage::SnapshotFilesystem { name } => self.snapshot(name.as_deref()),
            ClientMessage::Checkpoint => return self.checkpoint(),
            ClientMessage::Reconnect => self.reconnect(),
            ClientMessage::Named(exec, request) => self.answer_named(exec, request),
        }
        None
    }

    /// Whether the sandbox may be checkpointed now; says so when it is to end by that.
    fn checkpoint(&mut self) -> Option<End> {
        self.status(Status::SandboxCheckpointing);
        if self.state.exec.is_some() || self.state.named.is_alive() {
            self.refuse(
                Status::ExecutionInProgressError,
                "Cannot checkpoint while an execution is in progress.".to_owned(),
            );
            return None;
        }
        if !self.config.enable_checkpoint {
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
