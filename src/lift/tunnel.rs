//! [`Tunnel`]: carries a v2 link through the one exec of a v1 link.
//!
//! | file | |
//! | --- | --- |
//! | `requests.rs` | the client's messages |
//! | `service.rs` | the service's messages, and the start of the program |
//! | `lines.rs` | the program's lines, and its end |

mod lines;
mod requests;
mod service;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    incoming::Incoming,
    outgoing::{Line, Outgoing},
};
use crate::{
    machine::LinkError,
    protocol::{ClientMessage, Encoded, ExecEnd, ExecId, ExecUpdate, ServerMessage, Status},
};

/// How long the program may take to start and to answer the greeting.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the tunnel pings the program while an exec is open. The program considers a client
/// gone that sends nothing for 30 s.
const PING_EVERY: Duration = Duration::from_secs(10);
/// The minimum time that the program gets to answer a ping. After that, it counts as hanging, and
/// the tunnel kills it.
const MIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long the service may take to kill the program.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the program may take to end before the service is asked to kill the sandbox all the
/// same.
const QUIT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of starts in a row, if the exec that blocked the start keeps ending before it can
/// be resumed.
const MAX_STARTS: u32 = 3;
/// The number of bytes of other output that are kept to explain why the program ended.
const TAIL_BYTES: usize = 400;
/// Maximum number of lines that wait for room in the window, as for the messages of a link.
const MAX_LINES: usize = 16_384;
/// The longest message, in bytes. The program limits a line to 16 MiB; 32 bytes are reserved for
/// the number.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024 - 32;
/// How the reason of a lost exec begins.
const ENDED: &str = "the lift's program has ended";

/// Options of a tunnel.
#[derive(Clone, Debug)]
pub(crate) struct TunnelConfig {
    /// The name of the link, which no other link of the sandbox has. Every line of the program
    /// begins with it, so code in the sandbox must not be able to guess it.
    pub(crate) link: String,
    /// The idle timeout of the sandbox. `None` if this client attached, and doesn't know it.
    pub(crate) idle_timeout: Option<Duration>,
    /// Whether the sandbox is created on this link, so that no exec can be running in it.
    pub(crate) is_new: bool,
    /// After how long without a message the link itself counts as lost. The program is given more
    /// time.
    pub(crate) link_silence: Duration,
}

/// The execs that earlier links requested from one program, which may have run them. If a different
/// program answers now, the tunnel reports them as lost instead of requesting them again.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestedExecs {
    program: Option<String>,
    execs: BTreeSet<ExecId>,
}

/// An action for the owner of a [`Tunnel`] to perform.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TunnelAction {
    /// Send a frame on the v1 link, and report this tag when it is written.
    Send(Encoded, Option<u64>),
    /// Pass a frame of v2 to the sandbox.
    Deliver(Bytes),
    /// The service can't be lifted, for this reason.
    Fail(String),
    /// The lines are damaged: drop the link and dial again.
    Lose(LinkError),
}

/// What the tunnel is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The sandbox doesn't run on this link yet.
    Waiting,
    /// The start of the program was requested.
    Starting {
        due: Instant,
        /// Why the service refused the start. If set, the tunnel has asked to resume the running
        /// exec, which may be the program.
        refused: Option<String>,
        /// Whether the exec in the way has ended since.
        ended: bool,
    },
    /// The greeting was sent.
    Greeting {
        due: Instant,
        /// If the exec ran before this link: why the service refused to start the program.
        refused: Option<String>,
    },
    /// The program answers.
    Up,
    /// The program was asked to end, so that the sandbox can be checkpointed.
    Leaving,
    /// The program doesn't answer, and the service was asked to kill it.
    Killing { due: Instant },
    /// The program was asked to end, because the sandbox is to be killed.
    Quitting { due: Instant },
    /// The program doesn't run. The next request starts it.
    Down,
}

/// Carries a v2 link through the one exec of a v1 link.
#[derive(Debug)]
pub(crate) struct Tunnel {
    config: TunnelConfig,
    phase: Phase,
    /// Whether `SANDBOX_RUNNING` is held back until the program answers.
    holds_running: bool,
    /// Whether no exec can be running in the sandbox.
    is_free: bool,
    starts: u32,
    /// The number of greetings on this link.
    greetings: u32,
    incoming: Incoming,
    outgoing: Outgoing,
    /// This client's open execs. The value: whether the program has answered the request.
    execs: BTreeMap<ExecId, bool>,
    /// The execs that earlier links requested from the running program.
    earlier: RequestedExecs,
    /// Execs that were requested from a program that has ended, and that it may have run.
    gone: BTreeSet<ExecId>,
    /// Whether a checkpoint waits for the program to exit.
    wants_checkpoint: bool,
    /// The kill of the sandbox, if it waits for the program to exit.
    kill: Option<(Encoded, Option<u64>)>,
    /// How many bytes the program had read when it shut down gracefully.
    farewell: Option<u64>,
    /// The end of other output, which may say why the program did not start.
    tail: Vec<u8>,
    /// An error status whose reason follows in the next message.
    awaits_reason: Option<Status>,
    /// When the last ping was sent, or the first exec was opened.
    pinged_at: Instant,
    /// When the unanswered ping was sent.
    unanswered: Option<Instant>,
    actions: VecDeque<TunnelAction>,
}

