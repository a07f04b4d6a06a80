//! How a sandbox answers requests about its v1 exec, which has no id. The texts are those of the
//! recordings of the cloud-run-sandbox server.

use std::borrow::Cow;

use super::task::Sandbox;
use crate::{
    machine::ServedExec,
    protocol::{ServerMessage, Status, limits::MIN_WINDOW},
    server::{
        backend::job::{Job, Language},
        exec::{
            exec_table::Entry,
            execution::Limits,
            shared_exec::SharedExec,
            v1_adapter::{V1Adapter, refusal},
        },
        session::client_link::Link,
    },
};

impl Sandbox {
    pub(super) fn exec(&mut self, language: Option<Cow<'_, str>>, code: Option<Cow<'_, str>>) {
        let Some(link) = self.state.link.clone() else {
            return;
        };
        let last = self.state.execs.v1.as_ref();
        if last.is_some_and(|last| last.exec.is_in_progress()) {
            let reason = "An execution is already in progress.".to_owned();
            return self.refuse(Status::ExecutionError, reason);
        }
        let name = language.as_deref().unwrap_or("None");
        let Some(language) = Language::from_name(name) else {
            let status = Status::ExecutionUnsupportedLanguageError;
            return refuse(&link, status, Language::unsupported(name));
        };
        let Some(code) = code else {
            let reason = format!(
                "Invalid message format. 'language' and 'code' fields are required. Supported languages are: {}",
                Language::NAMES
            );
            return refuse(&link, Status::ExecutionError, reason);
        };
        if let Some(last) = last {
            // No client has reconnected to the last exec, so drop the rest of its output.
            last.exec
                .look(|exec| exec.abandon("Another execution was started."));
        }

        let options = &self.options;
        let run_time = options.max_run_time;
        let window = u64::try_from(options.output_buffer_bytes).unwrap_or(u64::MAX);
        let exec = SharedExec::new(
            ServedExec::unnamed(window.max(MIN_WINDOW)),
            Some(V1Adapter::new(
                link.version,
                run_time,
                options.stdin_buffer_bytes,
            )),
        );
        link.add(&exec);
        let mut job = Job::new(language, code.into_owned());
        job.env = self.environment(&[]);
        tracing::debug!(sandbox = %self.id, ?language, "exec");
        let entry = self.start(None, exec, job, Limits::v1(run_time));
        self.state.execs.v1 = Some(entry);
    }

    pub(super) fn stdin(&mut self, data: Option<Cow<'_, str>>) {
        let Some(data) = data else {
            return self.refuse(
                Status::StdinError,
                "Invalid stdin message format. 'data' field is required.".to_owned(),
            );
        };
        let is_in_progress = |entry: &&Entry| entry.exec.is_in_progress();
        match self.state.execs.v1.as_ref().filter(is_in_progress) {
            Some(entry) => {
                if let Err(refused) = entry.exec.push_stdin(&data) {
                    self.refuse(Status::StdinError, refused);
                }
            }
            None => self.refuse(
                Status::ExecutionError,
                "No process is running in the sandbox.".to_owned(),
            ),
        }
    }

    pub(super) fn kill_process(&self) {
        match (&self.state.execs.v1, &self.state.link) {
            (Some(entry), Some(link)) if entry.exec.expect_kill() => {
                if let Some(control) = &entry.control {
                    control.kill();
                }
                // Add the exec to the link, so that the kill is answered even if the client has not
                // sent `reconnect`.
                link.add(&entry.exec);
            }
            _ => self.status(Status::ExecutionForceKilled),
        }
    }

    pub(super) fn reconnect(&mut self) {
        let Some(link) = &self.state.link else {
            return;
        };
        match &self.state.execs.v1 {
            Some(entry) => {
                entry.exec.reconnect(link.version);
                link.add(&entry.exec);
            }
            None if link.version.is_v2() => self.running(),
            None => {
                let reason = "There is no execution to reconnect to.".to_owned();
                self.fail(Status::SandboxError, reason);
            }
        }
    }

    /// Prepares for the kill of the v1 exec with the sandbox. Its client gets the output before the
    /// statuses of the sandbox, but no end. Returns whether the exec is running.
    pub(super) fn abandon_exec(&self) -> bool {
        let Some(entry) = &self.state.execs.v1 else {
            return false;
        };
        let is_running = entry.exec.look(|exec| !exec.is_done());
        if is_running {
            entry.exec.silence_end();
        }
        if let Some(link) = &self.state.link {
            link.finish(&entry.exec);
        }
        is_running
    }
}

/// Refuses an exec. If `DONE` arrived after a delay, the Python client would take it for the end of
/// its next exec. So all messages are sent together.
fn refuse(link: &Link, status: Status, reason: String) {
    let done = ServerMessage::status(Status::ExecutionDone);
    link.push_all(
        refusal(link.version, status, reason)
            .into_iter()
            .chain([done]),
    );
}
