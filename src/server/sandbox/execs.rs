//! How a sandbox answers requests about named execs (protocol v2).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::task::Sandbox;
use crate::{
    machine::ServedExec,
    protocol::{
        self, ExecEnd, ExecId, ExecOptions, ExecRequest, ExecUpdate, NamedMessage, ServerMessage,
        Status,
        limits::{DEFAULT_OUTPUT_GRACE, DEFAULT_WINDOW, MIN_WINDOW},
    },
    server::{
        backend::job::{Job, Language, Program},
        escaped::Escaped,
        exec::{
            exec_table::Entry,
            execution::{Control, Kind, Limits},
            shared_exec::{Became, ExecEvent, Outlet, SharedExec},
        },
        session::client_link::Link,
    },
};

/// The reason for the client if the sandbox has no exec of this id.
const UNKNOWN: &str =
    "The sandbox knows no such execution: it ended with the sandbox, or long ago.";

impl Sandbox {
    /// Answers a request about a named exec.
    pub(super) fn answer_named(&mut self, id: ExecId, request: NamedMessage<'_>) {
        let Some(link) = self.state.link.clone() else {
            return;
        };
        let Some(entry) = self.state.execs.entries.get(&id) else {
            return self.answer_unknown(&link, id, request);
        };
        let exec = &entry.exec;
        match request {
            // The client repeats its request on a new link, or another client repeats it. The code
            // must not run twice.
            NamedMessage::Exec(_, options) => exec.change(|exec| {
                // The other client may have a smaller window.
                exec.limit_window(self.window(&options));
                exec.attach(Some([0; 2]));
            }),
            NamedMessage::Malformed(_) => exec.change(|exec| exec.attach(Some([0; 2]))),
            NamedMessage::Reconnect { offsets } => exec.change(|exec| exec.attach(Some(offsets))),
            NamedMessage::Stdin { offset, data, eof } => {
                exec.change(|exec| exec.handle_stdin(offset, &data, eof));
            }
            NamedMessage::Kill => {
                if let Some(control) = &entry.control {
                    exec.will_die(None);
                    control.kill();
                }
                exec.change(ServedExec::handle_kill);
            }
            NamedMessage::Ack { offsets, done } => {
                return exec.change(|exec| exec.handle_ack(offsets, done));
            }
            NamedMessage::MalformedStdin(_) | NamedMessage::Unknown => {
                return self.answer_unknown(&link, id, request);
            }
        }
        link.add(exec);
    }

    /// Answers a request whose exec the table doesn't contain, or a request that is malformed.
    fn answer_unknown(&mut self, link: &Arc<Link>, id: ExecId, request: NamedMessage<'_>) {
        match request {
            NamedMessage::Exec(..) if !id.is_valid() => {
                let why = format!("'exec' must be text of 1 to {} bytes.", ExecId::MAX_BYTES);
                self.refuse_named(link, id, Status::ExecutionError, why);
            }
            NamedMessage::Exec(exec, options) => match self.job(exec, &options) {
                Ok(job) => self.start_named(link, id, job, &options),
                Err((status, why)) => self.refuse_named(link, id, status, why),
            },
            NamedMessage::Malformed(why) => {
                self.refuse_named(link, id, Status::ExecutionError, why);
            }
            NamedMessage::Stdin { .. } => {
                self.refuse_named(link, id, Status::StdinError, UNKNOWN.to_owned());
            }
            NamedMessage::MalformedStdin(why) => {
                self.refuse_named(link, id, Status::StdinError, why);
            }
            NamedMessage::Kill => {
                let (status, update) = (Status::ExecutionForceKilled, ExecUpdate::new(id));
                link.push(ServerMessage::exec_status(status, update, None));
            }
            NamedMessage::Reconnect { .. } => {
                let update = ExecUpdate {
                    end: Some(ExecEnd::lost()),
                    ..ExecUpdate::new(id)
                };
                let (status, why) = (Status::ExecutionDone, UNKNOWN.to_owned());
                link.push(ServerMessage::exec_status(status, update, Some(why)));
            }
            NamedMessage::Ack { .. } => {}
            NamedMessage::Unknown => {
                tracing::debug!(
                    sandbox = %self.id,
                    exec = %Escaped(&id),
                    "ignored an unknown request about an exec"
                );
            }
        }
    }

    /// Returns the job that the client requests, or the status and the reason of the refusal.
    fn job(
        &self,
        program: protocol::Program<'_>,
        options: &ExecOptions,
    ) -> Result<Job, (Status, String)> {
        let program = match program {
            protocol::Program::Code(exec) => code(exec, options)?,
            protocol::Program::Argv(argv) => {
                let mut argv = argv.into_owned().into_iter();
                let path = argv.next().unwrap_or_default();
                Program::File {
                    path,
                    args: argv.collect(),
                }
            }
            protocol::Program::Builtin(builtin) => {
                let kind = Kind::of(&builtin);
                if self.state.execs.has_many_builtins(kind) {
                    let what = match kind {
                        Kind::Passive => "connections, watches and waits for ports",
                        _ => "operations",
                    };
                    let why = format!(
                        "The sandbox has too many {what} whose outcome the client has not \
                         acknowledged."
                    );
                    return Err((Status::ExecutionError, why));
                }
                return Ok(Job::of(Program::Builtin(builtin.into_owned())));
            }
        };
        let most = self.options.max_execs;
        if self.state.execs.count_alive() >= most {
            let why = format!(
                "The sandbox has reached its limit of {most} concurrent executions: \
                 kill one, or wait for one to end."
            );
            return Err((Status::ExecutionError, why));
        }
        Ok(Job {
            program,
            env: self.environment(&options.env),
            cwd: options.cwd.clone(),
            terminal: options.terminal,
        })
    }

