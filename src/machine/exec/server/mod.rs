//! [`ServedExec`]: a named exec at its server (protocol v2).
//!
//! Output is kept until the client has acknowledged it. On each link it is sent from where the
//! client asks for it, at most the window past the last acknowledgement. Stdin is taken once, and
//! the end is kept until it is acknowledged.
//!
//! An exec ends in two steps: its main process [exits](ServedExec::handle_exited), and its output
//! [ends](ServedExec::handle_done), which other processes may hold open for a while.

mod stored;

pub use stored::StoredExec;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::{
    machine::stream::{RecvStreams, SendStreams},
    protocol::{
        EndReason, ExecEnd, ExecId, ExecUpdate, OutputPlace, ServerMessage, Status, StdStream,
        limits::STDIN_WINDOW, utf8_boundary,
    },
};

const STREAMS: [StdStream; 2] = [StdStream::Stdout, StdStream::Stderr];

/// What the client was told since it last asked for the exec.
#[derive(Debug, Default)]
struct Told {
    /// `RUNNING`.
    running: bool,
    /// `EXITED`.
    exited: bool,
    /// `DONE`.
    done: bool,
}

/// The state machine of a named exec at its server.
#[derive(Debug)]
pub struct ServedExec {
    exec: ExecId,
    output: SendStreams<2>,
    /// Of each stream, the beginning of a code point that was printed last. Cleared when the rest
    /// comes, or nothing for a while.
    partial: [Vec<u8>; 2],
    /// Of each stream, whether the client asked on this link for bytes that are gone, and none are
    /// kept that would show it where the stream stands. Cleared when it is told.
    gone: [bool; 2],

    stdin: RecvStreams<1>,
    /// Bytes of stdin that were received and not given to the pipe of the process.
    stdin_data: BytesMut,
    /// The process takes no more stdin. Never cleared.
    stdin_closed: bool,
    /// The client was told on this link that stdin is refused. Cleared when the link is lost.
    stdin_refused: bool,

    /// The client asked for the exec on this link. Cleared when the link is lost.
    attached: bool,
    /// The code runs, or ran. Never cleared.
    started: bool,
    /// The code could not be started. Never cleared.
    not_started: bool,
    told: Told,
    /// Answers to send. Cleared when the link is lost.
    statuses: VecDeque<ServerMessage>,
    /// Kills that are not answered. Cleared when the link is lost.
    kills: usize,

    /// How the main process ended, and the reason where that needs one. Set by the exit.
    end: Option<(ExecEnd, Option<String>)>,
    /// No more output comes, and `end` has its lengths. Never cleared.
    done: bool,
    /// The client has acknowledged the end. Never cleared.
    end_acked: bool,
}

impl ServedExec {
    /// Most statuses that wait for a link, beside those that are sent once on each. They answer a
    /// kill that comes then.
    const MAX_STATUSES: usize = 64;

