//! What a sandbox does with named execs (protocol v2): any number at once, each kept until its client has
//! acknowledged its end.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{requests::unsupported, task::Sandbox};
use crate::{
    machine::{ServedExec, StoredExec},
    protocol::{
        ExecEnd, ExecId, ExecOptions, ExecUpdate, ServerMessage, Status,
        limits::{DEFAULT_OUTPUT_GRACE, DEFAULT_WINDOW, MIN_WINDOW},
    },
    server::{
        backend::api::{Job, Language},
        escaped::Escaped,
        exec::{
            execution::{Control, Limits},
            named_exec::{Became, NamedEvent, NamedExec, NamedOutlet},
        },
        session::client_link::Link,
    },
};

/// Execs that are remembered after their end.
const REMEMBERED: usize = 1_024;

/// Execs that ended and were not acknowledged, whose output is kept.
const KEPT: usize = 64;

/// News of execs on their way to the sandbox.
const EVENTS_IN_FLIGHT: usize = 16;

/// Why nothing can be said of an exec.
const UNKNOWN: &str =
    "The sandbox knows no such execution: it ended with the sandbox, or long ago.";

/// What a client says about a named exec.
#[derive(Debug)]
pub(crate) enum NamedRequest {
    Exec {
        language: Option<String>,
        code: Option<String>,
        options: ExecOptions,
    },
    Malformed(String),
    MalformedStdin(String),
    Unknown,
    Stdin {
        offset: u64,
        data: Vec<u8>,
        eof: bool,
    },
    Ack {
        offsets: [u64; 2],
        done: bool,
    },
    Kill,
    Reconnect {
        offsets: [u64; 2],
    },
}

struct Entry {
    exec: Arc<NamedExec>,
    /// While it runs.
    control: Option<Control>,
}

impl Entry {
    /// Ends output that goes on after the main process, whether other processes hold it or not.
    fn end_output(&self) {
        if let Some(control) = self.control.as_ref().filter(|it| !it.is_alive()) {
            self.exec.will_die(None);
            control.end_output();
        }
    }
}

/// The named execs of a sandbox.
pub(crate) struct NamedExecs {
    entries: HashMap<ExecId, Entry>,
    /// Those that are over in the order in which they ended, with those that run anywhere between.
    order: VecDeque<ExecId>,
    events: mpsc::Receiver<NamedEvent>,
    sender: mpsc::Sender<NamedEvent>,
}

impl NamedExecs {
    pub(super) fn new() -> Self {
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            events,
            sender,
        }
    }

    /// The execs of a checkpoint.
    pub(super) fn restored(stored: Vec<StoredExec>) -> Self {
        let mut execs = Self::new();
        for stored in stored {
            let id = stored.exec.clone();
            execs.insert(id, NamedExec::new(ServedExec::restored(stored)));
        }
        execs
    }

    /// What a checkpoint holds of them: those that are over and not acknowledged, the latest first to be kept.
    pub(super) fn stored(&self) -> Vec<StoredExec> {
        let entries = self.order.iter().filter_map(|id| self.entries.get(id));
        let kept = entries.filter_map(|entry| {
            entry.exec.look(|exec| match exec.is_settled() {
                true => None,
                false => exec.store(),
            })
        });
        kept.collect()
    }

    fn insert(&mut self, id: ExecId, exec: Arc<NamedExec>) {
        self.order.push_back(id.clone());
        self.entries.insert(
            id,
            Entry {
                exec,
                control: None,
            },
        );
    }

    /// One is over, as the last until now.
    fn ended(&mut self, id: &ExecId) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.control = None;
            self.order.retain(|other| other != id);
            self.order.push_back(id.clone());
        }
    }

    fn remove(&mut self, id: &ExecId) {
        self.entries.remove(id);
        self.order.retain(|other| other != id);
    }

    /// Whether the processes of one run.
    pub(super) fn is_alive(&self) -> bool {
        self.alive().next().is_some()
    }

    /// Bounds how many execs whose main process has ended have output that goes on. The first to
    /// end anyway end now.
    fn limit_exited(&self, most: usize) {
        let exited = self.entries.values().filter_map(|entry| {
            let until = entry.control.as_ref()?.reads_until()?;
            Some((until, entry))
        });
        let mut exited: Vec<_> = exited.collect();
        exited.sort_by_key(|&(until, _)| until);
        let over = exited.len().saturating_sub(most);
        exited.iter().take(over).for_each(|(_, it)| it.end_output());
    }

    /// Until when the output of those is read whose main process has ended.
    pub(super) fn reads_until(&self) -> Option<Instant> {
        let controls = self.entries.values().filter_map(|it| it.control.as_ref());
        controls.filter_map(Control::reads_until).max()
    }

    fn alive(&self) -> impl Iterator<Item = &Control> {
        let controls = self.entries.values().filter_map(|it| it.control.as_ref());
        controls.filter(|control| control.is_alive())
    }

    /// What became of one.
    pub(super) async fn event(&mut self) -> NamedEvent {
        match self.events.recv().await {
            Some(event) => event,
            // It cannot be: a sender is here.
            None => std::future::pending().await,
        }
    }

    /// The link is lost.
    pub(super) fn detach(&self) {
        for entry in self.entries.values() {
            entry.exec.look(ServedExec::detach);
        }
    }

    /// Kills all that run, because the sandbox goes; resolves when all are told. One that ended by
    /// itself did, whatever is still to be told of it.
    pub(super) async fn end(&mut self, why: &str) {
        for entry in self.entries.values() {
            if let Some(control) = entry.control.as_ref().filter(|it| it.is_alive()) {
                entry.exec.will_die(Some(why.to_owned()));
                control.kill();
            }
        }
        self.told().await;
    }

    /// Resolves when everything is told of all, none of which goes on. Output that other processes
    /// hold ends soon.
    pub(super) async fn told(&mut self) {
        for entry in self.entries.values() {
            entry.end_output();
        }
        let controlled =
            |(id, entry): (&ExecId, &Entry)| entry.control.as_ref().map(|_| id.clone());
        let ids: Vec<_> = self.entries.iter().filter_map(controlled).collect();
        for id in ids {
            loop {
                let entry = self.entries.get_mut(&id);
                let Some(control) = entry.and_then(|entry| entry.control.as_mut()) else {
                    break;
                };
                // Its last word must find room.
                tokio::select! {
                    () = control.ended() => self.ended(&id),
                    event = self.events.recv() => match event {
                        Some((id, Became::Ended)) => self.ended(&id),
                        // It never was: the id is free.
                        Some((id, Became::NotStarted(_))) => self.remove(&id),
                        Some((_, Became::Exited)) | None => {}
                    },
                }
            }
        }
    }

    /// Forgets what there is too much of.
    fn tidy(&mut self) {
        let ended = |entry: &Entry| entry.control.is_none();
        let mut kept = 0;
        for id in self.order.iter().rev() {
            let Some(entry) = self.entries.get(id).filter(|entry| ended(entry)) else {
                continue;
            };
            kept += usize::from(entry.exec.look(|exec| !exec.is_settled()));
            if kept > KEPT {
                let why = "Its output is gone: too many executions ended after it, and nobody acknowledged them.";
                entry.exec.change(|exec| exec.discard(why));
            }
        }
        while self.order.len() > REMEMBERED {
            let oldest = self.order.iter().find(|id| {
                let entry = self.entries.get(id);
                entry.is_none_or(ended)
            });
            let Some(oldest) = oldest.cloned() else {
                return;
            };
            self.remove(&oldest);
        }
    }
}

