//! One sandbox, in a task of its own: the owner of its state, whoever is attached or not.
//!
//! The task never waits for a client. Commands come by a bounded channel, answers go to the
//! [`Link`] of the attached client, and output that nobody takes is held here up to a bound.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    backend::{BackendSandbox, Language},
    config::Options,
    execution::{Ending, ExecEvent, Execution},
    link::{ExecItem, Link},
    manager::Registration,
    stdin::{StdinQueue, StdinRefused},
};
use crate::protocol::{
    SandboxConfig, SandboxId, SandboxToken, ServerMessage, Status,
    names::{CLOSE_ERROR, CLOSE_NORMAL},
};

/// Close code of the sessions of a server that stops (RFC 6455, 7.4.1: going away).
const CLOSE_GOING_AWAY: u16 = 1001;

/// Commands on their way to a sandbox.
pub(super) const COMMANDS_IN_FLIGHT: usize = 16;

/// What a sandbox is told.
pub(super) enum Command {
    /// A client wants to attach.
    Attach {
        link: Arc<Link>,
        answer: oneshot::Sender<Attached>,
    },
    /// A client says something.
    Say { link: Arc<Link>, request: Request },
    /// The server stops.
    Stop,
}

/// The answer to an attach.
pub(super) enum Attached {
    Yes,
    /// Another client is attached.
    InUse,
}

/// What a client says after the configuration.
#[derive(Debug)]
pub(super) enum Request {
    Exec {
        language: Option<String>,
        code: Option<String>,
    },
    Stdin(Option<String>),
    KillProcess,
    KillSandbox,
    SnapshotFilesystem,
    Checkpoint,
    Reconnect,
}

/// The task of a sandbox.
pub(super) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) config: SandboxConfig,
    pub(super) idle_timeout: Duration,
    pub(super) options: Arc<Options>,
    pub(super) backend: Arc<dyn BackendSandbox>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// The input of the current exec, where the session can see how full it is.
    pub(super) stdin_slot: Arc<StdinSlot>,
    /// Dropped when the sandbox ends: from then on nobody finds it.
    pub(super) registration: Option<Registration>,
    pub(super) state: State,
}

/// Where a session finds the input queue of its sandbox's current exec.
#[derive(Debug, Default)]
pub(super) struct StdinSlot(std::sync::Mutex<Option<Arc<StdinQueue>>>);

impl StdinSlot {
    pub(super) fn get(&self) -> Option<Arc<StdinQueue>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn set(&self, queue: Option<Arc<StdinQueue>>) {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = queue;
    }
}

/// What changes in the life of a sandbox.
pub(super) struct State {
    link: Option<Arc<Link>>,
    /// The attached client has taken over the exec, or there is none to take over.
    resumed: bool,
    /// What belongs to the exec while no client has taken it over.
    held: VecDeque<ExecItem>,
    held_bytes: usize,
    exec: Option<Execution>,
    /// The current exec was announced as running.
    announced: bool,
    /// An exec was asked for at some time.
    ever_ran: bool,
    /// Kills that wait for the end of the exec.
    kills: usize,
    idle_since: Instant,
}

impl State {
    /// The state of a sandbox that was just made for the client at the other end of `link`.
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self {
            link: Some(link),
            resumed: true,
            held: VecDeque::new(),
            held_bytes: 0,
            exec: None,
            announced: false,
            ever_ran: false,
            kills: 0,
            idle_since: Instant::now(),
        }
    }
}

impl Drop for State {
    /// A sandbox that ends as it should has taken its client out before: this is a panic, or the
    /// end of the runtime. The client does not wait for ever.
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.push(ServerMessage::status(Status::SandboxError));
            link.push(ServerMessage::error("The server lost the sandbox."));
            link.close(CLOSE_ERROR);
        }
    }
}

/// Why a sandbox ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    Idle,
    ServerStops,
}

impl Sandbox {
    /// Greets the client that created the sandbox, and lives until the sandbox is deleted.
    pub(super) async fn run(mut self, token: SandboxToken) {
        self.say(ServerMessage::identity(self.id.clone(), token));
        self.status(Status::SandboxRunning);
        tracing::info!(sandbox = %self.id, "created");
        let end = self.live().await;
        self.end(end).await;
    }

