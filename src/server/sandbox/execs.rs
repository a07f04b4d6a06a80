//! What a sandbox does with named execs (protocol v2).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::task::Sandbox;
use crate::{
    machine::ServedExec,
    protocol::{
        ExecEnd, ExecId, ExecOptions, ExecRequest, ExecUpdate, NamedMessage, ServerMessage, Status,
        limits::{DEFAULT_OUTPUT_GRACE, DEFAULT_WINDOW, MIN_WINDOW},
    },
    server::{
        backend::job::{Job, Language},
        escaped::Escaped,
        exec::{
            execution::{Control, Limits},
            named_exec::{Became, NamedEvent, NamedExec, NamedOutlet},
        },
        session::client_link::Link,
    },
};

/// Why nothing can be said of an exec.
const UNKNOWN: &str =
    "The sandbox knows no such execution: it ended with the sandbox, or long ago.";

impl Sandbox {
    /// Does what the client asked of a named exec.
    pub(super) fn answer_named(&mut self, id: ExecId, request: NamedMessage<'_>) {
        let Some(link) = self.state.link.clone() else {
            return;
        };
        let entry = self.state.named.entries.get(&id);
        match (request, entry) {
            (NamedMessage::Exec(..) | NamedMessage::Malformed(_), Some(entry)) => {
                // It is not run twice.
                entry.exec.change(|exec| exec.attach(None));
                link.add(&entry.exec);
            }
            (NamedMessage::Exec(..), None) if !id.is_valid() => self.refuse_named(
                &link,
                id,
                Status::ExecutionError,
                format!("'exec' must be text of 1 to {} bytes.", ExecId::MAX_BYTES),
            ),
            (NamedMessage::Malformed(why), None) => {
                self.refuse_named(&link, id, Status::ExecutionError, why);
            }
            (NamedMessage::Exec(exec, options), None) => match self.job(exec, &options) {
                Ok(job) => self.start_named(&link, id, job, &options),
                Err((status, why)) => self.refuse_named(&link, id, status, why),
            },
            (NamedMessage::Stdin { offset, data, eof }, Some(entry)) => {
                entry
                    .exec
                    .change(|exec| exec.handle_stdin(offset, &data, eof));
                link.add(&entry.exec);
            }
            (NamedMessage::MalformedStdin(why), _) => {
                self.refuse_named(&link, id, Status::StdinError, why);
            }
            (NamedMessage::Ack { offsets, done }, Some(entry)) => {
                entry.exec.change(|exec| exec.handle_ack(offsets, done));
            }
            (NamedMessage::Kill, Some(entry)) => {
                if let Some(control) = &entry.control {
                    entry.exec.will_die(None);
                    control.kill();
                }
                entry.exec.change(ServedExec::handle_kill);
                link.add(&entry.exec);
            }
            (NamedMessage::Reconnect { offsets }, Some(entry)) => {
                entry.exec.change(|exec| exec.attach(Some(offsets)));
                link.add(&entry.exec);
            }
            (NamedMessage::Kill, None) => {
                let update = ExecUpdate::new(id);
                link.push(ServerMessage::exec_status(
                    Status::ExecutionForceKilled,
                    update,
                    None,
                ));
            }
            (NamedMessage::Reconnect { .. }, None) => {
                let mut update = ExecUpdate::new(id);
                update.end = Some(ExecEnd::lost());
                link.push(ServerMessage::exec_status(
                    Status::ExecutionDone,
                    update,
                    Some(UNKNOWN.to_owned()),
                ));
            }
            (NamedMessage::Stdin { .. }, None) => {
                self.refuse_named(&link, id, Status::StdinError, UNKNOWN.to_owned());
            }
            (NamedMessage::Ack { .. }, None) => {}
            (NamedMessage::Unknown, _) => {
                tracing::debug!(sandbox = %self.id, exec = %Escaped(&id), "a message about an exec is not known");
            }
        }
    }

    /// The job that was asked for, or why there is none.
    fn job(&self, exec: ExecRequest<'_>, options: &ExecOptions) -> Result<Job, (Status, String)> {
        let name = exec.language.as_deref().unwrap_or("None");
        let language = Language::from_name(name).ok_or_else(|| {
            let status = Status::ExecutionUnsupportedLanguageError;
            (status, Language::unsupported(name))
        })?;
        let Some(code) = exec.code else {
            let why = "'code' is missing, or is no text.".to_owned();
            return Err((Status::ExecutionError, why));
        };
        let most = self.options.max_execs;
        if self.state.named.alive().count() >= most {
            let why = format!(
                "The sandbox has its limit of {most} executions at once: kill one, or wait for one to end."
            );
            return Err((Status::ExecutionError, why));
        }
        Ok(Job {
            language,
            code: code.into_owned(),
            args: options.args.clone(),
            env: options.env.clone(),
            cwd: options.cwd.clone(),
        })
    }

    fn start_named(&mut self, link: &Arc<Link>, id: ExecId, job: Job, options: &ExecOptions) {
        let most = u64::try_from(self.options.output_buffer_bytes).unwrap_or(u64::MAX);
        let window = options.window.unwrap_or(DEFAULT_WINDOW);
        let window = window.min(most).max(MIN_WINDOW);
        let most = self.options.max_run_time;
        let asked = |millis: Option<u64>| millis.map(Duration::from_millis);
        let output_grace = asked(options.output_grace_ms).unwrap_or(DEFAULT_OUTPUT_GRACE);
        let limits = Limits {
            run_time: asked(options.timeout_ms).map_or(most, |asked| most.min(asked)),
            output_grace: most.min(output_grace),
        };
        let exec = NamedExec::new(ServedExec::new(id.clone(), window));
        link.add(&exec);
        let outlet = NamedOutlet {
            id: id.clone(),
            exec: exec.clone(),
            events: self.state.named.sender.clone(),
        };
        tracing::debug!(sandbox = %self.id, exec = %Escaped(&id), language = ?job.language, "exec");
        let control = Control::start(
            self.backend.clone(),
            job,
            limits,
            outlet,
            self.state.drains.clone(),
        );
        self.state.named.insert(id, exec, Some(control));
    }

    fn refuse_named(&self, link: &Link, id: ExecId, status: Status, why: String) {
        let update = ExecUpdate::new(id);
        link.push(ServerMessage::exec_status(
            status,
            update,
            Some(why.clone()),
        ));
        link.push(ServerMessage::error(why));
    }

    /// Something became of a named exec.
    pub(super) fn on_named(&mut self, (id, became): NamedEvent) {
        self.state.idle_since = Instant::now();
        match became {
            Became::Exited => {
                tracing::debug!(sandbox = %self.id, exec = %Escaped(&id), "exec exited, its output goes on");
                self.state.named.limit_exited(self.options.max_execs);
            }
            Became::Ended => {
                tracing::debug!(sandbox = %self.id, exec = %Escaped(&id), "exec ended");
                self.state.named.ended(&id);
            }
            Became::NotStarted(why) => {
                tracing::warn!(sandbox = %self.id, exec = %Escaped(&id), reason = %Escaped(&why), "an exec did not start");
                // It never was: the id is free.
                self.state.named.remove(&id);
                if let Some(link) = self.state.link.clone() {
                    self.refuse_named(&link, id, Status::ExecutionError, why);
                }
            }
        }
        self.state.named.tidy();
    }
}