impl Sandbox {
    /// Does what the client asked of a named exec.
    pub(super) fn answer_named(&mut self, id: ExecId, request: NamedRequest) {
        let Some(link) = self.state.link.clone() else {
            return;
        };
        let entry = self.state.named.entries.get(&id);
        match (request, entry) {
            (NamedRequest::Exec { .. } | NamedRequest::Malformed(_), Some(entry)) => {
                // It is not run twice.
                entry.exec.attach(&link, None);
            }
            (NamedRequest::Exec { .. }, None) if !id.is_valid() => self.refuse_named(
                &link,
                id,
                Status::ExecutionError,
                format!("'exec' must be text of 1 to {} bytes.", ExecId::MAX_BYTES),
            ),
            (NamedRequest::Malformed(why), None) => {
                self.refuse_named(&link, id, Status::ExecutionError, why);
            }
            (
                NamedRequest::Exec {
                    language,
                    code,
                    options,
                },
                None,
            ) => match self.job(language.as_deref(), code, &options) {
                Ok(job) => self.start_named(&link, id, job, &options),
                Err((status, why)) => self.refuse_named(&link, id, status, why),
            },
            (NamedRequest::Stdin { offset, data, eof }, Some(entry)) => {
                entry.exec.change(|exec| exec.stdin(offset, &data, eof));
                entry.exec.join(&link);
            }
            (NamedRequest::MalformedStdin(why), _) => {
                self.refuse_named(&link, id, Status::StdinError, why);
            }
            (NamedRequest::Ack { offsets, done }, Some(entry)) => {
                entry.exec.change(|exec| exec.ack(offsets, done));
            }
            (NamedRequest::Kill, Some(entry)) => {
                if let Some(control) = &entry.control {
                    entry.exec.will_die(None);
                    control.kill();
                }
                entry.exec.change(ServedExec::kill);
                entry.exec.join(&link);
            }
            (NamedRequest::Reconnect { offsets }, Some(entry)) => {
                entry.exec.attach(&link, Some(offsets));
            }
            (NamedRequest::Kill, None) => {
                let update = ExecUpdate::new(id);
                link.push(ServerMessage::exec_status(
                    Status::ExecutionForceKilled,
                    update,
                    None,
                ));
            }
            (NamedRequest::Reconnect { .. }, None) => {
                let mut update = ExecUpdate::new(id);
                update.end = Some(ExecEnd::lost());
                link.push(ServerMessage::exec_status(
                    Status::ExecutionDone,
                    update,
                    Some(UNKNOWN.to_owned()),
                ));
            }
            (NamedRequest::Stdin { .. }, None) => {
                self.refuse_named(&link, id, Status::StdinError, UNKNOWN.to_owned());
            }
            (NamedRequest::Ack { .. }, None) => {}
            (NamedRequest::Unknown, _) => {
                tracing::debug!(sandbox = %self.id, exec = %Escaped(&id), "a message about an exec is not known");
            }
        }
    }

    /// The job that was asked for, or why there is none.
    fn job(
        &self,
        language: Option<&str>,
        code: Option<String>,
        options: &ExecOptions,
    ) -> Result<Job, (Status, String)> {
        let name = language.unwrap_or("None");
        let language = Language::from_name(name).ok_or_else(|| unsupported(name))?;
        let Some(code) = code else {
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
            code,
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
        exec.join(link);
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
        self.state.named.insert(id.clone(), exec);
        if let Some(entry) = self.state.named.entries.get_mut(&id) {
            entry.control = Some(control);
        }
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
