//! [`StreamBuffer`]: the unread output of one stream.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Pieces shorter than this are joined, so that many small pieces cost no more than a few large
/// ones.
const SMALL: usize = 1024;
/// A joined piece is complete when it reaches this size.
const GATHERED: usize = 16 * 1024;
/// With more gaps than this, the output before the oldest gap is dropped: a gap takes more memory
/// than the few bytes that may lie between gaps.
pub(super) const MAX_GAPS: usize = 1024;

/// A piece of a stream, for a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Output.
    Data(Bytes),
    /// This many bytes were dropped here.
    Gap(u64),
}

#[derive(Debug, Default)]
pub(super) struct StreamBuffer {
    /// The number of bytes that were dropped before `pieces`.
    gap: u64,
    /// Output, and gaps in it.
    pub(super) pieces: VecDeque<Piece>,
    /// How many of the pieces are gaps.
    gaps: usize,
    /// Small pieces, joined.
    tail: BytesMut,
    /// The number of buffered bytes.
    pub(super) kept: usize,
    /// The number of readers of the stream.
    pub(super) readers: usize,
    /// Whether a reader waits for output.
    pub(super) starved: bool,
}

impl StreamBuffer {
    pub(super) fn push(&mut self, data: Bytes) {
        self.kept += data.len();
        if data.len() < SMALL {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= GATHERED {
                self.close_tail();
            }
        } else {
            self.close_tail();
            self.pieces.push_back(Piece::Data(data));
        }
    }

    /// Records a gap. Returns how many buffered bytes were dropped to bound the number of gaps.
    pub(super) fn push_gap(&mut self, bytes: u64) -> usize {
        self.close_tail();
        match self.pieces.back_mut() {
            None => self.gap = self.gap.saturating_add(bytes),
            Some(Piece::Gap(gap)) => *gap = gap.saturating_add(bytes),
            Some(Piece::Data(_)) => {
                self.pieces.push_back(Piece::Gap(bytes));
                self.gaps += 1;
            }
        }
        let mut dropped = 0;
        while self.gaps > MAX_GAPS {
            match self.pieces.pop_front() {
                Some(Piece::Data(data)) => dropped += data.len(),
                Some(Piece::Gap(bytes)) => self.take_gap(bytes),
                None => break,
            }
        }
        self.kept -= dropped;
        self.gap = self.gap.saturating_add(dropped as u64);
        dropped
    }

    /// Moves a gap that was the first piece before the pieces.
    fn take_gap(&mut self, bytes: u64) {
        self.gaps -= 1;
        self.gap = self.gap.saturating_add(bytes);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let data = self.tail.split().freeze();
            self.pieces.push_back(Piece::Data(data));
        }
    }

    /// Returns at most `most` bytes of output, from behind the gaps before it.
    fn pop_data(&mut self, most: usize) -> Option<Bytes> {
        loop {
            if self.pieces.is_empty() {
                self.close_tail();
            }
            match self.pieces.pop_front()? {
                Piece::Gap(bytes) => self.take_gap(bytes),
                Piece::Data(mut data) => {
                    if data.len() > most {
                        let rest = data.split_off(most);
                        self.pieces.push_front(Piece::Data(rest));
                    }
                    self.kept -= data.len();
                    return Some(data);
                }
            }
        }
    }

    /// Returns the next piece for a reader, at most `most` bytes.
    pub(super) fn pop(&mut self, most: usize) -> Option<Piece> {
        if self.gap == 0
            && let Some(&Piece::Gap(bytes)) = self.pieces.front()
        {
            self.pieces.pop_front();
            self.take_gap(bytes);
        }
        match std::mem::take(&mut self.gap) {
            0 => self.pop_data(most).map(Piece::Data),
            bytes => Some(Piece::Gap(bytes)),
        }
    }

    /// Drops at least `bytes` from the front, up to the next code point. Returns the number of
    /// dropped bytes.
    pub(super) fn evict(&mut self, bytes: usize) -> usize {
        let mut evicted = 0;
        while evicted < bytes {
            let Some(mut piece) = self.pop_data(usize::MAX) else {
                break;
            };
            let mut cut = (bytes - evicted).min(piece.len());
            while piece.get(cut).is_some_and(|byte| byte & 0xC0 == 0x80) {
                cut += 1;
            }
            piece.advance(cut);
            evicted += cut;
            if !piece.is_empty() {
                self.kept += piece.len();
                self.pieces.push_front(Piece::Data(piece));
            }
        }
        self.gap = self.gap.saturating_add(evicted as u64);
        evicted
    }
}
