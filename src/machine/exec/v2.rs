//! [`Named`]: what a named exec (protocol v2) has beyond one of v1: where its output and its input stand.

use bytes::{Buf, BytesMut};

use super::client::STDIN_MESSAGE;
use crate::{
    machine::{Finish, SandboxEnd},
    protocol::{
        ClientMessage, ExecId, NamedMessage, StdStream,
        limits::{MIN_WINDOW, STDIN_WINDOW},
        utf8_boundary,
    },
};

/// What becomes of a piece of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Bytes that never came before these, or that a server sent past its window and that are not kept.
    pub gap: u64,
    /// Bytes at the beginning of the piece that are not wanted.
    pub skip: usize,
}

/// Input that the process has not taken. Its numbers are counted from `base`.
#[derive(Debug, Default)]
struct Input {
    /// What the process had of another client before; known when the server has announced it.
    base: Option<u64>,
    /// From `taken` on.
    data: BytesMut,
    /// Taken by the pipe of the process.
    taken: u64,
    /// Sent on this link, or taken by the server before.
    sent: u64,
    /// A message with some of it waits for the link.
    sending: bool,
    /// Nothing comes after these.
    eof: bool,
    eof_sent: bool,
    /// The process has closed it.
    refused: bool,
}

/// What is known of the end of the output.
#[derive(Debug)]
enum End {
    /// Nothing: the process runs.
    Unknown,
    /// So many bytes there are of each stream.
    At([u64; 2]),
    /// The same, and another process still held the output.
    CutAt([u64; 2]),
    /// There is no more than what came, and there may have been.
    Lost,
}

/// A named exec.
#[derive(Debug)]
pub(super) struct Named {
    exec: ExecId,
    window: u64,
    /// The server has announced it on this link.
    pub(super) ready: bool,
    received: [u64; 2],
    /// Taken by the consumer.
    taken: [u64; 2],
    /// Told the server, on this link or another.
    acked: [u64; 2],
    /// The last acknowledgement may be lost with its link, or was that of another client.
    ack_again: bool,
    /// Nobody can ever read what comes: it counts as taken.
    unwanted: bool,
    end: End,
    /// The acknowledgement of the end was sent.
    settled: bool,
    input: Input,
}

impl Named {
    /// An exec of which everything before these offsets was received before.
    pub(super) fn new(exec: ExecId, window: u64, received: [u64; 2]) -> Self {
        Self {
            exec,
            window: window.max(MIN_WINDOW),
            ready: false,
            received,
            taken: received,
            acked: received,
            ack_again: false,
            unwanted: false,
            end: End::Unknown,
            settled: false,
            input: Input::default(),
        }
    }

    pub(super) fn encode(&self, message: NamedMessage<'_>) -> String {
        ClientMessage::Named(self.exec.clone(), message).encode()
    }

    pub(super) fn reconnect(&self) -> String {
        self.encode(NamedMessage::Reconnect {
            offsets: self.received,
        })
    }

    /// The server has announced it, with what it has taken of the input, and its window.
    pub(super) fn announced(&mut self, stdin: u64, window: Option<u64>) {
        self.ready = true;
        self.ack_again = self.taken != [0; 2];
        // No more than was asked for: that much is kept here.
        self.window = window.unwrap_or(self.window).min(self.window);
        let input = &mut self.input;
        // At first, all that the server has is of another client.
        let base = *input.base.get_or_insert(stdin);
        let most = input.taken + input.data.len() as u64;
        input.sent = stdin.saturating_sub(base).clamp(input.taken, most);
        input.sending = false;
        input.eof_sent = false;
    }

    /// A piece of output came. What the window does not allow is not kept, and shows as a gap: a server that sends
    /// more than it may cannot make this side grow.
    pub(super) fn admit(&mut self, stream: StdStream, offset: u64, length: usize) -> Admission {
        let unacknowledged = distance(self.acked, self.received);
        let received = self.received[stream as usize];
        let skip = received.saturating_sub(offset);
        // Not more than the length, which is a `usize`.
        let mut skip = usize::try_from(skip).unwrap_or(length).min(length);
        let mut gap = offset.saturating_sub(received);
        let new = (length - skip) as u64;
        if self.unwanted {
            (gap, skip) = (0, length);
        } else if unacknowledged.saturating_add(new) > self.window {
            gap = gap.saturating_add(new);
            skip = length;
        }
        let end = received.max(offset.saturating_add(length as u64));
        self.received[stream as usize] = end;
        // What never comes is not waited for.
        for place in [&mut self.taken, &mut self.acked] {
            let place = &mut place[stream as usize];
            *place = place.saturating_add(gap).min(end);
        }
        if self.unwanted {
            self.taken = self.received;
        }
        Admission { gap, skip }
    }

    /// Nobody can ever read the output: all of it counts as taken.
    pub(super) fn abandon(&mut self) {
        self.unwanted = true;
        self.taken = self.received;
    }

    /// The server said that its main process ended.
    pub(super) fn exited(&mut self) {
        self.input.refused = true;
    }

    /// The server said that its output ended, and how much there is.
    pub(super) fn ended(&mut self, lengths: Option<[u64; 2]>, cut: bool) {
        // One that the server does not know is not announced.
        self.ready = true;
        self.end = match (lengths, cut) {
            (Some(lengths), false) => End::At(lengths),
            (Some(lengths), true) => End::CutAt(lengths),
            (None, _) => End::Lost,
        };
    }

