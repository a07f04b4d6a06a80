//! [`Process`]: one exec at the client. How it ended, its stdin, and the callers that wait.
//!
//! | file | |
//! | --- | --- |
//! | `mod.rs` | output, facts and the end |
//! | `stdin.rs` | writes to stdin, and the callers that wait for them |
//! | `kill.rs` | kills, and the callers that wait for them |
//! | `messages.rs` | what goes in and comes out: [`ProcessFact`], [`ProcessAction`], … |
//! | `wire.rs` | what an exec says and hears in each version of the protocol |

mod kill;
mod messages;
mod stdin;
#[cfg(test)]
mod tests;
mod wire;

pub use messages::{ProcessAction, ProcessConfig, ProcessFact, ProcessReply};

use std::{collections::VecDeque, time::Instant};

use bytes::{Buf, Bytes};

use self::{kill::Kills, stdin::StdinRequests, wire::Wire};
use super::v1::{Nonce, UnnamedExec};
use crate::{
    machine::{
        Failure, Finish, ProcessEnd, RequestId, SandboxEnd,
        stream::{RecvStreams, SendStreams},
    },
    protocol::{
        ExecId, NamedMessage, StdStream,
        limits::{MIN_WINDOW, STDIN_WINDOW},
    },
};

type Answer = Result<ProcessReply, Failure>;

/// The state machine of one exec.
#[derive(Debug)]
pub struct Process {
    config: ProcessConfig,
    /// What depends on the version of the protocol.
    wire: Wire,
    /// The server takes messages about the exec. Cleared when the link is lost.
    link_up: bool,

    /// How the process ended, once the server or the end of the sandbox said that.
    end: Option<ProcessEnd>,
    /// Callers that wait for the end.
    waits: Vec<RequestId>,
    kills: Kills,

    stdin: SendStreams<1>,
    /// Bytes of stdin that an earlier client sent: ours begin there (v2). Set when the server first
    /// tells where stdin stands.
    stdin_base: Option<u64>,
    stdin_requests: StdinRequests,

    /// The offsets of stdout and stderr (v2).
    output: RecvStreams<2>,
    /// Why the output ends, once the server said that it does. Cleared when all of it has come.
    finish: Option<Finish>,
    /// The owner was told that no more output comes.
    output_ended: bool,
    /// The owner was told that nothing more is to be said.
    settled: bool,

    actions: VecDeque<ProcessAction>,
}

impl Process {
    /// A process that is being started (v1).
    pub fn new(config: ProcessConfig) -> Self {
        Self::with(config, Wire::V1(UnnamedExec::default()), 0, [0, 0])
    }

    /// A process that is being started with its code [wrapped](crate::machine::wrap) (v1).
    pub fn wrapped(config: ProcessConfig, nonce: &Nonce) -> Self {
        Self::with(config, Wire::V1(UnnamedExec::wrapped(nonce)), 0, [0, 0])
    }

    /// A named exec that is being started (v2).
    pub fn named(config: ProcessConfig, exec: ExecId, window: u64) -> Self {
        Self::adopted(config, exec, window, [0, 0])
    }

    /// A named exec that another client started, and whose output it took up to these offsets (v2).
    pub fn adopted(config: ProcessConfig, exec: ExecId, window: u64, received: [u64; 2]) -> Self {
        Self::with(config, Wire::V2(exec), window.max(MIN_WINDOW), received)
    }

    fn with(config: ProcessConfig, wire: Wire, window: u64, received: [u64; 2]) -> Self {
        Self {
            config,
            link_up: false,
            end: None,
            waits: Vec::new(),
            kills: Kills::default(),
            stdin: SendStreams::new(match wire.acks_stdin() {
                true => STDIN_WINDOW,
                false => u64::MAX,
            }),
            stdin_base: None,
            stdin_requests: StdinRequests::default(),
            output: RecvStreams::new(window, received),
            finish: None,
            output_ended: false,
            settled: false,
            actions: VecDeque::new(),
            wire,
        }
    }

    /// The id of a named exec (v2), and the offsets up to which its consumer has taken its output.
    pub fn place(&self) -> Option<(&ExecId, [u64; 2])> {
        let exec = self.wire.exec()?;
        Some((exec, self.output.taken()))
    }

    /// The offsets up to which output has come (v2).
    pub fn received(&self) -> Option<[u64; 2]> {
        self.wire.exec().map(|_| self.output.received())
    }

    /// The offsets up to which output has come (v2), and after how many more bytes that the
    /// consumer takes an acknowledgement is due. `None` if the server needs no more of them.
    pub fn acknowledgeable(&self) -> Option<([u64; 2], u64)> {
        self.wire.exec().filter(|_| !self.settled)?;
        let after = match self.output_ended {
            true => 1,
            false => self.output.ack_after(),
        };
        Some((self.output.received(), after))
    }

    /// Bytes of output that the server sends past the last acknowledgement (v2).
    pub fn window(&self) -> Option<u64> {
        self.wire.exec().map(|_| self.output.window())
    }

