//! What a sandbox does when its client asks for something, and what it answers: in the recorded words.

use std::{borrow::Cow, sync::Arc};

use super::task::{End, Sandbox};
use crate::{
    protocol::{ClientMessage, ServerMessage, Status, Version},
    server::{
        backend::job::{Job, Language},
        exec::{
            execution::Execution,
            stdin_queue::{StdinQueue, StdinRefused},
        },
        session::client_link::{ExecItem, Link},
    },
};

impl Sandbox {
    /// Does what was asked; says so when the sandbox ends by it.
    pub(super) fn answer(&mut self, request: ClientMessage<'static>) -> Option<End> {
        let _together = self.state.link.as_ref().map(Link::cork);
        match request {
            ClientMessage::Exec(exec) => self.exec(exec.language, exec.code),
            // As recorded: what is nothing else is an exec without a language.
            ClientMessage::Unknown { .. } => self.exec(None, None),
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

    fn exec(&mut self, language: Option<Cow<'_, str>>, code: Option<Cow<'_, str>>) {
        if self.state.exec.is_some() {
            return self.refuse(
                Status::ExecutionError,
                "An execution is already in progress.".to_owned(),
            );
        }
        // A new exec: nobody will ask for what is left of the one before.
        self.state.held.clear();
        self.state.held_bytes = 0;
        self.state.resumed = true;

        let name = language.as_deref().unwrap_or("None");
        let Some(language) = Language::from_name(name) else {
            let (status, reason) = unsupported(name);
            self.refuse(status, reason);
            return self.status(Status::ExecutionDone);
        };
        let Some(code) = code else {
            let reason = format!(
                "Invalid message format. 'language' and 'code' fields are required. Supported languages are: {}",
                Language::NAMES
            );
            self.refuse(Status::ExecutionError, reason);
            return self.status(Status::ExecutionDone);
        };

        let stdin = Arc::new(StdinQueue::new(self.options.stdin_buffer_bytes));
        self.stdin_slot.set(Some(stdin.clone()));
        self.state.ever_ran = true;
        self.state.announced = false;
        self.state.exec = Some(Execution::start(
            self.backend.clone(),
            Job::new(language, code.into_owned()),
            self.options.max_run_time,
            stdin,
            self.state.drains.clone(),
        ));
        tracing::debug!(sandbox = %self.id, ?language, "exec");
    }

    fn stdin(&mut self, data: Option<Cow<'_, str>>) {
        let Some(data) = data else {
            return self.refuse(
                Status::StdinError,
                "Invalid stdin message format. 'data' field is required.".to_owned(),
            );
        };
        let alive = self
            .state
            .exec
            .as_ref()
            .filter(|exec| exec.control.is_alive());
        match alive.map(|exec| exec.stdin.push(data.into_owned())) {
            Some(Ok(())) => {}
            Some(Err(refused @ (StdinRefused::Full { .. } | StdinRefused::Closed))) => {
                self.refuse(Status::StdinError, refused.to_string());
            }
            None => self.refuse(
                Status::ExecutionError,
                "No process is running in the sandbox.".to_owned(),
            ),
        }
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

    fn reconnect(&mut self) {
        let is_v2 = |link: &Arc<Link>| link.version() == Version::V2;
        if !self.state.ever_ran && self.state.link.as_ref().is_some_and(is_v2) {
            return self.status(Status::SandboxRunning);
        }
        if !self.state.ever_ran {
            let reason = "There is no execution to reconnect to.".to_owned();
            return self.fail(Status::SandboxError, reason);
        }
        if self.state.exec.is_none() || self.state.announced {
            self.status(Status::ExecutionRunning);
        }
        self.state.resumed = true;
        self.state.held_bytes = 0;
        // What was said last to a client that is gone may not have arrived: the end is said again.
        let repeat_end = self.state.exec.is_none() && self.state.held.is_empty();
        for item in std::mem::take(&mut self.state.held) {
            self.tell(item);
        }
        if repeat_end {
            self.tell(ExecItem::Message(ServerMessage::status(
                Status::ExecutionDone,
            )));
        }
    }
}

/// The refusal of a language.
pub(super) fn unsupported(name: &str) -> (Status, String) {
    let reason = format!(
        "Unsupported language: '{}'. Supported languages are: {}",
        shortened(name),
        Language::NAMES
    );
    (Status::ExecutionUnsupportedLanguageError, reason)
}

/// A name as an error message quotes it: not without end.
fn shortened(name: &str) -> String {
    const MOST: usize = 100;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