    /// The variables of the sandbox, then those of an exec, which replace them.
    pub(super) fn environment(&self, exec: &[(String, String)]) -> Vec<(String, String)> {
        let sandbox = self.settings.config.env.iter();
        let sandbox = sandbox.map(|(name, value)| (name.clone(), value.clone()));
        sandbox.chain(exec.iter().cloned()).collect()
    }

    /// The window that a client gets for the output of an exec.
    fn window(&self, options: &ExecOptions) -> u64 {
        let most = u64::try_from(self.options.output_buffer_bytes).unwrap_or(u64::MAX);
        let window = options.window.unwrap_or(DEFAULT_WINDOW);
        window.min(most).max(MIN_WINDOW)
    }

    fn start_named(&mut self, link: &Arc<Link>, id: ExecId, job: Job, options: &ExecOptions) {
        let window = self.window(options);
        let most = self.options.max_run_time;
        let asked = |millis: Option<u64>| millis.map(Duration::from_millis);
        let output_grace = asked(options.output_grace_ms).unwrap_or(DEFAULT_OUTPUT_GRACE);
        // A user may leave a terminal idle, so only the limit of the client applies to it.
        let run_time = match job.terminal {
            None => most,
            Some(_) => Duration::MAX,
        };
        let limits = Limits {
            run_time: asked(options.timeout_ms).map_or(run_time, |asked| run_time.min(asked)),
            output_grace: most.min(output_grace),
        };
        let served = match options.binary {
            true => ServedExec::binary(id.clone(), window),
            false => ServedExec::new(id.clone(), window),
        };
        let exec = SharedExec::new(served, None);
        link.add(&exec);
        let program = job.program.name();
        tracing::debug!(sandbox = %self.id, exec = %Escaped(&id), program, "exec");
        let entry = self.start(Some(id.clone()), exec, job, limits);
        self.state.execs.insert(id, entry);
    }

    /// Starts the task of an exec.
    pub(super) fn start(
        &mut self,
        id: Option<ExecId>,
        exec: Arc<SharedExec>,
        job: Job,
        limits: Limits,
    ) -> Entry {
        let outlet = Outlet {
            id,
            exec: exec.clone(),
            events: self.state.execs.sender.clone(),
        };
        let operation = match &job.program {
            Program::Builtin(builtin) => self.operation(builtin),
            _ => None,
        };
        if let Some(operation) = operation {
            return Entry {
                exec,
                control: Some(Control::perform(job.program.name(), operation, outlet)),
                kind: Kind::Builtin,
            };
        }
        let (backend, drains) = (self.backend.clone(), self.state.drains.clone());
        let turns = &self.state.turns;
        let control = Control::start(backend, job, limits, outlet, drains, turns);
        Entry {
            exec,
            kind: control.kind,
            control: Some(control),
        }
    }

    fn refuse_named(&self, link: &Link, id: ExecId, status: Status, why: String) {
        let update = ExecUpdate::new(id);
        let refusal = ServerMessage::exec_status(status, update, Some(why.clone()));
        link.push_all([refusal, ServerMessage::error(why)]);
    }

    /// Handles an event of an exec.
    pub(super) fn on_event(&mut self, (id, became): ExecEvent) {
        let execs = &mut self.state.execs;
        let entry = id.as_ref().and_then(|id| execs.entries.get(id));
        if entry.is_none_or(|entry| entry.kind != Kind::Passive) {
            self.state.idle_since = Instant::now();
        }
        // A v1 exec has no id.
        let shown = id.as_ref().map_or("", ExecId::as_str);
        match (became, id.clone()) {
            (Became::Exited, _) => {
                tracing::debug!(
                    sandbox = %self.id,
                    exec = %Escaped(shown),
                    "exec exited, its output continues"
                );
                execs.limit_exited(self.options.max_execs);
            }
            (Became::Ended, _) => {
                tracing::debug!(sandbox = %self.id, exec = %Escaped(shown), "exec ended");
                execs.ended(id.as_ref());
            }
            (Became::NotStarted(why), id) => {
                tracing::warn!(
                    sandbox = %self.id,
                    exec = %Escaped(shown),
                    reason = %Escaped(&why),
                    "an exec did not start"
                );
                match id {
                    None => execs.ended(None),
                    Some(id) => {
                        // The code never ran, so the client may use the id again.
                        execs.remove(&id);
                        if let Some(link) = self.state.link.clone() {
                            self.refuse_named(&link, id, Status::ExecutionError, why);
                        }
                    }
                }
            }
        }
        self.state.execs.tidy();
    }
}

/// Returns the code of a request, or the status and the reason of the refusal.
fn code(exec: ExecRequest<'_>, options: &ExecOptions) -> Result<Program, (Status, String)> {
    let name = exec.language.as_deref().unwrap_or("None");
    let language = Language::from_name(name).ok_or_else(|| {
        let status = Status::ExecutionUnsupportedLanguageError;
        (status, Language::unsupported(name))
    })?;
    let Some(code) = exec.code else {
        let why = "'code' is missing or not text.".to_owned();
        return Err((Status::ExecutionError, why));
    };
    Ok(Program::Code {
        language,
        code: code.into_owned(),
        args: options.args.clone(),
    })
}
