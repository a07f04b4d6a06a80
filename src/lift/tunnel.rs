//! [`Tunnel`]: carries a v2 link through the one exec of a v1 link.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{
    incoming::{BadLine, Incoming},
    outgoing::{Line, Outgoing, Request},
    program::{LANGUAGE, LOADER, VERSION, sources},
};
use crate::{
    machine::LinkError,
    protocol::{
        ClientMessage, Encoded, ExecEnd, ExecId, ExecUpdate, NamedMessage, OutputPiece, Piece,
        ServerMessage, Status, StatusUpdate, StdStream, Version, excerpt,
    },
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
/// How v1 services answer stdin that arrives after the end of the exec.
const NO_PROCESS: &str = "No process is running";
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
    /// What earlier links requested.
    pub(crate) requested: RequestedExecs,
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

/// A line of the program about itself.
#[derive(Debug, Deserialize)]
struct Note {
    lift: String,
    version: Option<u64>,
    /// A random name of the program.
    program: Option<String>,
    features: Option<Vec<String>>,
    bytes: Option<u64>,
    execs: Option<u64>,
    reason: Option<String>,
}

impl Tunnel {
    pub(crate) fn new(config: TunnelConfig, now: Instant) -> Self {
        Self {
            phase: Phase::Waiting,
            holds_running: false,
            is_free: config.is_new,
            starts: 0,
            greetings: 0,
            incoming: Incoming::new(&config.link),
            outgoing: Outgoing::default(),
            execs: BTreeMap::new(),
            earlier: config.requested.clone(),
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
                     running \
                     did not answer within {START_TIMEOUT:?}; if a client without the lift started \
                     that exec, wait until it ends, or kill it"
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

    // Messages of the client.

    /// Handles a frame of the client. Its tag is reported when the frame is written.
    pub(crate) fn handle_request(&mut self, frame: Encoded, tag: Option<u64>, now: Instant) {
        let message = match &frame {
            Encoded::Text(text) => ClientMessage::parse_as(text.as_bytes(), Version::V2),
            Encoded::Binary(bytes) => ClientMessage::parse_as(bytes, Version::V2),
        };
        match message {
            Ok(ClientMessage::Named(exec, message)) => {
                let request = self.note_request(&exec, &message, now);
                let base64 = in_base64(&exec, &message, &frame);
                drop(message);
                let text = base64.unwrap_or_else(|| frame.into_text());
                if request == Request::Exec && self.gone.contains(&exec) {
                    let reason = format!(
                        "{ENDED} since it was first asked to run this, so it is unknown whether \
                         it did"
                    );
                    self.lose_exec(exec, &reason);
                } else if request == Request::Exec && text.len() > MAX_MESSAGE_BYTES {
                    let reason = format!(
                        "the request has {} bytes, and the lift accepts at most \
                         {MAX_MESSAGE_BYTES}; pass \
                         large data through stdin or files",
                        text.len()
                    );
                    self.refuse_exec(exec, &reason);
                } else {
                    self.push_line(Line::new(exec, request, text, tag), now);
                }
            }
            Ok(ClientMessage::Checkpoint) => self.handle_checkpoint(now),
            // The tunnel itself resumes the v1 exec.
            Ok(ClientMessage::Reconnect) => {}
            Ok(ClientMessage::KillSandbox) => self.handle_kill_sandbox(frame, tag, now),
            _ => self.actions.push_back(TunnelAction::Send(frame, tag)),
        }
    }

    /// Notes which execs the client needs.
    fn note_request(&mut self, exec: &ExecId, message: &NamedMessage<'_>, now: Instant) -> Request {
        match message {
            // The program tells what is wrong with a malformed request.
            NamedMessage::Exec(..)
            | NamedMessage::Malformed(_)
            | NamedMessage::Reconnect { .. } => {
                if self.execs.is_empty() {
                    self.pinged_at = now;
                }
                self.execs.entry(exec.clone()).or_insert(false);
                match message {
                    NamedMessage::Reconnect { .. } => Request::Reconnect,
                    _ => Request::Exec,
                }
            }
            NamedMessage::Ack { done: true, .. } => {
                self.execs.remove(exec);
                self.earlier.execs.remove(exec);
                Request::Other
            }
            NamedMessage::Kill => Request::Kill,
            _ => Request::Other,
        }
    }

    fn push_line(&mut self, line: Line, now: Instant) {
        let starts = matches!(line.request, Request::Exec | Request::Reconnect);
        if self.phase == Phase::Down && !starts {
            return self.answer_without_program(line);
        }
        self.outgoing.push(line);
        if self.outgoing.len() > MAX_LINES {
            self.lose(format!(
                "the sandbox stopped reading; {MAX_LINES} messages wait"
            ));
        }
        match self.phase {
            Phase::Down => {
                self.starts = 0;
                self.start(now);
            }
            Phase::Up | Phase::Leaving => self.flush(),
            _ => {}
        }
    }

    /// Answers a message about an exec that ended with its program.
    fn answer_without_program(&mut self, line: Line) {
        if let (Request::Kill, Some(exec)) = (line.request, line.exec) {
            let killed = Status::ExecutionForceKilled;
            self.deliver(&ServerMessage::exec_status(
                killed,
                ExecUpdate::new(exec),
                None,
            ));
        }
    }

    fn handle_checkpoint(&mut self, now: Instant) {
        match self.phase {
            Phase::Up => {
                self.phase = Phase::Leaving;
                self.pinged_at = now;
                self.send_note(r#"{"lift":"stop"}"#.to_owned());
            }
            Phase::Down | Phase::Waiting => self.send_v1(&ClientMessage::Checkpoint),
            _ => self.wants_checkpoint = true,
        }
    }

    /// The reference service can end only the first exec of a sandbox. When it kills the sandbox,
    /// it waits for a later one. So the program ends first.
    fn handle_kill_sandbox(&mut self, frame: Encoded, tag: Option<u64>, now: Instant) {
        self.kill = Some((frame, tag));
        match self.phase {
            Phase::Up | Phase::Leaving => {
                self.send_note(r#"{"lift":"quit"}"#.to_owned());
                self.phase = Phase::Quitting {
                    due: now + QUIT_TIMEOUT,
                };
            }
            Phase::Quitting { .. } => {}
            _ => self.send_kill(),
        }
    }

    fn send_kill(&mut self) {
        if self.phase != Phase::Waiting {
            self.phase = Phase::Down;
        }
        if let Some((frame, tag)) = self.kill.take() {
            self.actions.push_back(TunnelAction::Send(frame, tag));
        }
    }

    // Messages of the service.

    /// Handles a frame of the v1 link.
    pub(crate) fn handle_frame(&mut self, frame: &Bytes, now: Instant) {
        if let Some(output) = ServerMessage::read_output(frame, Version::V1) {
            return self.handle_output(output.stream, &output.data, now);
        }
        match ServerMessage::read(frame, Version::V1).map(|it| it.into_message()) {
            Ok(ServerMessage::Output(piece)) => self.handle_output(piece.stream, &piece.data, now),
            Ok(ServerMessage::Status(update)) => self.handle_status(update, frame, now),
            Ok(ServerMessage::Error(error)) if self.awaits_reason.is_some() => {
                if let Some(status) = self.awaits_reason.take() {
                    self.handle_refusal(&status, &error.message);
                }
            }
            _ => self.pass(frame),
        }
    }

    /// Passes a frame of the service on.
    fn pass(&mut self, frame: &Bytes) {
        self.actions.push_back(TunnelAction::Deliver(frame.clone()));
    }

    fn handle_status(&mut self, update: StatusUpdate, frame: &Bytes, now: Instant) {
        if let Some(status) = self.awaits_reason.take() {
            // Its reason never came.
            self.handle_refusal(&status, &status.to_string());
        }
        match update.status {
            Status::SandboxRunning if self.phase == Phase::Waiting => {
                self.holds_running = true;
                self.start(now);
            }
            Status::ExecutionRunning => self.handle_started(now),
            Status::ExecutionDone => self.handle_ended(now),
            Status::ExecutionForceKilled => {}
            Status::ExecutionError
            | Status::ExecutionUnsupportedLanguageError
            | Status::ExecutionForceKillError
            | Status::StdinError => match update.message {
                Some(reason) => self.handle_refusal(&update.status, &reason),
                None => self.awaits_reason = Some(update.status),
            },
            // The service could not write to the stdin of the program, which has ended: `DONE`
            // follows. After other errors of this kind, the service closes the link.
            Status::SandboxError
                if !matches!(
                    self.phase,
                    Phase::Waiting | Phase::Down | Phase::Starting { .. }
                ) =>
            {
                if update.message.is_none() {
                    self.awaits_reason = Some(update.status);
                }
            }
            Status::SandboxError if let Phase::Starting { refused, ended, .. } = &self.phase => {
                match (refused.clone(), ended) {
                    (Some(_), true) => self.start_again(now),
                    // The service has no exec to resume, so the first refusal says why.
                    (Some(reason), false) => self.start_failed(&reason),
                    (None, _) => self.pass(frame),
                }
            }
            _ => self.pass(frame),
        }
    }

    fn handle_output(&mut self, stream: StdStream, data: &[u8], now: Instant) {
        let is_silent = matches!(
            self.phase,
            Phase::Waiting | Phase::Down | Phase::Starting { .. }
        );
        if stream == StdStream::Stderr || is_silent {
            return self.keep_tail(data);
        }
        if matches!(self.phase, Phase::Greeting { .. }) {
            self.keep_tail(data);
        }
        self.incoming.push(data);
        while let Some(line) = self.incoming.next_line() {
            match line {
                Ok(json) => self.handle_line(&json, now),
                Err(BadLine(detail)) => self.lose(detail),
            }
        }
    }

    fn keep_tail(&mut self, data: &[u8]) {
        let from = data.len().saturating_sub(TAIL_BYTES);
        self.tail.extend_from_slice(&data[from..]);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
    }

    // The start of the program.

    fn start(&mut self, now: Instant) {
        self.starts += 1;
        self.tail.clear();
        self.phase = Phase::Starting {
            due: now + START_TIMEOUT,
            refused: None,
            ended: false,
        };
        self.send_v1(&ClientMessage::exec(LANGUAGE, LOADER));
    }

    /// The exec that the service refused to replace has ended.
    fn start_again(&mut self, now: Instant) {
        self.is_free = true;
        self.outgoing.restart(None);
        self.start(now);
    }

    /// The service refused the exec, its input or its kill.
    fn handle_refusal(&mut self, status: &Status, reason: &str) {
        if reason.contains(NO_PROCESS) || *status == Status::SandboxError {
            // This answers input for a program that had just ended.
            return;
        }
        let Phase::Starting { refused, .. } = &mut self.phase else {
            // Keep the reason: it may explain why the service ends the program.
            return self.keep_tail(reason.as_bytes());
        };
        match status {
            Status::ExecutionError if !self.is_free && refused.is_none() => {
                // The program may be running already.
                *refused = Some(reason.to_owned());
                self.send_v1(&ClientMessage::Reconnect);
            }
            Status::ExecutionError | Status::ExecutionUnsupportedLanguageError => {
                let reason = reason.to_owned();
                self.start_failed(&reason);
            }
            _ => {}
        }
    }

    /// The v1 exec runs.
    fn handle_started(&mut self, now: Instant) {
        let Phase::Starting {
            due,
            refused,
            ended,
        } = &self.phase
        else {
            return;
        };
        if *ended {
            // The answer to `reconnect`.
            return self.start_again(now);
        }
        let (due, refused) = (*due, refused.clone());
        self.is_free = false;
        let link = match self.greetings {
            0 => self.config.link.clone(),
            more => format!("{}x{more}", self.config.link),
        };
        self.greetings += 1;
        self.farewell = None;
        self.incoming = Incoming::new(&link);
        let before = match &refused {
            // The last line of the earlier link may be incomplete.
            Some(_) => "\n",
            None => sources(),
        };
        self.phase = Phase::Greeting { due, refused };
        self.send_v1(&ClientMessage::stdin(before));
        let mut hello = json!({ "lift": "hello", "link": link });
        if let Some(timeout) = self.config.idle_timeout {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            hello["idle_timeout_ms"] = millis.into();
        }
        self.outgoing.push_front(Line::note(hello.to_string()));
        // The window holds the first line. The others wait for the answer.
        self.flush_first();
    }

    fn handle_ended(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Starting { refused: None, .. } | Phase::Waiting | Phase::Down => {}
            Phase::Starting {
                refused: Some(reason),
                ..
            } if self.starts >= MAX_STARTS => {
                let reason = reason.clone();
                self.start_failed(&reason);
            }
            // Wait for the answer to `reconnect`, so that it isn't mistaken for the answer to the
            // next start.
            Phase::Starting { ended, .. } => *ended = true,
            Phase::Greeting {
                refused: Some(_), ..
            } if self.starts < MAX_STARTS => {
                self.start_again(now);
            }
            Phase::Greeting { .. } => {
                self.is_free = true;
                let said = excerpt(self.tail.trim_ascii());
                let reason = match said.is_empty() {
                    true => "it exited immediately".to_owned(),
                    false => format!("it exited immediately: {said}"),
                };
                self.start_failed(&reason);
            }
            Phase::Up | Phase::Leaving | Phase::Killing { .. } | Phase::Quitting { .. } => {
                self.is_free = true;
                self.program_ended(now);
            }
        }
    }

    /// The program can't be started.
    fn start_failed(&mut self, reason: &str) {
        self.phase = Phase::Down;
        let reason = format!("the lift cannot start its program in the sandbox: {reason}");
        if std::mem::take(&mut self.holds_running) {
            return self.actions.push_back(TunnelAction::Fail(reason));
        }
        for line in self.outgoing.restart(None) {
            self.answer_without_program(line);
        }
        for line in self.outgoing.drain() {
            let Some(exec) = line.exec.clone() else {
                continue;
            };
            match line.request {
                Request::Exec if self.earlier.execs.contains(&exec) => {
                    self.lose_exec(exec, &reason)
                }
                Request::Exec => self.refuse_exec(exec, &reason),
                Request::Reconnect => self.lose_exec(exec, &reason),
                Request::Kill | Request::Other => self.answer_without_program(line),
            }
        }
        self.send_waiting_checkpoint();
    }

    // The program runs.

    fn handle_line(&mut self, json: &Bytes, now: Instant) {
        self.hear();
        if json.starts_with(br#"{"lift":"#) {
            return match serde_json::from_slice(json) {
                Ok(note) => self.handle_note(note, now),
                Err(error) => self.lose(format!("a line is not valid JSON: {error}")),
            };
        }
        if !self.is_up() {
            return;
        }
        if let Some(output) = ServerMessage::read_output(json, Version::V2)
            && let Some(place) = output.place
        {
            return self.deliver_output(output.stream, place, &output.data, output.eof);
        }
        // Accepts only messages about execs. Only the service may report the state of the sandbox.
        match ServerMessage::read(json, Version::V2).map(|it| it.into_message()) {
            Ok(ServerMessage::Output(OutputPiece {
                stream,
                data,
                place: Some(place),
                eof,
            })) => self.deliver_output(stream, (place.exec.as_str(), place.offset), &data, eof),
            Ok(ServerMessage::StdinAck { .. }) => self.pass(json),
            Ok(ServerMessage::Status(StatusUpdate {
                status,
                exec: Some(exec),
                ..
            })) => {
                if self.note_status(&status, &exec.exec) {
                    self.pass(json);
                }
            }
            _ => self.lose(format!("a line is not a valid message: {}", excerpt(json))),
        }
    }

    /// Notes what a status says about an exec. Returns whether to pass it on: statuses about the
    /// sandbox are not accepted from the program.
    fn note_status(&mut self, status: &Status, exec: &ExecId) -> bool {
        match status {
            Status::ExecutionRunning | Status::ExecutionExited | Status::ExecutionDone => {
                if let Some(answered) = self.execs.get_mut(exec) {
                    *answered = true;
                }
                true
            }
            Status::ExecutionError | Status::ExecutionUnsupportedLanguageError => {
                // A running exec can't be refused any more.
                let is_refused = self.execs.get(exec) == Some(&false);
                if is_refused {
                    self.execs.remove(exec);
                    self.earlier.execs.remove(exec);
                }
                is_refused
            }
            Status::ExecutionForceKilled | Status::ExecutionForceKillError | Status::StdinError => {
                true
            }
            _ => {
                self.lose(format!(
                    "the program reported {status}, which only the service may report"
                ));
                false
            }
        }
    }

    fn deliver_output(
        &mut self,
        stream: StdStream,
        (exec, offset): (&str, u64),
        data: &[u8],
        eof: bool,
    ) {
        let piece = Piece {
            stream: Some(stream),
            exec,
            offset,
            data,
            eof,
        };
        let frame = match piece.encode() {
            Encoded::Text(text) => text.into(),
            Encoded::Binary(bytes) => bytes,
        };
        self.actions.push_back(TunnelAction::Deliver(frame));
    }

    fn handle_note(&mut self, note: Note, now: Instant) {
        match note.lift.as_str() {
            "hello" => self.handle_hello(note, now),
            "taken" => {
                self.outgoing.handle_taken(note.bytes.unwrap_or(0));
                if self.is_up() {
                    self.flush();
                }
            }
            "bye" => self.farewell = Some(note.bytes.unwrap_or(0)),
            "busy" if self.phase == Phase::Leaving => {
                self.phase = Phase::Up;
                self.wants_checkpoint = false;
                let execs = note.execs.unwrap_or(1);
                let reason = format!(
                    "Cannot checkpoint while executions are in progress ({execs}): wait for \
                     them, or kill \
                     them."
                );
                self.deliver(&ServerMessage::status_because(
                    Status::ExecutionInProgressError,
                    reason,
                ));
            }
            "broken" => {
                let reason = note.reason.unwrap_or_default();
                let reason = excerpt(reason.as_bytes());
                self.lose(format!("the program rejected a line: {reason}"));
            }
            _ => {}
        }
    }

    fn handle_hello(&mut self, note: Note, now: Instant) {
        if !matches!(self.phase, Phase::Greeting { .. }) {
            return;
        }
        if note.version != Some(VERSION) {
            let version = note.version.unwrap_or(0);
            let reason = format!(
                "another client started version {version} of it, and this client needs version \
                 {VERSION}; use the same release of this crate, or try again when the sandbox has \
                 been idle for its idle timeout"
            );
            return self.start_failed(&reason);
        }
        if note.program.is_none() || note.program != self.earlier.program {
            self.gone.append(&mut self.earlier.execs);
            self.earlier.program = note.program;
        }
        self.phase = Phase::Up;
        self.pinged_at = now;
        self.starts = 0;
        self.tail.clear();
        if std::mem::take(&mut self.holds_running) {
            self.deliver(&ServerMessage::Status(StatusUpdate {
                status: Status::SandboxRunning,
                message: None,
                features: note.features,
                exec: None,
            }));
        }
        self.flush();
        if std::mem::take(&mut self.wants_checkpoint) {
            self.handle_checkpoint(now);
        }
    }

    /// The program ended, so its execs are lost. Requests that it has not read start it again.
    fn program_ended(&mut self, now: Instant) {
        let reason = match (&self.phase, self.tail.trim_ascii()) {
            (Phase::Killing { .. }, _) => {
                let patience = self.patience();
                format!("{ENDED}: it did not answer for {patience:?}, so it was killed")
            }
            (Phase::Leaving, _) => format!("{ENDED}, because the sandbox was checkpointed"),
            (_, []) => format!("{ENDED}: it was killed, or the sandbox was idle"),
            (_, said) => format!("{ENDED}: {}", excerpt(said)),
        };
        let is_stopping = self.phase == Phase::Leaving;
        self.phase = Phase::Down;
        let farewell = self.farewell.take();
        self.gone.append(&mut self.earlier.execs);
        self.outgoing.abandon(&self.gone);
        let dropped = self.outgoing.restart(farewell);
        let begins = self.outgoing.begins();
        for exec in std::mem::take(&mut self.execs).into_keys() {
            match begins.contains(&exec) {
                true => _ = self.execs.insert(exec, false),
                false => self.lose_exec(exec, &reason),
            }
        }
        for line in dropped {
            self.answer_without_program(line);
        }
        if self.kill.is_some() {
            self.outgoing.drain();
            return self.send_kill();
        }
        self.wants_checkpoint |= is_stopping;
        if self.wants_checkpoint && !begins.is_empty() {
            // An exec would be refused during the checkpoint, or would prevent it.
            return self.start_failed("the sandbox is being checkpointed");
        }
        self.send_waiting_checkpoint();
        if !begins.is_empty() {
            self.starts = 0;
            self.start(now);
        }
    }

    /// Sends the checkpoint that waited for the program to exit.
    fn send_waiting_checkpoint(&mut self) {
        if std::mem::take(&mut self.wants_checkpoint) {
            self.send_v1(&ClientMessage::Checkpoint);
        }
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

    // Helpers.

    /// Whether the program answers messages about execs.
    fn is_up(&self) -> bool {
        matches!(
            self.phase,
            Phase::Up | Phase::Leaving | Phase::Quitting { .. }
        )
    }

    fn hear(&mut self) {
        self.unanswered = None;
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

    fn flush_first(&mut self) {
        if let Some((piece, tag)) = self.outgoing.next_piece() {
            let frame = ClientMessage::stdin(piece).encode().into();
            self.actions.push_back(TunnelAction::Send(frame, tag));
        }
    }

    fn flush(&mut self) {
        if self.farewell.is_some() {
            // The program reads nothing more. The lines wait for the next one.
            return;
        }
        while let Some((piece, tag)) = self.outgoing.next_piece() {
            let frame = ClientMessage::stdin(piece).encode().into();
            self.actions.push_back(TunnelAction::Send(frame, tag));
        }
    }
}

/// Input as base64, if that is shorter. In v1's message, each escape of the line is escaped once
/// more.
fn in_base64(exec: &ExecId, message: &NamedMessage<'_>, frame: &Encoded) -> Option<String> {
    let NamedMessage::Stdin { offset, data, eof } = message else {
        return None;
    };
    let escapes = data.iter().filter(|byte| byte.is_ascii_control()).count();
    if matches!(frame, Encoded::Text(_)) && escapes <= data.len() / 8 {
        return None;
    }
    let piece = Piece {
        stream: None,
        exec: exec.as_str(),
        offset: *offset,
        data,
        eof: *eof,
    };
    Some(piece.to_base64_text())
}

#[cfg(test)]
mod tests;