    /// An exec that is being started for the client on this link.
    pub fn new(exec: ExecId, window: u64) -> Self {
        Self {
            exec,
            output: SendStreams::new(window),
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

    /// How its main process ended.
    pub fn end(&self) -> Option<&ExecEnd> {
        self.end.as_ref().map(|(end, _)| end)
    }

    /// Whether its main process and its output have ended.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether a client has asked for it on this link.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether no client needs more of it than its id and its end.
    pub fn is_settled(&self) -> bool {
        self.end_acked
    }

    /// Bytes of output that are kept.
    #[cfg(any(test, feature = "unstable-internals"))]
    pub fn kept(&self) -> u64 {
        let partial = self.partial.iter().map(|it| it.len() as u64);
        self.output.kept() + partial.sum::<u64>()
    }

    /// Bytes of output that may be sent past the last acknowledgement.
    pub fn window(&self) -> u64 {
        self.output.window()
    }

    /// Bytes that may be read from the process now.
    ///
    /// The beginning of a code point does not count: it is not sent, so that the client cannot make
    /// room by an acknowledgement.
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
        let partial = &mut self.partial[stream as usize];
        let mut data = BytesMut::with_capacity(partial.len() + bytes.len());
        data.extend_from_slice(partial);
        data.extend_from_slice(bytes);
        *partial = data.split_off(utf8_boundary(&data)).to_vec();
        self.output.push(stream as usize, data);
    }

    /// Whether the beginning of a code point is held back until the rest of it comes, or
    /// [nothing](Self::handle_silence) for a while.
    pub fn holds_back(&self, stream: StdStream) -> bool {
        !self.partial[stream as usize].is_empty()
    }

    /// The process printed nothing for a while: the beginning of a code point is sent as it is,
    /// since the client may wait for it.
    pub fn handle_silence(&mut self, stream: StdStream) {
        let partial = std::mem::take(&mut self.partial[stream as usize]);
        self.output.push(stream as usize, BytesMut::from(&*partial));
    }

    /// Its main process ended. Other processes may hold its pipes, and print more.
    pub fn handle_exited(&mut self, end: ExecEnd, message: Option<String>) {
        if self.end.is_some() {
            return;
        }
        let by_itself = end.reason == EndReason::Exited;
        self.end = Some((end, message));
        self.handle_stdin_closed();
        if !by_itself {
            // No process is left. After an exit by itself others may be, and a kill is for them.
            self.answer_kills();
        }
    }

    /// Its output ended, after its main process. `cut`: another process still held it.
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

    /// It could not be killed.
    pub fn handle_kill_failed(&mut self, why: &str) {
        for _ in 0..std::mem::take(&mut self.kills) {
            self.answer(Status::ExecutionForceKillError, Some(why.to_owned()));
        }
    }

    /// It could not be started. From now on it only answers kills.
    pub fn handle_not_started(&mut self) {
        self.attached = false;
        self.not_started = true;
        self.end_acked = true;
        self.end = Some((ExecEnd::lost(), None));
        self.done = true;
        self.answer_kills();
    }

    /// None of its processes is left.
    fn answer_kills(&mut self) {
        for _ in 0..std::mem::take(&mut self.kills) {
            self.answer(Status::ExecutionForceKilled, None);
        }
    }

    /// Drops the output of an exec that is over. A client that asks for it, or waits for the rest
    /// of it, is told that it is lost.
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
            // The answers that wait say the same.
            return;
        }
        let update = ExecUpdate::new(self.exec.clone());
        let message = ServerMessage::exec_status(status, update, reason.clone());
        self.statuses.push_back(message);
        self.statuses.extend(reason.map(ServerMessage::error));
    }

    /// The pipe of the process took bytes of stdin.
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

    /// Tells at once that stdin is lost that the server had received and the process will not take:
    /// the client need not send more to hear of it.
    fn refuse_lost_stdin(&mut self) {
        let is_lost = self.stdin_closed && !self.stdin.is_taken();
        if self.attached && self.end.is_none() && is_lost {
            self.refuse_stdin();
        }
    }

    /// Once on each link.
    fn refuse_stdin(&mut self) {
        if !std::mem::replace(&mut self.stdin_refused, true) {
            let reason = "The process has closed its standard input, or has ended.";
            self.answer(Status::StdinError, Some(reason.to_owned()));
        }
    }

    /// Stdin for the pipe of the process. `None`: there is none now, or it was closed.
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

    /// Whether the stdin of the process is to be closed, because no more comes.
    pub fn is_stdin_over(&self) -> bool {
        self.stdin_closed || self.stdin.is_ended() && self.stdin_data.is_empty()
    }

    // From the client.

    /// The client asks for the exec: by `reconnect` from these offsets, or by its request once
    /// more.
    pub fn attach(&mut self, offsets: Option<[u64; 2]>) {
        if self.not_started {
            // The client is told so, and then the id is free.
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

    /// The client asks for a kill. Answered when none of the processes is left.
    pub fn handle_kill(&mut self) {
        match self.done {
            true => self.answer(Status::ExecutionForceKilled, None),
            false => self.kills = (self.kills + 1).min(Self::MAX_STATUSES / 4),
        }
    }

    /// The client has taken output up to these offsets, and perhaps the end.
    pub fn handle_ack(&mut self, offsets: [u64; 2], done: bool) {
        self.output.handle_ack(offsets);
        self.end_acked |= done && self.done;
        if self.end_acked {
            self.output.ack_all();
        }
    }

    /// The client sends stdin.
    pub fn handle_stdin(&mut self, offset: u64, data: &[u8], eof: bool) {
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

    /// The next message to the client. `None`: there is none now.
    pub fn poll_message(&mut self) -> Option<ServerMessage> {
        if self.attached && self.started && !std::mem::replace(&mut self.told.running, true) {
            let [stdin] = self.stdin.received();
            let update = ExecUpdate {
                stdin: Some(stdin),
                window: Some(self.window()),
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

    /// Says that the main process ended, while its output goes on. Later, the end says both. It
    /// alone says that the exec is lost.
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

    /// Says where a stream stands of which nothing is kept: the client would wait for it.
    fn poll_gone(&mut self) -> Option<ServerMessage> {
        let stream = self.gone.iter().position(|&gone| gone)?;
        self.gone[stream] = false;
        let offset = self.output.sent()[stream];
        Some(self.output_at(stream, offset, Bytes::new()))
    }

    fn poll_output(&mut self) -> Option<ServerMessage> {
        let piece = self.output.poll()?;
        let (stream, offset) = (piece.stream, piece.offset);
        let data = Bytes::copy_from_slice(piece.data);
        Some(self.output_at(stream, offset, data))
    }

    fn output_at(&self, stream: usize, offset: u64, data: Bytes) -> ServerMessage {
        let exec = self.exec.clone();
        ServerMessage::output_at(STREAMS[stream], data, OutputPlace { exec, offset })
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
