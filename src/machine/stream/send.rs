//! [`SendStreams`]: the sending half.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::distance;
use crate::protocol::utf8_boundary;

/// The maximum number of bytes in one message.
pub(crate) const MAX_PIECE: usize = 64 * 1024;

/// From this many chunks on, bytes that alternate between streams are joined by stream, because a
/// chunk takes more memory than the few bytes in it.
pub(super) const MANY_CHUNKS: usize = 256;

/// Consecutive bytes of one stream.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) stream: usize,
    pub(crate) offset: u64,
    pub(crate) data: BytesMut,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.data.len() as u64)
    }

    /// The bytes from this offset on.
    fn tail(&self, offset: u64) -> &[u8] {
        usize::try_from(offset.saturating_sub(self.offset))
            .ok()
            .and_then(|from| self.data.get(from..))
            .unwrap_or_default()
    }
}

/// The content of the next message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    pub(crate) stream: usize,
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
    /// Whether the stream ends after these bytes.
    pub(crate) eof: bool,
}

/// `N` streams that share one window. Bytes are kept until the peer acknowledges them. They are
/// sent in the order in which they were pushed, across all streams.
#[derive(Debug)]
pub(crate) struct SendStreams<const N: usize> {
    /// The number of bytes that may be sent past the last acknowledgement.
    window: u64,
    /// The number of bytes of the window that an earlier sender uses. Decreases as the peer takes
    /// them.
    reserved: u64,
    /// For each stream, the offset up to which the peer has acknowledged the bytes.
    acked: [u64; N],
    /// For each stream, the offset up to which bytes were sent on this link or received by the peer
    /// earlier.
    sent: [u64; N],
    /// For each stream, the end of the bytes that were pushed.
    end: [u64; N],
    /// For each stream, whether it has ended. Never cleared.
    eof: [bool; N],
    /// For each stream, whether its end was sent on this link. Cleared by each new link.
    eof_sent: [bool; N],
    /// The bytes that are not acknowledged, in the order in which they were pushed.
    chunks: VecDeque<Chunk>,
    /// The first chunk that may hold bytes to send.
    next: usize,
    /// Whether the peer takes no more bytes, so that none are kept or sent. Never cleared.
    abandoned: bool,
}

impl<const N: usize> SendStreams<N> {
    pub(crate) fn new(window: u64) -> Self {
        Self {
            window,
            reserved: 0,
            acked: [0; N],
            sent: [0; N],
            end: [0; N],
            eof: [false; N],
            eof_sent: [false; N],
            chunks: VecDeque::new(),
            next: 0,
            abandoned: false,
        }
    }

    /// Restores streams from their unacknowledged bytes. Returns `None` if the chunks are not the
    /// last bytes of streams of these lengths.
    pub(crate) fn restored(window: u64, end: [u64; N], chunks: VecDeque<Chunk>) -> Option<Self> {
        let mut acked = end;
        // Walk backwards: each chunk must end where the next chunk of its stream begins.
        for chunk in chunks.iter().rev() {
            let acked = &mut acked[chunk.stream];
            if chunk.offset.checked_add(chunk.data.len() as u64) != Some(*acked) {
                return None;
            }
            *acked = chunk.offset;
        }
        Some(Self {
            acked,
            sent: acked,
            end,
            chunks,
            ..Self::new(window)
        })
    }