    async fn live(&mut self) -> End {
        loop {
            let room = self.queued_bytes() < self.options.output_buffer_bytes;
            let low_water = self.options.output_buffer_bytes / 2 + 1;
            let state = &mut self.state;
            let alive = state.exec.as_ref().is_some_and(Execution::is_alive);
            let idle_at = state.idle_since + self.idle_timeout;
            let link = state.link.clone();
            let (mut events, mut gone) = match &mut state.exec {
                Some(exec) => (Some(&mut exec.events), Some(&mut exec.gone)),
                None => (None, None),
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => if let Some(end) = self.obey(command) {
                        return end;
                    },
                    None => return End::ServerStops,
                },
                () = async {
                    match &link {
                        Some(link) => link.ends().await,
                        None => std::future::pending().await,
                    }
                } => self.detach(),
                _ = async {
                    match gone.as_mut() {
                        Some(gone) => gone.wait_for(|&gone| gone).await.map(drop),
                        None => std::future::pending().await,
                    }
                }, if alive => state.idle_since = Instant::now(),
                event = async {
                    match events.as_mut() {
                        Some(events) => events.recv().await,
                        None => std::future::pending().await,
                    }
                }, if room => self.on_event(event),
                () = async {
                    match &link {
                        Some(link) => link.drained_below(low_water).await,
                        None => std::future::pending().await,
                    }
                }, if !room => {}
                () = sleep_until(idle_at), if !alive => return End::Idle,
            }
        }
    }

    /// Does what was asked; says so when the sandbox ends by it.
    fn obey(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Stop => Some(End::ServerStops),
            Command::Attach { link, answer } => {
                if self
                    .state
                    .link
                    .as_ref()
                    .is_some_and(|link| link.is_ending())
                {
                    self.detach();
                }
                if self.state.link.is_some() {
                    let _ = answer.send(Attached::InUse);
                    return None;
                }
                self.state.link = Some(link);
                self.state.idle_since = Instant::now();
                self.status(Status::SandboxRunning);
                tracing::debug!(sandbox = %self.id, "attached");
                let _ = answer.send(Attached::Yes);
                None
            }
            Command::Say { link, request } => {
                // Only the attached client is heard.
                let is_attached = |attached: &Arc<Link>| Arc::ptr_eq(attached, &link);
                if !self.state.link.as_ref().is_some_and(is_attached) {
                    return None;
                }
                self.state.idle_since = Instant::now();
                self.answer(request)
            }
        }
    }

    fn answer(&mut self, request: Request) -> Option<End> {
        match request {
            Request::Exec { language, code } => self.exec(language, code),
            Request::Stdin(data) => self.stdin(data),
            Request::KillProcess => match &self.state.exec {
                Some(exec) => {
                    exec.kill();
                    self.state.kills += 1;
                }
                None => self.status(Status::ExecutionForceKilled),
            },
            Request::KillSandbox => return Some(End::Killed),
            Request::SnapshotFilesystem => {
                self.status(Status::FilesystemSnapshotCreating);
                self.refuse(
                    Status::FilesystemSnapshotError,
                    format!(
                        "Failed to snapshot filesystem for sandbox {}: this server cannot take filesystem snapshots yet.",
                        self.id
                    ),
                );
            }
            Request::Checkpoint => self.checkpoint(),
            Request::Reconnect => self.reconnect(),
        }
        None
    }

    fn exec(&mut self, language: Option<String>, code: Option<String>) {
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
            let reason = format!(
                "Unsupported language: '{}'. Supported languages are: {}",
                shortened(name),
                Language::NAMES
            );
            self.refuse(Status::ExecutionUnsupportedLanguageError, reason);
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
            language,
            code,
            self.options.max_run_time,
            stdin,
        ));
        tracing::debug!(sandbox = %self.id, ?language, "exec");
    }

    fn stdin(&mut self, data: Option<String>) {
        let Some(data) = data else {
            return self.refuse(
                Status::StdinError,
                "Invalid stdin message format. 'data' field is required.".to_owned(),
            );
        };
        let alive = self.state.exec.as_ref().filter(|exec| exec.is_alive());
        match alive.map(|exec| exec.stdin.push(data)) {
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

    fn checkpoint(&mut self) {
        self.status(Status::SandboxCheckpointing);
        if self.state.exec.is_some() {
            return self.refuse(
                Status::ExecutionInProgressError,
                "Cannot checkpoint while an execution is in progress.".to_owned(),
            );
        }
        let why = if self.config.enable_checkpoint {
            "this server cannot checkpoint yet.".to_owned()
        } else {
            format!("Sandbox {} is not configured for checkpointing.", self.id)
        };
        let reason = format!("Failed to checkpoint sandbox {}: {why}", self.id);
        self.fail(Status::SandboxCheckpointError, reason);
    }

    fn reconnect(&mut self) {
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

    fn on_event(&mut self, event: Option<ExecEvent>) {
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
                tracing::warn!(sandbox = %self.id, reason = %why, "an exec did not start");
                self.tell(message(Status::ExecutionError));
                self.tell(reason(why));
                self.exec_ended(None);
            }
            Some(ExecEvent::Ended(ending)) => {
                if ending == Ending::TimedOut {
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
        self.tell(ExecItem::Message(ServerMessage::status(
            Status::ExecutionDone,
        )));
        for _ in 0..std::mem::take(&mut self.state.kills) {
            match &kill_failed {
                None => self.status(Status::ExecutionForceKilled),
                Some(why) => self.refuse(
                    Status::ExecutionForceKillError,
                    format!("Failed to kill the process: {why}."),
                ),
            }
        }
        tracing::debug!(sandbox = %self.id, "exec ended");
    }

    /// The link is lost or closing: what was not sent on it waits for the next.
    fn detach(&mut self) {
        let Some(link) = self.state.link.take() else {
            return;
        };
        let mut kept = link.take_back();
        kept.append(&mut self.state.held);
        self.state.held_bytes = kept.iter().map(ExecItem::cost).sum();
        self.state.held = kept;
        self.state.resumed = false;
        self.state.kills = 0;
        tracing::debug!(sandbox = %self.id, "detached");
    }

    /// Deletes the sandbox.
    async fn end(mut self, end: End) {
        self.registration = None;
        self.commands.close();
        let link = self.state.link.take();
        let status = |status| {
            if let Some(link) = &link {
                link.push(ServerMessage::status(status));
            }
        };
        if end == End::Killed {
            status(Status::SandboxKilling);
        }
        status(Status::SandboxDeleting);
        if let Some(exec) = self.state.exec.take() {
            exec.abandon().await;
        }
        self.stdin_slot.set(None);
        let deleted = self.backend.delete().await;
        match &deleted {
            Ok(()) => tracing::info!(sandbox = %self.id, reason = ?end, "deleted"),
            Err(why) => tracing::warn!(sandbox = %self.id, why, "not everything could be deleted"),
        }
        let Some(link) = &link else {
            return;
        };
        if let Err(why) = deleted {
            link.push(ServerMessage::status(match end {
                End::Killed => Status::SandboxKillError,
                End::Idle | End::ServerStops => Status::SandboxError,
            }));
            let id = &self.id;
            link.push(ServerMessage::error(format!(
                "Failed to delete sandbox {id}: {why}."
            )));
            return link.close(CLOSE_ERROR);
        }
        status(Status::SandboxDeleted);
        match end {
            End::Killed => {
                status(Status::SandboxKilled);
                link.close(CLOSE_NORMAL);
            }
            End::ServerStops => link.close(CLOSE_GOING_AWAY),
            // As recorded: the socket stays open and silent.
            End::Idle => {}
        }
    }

    fn queued_bytes(&self) -> usize {
        let link = &self.state.link;
        self.state.held_bytes + link.as_ref().map_or(0, |link| link.queued_bytes())
    }

    /// Something of the exec, for the client that has taken it over or will.
    fn tell(&mut self, item: ExecItem) {
        match &self.state.link {
            Some(link) if self.state.resumed => link.push_exec(item),
            _ => {
                self.state.held_bytes += item.cost();
                self.state.held.push_back(item);
            }
        }
    }

    /// Something for the attached client alone.
    fn say(&self, message: ServerMessage) {
        if let Some(link) = &self.state.link {
            link.push(message);
        }
    }

    fn status(&self, status: Status) {
        self.say(ServerMessage::status(status));
    }

    fn refuse(&self, status: Status, reason: String) {
        self.status(status);
        self.say(ServerMessage::error(reason));
    }

    /// An error that ends the session, not the sandbox.
    fn fail(&mut self, status: Status, reason: String) {
        self.refuse(status, reason);
        if let Some(link) = self.state.link.take() {
            link.close(CLOSE_ERROR);
        }
        self.state.resumed = false;
    }
}

/// A name as an error message quotes it: not without end.
fn shortened(name: &str) -> String {
    const MOST: usize = 100;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}
