//! [`ServedExec`]: a named exec as its server keeps it (protocol v2).
//!
//! What the process printed is kept until the client has acknowledged it, in the order in which it came. On
//! each link it is sent on from where the client asks for it, never more than the window past the last
//! acknowledgement. Input is taken once, and the end is kept until it is acknowledged.
//!
//! The end has two steps: the main process [exits](ServedExec::handle_exited), and its output
//! [ends](ServedExec::handle_done), which other processes may hold open for a while.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::protocol::{
    EndReason, ExecEnd, ExecId, ExecUpdate, OutputPlace, ServerMessage, Status, StdStream,
    limits::{MIN_WINDOW, STDIN_WINDOW},
    utf8_boundary,
};

/// Largest piece of output in one message, in bytes.
const PIECE: usize = 64 * 1024;

/// With more chunks than this, output that alternates between the streams is gathered by stream: a chunk costs more
/// than the few bytes that may be in it.
const MANY_CHUNKS: usize = 256;

/// Output of one stream, in one piece. A code point is never split over two.
#[derive(Debug)]
struct Chunk {
    stream: StdStream,
    offset: u64,
    data: BytesMut,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.data.len() as u64)
    }
}

/// Where one stream stands. All are numbers of bytes from its beginning.
#[derive(Clone, Debug, Default)]
struct Stream {
    /// Acknowledged.
    acked: u64,
    /// Sent on this link, or received by the client before.
    sent: u64,
    /// Put into chunks.
    chunked: u64,
    /// The beginning of a code point, behind those.
    partial: Vec<u8>,
    /// What the client asked for was acknowledged before, and nothing is behind it that would show that.
    gone: bool,
}

impl Stream {
    fn printed(&self) -> u64 {
        self.chunked + self.partial.len() as u64
    }
}

/// What a server stores of an exec that is over: the end, and what was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredExec {
    /// The id.
    pub exec: ExecId,
    /// Bytes of output that may be sent unacknowledged.
    pub window: u64,
    /// How it ended.
    pub end: ExecEnd,
    /// Why, where that needs words.
    pub message: Option<String>,
    /// Stream, offset and bytes, in the order in which they came.
    pub output: Vec<(StdStream, u64, Bytes)>,
}

/// The state machine of a named exec, on the side of the server.
#[derive(Debug)]
pub struct ServedExec {
    exec: ExecId,
    window: u64,
    streams: [Stream; 2],
    chunks: VecDeque<Chunk>,
    /// The first chunk that may hold something to send.
    next: usize,

    /// The client asked for it on this link.
    attached: bool,
    started: bool,
    /// It could not be started.
    never_was: bool,
    /// To be sent before anything else.
    announce: bool,
    statuses: VecDeque<ServerMessage>,

    /// Received, and not given to the pipe of the process.
    stdin: BytesMut,
    stdin_received: u64,
    stdin_taken: u64,
    stdin_ack_due: bool,
    stdin_eof: bool,
    stdin_closed: bool,
    stdin_refused: bool,

    /// Kills that are not answered.
    kills: usize,
    /// How the main process ended.
    end: Option<(ExecEnd, Option<String>)>,
    exit_sent: bool,
    /// No more output comes, and the lengths in `end` are known.
    done: bool,
    end_sent: bool,
    end_acked: bool,
}

impl ServedExec {
    /// Most statuses that wait for a link, but for what is said once on each. A kill that comes then is answered by those.
    const MAX_STATUSES: usize = 64;

    /// An exec that is being started, for the client on this link.
    pub fn new(exec: ExecId, window: u64) -> Self {
        Self {
            exec,
            window,
            streams: Default::default(),
            chunks: VecDeque::new(),
            next: 0,
            attached: true,
            started: false,
            never_was: false,
            announce: false,
            statuses: VecDeque::new(),
            stdin: BytesMut::new(),
            stdin_received: 0,
            stdin_taken: 0,
            stdin_ack_due: false,
            stdin_eof: false,
            stdin_closed: false,
            stdin_refused: false,
            kills: 0,
            end: None,
            exit_sent: false,
            done: false,
            end_sent: false,
            end_acked: false,
        }
    }