impl Tunnel {
    /// A tunnel for a new link. `earlier` is what earlier links requested.
    pub(crate) fn new(config: TunnelConfig, earlier: RequestedExecs, now: Instant) -> Self {
        Self {
            phase: Phase::Waiting,
            holds_running: false,
            is_free: config.is_new,
            starts: 0,
            greetings: 0,
            incoming: Incoming::new(&config.link),
            outgoing: Outgoing::default(),
            execs: BTreeMap::new(),
            earlier,
            gone: BTreeSet::new(),
            wants_checkpoint: false,
            kill: None,
            farewell: None,
            tail: Vec::new(),
            awaits_reason: None,
            pinged_at: now,
            unanswered: None,
            actions: VecDeque::new(),
            config,
        }
    }

    /// The next action to perform.
    pub(crate) fn poll_action(&mut self) -> Option<TunnelAction> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { due, .. }
            | Phase::Greeting { due, .. }
            | Phase::Killing { due }
            | Phase::Quitting { due } => Some(due),
            Phase::Up if self.execs.is_empty() => None,
            Phase::Up | Phase::Leaving => Some(match self.unanswered {
                Some(pinged) => pinged + self.patience(),
                None => self.pinged_at + PING_EVERY,
            }),
            Phase::Waiting | Phase::Down => None,
        }
    }

    /// How long the program may take to answer a ping. Longer than the link's own timeout, so that
    /// a broken link is detected first.
    fn patience(&self) -> Duration {
        MIN_PATIENCE.max(self.config.link_silence + Duration::from_secs(10))
    }

    /// What this link and the earlier ones have requested, for the next link.
    pub(crate) fn into_requested(self) -> RequestedExecs {
        let unsent = self.outgoing.begins();
        let sent = self.execs.into_keys().filter(|exec| !unsent.contains(exec));
        let mut requested = self.earlier;
        requested.execs.extend(sent);
        requested
    }

    /// Handles the passage of time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        match &self.phase {
            Phase::Starting { .. } | Phase::Greeting { refused: None, .. } => {
                // It may still start.
                self.is_free = false;
                let reason = format!("it did not answer within {START_TIMEOUT:?}");
                self.start_failed(&reason);
            }
            Phase::Greeting {
                refused: Some(refused),
                ..
            } => {
                let reason = format!(
                    "the service refused to start it ({refused}), and the exec that is already \
                     running did not answer within {START_TIMEOUT:?}; if a client without the lift \
                     started that exec, wait until it ends, or kill it"
                );
                self.start_failed(&reason);
            }
            Phase::Up | Phase::Leaving if self.unanswered.is_none() => {
                self.unanswered = Some(now);
                self.pinged_at = now;
                self.send_note(r#"{"lift":"ping"}"#.to_owned());
            }
            Phase::Up | Phase::Leaving => {
                self.wants_checkpoint |= self.phase == Phase::Leaving;
                self.phase = Phase::Killing {
                    due: now + KILL_TIMEOUT,
                };
                self.send_v1(&ClientMessage::KillProcess);
            }
            Phase::Killing { .. } => self.program_ended(now),
            Phase::Quitting { .. } => self.send_kill(),
            Phase::Waiting | Phase::Down => {}
        }
    }

    /// Passes a frame of the service on.
    fn pass(&mut self, frame: &Bytes) {
        self.actions.push_back(TunnelAction::Deliver(frame.clone()));
    }

    fn refuse_exec(&mut self, exec: ExecId, reason: &str) {
        self.execs.remove(&exec);
        self.deliver(&ServerMessage::exec_status(
            Status::ExecutionError,
            ExecUpdate::new(exec),
            Some(reason.to_owned()),
        ));
    }

    fn lose_exec(&mut self, exec: ExecId, reason: &str) {
        self.execs.remove(&exec);
        self.gone.remove(&exec);
        let update = ExecUpdate {
            end: Some(ExecEnd::lost()),
            ..ExecUpdate::new(exec)
        };
        self.deliver(&ServerMessage::exec_status(
            Status::ExecutionDone,
            update,
            Some(reason.to_owned()),
        ));
    }

    /// Whether the program answers messages about execs.
    fn is_up(&self) -> bool {
        matches!(
            self.phase,
            Phase::Up | Phase::Leaving | Phase::Quitting { .. }
        )
    }

    fn lose(&mut self, detail: String) {
        let detail = format!("the connection to the lift's program failed: {detail}");
        self.actions
            .push_back(TunnelAction::Lose(LinkError::Dropped { detail }));
    }

    fn deliver(&mut self, message: &ServerMessage) {
        let frame = message.encode().into();
        self.actions.push_back(TunnelAction::Deliver(frame));
    }

    fn send_v1(&mut self, message: &ClientMessage<'_>) {
        let frame = message.encode().into();
        self.actions.push_back(TunnelAction::Send(frame, None));
    }

    fn send_note(&mut self, json: String) {
        self.outgoing.push(Line::note(json));
        self.flush();
    }

    /// Sends the lines for which the window has room.
    fn flush(&mut self) {
        // After its farewell, the program reads nothing more. The lines wait for the next one.
        while self.farewell.is_none() && self.send_piece() {}
    }

    /// Sends the next piece of the lines. Returns whether there was one.
    fn send_piece(&mut self) -> bool {
        let Some((piece, tag)) = self.outgoing.next_piece() else {
            return false;
        };
        let frame = ClientMessage::stdin(piece).encode().into();
        self.actions.push_back(TunnelAction::Send(frame, tag));
        true
    }
}
