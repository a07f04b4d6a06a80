//! [`Process`]: one exec. How it ended, what goes to its stdin, and who waits for either.
//!
//! | file | |
//! | --- | --- |
//! | `mod.rs` | requests and answers, in both versions of the protocol |
//! | `named.rs` | where the output and the input of a named exec stand (v2) |

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    v1::{Nonce, TrailerFilter},
    v2::{Admission, Named},
};
use crate::{
    machine::{Effect, Failure, Finish, ProcessEnd, RequestId, SandboxEnd, later},
    protocol::{ClientMessage, ExecId, NamedMessage, StdStream},
};

/// Most bytes of text in one stdin message; shorter writes are put together up to this size.
pub(super) const STDIN_MESSAGE: usize = 64 * 1024;

/// How a [`Process`] behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessConfig {
    /// How long the server may take to confirm a kill. Default: 10 s.
    pub kill_timeout: Duration,
    /// How long after `FORCE_KILLED` the last output and `DONE` may take. Default: 2 s.
    pub kill_grace: Duration,
    /// Bytes of stdin that wait for the link, after which a write waits. Default: 1 MiB.
    pub stdin_budget: usize,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self {
            kill_timeout: Duration::from_secs(10),
            kill_grace: Duration::from_secs(2),
            stdin_budget: 1024 * 1024,
        }
    }
}

/// What the sandbox lets a process know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessFact {
    /// The server takes messages for this process, or takes them again after an outage.
    LinkUp,
    /// The link is lost and is being dialled again.
    LinkDown,
    /// The link took the stdin message with this number.
    StdinWritten(u64),
    /// The server killed the process.
    ForceKilled,
    /// The server could not kill the process.
    KillRefused(Failure),
    /// The server said that the process ended. In v1 that is all it says; a wrapper says more in the output.
    Done,
    /// The server announced the process on this link (v2).
    Announced {
        /// Bytes of input that the server has taken.
        stdin: u64,
        /// Bytes of output that the server sends unacknowledged.
        window: Option<u64>,
    },
    /// The process has taken input (v2).
    StdinTaken(u64),
    /// The process has closed its input (v2).
    StdinClosed,
    /// The server said how the main process ended (v2). Its output may go on.
    Exited(ProcessEnd),
    /// The server said how the process and its output ended (v2).
    Ended {
        /// How.
        end: ProcessEnd,
        /// How many bytes of stdout and stderr there are; `None`: that is not known.
        lengths: Option<[u64; 2]>,
        /// Whether another process still held stdout or stderr.
        cut: bool,
    },
    /// Nobody can get a handle to it: it is to be killed.
    Abandoned,
    /// The sandbox is over.
    SandboxEnded(SandboxEnd),
}

/// The answer to a granted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessReply {
    /// How the process ended.
    End(ProcessEnd),
    /// It is done.
    Done,
}

/// What a [`Process`] wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessAction {
    /// Answer a request.
    Settle(RequestId, Result<ProcessReply, Failure>),
    /// Ask the server to kill the process.
    SendKill,
    /// Send a stdin message, and say when the link took it. There is one at a time.
    SendStdin {
        /// The number of the message.
        number: u64,
        /// The frame.
        text: String,
    },
    /// Send a message about a named exec (v2). One that is lost with its link is made good on the next.
    Send(String),
    /// The process ended. In v2 its output may still be on its way.
    Ended {
        /// How.
        end: ProcessEnd,
        /// Bytes of stdin that were accepted and never sent.
        stdin_unsent: usize,
    },
    /// No more output comes, but for [what was held back](Process::take_held_output), and why.
    OutputEnded(Finish),
    /// Nothing more is to be said about the process.
    Settled,
}

#[derive(Debug)]
struct Write {
    request: RequestId,
    data: Bytes,
    /// Nothing is written after it.
    eof: bool,
}