    /// An exec that was stored; nobody has asked for it yet.
    pub fn restored(stored: StoredExec) -> Self {
        let mut exec = Self::new(stored.exec, stored.window.max(MIN_WINDOW));
        exec.attached = false;
        exec.started = true;
        exec.stdin_closed = true;
        let lengths = stored.end.lengths.unwrap_or_default();
        let mut ends = lengths;
        for &(stream, offset, ref data) in stored.output.iter().rev() {
            // From the back: each piece ends where the one after it begins.
            let end = &mut ends[stream as usize];
            if offset.checked_add(data.len() as u64) != Some(*end) {
                return exec.broken();
            }
            *end = offset;
        }
        for (stream, (acked, length)) in exec.streams.iter_mut().zip(ends.into_iter().zip(lengths))
        {
            stream.acked = acked;
            stream.sent = acked;
            stream.chunked = length;
        }
        let chunks = stored.output.into_iter();
        let chunks = chunks.map(|(stream, offset, data)| Chunk {
            stream,
            offset,
            data: BytesMut::from(&*data),
        });
        exec.chunks = chunks.collect();
        exec.end = Some((stored.end, stored.message));
        exec.done = true;
        exec
    }

    /// What was stored of it cannot be: whoever asks for it is told that it is lost.
    fn broken(mut self) -> Self {
        let why = "What was stored of the execution cannot be read.";
        self.end = Some((ExecEnd::lost(), Some(why.to_owned())));
        self.done = true;
        self
    }

    /// What is to be stored of it, once it is over.
    pub fn store(&self) -> Option<StoredExec> {
        let (end, message) = self.end.clone().filter(|_| self.done)?;
        let output = self.chunks.iter().map(|chunk| {
            // Some of the first may be acknowledged.
            let acked = self.streams[chunk.stream as usize].acked;
            let offset = chunk.offset.max(acked).min(chunk.end());
            let from = usize::try_from(offset - chunk.offset).unwrap_or_default();
            let data = Bytes::copy_from_slice(&chunk.data[from..]);
            (chunk.stream, offset, data)
        });
        Some(StoredExec {
            exec: self.exec.clone(),
            window: self.window,
            end,
            message,
            output: output.collect(),
        })
    }

    /// The id.
    pub fn id(&self) -> &ExecId {
        &self.exec
    }

    /// How its main process ended.
    pub fn end(&self) -> Option<&ExecEnd> {
        self.end.as_ref().map(|(end, _)| end)
    }

    /// Whether its main process has ended, and its output has, too.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nobody needs more of it than its id and its end.
    pub fn is_settled(&self) -> bool {
        self.end_acked
    }

    /// Bytes of output that are kept.
    pub fn kept(&self) -> u64 {
        self.streams
            .iter()
            .map(|stream| stream.printed() - stream.acked)
            .sum()
    }

    /// Bytes of output that may be sent unacknowledged.
    pub fn window(&self) -> u64 {
        self.window
    }

    /// Bytes that may be read from the process now.
    ///
    /// The beginning of a code point does not count: it is not sent, so the client cannot make room for more.
    pub fn room(&self) -> u64 {
        let streams = self.streams.iter();
        let sendable: u64 = streams.map(|stream| stream.chunked - stream.acked).sum();
        self.window.saturating_sub(sendable)
    }

    // What the process says.

    /// The code runs.
    pub fn handle_started(&mut self) {
        self.started = true;
        self.announce = true;
    }

    /// The process printed something.
    pub fn handle_output(&mut self, stream: StdStream, bytes: &[u8]) {
        if bytes.is_empty() || self.done {
            return;
        }
        let place = &mut self.streams[stream as usize];
        let mut data = BytesMut::with_capacity(place.partial.len() + bytes.len());
        data.extend_from_slice(&place.partial);
        data.extend_from_slice(bytes);
        place.partial = data.split_off(utf8_boundary(&data)).to_vec();
        self.push(stream, data);
    }

