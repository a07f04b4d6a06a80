//! [`Named`]: what a named exec (protocol v2) has beyond one of v1: where its output and its input stand.

use bytes::{Buf, BytesMut};

use super::STDIN_MESSAGE;
use crate::{
    machine::ProcessEnd,
    protocol::{
        ClientMessage, ExecId, NamedMessage, StdStream, limits::STDIN_WINDOW, utf8_boundary,
    },
};

/// What becomes of a piece of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Bytes that never came before these.
    pub gap: u64,
    /// Bytes at the beginning of the piece that came before.
    pub skip: usize,
}

/// Input that the process has not taken.
#[derive(Debug, Default)]
struct Input {
    /// From `taken` on.
    data: BytesMut,
    /// Taken by the pipe of the process.
    taken: u64,
    /// Sent on this link, or taken by the server before.
    sent: u64,
    /// Nothing comes after these.
    eof: bool,
    eof_sent: bool,
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
    acked: [u64; 2],
    /// How it ended, and how much output there is.
    pub(super) end: Option<(ProcessEnd, Option<[u64; 2]>)>,
    /// The acknowledgement of the end was sent.
    settled: bool,
    input: Input,
}

impl Named {
    /// An exec of which everything before these offsets was received before.
    pub(super) fn new(exec: ExecId, window: u64, received: [u64; 2]) -> Self {
        Self {
            exec,
            window,
            ready: false,
            received,
            taken: received,
            acked: received,
            end: None,
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
        self.window = window.unwrap_or(self.window);
        let most = self.input.taken + self.input.data.len() as u64;
        self.input.sent = stdin.clamp(self.input.taken, most);
        self.input.eof_sent = false;
    }

    /// A piece of output came.
    pub(super) fn admit(&mut self, stream: StdStream, offset: u64, length: usize) -> Admission {
        let received = &mut self.received[stream as usize];
        let gap = offset.saturating_sub(*received);
        let skip = received.saturating_sub(offset).min(length as u64);
        *received = (*received).max(offset.saturating_add(length as u64));
        Admission {
            gap,
            // Not more than the length, which is a `usize`.
            skip: usize::try_from(skip).unwrap_or(length),
        }
    }

    /// Whether all output is here that there is.
    pub(super) fn is_complete(&self) -> bool {
        match &self.end {
            Some((_, Some(lengths))) => (0..2).all(|it| self.received[it] >= lengths[it]),
            Some((_, None)) => true,
            None => false,
        }
    }

    pub(super) fn taken(&self) -> [u64; 2] {
        self.taken
    }

    pub(super) fn acked(&self) -> [u64; 2] {
        self.acked
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn exec(&self) -> &ExecId {
        &self.exec
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The consumer has taken everything before these offsets.
    pub(super) fn handle_taken(&mut self, taken: [u64; 2]) {
        for (known, taken) in self.taken.iter_mut().zip(taken) {
            *known = taken.max(*known);
        }
    }

    /// The acknowledgement that is due, if one is.
    pub(super) fn ack(&mut self, finished: bool) -> Option<String> {
        if !self.ready || self.settled {
            return None;
        }
        let new = total(self.taken) - total(self.acked);
        let done = finished && self.taken == self.received;
        if !done && (new == 0 || new < self.window / 4) {
            return None;
        }
        self.acked = self.taken;
        self.settled = done;
        Some(self.encode(NamedMessage::Ack {
            offsets: self.acked,
            done,
        }))
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
            .saturating_sub(input.taken)
            .min(input.data.len() as u64);
        let count = usize::try_from(new).unwrap_or(usize::MAX);
        input.data.advance(count);
        input.taken += new;
        input.sent = input.sent.max(input.taken);
        count
    }

    pub(super) fn drop_input(&mut self) {
        self.input.data = BytesMut::new();
        self.input.sent = self.input.taken;
    }

    /// The next message with input, as far as the server takes more.
    pub(super) fn poll_input(&mut self) -> Option<String> {
        if !self.ready || self.end.is_some() {
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
            offset: input.sent,
            data: rest[..cut].into(),
            eof,
        });
        self.input.sent += cut as u64;
        self.input.eof_sent |= eof;
        Some(text)
    }
}

fn total(offsets: [u64; 2]) -> u64 {
    offsets.iter().sum()
}