    /// The unacknowledged bytes: stream, offset and bytes.
    pub(crate) fn unacked(&self) -> impl Iterator<Item = (usize, u64, Bytes)> {
        self.chunks.iter().map(|chunk| {
            // The front of a chunk may be acknowledged.
            let acked = self.acked[chunk.stream];
            let offset = acked.clamp(chunk.offset, chunk.end());
            let data = Bytes::copy_from_slice(chunk.tail(offset));
            (chunk.stream, offset, data)
        })
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Reduces the window. A larger one has no effect.
    pub(crate) fn limit_window(&mut self, window: u64) {
        self.window = self.window.min(window);
    }

    pub(crate) fn acked(&self) -> [u64; N] {
        self.acked
    }

    pub(crate) fn sent(&self) -> [u64; N] {
        self.sent
    }

    pub(crate) fn end(&self) -> [u64; N] {
        self.end
    }

    /// The number of unacknowledged bytes of all streams.
    pub(crate) fn kept(&self) -> u64 {
        distance(self.acked, self.end)
    }

    #[cfg(test)]
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Appends bytes to a stream.
    pub(crate) fn push(&mut self, stream: usize, data: BytesMut) {
        if data.is_empty() || self.abandoned {
            return;
        }
        let offset = self.end[stream];
        self.end[stream] += data.len() as u64;
        let back = match self.chunks.len() {
            0..MANY_CHUNKS => 1,
            _ => N,
        };
        let mut last = self.chunks.iter_mut().enumerate().rev().take(back);
        if let Some((index, last)) = last.find(|(_, chunk)| chunk.stream == stream)
            && last.data.len() + data.len() <= MAX_PIECE
        {
            last.data.extend_from_slice(&data);
            // The earlier bytes of this chunk may have been sent already.
            self.next = self.next.min(index);
            return;
        }
        self.chunks.push_back(Chunk {
            stream,
            offset,
            data,
        });
    }

    /// Sets how many bytes the peer accepts past the last acknowledgement.
    pub(crate) fn set_window(&mut self, window: u64) {
        self.window = window;
    }

    /// Sets how many bytes of the window an earlier sender uses.
    pub(crate) fn reserve(&mut self, bytes: u64) {
        self.reserved = bytes;
    }

    /// Ends a stream. No more bytes may be pushed.
    pub(crate) fn finish(&mut self, stream: usize) {
        self.eof[stream] = true;
    }

    /// Resumes a stream on a new link, at the offset up to which the peer has the bytes. Returns
    /// whether the bytes at this offset are gone and no later bytes are kept.
    pub(crate) fn resume(&mut self, stream: usize, offset: u64) -> bool {
        let (acked, end) = (self.acked[stream], self.end[stream]);
        self.sent[stream] = offset.clamp(acked, end);
        self.eof_sent[stream] = false;
        self.next = 0;
        offset < acked && acked == end
    }

    /// Handles an acknowledgement of everything before these offsets. An offset beyond the bytes
    /// that were sent counts as their end.
    pub(crate) fn handle_ack(&mut self, offsets: [u64; N]) {
        let before = self.acked;
        for (stream, offset) in offsets.into_iter().enumerate() {
            let acked = &mut self.acked[stream];
            *acked = offset.clamp(*acked, self.sent[stream]);
        }
        if self.acked != before {
            self.drop_acked();
        }
    }

    fn drop_acked(&mut self) {
        let acked = self.acked;
        let is_acked = |chunk: &Chunk| chunk.end() <= acked[chunk.stream];
        while self.chunks.front().is_some_and(is_acked) {
            self.chunks.pop_front();
            self.next = self.next.saturating_sub(1);
        }
        // One stream may be far ahead of another, so acknowledged chunks may lie between others.
        if N > 1 && self.chunks.len() > 1 {
            let sent = self.chunks.iter().take(self.next);
            self.next -= sent.filter(|chunk| is_acked(chunk)).count();
            self.chunks.retain(|chunk| !is_acked(chunk));
        }
    }

    /// Counts everything that was pushed as acknowledged.
    pub(crate) fn ack_all(&mut self) {
        self.acked = self.end;
        self.sent = self.end;
        self.chunks = VecDeque::new();
        self.next = 0;
    }

    /// Drops all bytes, because the peer takes no more. Bytes that it has not taken still count as
    /// [kept](Self::kept).
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        self.chunks.clear();
        self.next = 0;
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Whether no more bytes can be pushed to the stream.
    pub(crate) fn is_closed(&self, stream: usize) -> bool {
        self.eof[stream] || self.abandoned
    }

    /// Returns the next piece to send. `None` if nothing is left, or the window is full. Doesn't
    /// split a code point.
    pub(crate) fn poll(&mut self) -> Option<Piece<'_>> {
        if self.abandoned {
            return None;
        }
        let unacked = distance(self.acked, self.sent).saturating_add(self.reserved);
        let room = self.window.saturating_sub(unacked);
        let most = usize::try_from(room).map_or(MAX_PIECE, |room| room.min(MAX_PIECE));
        while let Some(chunk) = self.chunks.get(self.next) {
            let stream = chunk.stream;
            let rest = chunk.tail(self.sent[stream]);
            if rest.is_empty() {
                self.next += 1;
                continue;
            }
            let length = match rest.len() <= most {
                true => rest.len(),
                false => utf8_boundary(&rest[..most]),
            };
            if length == 0 {
                return None;
            }
            return Some(self.send(self.next, length));
        }
        let ends =
            |&it: &usize| self.eof[it] && !self.eof_sent[it] && self.sent[it] == self.end[it];
        let stream = (0..N).find(ends)?;
        self.eof_sent[stream] = true;
        Some(Piece {
            stream,
            offset: self.sent[stream],
            data: &[],
            eof: true,
        })
    }

    /// Returns bytes of a chunk as the next piece.
    fn send(&mut self, index: usize, length: usize) -> Piece<'_> {
        let chunk = &self.chunks[index];
        let stream = chunk.stream;
        let offset = self.sent[stream];
        self.sent[stream] += length as u64;
        let eof = self.eof[stream] && self.sent[stream] == self.end[stream];
        self.eof_sent[stream] |= eof;
        Piece {
            stream,
            offset,
            data: &chunk.tail(offset)[..length],
            eof,
        }
    }
}