    /// Whether the beginning of a code point is held back, until the rest of it comes, or
    /// [nothing](Self::handle_silence) for a while.
    pub fn holds_back(&self, stream: StdStream) -> bool {
        !self.streams[stream as usize].partial.is_empty()
    }

    /// The process printed nothing more for a while: what it began of a code point is all that it says for now, and
    /// somebody may wait for it.
    pub fn handle_silence(&mut self, stream: StdStream) {
        let partial = std::mem::take(&mut self.streams[stream as usize].partial);
        self.push(stream, BytesMut::from(&*partial));
    }

    fn push(&mut self, stream: StdStream, data: BytesMut) {
        let place = &mut self.streams[stream as usize];
        let offset = place.chunked;
        place.chunked += data.len() as u64;
        if data.is_empty() {
            return;
        }
        let back = match self.chunks.len() {
            0..MANY_CHUNKS => 1,
            _ => 2,
        };
        let last = self.chunks.iter_mut().enumerate().rev().take(back);
        let last = last.into_iter().find(|(_, chunk)| chunk.stream == stream);
        if let Some((index, last)) = last
            && last.data.len() + data.len() <= PIECE
        {
            last.data.extend_from_slice(&data);
            // What came before may all be sent.
            self.next = self.next.min(index);
            return;
        }
        self.chunks.push_back(Chunk {
            stream,
            offset,
            data,
        });
    }

    /// Its main process ended. More output may come, of other processes that hold its pipes.
    pub fn handle_exited(&mut self, end: ExecEnd, message: Option<String>) {
        if self.end.is_some() {
            return;
        }
        let by_itself = end.reason == EndReason::Exited;
        self.end = Some((end, message));
        self.handle_stdin_closed();
        if !by_itself {
            // No process is left. After an end by itself some may be, and a kill is for them.
            self.answer_kills();
        }
    }

