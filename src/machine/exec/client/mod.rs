//! [`Process`]: one exec at the client: its output, its stdin, its end, and the callers that wait
//! for them.
//!
//! | file | |
//! | --- | --- |
//! | `mod.rs` | output, facts and the end |
//! | `stdin.rs` | writes to stdin, and the callers that wait for them |
//! | `kill.rs` | kills, and the callers that wait for them |
//! | `messages.rs` | inputs and outputs of the machine: [`ProcessFact`], [`ProcessAction`], … |
//! | `wire.rs` | the differences between the versions of the protocol |

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
use crate::{
    machine::{
        Failure, Finish, ProcessEnd, RequestId, SandboxEnd,
        stream::{RecvStreams, SendStreams},
    },
    protocol::{
        ExecId, NamedMessage, StdStream,
        limits::{MIN_WINDOW, OLD_STDIN_WINDOW},
    },
};

type Answer = Result<ProcessReply, Failure>;

/// The state machine of one exec.
#[derive(Debug)]
pub struct Process {
    config: ProcessConfig,
    /// The parts that depend on the version of the protocol.
    wire: Wire,
    /// Whether stdin travels in binary frames (v2).
    binary: bool,
    /// Whether the server accepts messages about the exec. Cleared when the link is lost.
    link_up: bool,

    /// How the process ended. Set by the server's report or by the end of the sandbox.
    end: Option<ProcessEnd>,
    /// Callers that wait for the end.
    waits: Vec<RequestId>,
    kills: Kills,

    stdin: SendStreams<1>,
    /// The number of bytes of stdin that earlier clients sent (v2). The stdin of this client begins
    /// at this offset. Set by the first announcement of the exec.
    stdin_base: Option<u64>,
    stdin_requests: StdinRequests,

    /// The offsets of stdout and stderr (v2).
    output: RecvStreams<2>,
    /// Why the output ends. Set by the server's report of the end, cleared when all output has
    /// arrived.
    finish: Option<Finish>,
    /// Whether [`ProcessAction::OutputEnded`] was returned.
    output_ended: bool,
    /// Whether [`ProcessAction::Settled`] was returned, after which the machine reports nothing
    /// more.
    settled: bool,

    actions: VecDeque<ProcessAction>,
}

impl Process {
    /// Creates a process that is being started (v1).
    pub fn new(config: ProcessConfig) -> Self {
        Self::with(config, Wire::V1 { kill_due: None }, 0, [0, 0])
    }

    /// Creates a named exec that is being started (v2).
    pub fn named(config: ProcessConfig, exec: ExecId, window: u64) -> Self {
        Self {
            // If the exec was started earlier with the same id, its input is repeated from the
            // start, and the server drops the bytes that it has.
            stdin_base: Some(0),
            ..Self::adopted(config, exec, window, [0, 0])
        }
    }

    /// Creates a named exec that another client started (v2). `received` holds the offsets up to
    /// which that client took the output.
    pub fn adopted(config: ProcessConfig, exec: ExecId, window: u64, received: [u64; 2]) -> Self {
        Self::with(config, Wire::V2(exec), window.max(MIN_WINDOW), received)
    }