    /// Whether the server said that its output ended.
    pub(super) fn is_ended(&self) -> bool {
        !matches!(self.end, End::Unknown)
    }

    /// Whether all output is here that there is.
    pub(super) fn is_complete(&self) -> bool {
        match self.end {
            End::At(lengths) | End::CutAt(lengths) => {
                (0..2).all(|it| self.received[it] >= lengths[it])
            }
            End::Lost => true,
            End::Unknown => false,
        }
    }

    /// Why no more output comes. `lost`: why the exec was lost, if it was.
    pub(super) fn finish(&self, lost: Option<SandboxEnd>) -> Finish {
        match (&self.end, lost) {
            // If the length is known, no more output follows, also if the process was lost.
            (End::Lost, Some(end)) => Finish::SandboxLost(end),
            (End::CutAt(_), _) => Finish::Cut,
            _ => Finish::Complete,
        }
    }

    pub(super) fn received(&self) -> [u64; 2] {
        self.received
    }

    pub(super) fn taken(&self) -> [u64; 2] {
        self.taken
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn exec(&self) -> &ExecId {
        &self.exec
    }

    /// The consumer has taken everything before these offsets.
    pub(super) fn handle_taken(&mut self, taken: [u64; 2]) {
        for (index, taken) in taken.into_iter().enumerate() {
            let known = &mut self.taken[index];
            *known = taken.max(*known).min(self.received[index]);
        }
    }

    /// How many bytes are taken before the server is told: a quarter of what of the window is not occupied by output
    /// that nobody takes. Of the window alone it would not do: where one stream is left unread, what is left for the
    /// other may be less than a quarter, and the server would wait for ever.
    fn ack_step(&self) -> u64 {
        let untaken = distance(self.taken, self.received);
        (self.window.saturating_sub(untaken) / 4).max(1)
    }

    /// How many more bytes are to be taken before an acknowledgement is due.
    pub(super) fn ack_after(&self) -> u64 {
        let new = distance(self.acked, self.taken);
        self.ack_step().saturating_sub(new).max(1)
    }

    /// The acknowledgement that is due, if one is, and whether it is the last.
    pub(super) fn ack(&mut self, output_ended: bool) -> Option<(String, bool)> {
        if !self.ready || self.settled {
            return None;
        }
        let new = distance(self.acked, self.taken);
        let done = output_ended && self.taken == self.received;
        if !done && !self.ack_again && new < self.ack_step() {
            return None;
        }
        self.ack_again = false;
        self.acked = self.taken;
        self.settled = done;
        let text = self.encode(NamedMessage::Ack {
            offsets: self.acked,
            done,
        });
        Some((text, done))
    }

    pub(super) fn push_input(&mut self, data: &[u8], eof: bool) {
        self.input.data.extend_from_slice(data);
        self.input.eof |= eof;
    }

    pub(super) fn is_input_closed(&self) -> bool {
        self.input.eof
    }

    /// The pipe of the process has taken so much in all; gives how much of that is new.
    pub(super) fn input_taken(&mut self, offset: u64) -> usize {
        let input = &mut self.input;
        let new = offset
            .saturating_sub(input.base.unwrap_or(0))
            .saturating_sub(input.taken)
            .min(input.data.len() as u64);
        let count = usize::try_from(new).unwrap_or(usize::MAX);
        input.data.advance(count);
        input.taken += new;
        input.sent = input.sent.max(input.taken);
        count
    }

    /// The process has closed its input.
    pub(super) fn input_refused(&mut self) {
        self.input.data = BytesMut::new();
        self.input.sent = self.input.taken;
        self.input.eof = true;
        self.input.refused = true;
    }

    pub(super) fn is_input_refused(&self) -> bool {
        self.input.refused
    }

    /// The next message with input, as far as the server takes more.
    pub(super) fn poll_input(&mut self) -> Option<String> {
        let over = self.input.refused || self.is_ended();
        if !self.ready || self.input.sending || over {
            return None;
        }
        let input = &self.input;
        let on_the_way = input.sent - input.taken;
        let room = STDIN_WINDOW
            .saturating_sub(on_the_way)
            .min(STDIN_MESSAGE as u64);
        let from = usize::try_from(on_the_way).ok()?;
        let rest = input.data.get(from..)?;
        let most = rest.len().min(usize::try_from(room).ok()?);
        let cut = match rest.len() <= most {
            true => most,
            false => utf8_boundary(&rest[..most]),
        };
        let eof = input.eof && cut == rest.len();
        if cut == 0 && (!eof || input.eof_sent) {
            return None;
        }
        let text = self.encode(NamedMessage::Stdin {
            offset: input.base.unwrap_or(0).saturating_add(input.sent),
            data: rest[..cut].into(),
            eof,
        });
        self.input.sent += cut as u64;
        self.input.eof_sent |= eof;
        self.input.sending = true;
        Some(text)
    }

    /// The link took the message with input.
    pub(super) fn input_written(&mut self) {
        self.input.sending = false;
    }
}

/// Bytes of both streams between two places.
fn distance(from: [u64; 2], to: [u64; 2]) -> u64 {
    let [stdout, stderr] = [0, 1].map(|it| to[it].saturating_sub(from[it]));
    stdout.saturating_add(stderr)
}
