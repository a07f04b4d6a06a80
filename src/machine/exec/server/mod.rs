//! [`ServedExec`]: a named exec at the server (protocol v2).
//!
//! Output is kept until the client has acknowledged it. On each link, it is sent from the offsets
//! that the client requests, at most the window past the last acknowledgement. Each byte of stdin
//! is taken once. The end is kept until the client acknowledges it.
//!
//! An exec ends in two steps: first its main process [exits](ServedExec::handle_exited), then its
//! output [ends](ServedExec::handle_done). In between, other processes may hold the output open.

mod stored;

pub use stored::StoredExec;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::{
    machine::stream::{RecvStreams, SendStreams},
    protocol::{
        EndReason, ExecEnd, ExecId, ExecUpdate, OutputPiece, OutputPlace, ServerMessage, Status,
        StdStream, limits::STDIN_WINDOW, utf8_boundary,
    },
};

const STREAMS: [StdStream; 2] = [StdStream::Stdout, StdStream::Stderr];

/// The statuses that were sent since the client last requested the exec.
#[derive(Debug, Default)]
struct Told {
    /// `RUNNING`.
    running: bool,
    /// `EXITED`.
    exited: bool,
    /// `DONE`.
    done: bool,
}

/// The state machine of a named exec at the server.
#[derive(Debug)]
pub struct ServedExec {
    exec: ExecId,
    output: SendStreams<2>,
    /// Whether output is bytes rather than text, so that no incomplete code point is held back.
    binary: bool,
    /// For each stream, an incomplete code point at its end. Cleared when the rest arrives, or when
    /// nothing arrives for a while.
    partial: [Vec<u8>; 2],
    /// For each stream, whether the client requested bytes that are gone and no later bytes are
    /// kept that would show the position of the stream. Cleared when the client is told the
    /// position.
    gone: [bool; 2],

    stdin: RecvStreams<1>,
    /// Bytes of stdin that were received and not yet passed to the pipe of the process.
    stdin_data: BytesMut,
    /// Whether the process takes no more stdin. Never cleared.
    stdin_closed: bool,
    /// Whether the client was told on this link that stdin is refused. Cleared when the link is
    /// lost.
    stdin_refused: bool,

    /// Whether the client requested the exec on this link. Cleared when the link is lost.
    attached: bool,
    /// Whether the code was started. Never cleared.
    started: bool,
    /// Whether the code could not be started. Never cleared.
    not_started: bool,
    told: Told,
    /// Answers to send. Cleared when the link is lost.
    statuses: VecDeque<ServerMessage>,
    /// The number of unanswered kills. Cleared when the link is lost.
    kills: usize,

    /// How the main process ended, and a message if the end needs one. Set by the exit.
    end: Option<(ExecEnd, Option<String>)>,
    /// Whether the output has ended, so that `end` contains its lengths. Never cleared.
    done: bool,
    /// Whether the client has acknowledged the end. Never cleared.
    end_acked: bool,
}

impl ServedExec {
    /// The maximum number of queued answers to kills.
    const MAX_STATUSES: usize = 64;

    /// Creates an exec that is being started for the client on this link.
    pub fn new(exec: ExecId, window: u64) -> Self {
        Self {
            exec,
            output: SendStreams::new(window),
            binary: false,
            partial: Default::default(),
            gone: [false; 2],
            stdin: RecvStreams::new(STDIN_WINDOW, [0]),
            stdin_data: BytesMut::new(),
            stdin_closed: false,
            stdin_refused: false,
            attached: true,
            started: false,
            not_started: false,
            told: Told::default(),
            statuses: VecDeque::new(),
            kills: 0,
            end: None,
            done: false,
            end_acked: false,
        }
    }

    /// The exec without a name (v1). Its client has no window for stdin: the caller limits stdin.
    pub fn unnamed(window: u64) -> Self {
        Self {
            stdin: RecvStreams::new(u64::MAX, [0]),
            ..Self::new(ExecId::from(""), window)
        }
    }

    /// An exec whose input and output are bytes rather than text.
    pub fn binary(exec: ExecId, window: u64) -> Self {
        Self {
            binary: true,
            ..Self::new(exec, window)
        }
    }

    /// How the main process ended.
    pub fn end(&self) -> Option<&ExecEnd> {
        self.end.as_ref().map(|(end, _)| end)
    }