/// The state machine of one exec.
#[derive(Debug)]
pub struct Process {
    config: ProcessConfig,
    end: Option<ProcessEnd>,
    /// No more output comes.
    output_ended: bool,
    settled: bool,
    /// Of a named exec (v2).
    named: Option<Named>,
    /// Of wrapped code (v1).
    trailer: Option<TrailerFilter>,
    link_up: bool,
    waits: Vec<RequestId>,

    /// Why there may be more output than came.
    lost: Option<SandboxEnd>,

    kill_wanted: bool,
    kill_sent: bool,
    /// A caller asked for a kill, and the server has not answered it. It outlives the caller.
    kill_unanswered: bool,
    /// The server said that no process is left, before the output ended (v2).
    force_killed: bool,
    /// Why a kill after the end is no success: the server did not say that no process is left.
    not_killed: Option<Failure>,
    kills: Vec<(RequestId, Instant)>,
    force_killed_until: Option<Instant>,

    /// Accepted and not yet taken by the link, the message in flight not included.
    stdin: VecDeque<String>,
    in_flight: Option<String>,
    message_number: u64,
    /// Bytes accepted and not yet taken by the link, the message in flight included.
    stdin_bytes: usize,
    /// Bytes ever accepted, and ever taken by the link.
    accepted: u64,
    written: u64,
    writes: VecDeque<Write>,
    flushes: VecDeque<(RequestId, u64)>,

    actions: VecDeque<ProcessAction>,
}