    /// How the process ended, once it has.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn end(&self) -> Option<&ProcessEnd> {
        self.end.as_ref()
    }

    /// Whether a caller waits for a message that may stand behind the output: of the process, or
    /// `by_sandbox`, of its sandbox.
    ///
    /// In v2 only a [`wait`](Self::wait) can: its server reads on from a process that is being
    /// killed.
    pub fn is_awaited(&self, by_sandbox: bool) -> bool {
        let behind = by_sandbox || self.kills.wanted;
        !self.waits.is_empty() || behind && self.wire.has_status_behind_output()
    }

    /// Answers when the process has ended.
    pub fn wait(&mut self, request: RequestId) {
        match &self.end {
            Some(end) => self.settle(request, Ok(ProcessReply::End(end.clone()))),
            None => self.waits.push(request),
        }
    }

    /// The caller of a request stopped waiting: it gets no answer. A write that waits for room is
    /// not sent. A kill stays asked for.
    pub fn cancel(&mut self, request: RequestId) {
        self.waits.retain(|&wait| wait != request);
        self.kills.waiting.retain(|&(kill, _)| kill != request);
        self.cancel_stdin(request);
    }

    /// A piece of output came, with its offset in v2. Returns how many bytes before it never came,
    /// and what of it is new. [`handle_output_kept`](Self::handle_output_kept) is due when readers
    /// can find that.
    pub fn handle_output(
        &mut self,
        stream: StdStream,
        offset: Option<u64>,
        mut data: Bytes,
    ) -> (u64, Bytes) {
        if self.output_ended {
            return (0, Bytes::new());
        }
        let mut gap = 0;
        match (offset, &self.wire) {
            (Some(offset), _) => {
                let (missing, known) = self.output.receive(stream as usize, offset, data.len());
                data.advance(known);
                gap = missing;
            }
            (None, Wire::V1(_)) => {}
            // Without an offset, the window could not bound it.
            (None, Wire::V2(_)) => return (0, Bytes::new()),
        }
        (gap, self.wire.filter_output(stream, data))
    }

    /// The output that came is where readers find it.
    pub fn handle_output_kept(&mut self) {
        if self.output.is_complete()
            && let Some(finish) = self.finish.take()
        {
            self.end_output(finish);
        }
        self.send_ack();
    }

    /// The output is over: the bytes of stdout that were held back belong to it after all.
    pub fn take_held_output(&mut self) -> Bytes {
        self.wire.take_held_output()
    }

    /// The consumer has taken the output up to these offsets.
    pub fn handle_taken(&mut self, taken: [u64; 2]) {
        self.output.take(taken);
        self.send_ack();
    }

    /// The sandbox tells something.
    pub fn handle_fact(&mut self, fact: ProcessFact, now: Instant) {
        if self.settled {
            return;
        }
        match fact {
            ProcessFact::LinkUp => self.handle_link_up(),
            ProcessFact::Announced { stdin, window } => {
                self.output.resume();
                self.output.limit_window(window.unwrap_or(u64::MAX));
                let base = *self.stdin_base.get_or_insert_with(|| {
                    // How much of it the process has taken is told later.
                    self.stdin.reserve(stdin);
                    stdin
                });
                self.handle_link_ready(stdin.saturating_sub(base));
            }
            ProcessFact::LinkDown => {
                self.link_up = false;
                self.stdin_requests.in_flight = false;
            }
            ProcessFact::ForceKilled => self.handle_force_killed(now),
            ProcessFact::KillRefused(failure) => self.handle_kill_refused(failure),
            ProcessFact::Abandoned => {
                // No reader is left, so that all output counts as taken.
                self.output.abandon();
                self.send_ack();
                self.kill(None, now);
            }
            ProcessFact::Ended { end, lengths, cut } => self.handle_ended(end, lengths, cut),
            ProcessFact::SandboxEnded(end) => self.handle_sandbox_ended(end),
            // The rest says nothing new about a process that has ended.
            _ if self.end.is_some() => {}
            ProcessFact::StdinWritten(number) => self.handle_stdin_written(number),
            ProcessFact::StdinTaken(offset) => {
                let base = self.stdin_base.unwrap_or(0);
                self.stdin.reserve(base.saturating_sub(offset));
                self.handle_stdin_taken(offset.saturating_sub(base));
            }
            ProcessFact::StdinClosed => self.abandon_stdin(|what| Failure::StdinClosed { what }),
            ProcessFact::Exited(end) => self.handle_exited(end),
            ProcessFact::Done => {
                let end = match self.kills.wanted {
                    true => ProcessEnd::Killed,
                    false => self.wire.end(),
                };
                self.finish_all(end, Finish::Complete, Ok(ProcessReply::Done));
            }
        }
    }

    /// There is a new link. In v2 the server is asked for the exec, and announces it.
    fn handle_link_up(&mut self) {
        let offsets = self.output.received();
        match self.wire.encode(NamedMessage::Reconnect { offsets }) {
            Some(text) if !self.output_ended => self.actions.push_back(ProcessAction::Send(text)),
            _ => {
                let [taken] = self.stdin.acked();
                self.handle_link_ready(taken);
            }
        }
    }

    /// The server takes messages about the exec, and has stdin up to this offset.
    fn handle_link_ready(&mut self, stdin: u64) {
        self.link_up = true;
        self.stdin.resume(0, stdin);
        self.resend_kill();
        self.send_stdin();
        self.send_ack();
    }

    /// The main process ended. Others may hold its output.
    fn handle_exited(&mut self, end: ProcessEnd) {
        let kills_answered = leaves_no_process(&end) || !self.kills.unanswered;
        self.set_end(end);
        if kills_answered {
            self.settle_kills(&Ok(ProcessReply::Done));
        }
        self.settle_waits();
    }

    /// The process and its output ended. That comes after [`handle_exited`](Self::handle_exited) or
    /// in its place, and again on a new link. The server may have dropped the output meanwhile.
    fn handle_ended(&mut self, end: ProcessEnd, lengths: Option<[u64; 2]>, cut: bool) {
        // A server that does not know the exec does not announce it.
        self.link_up = true;
        let kill_answer = match &end {
            // The server did not say that the process is gone. With its sandbox it will be.
            ProcessEnd::SandboxLost { end } => {
                let unconfirmed = Err(self.kill_unconfirmed(end.clone()));
                match end {
                    SandboxEnd::Deleted => {
                        self.settle_kills(&unconfirmed);
                        Ok(ProcessReply::Done)
                    }
                    _ => unconfirmed,
                }
            }
            end if cut && !leaves_no_process(end) => self.kill_after_cut(),
            _ => Ok(ProcessReply::Done),
        };
        self.output.end(lengths);
        self.finish = Some(match (&end, lengths) {
            (ProcessEnd::SandboxLost { end }, None) => Finish::SandboxLost(end.clone()),
            // If the lengths are known, no output is missing, even if the process is lost.
            (_, Some(_)) if cut => Finish::Cut,
            _ => Finish::Complete,
        });
        self.finish_process(end, kill_answer);
        self.handle_output_kept();
    }

    fn handle_sandbox_ended(&mut self, end: SandboxEnd) {
        let kill_answer = match &end {
            // With the sandbox, every process in it is gone.
            SandboxEnd::Killed | SandboxEnd::Deleted => Ok(ProcessReply::Done),
            end => Err(self.kill_unconfirmed(end.clone())),
        };
        let finish = self.wire.finish(end.clone());
        let end = match end {
            SandboxEnd::Killed => ProcessEnd::Killed,
            end => ProcessEnd::SandboxLost { end },
        };
        self.finish_all(end, finish, kill_answer);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first_kill = self.kills.waiting.first().map(|&(_, due)| due);
        let kill_due = self.wire.kill_due().filter(|_| self.end.is_none());
        first_kill.into_iter().chain(kill_due).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.end.is_none() && self.wire.kill_due().is_some_and(|due| now >= due) {
            let killed = ProcessEnd::Killed;
            self.finish_all(killed, Finish::Complete, Ok(ProcessReply::Done));
        }
        self.time_kills(now);
    }

    /// What to do now.
    pub fn poll_action(&mut self) -> Option<ProcessAction> {
        self.actions.pop_front()
    }

    fn settle(&mut self, request: RequestId, answer: Answer) {
        self.actions
            .push_back(ProcessAction::Settle(request, answer));
    }

    /// The process and its output are over, and nothing more will be said.
    fn finish_all(&mut self, end: ProcessEnd, finish: Finish, kill_answer: Answer) {
        self.finish_process(end, kill_answer);
        self.end_output(finish);
        self.settle_all();
    }

    /// The process is over, and no kill can have an effect any more.
    fn finish_process(&mut self, end: ProcessEnd, kill_answer: Answer) {
        self.set_end(end);
        self.answer_kills(kill_answer);
        self.settle_waits();
    }

    /// The first end counts.
    fn set_end(&mut self, end: ProcessEnd) {
        if self.end.is_none() {
            let stdin_unsent = usize::try_from(self.stdin.kept()).unwrap_or(usize::MAX);
            self.end = Some(end.clone());
            self.actions
                .push_back(ProcessAction::Ended { end, stdin_unsent });
        }
    }

    /// Answers the callers that wait for the end or for stdin.
    fn settle_waits(&mut self) {
        for request in std::mem::take(&mut self.waits) {
            self.wait(request);
        }
        self.abandon_stdin(|what| Failure::ProcessEnded { what });
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

    /// Sends the acknowledgement that is due, if one is.
    fn send_ack(&mut self) {
        if self.settled || !self.link_up {
            return;
        }
        let done = self.output_ended && self.output.is_taken();
        let step = match done {
            true => 0,
            false => self.output.ack_step(),
        };
        if let Some(offsets) = self.output.poll_ack(step)
            && let Some(text) = self.wire.encode(NamedMessage::Ack { offsets, done })
        {
            self.actions.push_back(ProcessAction::Send(text));
            if done {
                self.settle_all();
            }
        }
    }
}

/// Whether such an end says that neither the process nor a child of it is left.
fn leaves_no_process(end: &ProcessEnd) -> bool {
    matches!(end, ProcessEnd::Killed | ProcessEnd::TimedOut)
}