    /// Whether the main process and the output have ended.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether a client has asked for it on this link.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether clients need only the id and the end of this exec any more.
    pub fn is_settled(&self) -> bool {
        self.end_acked
    }

    /// The number of bytes of output that are kept.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn kept(&self) -> u64 {
        let partial = self.partial.iter().map(|it| it.len() as u64);
        self.output.kept() + partial.sum::<u64>()
    }

    /// The number of bytes of output that may be sent past the last acknowledgement.
    pub fn window(&self) -> u64 {
        self.output.window()
    }

    /// The offsets in stdout and stderr that the client has acknowledged.
    pub fn acked(&self) -> [u64; 2] {
        self.output.acked()
    }

    /// The number of bytes that may be read from the process now.
    ///
    /// An incomplete code point doesn't use room: it is not sent, so the client could not make room
    /// by acknowledging it.
    pub fn room(&self) -> u64 {
        self.output.window().saturating_sub(self.output.kept())
    }

    // From the process.

    /// The code runs.
    pub fn handle_started(&mut self) {
        self.started = true;
    }

    /// The process printed something.
    pub fn handle_output(&mut self, stream: StdStream, bytes: &[u8]) {
        if bytes.is_empty() || self.done {
            return;
        }
        if self.binary {
            return self.output.push(stream as usize, BytesMut::from(bytes));
        }
        let partial = &mut self.partial[stream as usize];
        let mut data = BytesMut::with_capacity(partial.len() + bytes.len());
        data.extend_from_slice(partial);
        data.extend_from_slice(bytes);
        *partial = data.split_off(utf8_boundary(&data)).to_vec();
        self.output.push(stream as usize, data);
    }

    /// A stream of the process ended, before the exec is done. Only a binary exec tells the client
    /// at once: without a mark of its end, a stream ends with the exec.
    pub fn handle_output_ended(&mut self, stream: StdStream) {
        if self.binary && !self.done {
            self.output.finish(stream as usize);
        }
    }

    /// Whether an incomplete code point is held back until the rest of it arrives, or until
    /// [nothing arrives](Self::handle_silence) for a while.
    pub fn holds_back(&self, stream: StdStream) -> bool {
        !self.partial[stream as usize].is_empty()
    }

    /// The process printed nothing for a while. An incomplete code point is sent, because the
    /// client may wait for it.
    pub fn handle_silence(&mut self, stream: StdStream) {
        let partial = std::mem::take(&mut self.partial[stream as usize]);
        self.output.push(stream as usize, BytesMut::from(&*partial));
    }

    /// The main process ended. Other processes may hold its pipes open and print more.
    pub fn handle_exited(&mut self, end: ExecEnd, message: Option<String>) {
        if self.end.is_some() {
            return;
        }
        let by_itself = end.reason == EndReason::Exited;
        self.end = Some((end, message));
        self.handle_stdin_closed();
        if !by_itself {
            // After a kill or a timeout, no process is left. After any other exit, others may be
            // left, and a kill is for them.
            self.answer_kills();
        }
    }

    /// The output ended, after the main process. `cut`: whether another process still held it open.
    pub fn handle_done(&mut self, cut: bool) {
        if self.done {
            return;
        }
        for stream in STREAMS {
            self.handle_silence(stream);
        }
        if let Some((end, _)) = &mut self.end {
            end.lengths = Some(self.output.end());
            end.output_cut = cut;
            self.done = true;
        }
        self.answer_kills();
    }

    /// The exec could not be killed.
    pub fn handle_kill_failed(&mut self, why: &str) {
        for _ in 0..std::mem::take(&mut self.kills) {
            self.answer(Status::ExecutionForceKillError, Some(why.to_owned()));
        }
    }

    /// The exec could not be started. From now on, it only answers kills.
    pub fn handle_not_started(&mut self) {
        self.attached = false;
        self.not_started = true;
        self.end_acked = true;
        self.end = Some((ExecEnd::lost(), None));
        self.done = true;
        self.answer_kills();
    }

    /// Answers the kills, because no process of the exec is left.
    fn answer_kills(&mut self) {
        for _ in 0..std::mem::take(&mut self.kills) {
            self.answer(Status::ExecutionForceKilled, None);
        }
    }

    /// Drops the unacknowledged output of an exec that is done. A client that requests the exec, or
    /// waits for more output, is told that it is lost.
    pub fn abandon(&mut self, why: &str) {
        if let Some((end, message)) = &mut self.end
            && self.done
            && !self.end_acked
        {
            end.reason = EndReason::SandboxLost;
            end.lengths = None;
            *message = Some(why.to_owned());
            self.told.done &= self.output.sent() == self.output.end();
            self.end_acked = true;
            self.output.ack_all();
        }
    }

    /// Queues the answer to a request of the client.
    fn answer(&mut self, status: Status, reason: Option<String>) {
        if self.statuses.len() >= Self::MAX_STATUSES && status == Status::ExecutionForceKilled {
            // The queued answers report the same.
            return;
        }
        let update = ExecUpdate::new(self.exec.clone());
        let message = ServerMessage::exec_status(status, update, reason.clone());
        self.statuses.push_back(message);
        self.statuses.extend(reason.map(ServerMessage::error));
    }

    /// The pipe of the process took this many bytes of stdin.
    pub fn handle_stdin_taken(&mut self, bytes: usize) {
        let [taken] = self.stdin.taken();
        self.stdin.take([taken.saturating_add(bytes as u64)]);
    }

    /// The process has closed its stdin.
    pub fn handle_stdin_closed(&mut self) {
        self.stdin_closed = true;
        self.stdin_data.clear();
        self.refuse_lost_stdin();
    }

    /// Refuses stdin if the server has received bytes that the process will not take. So the client
    /// learns of it without sending more.
    fn refuse_lost_stdin(&mut self) {
        let is_lost = self.stdin_closed && !self.stdin.is_taken();
        if self.attached && self.end.is_none() && is_lost {
            self.refuse_stdin();
        }
    }

    /// Tells the client that stdin is refused, once on each link.
    fn refuse_stdin(&mut self) {
        if !std::mem::replace(&mut self.stdin_refused, true) {
            let reason = "The process has closed its standard input, or has ended.";
            self.answer(Status::StdinError, Some(reason.to_owned()));
        }
    }

    /// Returns stdin for the pipe of the process. `None` if there is none now, or if stdin is
    /// closed.
    pub fn poll_stdin(&mut self) -> Option<Bytes> {
        match self.stdin_data.is_empty() {
            true => None,
            false => Some(self.stdin_data.split().freeze()),
        }
    }

    /// Bytes of stdin that were received.
    pub fn stdin_received(&self) -> u64 {
        let [received] = self.stdin.received();
        received
    }

    /// Bytes of stdin that were received and that the pipe of the process has not taken.
    pub fn stdin_waiting(&self) -> u64 {
        let [taken] = self.stdin.taken();
        self.stdin_received() - taken
    }

    /// Whether to close the stdin of the process, because no more follows.
    pub fn is_stdin_over(&self) -> bool {
        self.stdin_closed || self.stdin.is_ended() && self.stdin_data.is_empty()
    }

    // From the client.

    /// Reduces the window of the output. A larger one has no effect.
    pub fn limit_window(&mut self, window: u64) {
        self.output.limit_window(window);
    }

    /// The client requests the exec from these offsets. `None`: from the last acknowledged offsets.
    pub fn attach(&mut self, offsets: Option<[u64; 2]>) {
        if self.not_started {
            // The client was told so, and the id is free.
            return;
        }
        self.attached = true;
        self.told = Told::default();
        self.stdin.resume();
        let offsets = offsets.unwrap_or(self.output.acked());
        for (stream, offset) in offsets.into_iter().enumerate() {
            self.gone[stream] = self.output.resume(stream, offset);
        }
        self.refuse_lost_stdin();
    }

    /// The link is lost.
    pub fn detach(&mut self) {
        self.attached = false;
        self.kills = 0;
        self.stdin_refused = false;
        self.statuses.clear();
    }

    /// The client requests a kill. Answered when no process of the exec is left.
    pub fn handle_kill(&mut self) {
        match self.done {
            true => self.answer(Status::ExecutionForceKilled, None),
            false => self.kills = (self.kills + 1).min(Self::MAX_STATUSES / 4),
        }
    }

    /// The client has taken the output up to these offsets and, if `done`, the end.
    pub fn handle_ack(&mut self, offsets: [u64; 2], done: bool) {
        self.output.handle_ack(offsets);
        self.end_acked |= done && self.done;
        if self.end_acked {
            self.output.ack_all();
        }
    }

    /// The client sends stdin.
    pub fn handle_stdin(&mut self, offset: u64, data: &[u8], eof: bool) {
        let end = offset.saturating_add(data.len() as u64);
        if end <= self.stdin_received() && !data.is_empty() {
            // A client that repeats a start doesn't know what the process has taken.
            self.stdin.resume();
        }
        let Some(known) = self.stdin.skip_known(0, offset, data.len()) else {
            return;
        };
        let new = &data[known..];
        if self.stdin_closed || self.stdin.is_ended() {
            if !new.is_empty() {
                self.refuse_stdin();
            }
        } else if self.stdin.accept(0, new.len()) {
            self.stdin_data.extend_from_slice(new);
            if eof {
                self.stdin.end(None);
            }
        }
    }

    // To the client.

    /// Returns the next message to the client. `None` if there is none now.
    pub fn poll_message(&mut self) -> Option<ServerMessage> {
        if self.attached && self.started && !std::mem::replace(&mut self.told.running, true) {
            let [stdin] = self.stdin.received();
            let update = ExecUpdate {
                stdin: Some(stdin),
                window: Some(self.window()),
                stdin_window: Some(STDIN_WINDOW),
                ..ExecUpdate::new(self.exec.clone())
            };
            let running = Status::ExecutionRunning;
            return Some(ServerMessage::exec_status(running, update, None));
        }
        let status = self.statuses.pop_front();
        if status.is_some() || !self.attached {
            return status;
        }
        self.poll_exited()
            .or_else(|| self.poll_stdin_ack())
            .or_else(|| self.poll_gone())
            .or_else(|| self.poll_output())
            .or_else(|| self.poll_end())
    }

    /// Reports the exit of the main process while the output continues. If the output has ended,
    /// too, or the exec is lost, `DONE` reports it instead.
    fn poll_exited(&mut self) -> Option<ServerMessage> {
        let end = self.end().filter(|_| !self.done && !self.told.exited)?;
        if end.reason == EndReason::SandboxLost {
            return None;
        }
        self.told.exited = true;
        self.ending(Status::ExecutionExited)
    }

    fn poll_stdin_ack(&mut self) -> Option<ServerMessage> {
        let [offset] = self.stdin.poll_ack(1)?;
        let exec = self.exec.clone();
        Some(ServerMessage::StdinAck { exec, offset })
    }

    /// Tells the client the position of a stream of which nothing is kept. Otherwise the client
    /// would wait for the bytes that are gone.
    fn poll_gone(&mut self) -> Option<ServerMessage> {
        let stream = self.gone.iter().position(|&gone| gone)?;
        self.gone[stream] = false;
        let offset = self.output.sent()[stream];
        Some(self.output_at(stream, offset, Bytes::new(), false))
    }

    fn poll_output(&mut self) -> Option<ServerMessage> {
        let piece = self.output.poll()?;
        let (stream, offset, eof) = (piece.stream, piece.offset, piece.eof);
        let data = Bytes::copy_from_slice(piece.data);
        Some(self.output_at(stream, offset, data, eof))
    }

    fn output_at(&self, stream: usize, offset: u64, data: Bytes, eof: bool) -> ServerMessage {
        let place = OutputPlace {
            exec: self.exec.clone(),
            offset,
        };
        let output = ServerMessage::output_at(STREAMS[stream], data, place);
        match (self.binary, output) {
            (true, ServerMessage::Output(piece)) => {
                ServerMessage::BinaryOutput(OutputPiece { eof, ..piece })
            }
            (_, output) => output,
        }
    }

    fn poll_end(&mut self) -> Option<ServerMessage> {
        if !self.done || self.told.done {
            return None;
        }
        self.told.done = true;
        self.ending(Status::ExecutionDone)
    }

    fn ending(&self, status: Status) -> Option<ServerMessage> {
        let (end, message) = self.end.clone()?;
        let update = ExecUpdate {
            end: Some(end),
            ..ExecUpdate::new(self.exec.clone())
        };
        Some(ServerMessage::exec_status(status, update, message))
    }
}

#[cfg(test)]
mod tests;