impl Process {
    /// A process that is being started.
    pub fn new(config: ProcessConfig) -> Self {
        Self {
            config,
            end: None,
            output_ended: false,
            settled: false,
            named: None,
            trailer: None,
            link_up: false,
            waits: Vec::new(),
            lost: None,
            kill_wanted: false,
            kill_sent: false,
            kill_unanswered: false,
            force_killed: false,
            not_killed: None,
            kills: Vec::new(),
            force_killed_until: None,
            stdin: VecDeque::new(),
            in_flight: None,
            message_number: 0,
            stdin_bytes: 0,
            accepted: 0,
            written: 0,
            writes: VecDeque::new(),
            flushes: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// A named exec (v2) that is being started.
    pub fn named(config: ProcessConfig, exec: ExecId, window: u64) -> Self {
        Self {
            named: Some(Named::new(exec, window, [0, 0])),
            ..Self::new(config)
        }
    }

    /// A named exec that another client started, and of whose output it took what is before these offsets.
    pub fn adopted(config: ProcessConfig, exec: ExecId, window: u64, received: [u64; 2]) -> Self {
        Self {
            named: Some(Named::new(exec, window, received)),
            ..Self::new(config)
        }
    }

    /// A process that is being started with its code [wrapped](crate::machine::wrap) (v1).
    pub fn wrapped(config: ProcessConfig, nonce: &Nonce) -> Self {
        Self {
            trailer: Some(TrailerFilter::new(nonce)),
            ..Self::new(config)
        }
    }

    /// Whether it is a named exec (v2), whose output has places.
    pub fn is_named(&self) -> bool {
        self.named.is_some()
    }

    /// The id of a named exec (v2), and everything before which offsets its consumer has taken.
    pub fn place(&self) -> Option<(&ExecId, [u64; 2])> {
        let named = self.named.as_ref()?;
        Some((named.exec(), named.taken()))
    }

    /// What has come of the output of a named exec, and after how many more bytes that its consumer has taken the server
    /// is to hear of them. `None`: the server needs to hear no more.
    pub fn acknowledgeable(&self) -> Option<([u64; 2], u64)> {
        let named = self.named.as_ref().filter(|_| !self.settled)?;
        let after = match self.output_ended {
            true => 1,
            false => named.ack_after(),
        };
        Some((named.received(), after))
    }

    /// Bytes of output of a named exec that the server sends unacknowledged.
    pub fn window(&self) -> Option<u64> {
        self.named.as_ref().map(Named::window)
    }

    /// Everything before these offsets has come of the output of a named exec.
    pub fn received(&self) -> Option<[u64; 2]> {
        self.named.as_ref().map(Named::received)
    }

    /// A piece of the output of a named exec came: what of it is new. [`handle_output_kept`](Self::handle_output_kept)
    /// is due when that is kept.
    pub fn handle_output(&mut self, stream: StdStream, offset: u64, length: usize) -> Admission {
        match &mut self.named {
            Some(named) if !self.output_ended => named.admit(stream, offset, length),
            _ => Admission {
                gap: 0,
                skip: length,
            },
        }
    }

    /// A piece of the output of an exec without a name came: what readers are to find now.
    pub fn handle_unplaced_output(&mut self, stream: StdStream, data: Bytes) -> [Bytes; 2] {
        match &mut self.trailer {
            Some(trailer) if stream == StdStream::Stdout => trailer.handle_output(data),
            _ => [data, Bytes::new()],
        }
    }

    /// The output is over: what of stdout was held back is output after all.
    pub fn take_held_output(&mut self) -> Bytes {
        let held = self.trailer.as_mut().map(TrailerFilter::finish);
        held.unwrap_or_default()
    }

    /// The output that came is where readers find it.
    pub fn handle_output_kept(&mut self) {
        self.look_for_last_output();
    }

    /// The consumer has taken everything before these offsets.
    pub fn handle_taken(&mut self, taken: [u64; 2]) {
        if let Some(named) = &mut self.named {
            named.handle_taken(taken);
            self.send_ack();
        }
    }

    /// How the process ended, once it has.
    pub fn end(&self) -> Option<&ProcessEnd> {
        self.end.as_ref()
    }

    /// Whether somebody waits for the end.
    ///
    /// In v2 a kill needs nobody to make room for the output: a server reads on from one that dies.
    pub fn is_awaited(&self) -> bool {
        !self.waits.is_empty() || self.kill_wanted && self.named.is_none()
    }

    /// Whether a kill was asked for.
    pub fn is_kill_wanted(&self) -> bool {
        self.kill_wanted
    }

    /// Answers when the process has ended.
    pub fn wait(&mut self, request: RequestId) {
        match &self.end {
            Some(end) => self.settle(request, Ok(ProcessReply::End(end.clone()))),
            None => self.waits.push(request),
        }
    }

    /// Kills the process, and answers when the server confirmed its end. Any number may ask.
    ///
    /// After the end of the main process, a kill with a request is for those that still
    /// hold its output.
    pub fn kill(&mut self, request: Option<RequestId>, now: Instant) {
        if let Some(request) = request
            && self.is_output_held()
        {
            self.kills
                .push((request, later(now, self.config.kill_timeout)));
            if !self.kill_unanswered || self.kills.len() == 1 {
                self.kill_unanswered = true;
                self.send_kill();
            }
            return;
        }
        if let Some(end) = &self.end {
            let result = match (end, &self.not_killed) {
                (_, Some(failure)) => Err(failure.clone()),
                // The server did not say that the process is gone.
                (ProcessEnd::SandboxLost { end }, None) if *end != SandboxEnd::Deleted => {
                    Err(Failure::SandboxEnded {
                        what: "kill the process",
                        end: end.clone(),
                        effect: self.kill_effect(),
                    })
                }
                _ => Ok(ProcessReply::Done),
            };
            if let Some(request) = request {
                self.settle(request, result);
            }
            return;
        }
        if let Some(request) = request {
            self.kills
                .push((request, later(now, self.config.kill_timeout)));
        }
        // After a kill that nobody confirmed, the next one is sent anew.
        if !self.kill_wanted || self.kills.len() == 1 {
            self.kill_unanswered |= request.is_some();
            self.kill_wanted = true;
            self.send_kill();
        }
    }

    /// Sends text to stdin, after all text before it. Answers when the text is accepted.
    ///
    /// In v1 what is no text cannot be sent.
    pub fn write_stdin(&mut self, request: RequestId, data: impl Into<Bytes>) {
        let data = data.into();
        if self.named.is_none() && std::str::from_utf8(&data).is_err() {
            let failure = Failure::Unsupported {
                what: "write to stdin",
                feature: "input that is not UTF-8",
            };
            return self.settle(request, Err(failure));
        }
        self.write(Write {
            request,
            data,
            eof: false,
        });
    }

    /// Closes stdin after all that was written before. In v1 that is not possible.
    pub fn close_stdin(&mut self, request: RequestId) {
        if self.named.is_none() {
            let failure = Failure::Unsupported {
                what: "close stdin",
                feature: "the end of input",
            };
            return self.settle(request, Err(failure));
        }
        // One that waits for its turn may yet be cancelled.
        if self.end.is_some() || self.is_input_closed() {
            // It is closed.
            return self.settle(request, Ok(ProcessReply::Done));
        }
        self.write(Write {
            request,
            data: Bytes::new(),
            eof: true,
        });
    }

    /// All of the input of a named exec that is being started (v2).
    pub fn give_input(&mut self, data: &[u8]) {
        if let Some(named) = &mut self.named {
            self.stdin_bytes += data.len();
            self.accepted += data.len() as u64;
            named.push_input(data, true);
        }
    }

    /// Whether the main process ended, and the server has not said that its output did.
    fn is_output_held(&self) -> bool {
        let held = |named: &Named| !named.is_ended();
        self.end.is_some() && !self.settled && self.named.as_ref().is_some_and(held)
    }

    fn is_input_closed(&self) -> bool {
        self.named.as_ref().is_some_and(Named::is_input_closed)
    }

    fn write(&mut self, write: Write) {
        let closing = !write.eof && self.writes.iter().any(|write| write.eof);
        if self.end.is_some() {
            self.settle(
                write.request,
                Err(Failure::ProcessEnded {
                    what: "write to stdin",
                }),
            );
        } else if closing || self.is_input_closed() {
            self.settle(
                write.request,
                Err(Failure::StdinClosed {
                    what: "write to stdin",
                }),
            );
        } else if self.writes.is_empty() && self.fits(write.data.len()) {
            self.accept(write);
            self.send_stdin();
        } else {
            self.writes.push_back(write);
        }
    }

    /// Answers when the link has taken all text accepted so far.
    pub fn flush_stdin(&mut self, request: RequestId) {
        if self.written >= self.accepted {
            self.settle(request, Ok(ProcessReply::Done));
        } else if self.end.is_some() {
            self.settle(
                request,
                Err(Failure::ProcessEnded {
                    what: "flush stdin",
                }),
            );
        } else if self.named.as_ref().is_some_and(Named::is_input_refused) {
            let what = "flush stdin";
            self.settle(request, Err(Failure::StdinClosed { what }));
        } else {
            self.flushes.push_back((request, self.accepted));
        }
    }

    /// The caller of a request stopped waiting: it gets no answer. A text that waits for the budget is
    /// not sent. A kill stays asked for.
    pub fn cancel(&mut self, request: RequestId) {
        self.waits.retain(|&wait| wait != request);
        self.kills.retain(|&(kill, _)| kill != request);
        self.flushes.retain(|&(flush, _)| flush != request);
        self.writes.retain(|write| write.request != request);
        self.accept_waiting();
    }

    /// The sandbox says something.
    pub fn handle_fact(&mut self, fact: ProcessFact, now: Instant) {
        if self.end.is_some() {
            return self.handle_late(fact);
        }
        match fact {
            ProcessFact::LinkUp if self.named.is_some() => {
                let text = self.named.as_ref().map(Named::reconnect);
                self.actions.extend(text.map(ProcessAction::Send));
            }
            ProcessFact::Announced { stdin, window } => {
                self.link_up = true;
                if let Some(named) = &mut self.named {
                    named.announced(stdin, window);
                }
                if self.kill_wanted {
                    self.send_kill();
                }
                self.send_stdin();
                self.send_ack();
            }
            ProcessFact::StdinTaken(offset) => {
                let taken = self.named.as_mut().map(|named| named.input_taken(offset));
                self.stdin_taken(taken.unwrap_or_default());
            }
            ProcessFact::StdinClosed => self.handle_stdin_closed(),
            ProcessFact::Exited(end) => {
                if let Some(named) = &mut self.named {
                    named.exited();
                }
                // The exit is no answer to a kill of the process and its children.
                let is_killed = leaves_no_process(&end) || !self.kill_unanswered;
                self.finish(end, is_killed.then_some(Ok(ProcessReply::Done)));
            }
            ProcessFact::Ended { end, lengths, cut } => {
                if let Some(named) = &mut self.named {
                    named.ended(lengths, cut);
                }
                let lost = match (&end, lengths) {
                    (ProcessEnd::SandboxLost { end }, _) => Some(end.clone()),
                    _ => None,
                };
                let kill_result = match &lost {
                    // The server did not say that the process is gone.
                    Some(end) => Err(self.kill_unconfirmed(end.clone())),
                    None if cut && !leaves_no_process(&end) => self.kill_after_cut(),
                    None => Ok(ProcessReply::Done),
                };
                self.lost = lost;
                self.finish(end, Some(kill_result));
                self.look_for_last_output();
            }
            ProcessFact::Abandoned => {
                self.abandon();
                self.kill(None, now);
            }
            ProcessFact::LinkUp => {
                self.link_up = true;
                if self.kill_wanted {
                    self.send_kill();
                }
                self.send_stdin();
            }
            ProcessFact::LinkDown => {
                self.link_up = false;
                if let Some(named) = &mut self.named {
                    named.ready = false;
                }
                // What the dead link did not take is sent again, first.
                if let Some(unsent) = self.in_flight.take() {
                    self.stdin.push_front(unsent);
                }
            }
            ProcessFact::StdinWritten(number) if number == self.message_number => {
                if let Some(named) = &mut self.named {
                    named.input_written();
                    return self.send_stdin();
                }
                let taken = self.in_flight.take();
                self.stdin_taken(taken.map_or(0, |taken| taken.len()));
            }
            ProcessFact::StdinWritten(_) => {}
            ProcessFact::ForceKilled => {
                self.kill_wanted = true;
                // In v2 the end always follows, and says more.
                self.kill_unanswered = false;
                self.force_killed = true;
                if self.named.is_none() {
                    self.force_killed_until
                        .get_or_insert(later(now, self.config.kill_grace));
                }
            }
            // One kill worked; another was refused because it did.
            ProcessFact::KillRefused(_) if self.force_killed_until.is_some() => {}
            ProcessFact::KillRefused(failure) => {
                self.kill_wanted = false;
                self.settle_kills(&Err(failure));
            }
            ProcessFact::Done => {
                let end = if self.kill_wanted {
                    ProcessEnd::Killed
                } else {
                    let said = self.trailer.as_ref().and_then(TrailerFilter::end);
                    said.cloned().unwrap_or(ProcessEnd::Unknown)
                };
                self.finish_all(end, None, Ok(ProcessReply::Done));
            }
            ProcessFact::SandboxEnded(end) => self.handle_sandbox_ended(end),
        }
    }

    fn handle_sandbox_ended(&mut self, end: SandboxEnd) {
        let done = Ok(ProcessReply::Done);
        match end {
            SandboxEnd::Killed => {
                // In v2 there may be output that never came.
                let lost = self.named.is_some().then_some(end);
                self.finish_all(ProcessEnd::Killed, lost, done);
            }
            // With the sandbox every process in it is gone, too.
            SandboxEnd::Deleted => {
                let lost = Some(end.clone());
                self.finish_all(ProcessEnd::SandboxLost { end }, lost, done);
            }
            end => {
                let failure = self.kill_unconfirmed(end.clone());
                let lost = Some(end.clone());
                self.finish_all(ProcessEnd::SandboxLost { end }, lost, Err(failure));
            }
        }
    }

    /// The answer to a kill where another process held the output when the server stopped reading
    /// it. Kept for later kills.
    fn kill_after_cut(&mut self) -> Result<ProcessReply, Failure> {
        if self.force_killed {
            return Ok(ProcessReply::Done);
        }
        let failure = Failure::OutputHeld {
            what: "confirm the kill of the process",
            effect: self.kill_effect(),
        };
        self.not_killed = Some(failure.clone());
        Err(failure)
    }

    fn kill_unconfirmed(&self, end: SandboxEnd) -> Failure {
        Failure::SandboxEnded {
            what: "confirm the kill",
            end,
            effect: self.kill_effect(),
        }
    }

    /// Nobody can ever read the output: what there is of it is as good as taken.
    fn abandon(&mut self) {
        if let Some(named) = &mut self.named {
            named.abandon();
            self.send_ack();
        }
    }

    /// What still matters after the end: the rest of the output, and that the server hears that it was taken.
    fn handle_late(&mut self, fact: ProcessFact) {
        let Some(named) = &mut self.named else { return };
        match fact {
            ProcessFact::LinkUp if self.output_ended => {
                named.ready = true;
                self.send_ack();
            }
            ProcessFact::LinkUp => {
                let text = named.reconnect();
                self.actions.push_back(ProcessAction::Send(text));
            }
            ProcessFact::LinkDown => {
                self.link_up = false;
                named.ready = false;
            }
            ProcessFact::Announced { window, .. } => {
                self.link_up = true;
                named.announced(0, window);
                if self.kill_unanswered {
                    self.send_kill();
                }
                self.send_ack();
            }
            // It comes after the end of the main process, and again on a new link. The server may
            // have dropped the output meanwhile.
            ProcessFact::Ended { end, lengths, cut } => {
                let is_known = named.is_ended();
                named.ended(lengths, cut);
                let lost = match end {
                    ProcessEnd::SandboxLost { end } => Some(end),
                    _ => None,
                };
                if !is_known {
                    let killed = match &lost {
                        Some(end) => self.keep_unconfirmed(end.clone()),
                        None if cut => self.kill_after_cut(),
                        None => Ok(ProcessReply::Done),
                    };
                    self.settle_kills(&killed);
                }
                self.lost = lost.or(self.lost.take());
                self.look_for_last_output();
            }
            ProcessFact::ForceKilled => {
                // After the end of the output, it does not say that.
                self.force_killed |= !named.is_ended();
                self.settle_kills(&Ok(ProcessReply::Done));
            }
            ProcessFact::KillRefused(failure) => self.settle_kills(&Err(failure)),
            ProcessFact::SandboxEnded(end) => {
                let killed = match &end {
                    SandboxEnd::Killed | SandboxEnd::Deleted => Ok(ProcessReply::Done),
                    _ if named.is_ended() => Ok(ProcessReply::Done),
                    _ => self.keep_unconfirmed(end.clone()),
                };
                self.settle_kills(&killed);
                self.end_output(Finish::SandboxLost(end));
                self.settle_all();
            }
            ProcessFact::Abandoned => self.abandon(),
            _ => {}
        }
    }

    /// The process is lost with its sandbox. Kept for later kills.
    fn keep_unconfirmed(&mut self, end: SandboxEnd) -> Result<ProcessReply, Failure> {
        let failure = self.kill_unconfirmed(end);
        self.not_killed = Some(failure.clone());
        Err(failure)
    }

    /// The kill is answered.
    fn settle_kills(&mut self, result: &Result<ProcessReply, Failure>) {
        self.kill_unanswered = false;
        for (request, _) in std::mem::take(&mut self.kills) {
            self.settle(request, result.clone());
        }
    }

    /// Ends the output of a named exec that is over and whose output is all here.
    fn look_for_last_output(&mut self) {
        let complete = self.named.as_ref().is_some_and(Named::is_complete);
        if complete
            && self.end.is_some()
            && let Some(named) = &self.named
        {
            let finish = named.finish(self.lost.take());
            self.end_output(finish);
        }
        self.send_ack();
    }

    fn end_output(&mut self, finish: Finish) {
        if !std::mem::replace(&mut self.output_ended, true) {
            self.actions.push_back(ProcessAction::OutputEnded(finish));
        }
    }

    fn settle_all(&mut self) {
        if !std::mem::replace(&mut self.settled, true) {
            self.actions.push_back(ProcessAction::Settled);
        }
    }

    fn send_ack(&mut self) {
        let Some(named) = &mut self.named else { return };
        if let Some((text, done)) = named.ack(self.output_ended) {
            self.actions.push_back(ProcessAction::Send(text));
            if done {
                self.settle_all();
            }
        }
    }

    fn handle_stdin_closed(&mut self) {
        if let Some(named) = &mut self.named {
            named.input_refused();
        }
        let closed = |what| Err(Failure::StdinClosed { what });
        for (request, _) in std::mem::take(&mut self.flushes) {
            self.settle(request, closed("flush stdin"));
        }
        for write in std::mem::take(&mut self.writes) {
            self.settle(write.request, closed("write to stdin"));
        }
    }

    fn stdin_taken(&mut self, bytes: usize) {
        self.stdin_bytes = self.stdin_bytes.saturating_sub(bytes);
        self.written += bytes as u64;
        while let Some(&(request, upto)) = self.flushes.front()
            && upto <= self.written
        {
            self.flushes.pop_front();
            self.settle(request, Ok(ProcessReply::Done));
        }
        self.accept_waiting();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first_kill = self.kills.first().map(|&(_, due)| due);
        first_kill.into_iter().chain(self.force_killed_until).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.force_killed_until.is_some_and(|due| now >= due) {
            self.finish_all(ProcessEnd::Killed, None, Ok(ProcessReply::Done));
        }
        while let Some(&(request, due)) = self.kills.first()
            && now >= due
        {
            self.kills.remove(0);
            let failure = if self.link_up {
                Failure::Timeout {
                    what: "the kill of the process",
                    after: self.config.kill_timeout,
                }
            } else {
                Failure::LinkLost {
                    what: "confirm the kill of the process",
                    // It stays asked for, and is sent when the link is back.
                    effect: Effect::Unknown,
                }
            };
            self.settle(request, Err(failure));
        }
    }

    /// What to do now.
    pub fn poll_action(&mut self) -> Option<ProcessAction> {
        self.actions.pop_front()
    }

    fn kill_effect(&self) -> Effect {
        if self.kill_sent {
            Effect::Unknown
        } else {
            Effect::NotApplied
        }
    }

    fn send_kill(&mut self) {
        if self.link_up {
            self.kill_sent = true;
            self.actions.push_back(match &self.named {
                Some(named) => ProcessAction::Send(named.encode(NamedMessage::Kill)),
                None => ProcessAction::SendKill,
            });
        }
    }

    fn settle(&mut self, request: RequestId, result: Result<ProcessReply, Failure>) {
        self.actions
            .push_back(ProcessAction::Settle(request, result));
    }

    /// The process is over, its output is, and nothing more will be said.
    fn finish_all(
        &mut self,
        end: ProcessEnd,
        lost: Option<SandboxEnd>,
        kill_result: Result<ProcessReply, Failure>,
    ) {
        self.finish(end, Some(kill_result));
        self.end_output(lost.map_or(Finish::Complete, Finish::SandboxLost));
        self.settle_all();
    }

    /// The process is over. `kill_result`: the answer to the kills; `None`: it is still to come.
    fn finish(&mut self, end: ProcessEnd, kill_result: Option<Result<ProcessReply, Failure>>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end.clone());
        self.force_killed_until = None;
        self.actions.push_back(ProcessAction::Ended {
            end: end.clone(),
            stdin_unsent: self.stdin_bytes,
        });
        if let Some(result) = kill_result {
            self.settle_kills(&result);
        }
        for request in std::mem::take(&mut self.waits) {
            self.settle(request, Ok(ProcessReply::End(end.clone())));
        }
        for write in std::mem::take(&mut self.writes) {
            self.settle(
                write.request,
                Err(Failure::ProcessEnded {
                    what: "write to stdin",
                }),
            );
        }
        for (request, _) in std::mem::take(&mut self.flushes) {
            self.settle(
                request,
                Err(Failure::ProcessEnded {
                    what: "flush stdin",
                }),
            );
        }
        self.stdin.clear();
        self.in_flight = None;
    }

    /// A write larger than the budget goes alone.
    fn fits(&self, len: usize) -> bool {
        self.stdin_bytes == 0 || self.stdin_bytes.saturating_add(len) <= self.config.stdin_budget
    }

    /// Accepts the writes that fit now, in order.
    fn accept_waiting(&mut self) {
        while let Some(write) = self.writes.front()
            && self.fits(write.data.len())
            && let Some(write) = self.writes.pop_front()
        {
            self.accept(write);
        }
        self.send_stdin();
    }

    fn accept(&mut self, write: Write) {
        let Write { request, data, eof } = write;
        self.stdin_bytes += data.len();
        self.accepted += data.len() as u64;
        self.settle(request, Ok(ProcessReply::Done));
        if let Some(named) = &mut self.named {
            return named.push_input(&data, eof);
        }
        // Looked at when it came in.
        let data = String::from_utf8_lossy(&data).into_owned();
        // Cut here, once: to cut the rest off message by message would copy it for each.
        let mut rest = data.as_str();
        while rest.len() > STDIN_MESSAGE {
            let (message, after) = rest.split_at(char_boundary(rest, STDIN_MESSAGE));
            self.stdin.push_back(message.to_owned());
            rest = after;
        }
        if rest.len() == data.len() && !data.is_empty() {
            self.stdin.push_back(data);
        } else if !rest.is_empty() {
            self.stdin.push_back(rest.to_owned());
        }
    }

    /// Sends the next message, one at a time: deployed servers do not keep the order of two.
    fn send_stdin(&mut self) {
        if let Some(named) = &mut self.named {
            if let Some(text) = named.poll_input() {
                self.message_number += 1;
                let number = self.message_number;
                self.actions
                    .push_back(ProcessAction::SendStdin { number, text });
            }
            return;
        }
        if !self.link_up || self.in_flight.is_some() {
            return;
        }
        let Some(mut message) = self.stdin.pop_front() else {
            return;
        };
        while message.len() < STDIN_MESSAGE
            && let Some(next) = self.stdin.front()
            && message.len() + next.len() <= STDIN_MESSAGE
            && let Some(next) = self.stdin.pop_front()
        {
            message.push_str(&next);
        }
        self.message_number += 1;
        let text = ClientMessage::stdin(message.as_str()).encode();
        self.in_flight = Some(message);
        self.actions.push_back(ProcessAction::SendStdin {
            number: self.message_number,
            text,
        });
    }
}

/// Whether such an end says that neither the process nor a child of it is left.
fn leaves_no_process(end: &ProcessEnd) -> bool {
    matches!(end, ProcessEnd::Killed | ProcessEnd::TimedOut)
}

/// The last boundary between code points that is not after `at`.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