    /// Its output ended, after its main process. `cut`: another process still held it.
    pub fn handle_done(&mut self, cut: bool) {
        if self.done {
            return;
        }
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            self.handle_silence(stream);
        }
        if let Some((end, _)) = &mut self.end {
            end.lengths = Some([self.streams[0].chunked, self.streams[1].chunked]);
            end.output_cut = cut;
            self.done = true;
        }
        self.answer_kills();
    }

    /// Its main process and its output ended together.
    pub fn handle_end(&mut self, end: ExecEnd, message: Option<String>) {
        self.handle_exited(end, message);
        self.handle_done(false);
    }

    /// It could not be killed.
    pub fn handle_kill_failed(&mut self, why: &str) {
        for _ in 0..std::mem::take(&mut self.kills) {
            self.handle_status(Status::ExecutionForceKillError, Some(why.to_owned()));
        }
    }

    /// It could not be started: it never was, and says nothing any more.
    pub fn handle_not_started(&mut self) {
        self.attached = false;
        self.never_was = true;
        self.end_acked = true;
        self.end = Some((ExecEnd::lost(), None));
        self.done = true;
        self.answer_kills();
    }

    /// None of its processes is left.
    fn answer_kills(&mut self) {
        for _ in 0..std::mem::take(&mut self.kills) {
            self.handle_status(Status::ExecutionForceKilled, None);
        }
    }

    /// Drops the output of one that is over. Whoever asks for it, or waits for the rest of it, is told that it is lost.
    pub fn discard(&mut self, why: &str) {
        if let Some((end, message)) = &mut self.end
            && self.done
            && !self.end_acked
        {
            end.reason = EndReason::SandboxLost;
            end.lengths = None;
            *message = Some(why.to_owned());
            let mut streams = self.streams.iter();
            let is_waited_for = streams.any(|stream| stream.sent < stream.chunked);
            self.ack([u64::MAX; 2], true);
            self.end_sent &= !is_waited_for;
        }
    }

    /// Something that the client asked for on this link was done, or not.
    pub fn handle_status(&mut self, status: Status, reason: Option<String>) {
        if self.statuses.len() >= Self::MAX_STATUSES && status == Status::ExecutionForceKilled {
            // Those that wait say as much.
            return;
        }
        let update = ExecUpdate::new(self.exec.clone());
        let message = ServerMessage::exec_status(status, update, reason.clone());
        self.statuses.push_back(message);
        self.statuses.extend(reason.map(ServerMessage::error));
    }

    /// The pipe of the process took bytes of input.
    pub fn handle_stdin_taken(&mut self, bytes: usize) {
        let taken = self.stdin_taken.saturating_add(bytes as u64);
        self.stdin_taken = taken.min(self.stdin_received);
        self.stdin_ack_due = true;
    }

    /// The process has closed its input.
    pub fn handle_stdin_closed(&mut self) {
        self.stdin_closed = true;
        self.stdin.clear();
        self.refuse_lost_stdin();
    }

    /// Input that the server had taken, and that the process never will, is told as soon as that is known: the client
    /// need not send more to hear of it.
    fn refuse_lost_stdin(&mut self) {
        let is_lost = self.stdin_closed && self.stdin_received > self.stdin_taken;
        if self.attached && self.end.is_none() && is_lost {
            self.refuse_stdin();
        }
    }

    /// Once on each link.
    fn refuse_stdin(&mut self) {
        if !std::mem::replace(&mut self.stdin_refused, true) {
            let reason = "The process has closed its standard input, or has ended.";
            self.handle_status(Status::StdinError, Some(reason.to_owned()));
        }
    }

    /// Input for the pipe of the process. `None`: there is none now, or it was closed.
    pub fn poll_stdin(&mut self) -> Option<Bytes> {
        match self.stdin.is_empty() {
            true => None,
            false => Some(self.stdin.split().freeze()),
        }
    }

    /// Whether the input of the process is to be closed: nothing more comes.
    pub fn is_stdin_over(&self) -> bool {
        self.stdin_closed || self.stdin_eof && self.stdin.is_empty()
    }

    // What the client says.

    /// The client asks for it, by a `reconnect` from these offsets, or by its request once more.
    pub fn attach(&mut self, offsets: Option<[u64; 2]>) {
        if self.never_was {
            // Whoever started it says so, and then nobody knows it any more.
            return;
        }
        self.attached = true;
        self.announce = self.started;
        self.stdin_ack_due = self.stdin_taken > 0;
        self.exit_sent = false;
        self.end_sent = false;
        self.next = 0;
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let asked = offsets.map_or(stream.acked, |offsets| offsets[index]);
            stream.sent = asked.clamp(stream.acked, stream.chunked);
            stream.gone = asked < stream.acked && stream.acked == stream.chunked;
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

    /// The client asks for its death. Answered when none of its processes is left.
    pub fn kill(&mut self) {
        match self.done {
            true => self.handle_status(Status::ExecutionForceKilled, None),
            false => self.kills = (self.kills + 1).min(Self::MAX_STATUSES / 4),
        }
    }

    /// The client has taken output, and perhaps the end.
    pub fn ack(&mut self, offsets: [u64; 2], done: bool) {
        for (stream, offset) in self.streams.iter_mut().zip(offsets) {
            stream.acked = offset.clamp(stream.acked, stream.sent.max(stream.acked));
        }
        self.end_acked |= done && self.done;
        if self.end_acked {
            for stream in &mut self.streams {
                stream.acked = stream.chunked;
                stream.sent = stream.chunked;
            }
        }
        self.drop_acked();
    }

    fn drop_acked(&mut self) {
        // One stream may be far ahead of the other.
        let streams = &self.streams;
        let is_acked = |chunk: &Chunk| chunk.end() <= streams[chunk.stream as usize].acked;
        if self.chunks.front().is_some_and(is_acked) || self.chunks.len() > 1 {
            let before = self.chunks.iter().take(self.next);
            let gone = before.filter(|chunk| is_acked(chunk)).count();
            self.next -= gone;
            self.chunks.retain(|chunk| !is_acked(chunk));
        }
    }

    /// Bytes for the input of the process.
    pub fn stdin(&mut self, offset: u64, data: &[u8], eof: bool) {
        let known = self.stdin_received.saturating_sub(offset);
        if offset > self.stdin_received {
            return;
        }
        let new = data.get(usize::try_from(known).unwrap_or(usize::MAX)..);
        // An end before what is already here is none.
        let Some(new) = new else { return };
        if self.stdin_closed || self.stdin_eof {
            if !new.is_empty() {
                self.refuse_stdin();
            }
            return;
        }
        let on_the_way = self.stdin_received - self.stdin_taken;
        if on_the_way + new.len() as u64 > STDIN_WINDOW {
            return;
        }
        self.stdin_received += new.len() as u64;
        self.stdin.extend_from_slice(new);
        self.stdin_eof = eof;
    }

    // What goes to the client.

    /// The next message to the client. `None`: there is none now.
    pub fn poll_message(&mut self) -> Option<ServerMessage> {
        if self.attached && std::mem::take(&mut self.announce) {
            let update = ExecUpdate {
                stdin: Some(self.stdin_received),
                window: Some(self.window),
                ..ExecUpdate::new(self.exec.clone())
            };
            return Some(ServerMessage::exec_status(
                Status::ExecutionRunning,
                update,
                None,
            ));
        }
        if let Some(status) = self.statuses.pop_front() {
            return Some(status);
        }
        if !self.attached {
            return None;
        }
        if let Some(exited) = self.poll_exited() {
            return Some(exited);
        }
        if std::mem::take(&mut self.stdin_ack_due) {
            return Some(ServerMessage::StdinAck {
                exec: self.exec.clone(),
                offset: self.stdin_taken,
            });
        }
        self.poll_gone()
            .or_else(|| self.poll_output())
            .or_else(|| self.poll_end())
    }

    /// Says where the output goes on of which nothing is kept: the client would wait for it.
    fn poll_gone(&mut self) -> Option<ServerMessage> {
        for name in [StdStream::Stdout, StdStream::Stderr] {
            let stream = &mut self.streams[name as usize];
            if std::mem::take(&mut stream.gone) {
                let place = OutputPlace {
                    exec: self.exec.clone(),
                    offset: stream.sent,
                };
                return Some(ServerMessage::output_at(name, Bytes::new(), place));
            }
        }
        None
    }

    fn poll_output(&mut self) -> Option<ServerMessage> {
        let unacked: u64 = self
            .streams
            .iter()
            .map(|stream| stream.sent.saturating_sub(stream.acked))
            .sum();
        let window = usize::try_from(self.window.saturating_sub(unacked)).unwrap_or(usize::MAX);
        while let Some(chunk) = self.chunks.get(self.next) {
            let stream = &mut self.streams[chunk.stream as usize];
            let from = stream.sent.saturating_sub(chunk.offset);
            let rest = usize::try_from(from)
                .ok()
                .and_then(|from| chunk.data.get(from..))
                .unwrap_or_default();
            if rest.is_empty() {
                self.next += 1;
                continue;
            }
            let most = window.min(PIECE);
            let cut = match rest.len() <= most {
                true => rest.len(),
                false => utf8_boundary(&rest[..most]),
            };
            if cut == 0 {
                return None;
            }
            let place = OutputPlace {
                exec: self.exec.clone(),
                offset: stream.sent,
            };
            stream.sent += cut as u64;
            let data = Bytes::copy_from_slice(&rest[..cut]);
            return Some(ServerMessage::output_at(chunk.stream, data, place));
        }
        None
    }

    /// Says that the main process ended, while its output goes on. Afterwards the end says both.
    /// That it is lost is said by the end alone.
    fn poll_exited(&mut self) -> Option<ServerMessage> {
        let is_lost = self
            .end()
            .is_some_and(|end| end.reason == EndReason::SandboxLost);
        if self.done || self.exit_sent || is_lost {
            return None;
        }
        let exited = self.ending(Status::ExecutionExited)?;
        self.exit_sent = true;
        Some(exited)
    }

    fn poll_end(&mut self) -> Option<ServerMessage> {
        if !self.done || self.end_sent {
            return None;
        }
        self.end_sent = true;
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