    fn with(config: ProcessConfig, wire: Wire, window: u64, received: [u64; 2]) -> Self {
        Self {
            config,
            binary: false,
            link_up: false,
            end: None,
            waits: Vec::new(),
            kills: Kills::default(),
            stdin: SendStreams::new(match wire.acks_stdin() {
                true => OLD_STDIN_WINDOW,
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

    /// Sets whether the client sends stdin in binary frames (v2). See
    /// [`ExecOptions::binary`](crate::protocol::ExecOptions::binary).
    pub fn set_binary(&mut self, binary: bool) {
        self.binary = binary;
    }

    /// The id of a named exec, and the offsets up to which its consumer has taken the output (v2).
    pub fn place(&self) -> Option<(&ExecId, [u64; 2])> {
        let exec = self.wire.exec()?;
        Some((exec, self.output.taken()))
    }

    /// The offsets up to which output has arrived (v2).
    pub fn received(&self) -> Option<[u64; 2]> {
        self.wire.exec().map(|_| self.output.received())
    }

    /// The offsets up to which output has arrived, and the number of bytes that the consumer can
    /// take before an acknowledgement is due (v2). `None` if the server needs no more
    /// acknowledgements.
    pub fn acknowledgeable(&self) -> Option<([u64; 2], u64)> {
        self.wire.exec().filter(|_| !self.settled)?;
        let after = match self.output_ended {
            true => 1,
            false => self.output.ack_after(),
        };
        Some((self.output.received(), after))
    }

    /// The number of bytes of output that the server sends past the last acknowledgement (v2).
    pub fn window(&self) -> Option<u64> {
        self.wire.exec().map(|_| self.output.window())
    }

    /// How the process ended, once it has.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn end(&self) -> Option<&ProcessEnd> {
        self.end.as_ref()
    }

    /// Whether a caller waits for a message that may queue behind the output. `by_sandbox`: whether
    /// a caller waits for such a message about the sandbox.
    ///
    /// Under v2, unread output can delay only a [`wait`](Self::wait). It can't delay a kill,
    /// because the server keeps reading the output of a process that it kills.
    pub fn is_awaited(&self, by_sandbox: bool) -> bool {
        let behind = by_sandbox || self.kills.wanted;
        !self.waits.is_empty() || behind && self.wire.has_status_behind_output()
    }

    /// Waits for the end of the process. Answers when it has ended.
    pub fn wait(&mut self, request: RequestId) {
        match &self.end {
            Some(end) => self.settle(request, Ok(ProcessReply::End(end.clone()))),
            None => self.waits.push(request),
        }
    }

    /// Cancels a request whose caller stopped waiting. The request gets no answer. A write that
    /// waits for room is not sent. A kill stays requested.
    pub fn cancel(&mut self, request: RequestId) {
        self.waits.retain(|&wait| wait != request);
        self.kills.waiting.retain(|&(kill, _)| kill != request);
        self.cancel_stdin(request);
    }

    /// Handles a piece of output, with its offset under v2. Returns the number of bytes that are
    /// missing before the piece, and the part of the piece that is new. The caller must call
    /// [`handle_output_kept`](Self::handle_output_kept) when readers can read that part.
    pub fn handle_output(
        &mut self,
        stream: StdStream,
        offset: Option<u64>,
        mut data: Bytes,
    ) -> (u64, Bytes) {
        // Before the announcement, output belongs to an earlier start with the same id, and the
        // server repeats it.
        let is_early = self.wire.exec().is_some() && !self.link_up;
        if self.output_ended || is_early {
            return (0, Bytes::new());
        }
        let mut gap = 0;
        match (offset, &self.wire) {
            (Some(offset), _) => {
                let (missing, known) = self.output.receive(stream as usize, offset, data.len());
                data.advance(known);
                gap = missing;
            }
            (None, Wire::V1 { .. }) => {}
            // Drop output without an offset: the window could not bound it.
            (None, Wire::V2(_)) => return (0, Bytes::new()),
        }
        (gap, data)
    }

    /// Must be called when readers can read the output that has arrived. Acknowledges output, and
    /// ends the output if all of it has arrived.
    pub fn handle_output_kept(&mut self) {
        if self.output.is_complete()
            && let Some(finish) = self.finish.take()
        {
            self.end_output(finish);
        }
        self.send_ack();
    }

    /// Records that the consumer took the output up to these offsets, and acknowledges it if that
    /// is due.
    pub fn handle_taken(&mut self, taken: [u64; 2]) {
        self.output.take(taken);
        self.send_ack();
    }

    /// Handles a report of the sandbox.
    pub fn handle_fact(&mut self, fact: ProcessFact, now: Instant) {
        if self.settled {
            return;
        }
        match fact {
            ProcessFact::LinkUp => self.handle_link_up(),
            ProcessFact::Announced {
                stdin,
                window,
                stdin_window,
            } => {
                self.stdin
                    .set_window(stdin_window.unwrap_or(OLD_STDIN_WINDOW));
                self.output.resume();
                self.output.limit_window(window.unwrap_or(u64::MAX));
                let base = *self.stdin_base.get_or_insert_with(|| {
                    // The process may not have taken any of the earlier stdin, so all of it uses
                    // the window. The server reports later how much the process has taken.
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
                // No reader is left, so all output counts as taken.
                self.output.abandon();
                self.send_ack();
                self.kill(None, now);
            }
            ProcessFact::Ended { end, lengths, cut } => self.handle_ended(end, lengths, cut),
            ProcessFact::SandboxEnded(end) => self.handle_sandbox_ended(end),
            ProcessFact::StreamEnded(stream, at) => {
                // Otherwise bytes before the end are missing. The next link repeats them.
                if self.output.received()[stream as usize] == at {
                    self.actions.push_back(ProcessAction::StreamEnded(stream));
                }
            }
            // Once the process has ended, ignore the facts below.
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
                    false => ProcessEnd::Unknown,
                };
                self.finish_all(end, Finish::Complete, Ok(ProcessReply::Done));
            }
        }
    }

    /// A new link is open. Under v2, the process sends `reconnect`, and the server announces the
    /// exec.
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

    /// The server now accepts messages about the exec. It has received stdin up to this offset.
    fn handle_link_ready(&mut self, stdin: u64) {
        self.link_up = true;
        self.stdin.resume(0, stdin);
        self.resend_kill();
        self.send_stdin();
        self.send_ack();
    }

    /// The main process ended. Other processes may hold its output open.
    fn handle_exited(&mut self, end: ProcessEnd) {
        let kills_answered = leaves_no_process(&end) || !self.kills.unanswered;
        self.set_end(end);
        if kills_answered {
            self.settle_kills(&Ok(ProcessReply::Done));
        }
        self.settle_waits();
    }

    /// The process and its output ended. Follows or replaces
    /// [`handle_exited`](Self::handle_exited). The server repeats this report on a new link. It may
    /// have dropped unacknowledged output before the repetition.
    fn handle_ended(&mut self, end: ProcessEnd, lengths: Option<[u64; 2]>, cut: bool) {
        // A server that doesn't know the exec reports this end without announcing the exec first.
        self.link_up = true;
        let kill_answer = match &end {
            // The server did not confirm that the process is gone. If the server deleted the
            // sandbox, the process ended with it: waiting kills fail, because they were not
            // confirmed, and later kills succeed.
            ProcessEnd::SandboxLost { end } => {
                let unconfirmed = Err(self.kill_unconfirmed(end.clone()));
                match end {
                    SandboxEnd::Deleted | SandboxEnd::LifetimeEnded => {
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
            // The sandbox is gone, and every process with it.
            SandboxEnd::Killed | SandboxEnd::Deleted | SandboxEnd::LifetimeEnded => {
                Ok(ProcessReply::Done)
            }
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

    /// Handles the passage of time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.end.is_none() && self.wire.kill_due().is_some_and(|due| now >= due) {
            let killed = ProcessEnd::Killed;
            self.finish_all(killed, Finish::Complete, Ok(ProcessReply::Done));
        }
        self.time_kills(now);
    }

    /// The next action to perform.
    pub fn poll_action(&mut self) -> Option<ProcessAction> {
        self.actions.pop_front()
    }

    fn settle(&mut self, request: RequestId, answer: Answer) {
        self.actions
            .push_back(ProcessAction::Settle(request, answer));
    }

    /// Ends the process and its output. The machine reports nothing more after this.
    fn finish_all(&mut self, end: ProcessEnd, finish: Finish, kill_answer: Answer) {
        self.finish_process(end, kill_answer);
        self.end_output(finish);
        self.settle_all();
    }

    /// Ends the process. Waiting and later kills get `kill_answer`.
    fn finish_process(&mut self, end: ProcessEnd, kill_answer: Answer) {
        self.set_end(end);
        self.answer_kills(kill_answer);
        self.settle_waits();
    }

    /// Sets how the process ended, and reports it. Only the first call has an effect.
    fn set_end(&mut self, end: ProcessEnd) {
        if self.end.is_none() {
            let stdin_unsent = usize::try_from(self.stdin.kept()).unwrap_or(usize::MAX);
            self.end = Some(end.clone());
            self.actions
                .push_back(ProcessAction::Ended { end, stdin_unsent });
        }
    }

    /// Answers the callers that wait for the end of the process. Waiting requests about stdin fail.
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

    /// Sends an acknowledgement if one is due.
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

/// Whether this end implies that neither the process nor any of its children is left.
fn leaves_no_process(end: &ProcessEnd) -> bool {
    matches!(end, ProcessEnd::Killed | ProcessEnd::TimedOut)
}
