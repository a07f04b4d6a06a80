//! What a sandbox does with the exec without a name (protocol v1), in the recorded words. What no client takes is held.

use std::{borrow::Cow, sync::Arc};

use tokio::time::Instant;

use super::task::Sandbox;
use crate::{
    protocol::{ServerMessage, Status, Version},
    server::{
        backend::job::{Job, Language},
        escaped::Escaped,
        exec::{
            execution::{Ending, ExecEvent},
            stdin_queue::{StdinQueue, StdinRefused},
            v1_exec::V1Exec,
        },
        session::client_link::{ExecItem, Link},
    },
};

impl Sandbox {
    pub(super) fn on_event(&mut self, event: Option<ExecEvent>) {
        let message = |status| ExecItem::Message(ServerMessage::status(status));
        let reason = |text| ExecItem::Message(ServerMessage::error(text));
        match event {
            Some(ExecEvent::Output(stream, text)) => self.tell(ExecItem::Output(stream, text)),
            Some(ExecEvent::Started) => {
                self.state.announced = true;
                if self.state.resumed {
                    // `reconnect` says it again, so it is not kept.
                    self.status(Status::ExecutionRunning);
                }
            }
            Some(ExecEvent::NotStarted(why)) => {
                tracing::warn!(sandbox = %self.id, reason = %Escaped(&why), "an exec did not start");
                self.tell(message(Status::ExecutionError));
                self.tell(reason(why));
                self.exec_ended(None);
            }
            Some(ExecEvent::Exited(_)) => {}
            Some(ExecEvent::Ended { ending, .. }) => {
                if let Ending::TimedOut(_) = ending {
                    self.tell(message(Status::ExecutionError));
                    self.tell(reason(format!(
                        "The execution was killed: it ran longer than the {} seconds that this server allows.",
                        self.options.max_run_time.as_secs_f64()
                    )));
                    self.tell(message(Status::ExecutionForceKilled));
                }
                self.exec_ended(match ending {
                    Ending::Killed(Err(why)) => Some(why),
                    _ => None,
                });
            }
            // The task of the exec panicked.
            None => {
                self.tell(message(Status::ExecutionError));
                self.tell(reason("The server lost the execution.".to_owned()));
                self.exec_ended(None);
            }
        }
    }

    fn exec_ended(&mut self, kill_failed: Option<String>) {
        self.state.exec = None;
        self.state.idle_since = Instant::now();
        self.stdin_slot.set(None);
        // Deployed clients take a kill as confirmed by the end that follows its answer.
        for _ in 0..std::mem::take(&mut self.state.kills) {
            match &kill_failed {
                None => self.status(Status::ExecutionForceKilled),
                Some(why) => self.refuse(
                    Status::ExecutionForceKillError,
                    format!("Failed to kill the process: {why}."),
                ),
            }
        }
        self.tell(ExecItem::Message(ServerMessage::status(
            Status::ExecutionDone,
        )));
        tracing::debug!(sandbox = %self.id, "exec ended");
    }

    /// Something of the exec, for the client that has taken it over or will.
    fn tell(&mut self, item: ExecItem) {
        let refused = match &self.state.link {
            Some(link) if self.state.resumed => link.push_exec(item).err(),
            _ => Some(item),
        };
        // Also when the link was lost a moment ago: `detach` puts it behind what was queued there.
        if let Some(item) = refused {
            self.state.held_bytes += item.cost();
            self.state.held.push_back(item);
        }
    }

    pub(super) fn exec(&mut self, language: Option<Cow<'_, str>>, code: Option<Cow<'_, str>>) {
        if self.state.exec.is_some() {
            return self.refuse(
                Status::ExecutionError,
                "An execution is already in progress.".to_owned(),
            );
        }
        // A new exec: the output that is left of the one before is dropped.
        self.state.held.clear();
        self.state.held_bytes = 0;
        self.state.resumed = true;

        let name = language.as_deref().unwrap_or("None");
        let Some(language) = Language::from_name(name) else {
            let status = Status::ExecutionUnsupportedLanguageError;
            self.refuse(status, Language::unsupported(name));
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
        self.state.exec = Some(V1Exec::start(
            self.backend.clone(),
            Job::new(language, code.into_owned()),
            self.options.max_run_time,
            stdin,
            self.state.drains.clone(),
        ));
        tracing::debug!(sandbox = %self.id, ?language, "exec");
    }

    pub(super) fn stdin(&mut self, data: Option<Cow<'_, str>>) {
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

    pub(super) fn reconnect(&mut self) {
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
