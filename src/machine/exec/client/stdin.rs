//! Writes to the stdin of a [`Process`], and the callers that wait for them.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Process, ProcessAction, ProcessReply};
use crate::machine::{Failure, RequestId};

const WRITE: &str = "write to stdin";
const CLOSE: &str = "close stdin";
const FLUSH: &str = "flush stdin";

#[derive(Debug)]
struct Write {
    request: RequestId,
    data: Bytes,
    /// Whether stdin closes after the data.
    eof: bool,
}

/// Requests about stdin, and the message in flight.
#[derive(Debug, Default)]
pub(super) struct StdinRequests {
    /// Writes that wait for room in the budget, in order.
    writes: VecDeque<Write>,
    /// Flushes that wait until the server has taken everything before an offset, in order.
    flushes: VecDeque<(RequestId, u64)>,
    /// The number of the last message.
    message: u64,
    /// Whether the link has not written the last message yet. Cleared when the link has written it,
    /// or is lost.
    pub(super) in_flight: bool,
}

impl Process {
    /// Sends bytes to stdin, after all earlier writes. Answers when they are accepted.
    ///
    /// Under v1, they must be UTF-8.
    pub fn write_stdin(&mut self, request: RequestId, data: impl Into<Bytes>) {
        let data = data.into();
        let eof = false;
        self.write(WRITE, Write { request, data, eof });
    }

    /// Closes stdin after all earlier writes. Not supported under v1.
    pub fn close_stdin(&mut self, request: RequestId) {
        let data = Bytes::new();
        let eof = true;
        self.write(CLOSE, Write { request, data, eof });
    }

    /// Sets all input of a process that is being started. Has no effect under v1.
    pub fn give_input(&mut self, data: &[u8]) {
        if self.wire.unsupported_stdin(data, true).is_none() {
            self.stdin.push(0, data.into());
            self.stdin.finish(0);
        }
    }

    fn write(&mut self, what: &'static str, write: Write) {
        let mut waiting = self.stdin_requests.writes.iter();
        // A waiting close may still be cancelled, so another close waits, too.
        let will_close = !write.eof && waiting.any(|write| write.eof);
        let is_closed = self.stdin.is_closed(0);
        let answer = if let Some(feature) = self.wire.unsupported_stdin(&write.data, write.eof) {
            Err(Failure::Unsupported { what, feature })
        } else if write.eof && (is_closed || self.end.is_some()) {
            Ok(ProcessReply::Done)
        } else if self.end.is_some() {
            Err(Failure::ProcessEnded { what })
        } else if is_closed || will_close {
            Err(Failure::StdinClosed { what })
        } else if self.stdin_requests.writes.is_empty() && self.has_room(write.data.len()) {
            self.accept(write);
            return self.send_stdin();
        } else {
            return self.stdin_requests.writes.push_back(write);
        };
        self.settle(write.request, answer);
    }

    /// Flushes stdin. Answers when everything that was accepted before is written: under v1 to the
    /// link, under v2 to the pipe of the process.
    pub fn flush_stdin(&mut self, request: RequestId) {
        let what = FLUSH;
        let answer = if self.stdin.kept() == 0 {
            Ok(ProcessReply::Done)
        } else if self.end.is_some() {
            Err(Failure::ProcessEnded { what })
        } else if self.stdin.is_abandoned() {
            Err(Failure::StdinClosed { what })
        } else {
            let [end] = self.stdin.end();
            return self.stdin_requests.flushes.push_back((request, end));
        };
        self.settle(request, answer);
    }

    pub(super) fn cancel_stdin(&mut self, request: RequestId) {
        let StdinRequests {
            writes, flushes, ..
        } = &mut self.stdin_requests;
        flushes.retain(|&(flush, _)| flush != request);
        writes.retain(|write| write.request != request);
        self.accept_writes();
    }

    /// Accepts the waiting writes for which there is room, and sends the next message.
    fn accept_writes(&mut self) {
        while let Some(write) = self.stdin_requests.writes.front()
            && self.has_room(write.data.len())
            && let Some(write) = self.stdin_requests.writes.pop_front()
        {
            self.accept(write);
        }
        self.send_stdin();
    }

    fn accept(&mut self, write: Write) {
        self.stdin.push(0, write.data.into());
        if write.eof {
            self.stdin.finish(0);
        }
        self.settle(write.request, Ok(ProcessReply::Done));
    }

    /// Whether a write fits into the budget. A write that is larger than the budget is accepted
    /// when nothing else is buffered.
    fn has_room(&self, length: usize) -> bool {
        let kept = self.stdin.kept();
        kept == 0 || kept.saturating_add(length as u64) <= self.config.stdin_budget as u64
    }

    /// Sends the next message. One message is in flight at a time, because deployed servers may
    /// reorder two.
    pub(super) fn send_stdin(&mut self) {
        let requests = &mut self.stdin_requests;
        if self.link_up
            && !requests.in_flight
            && let Some(piece) = self.stdin.poll()
        {
            requests.message += 1;
            requests.in_flight = true;
            let offset = self.stdin_base.unwrap_or(0).saturating_add(piece.offset);
            self.actions.push_back(ProcessAction::SendStdin {
                number: requests.message,
                frame: self.wire.stdin(offset, piece.data, piece.eof, self.binary),
            });
        }
    }

    pub(super) fn handle_stdin_written(&mut self, number: u64) {
        let requests = &mut self.stdin_requests;
        if !requests.in_flight || requests.message != number {
            return;
        }
        requests.in_flight = false;
        match self.wire.acks_stdin() {
            true => self.send_stdin(),
            false => {
                let [sent] = self.stdin.sent();
                self.handle_stdin_taken(sent);
            }
        }
    }

    pub(super) fn handle_stdin_taken(&mut self, offset: u64) {
        self.stdin.handle_ack([offset]);
        let [acked] = self.stdin.acked();
        while let Some(&(request, end)) = self.stdin_requests.flushes.front()
            && end <= acked
        {
            self.stdin_requests.flushes.pop_front();
            self.settle(request, Ok(ProcessReply::Done));
        }
        self.accept_writes();
    }

    /// The process takes no more input. Nothing more is sent, and waiting requests fail.
    pub(super) fn abandon_stdin(&mut self, failure: impl Fn(&'static str) -> Failure) {
        self.stdin.abandon();
        while let Some(write) = self.stdin_requests.writes.pop_front() {
            self.settle(write.request, Err(failure(WRITE)));
        }
        while let Some((request, _)) = self.stdin_requests.flushes.pop_front() {
            self.settle(request, Err(failure(FLUSH)));
        }
    }
}
