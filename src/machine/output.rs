//! [`OutputBuffer`]: the output of one exec under a byte budget.
//!
//! Protocol v1 has no flow control: output, statuses and answers come down one TCP stream. When a
//! process prints faster than its output is read, a client can stop reading the link (and a status
//! waits behind the output), or drop output, or grow. Growing is never done here. Which of the
//! other two happens is the [`OutputPolicy`], and under [`Overflow::Pause`] it depends on who
//! waits:
//!
//! - while no caller waits for anything behind the output, the link is not read, and the process
//!   stops;
//! - as soon as somebody does (a `kill`, a `wait`, a request to the sandbox, a subscriber, a reader
//!   of the *other* stream), the link is read on, and what does not fit is dropped from a stream
//!   that has no reader, oldest first. A later reader sees the gap as an error.
//! - A stream that has a reader is dropped from only after a kill, or when the reader took nothing
//!   for the longest pause.
//!
//! In v2 the server keeps to a window for each exec, and the link is always read. What held the
//! link back holds the process back, by the window: nothing but a `wait` and a reader of the other
//! stream can wait behind the output then.

mod order;
mod stream;

use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::stream::Piece;
use self::{order::Order, stream::StreamBuffer};
use super::SandboxEnd;
use crate::protocol::{StdStream, limits::MIN_WINDOW, utf8_boundary};

/// With more, the length of a run in [`Order`] could overflow.
const MAX_BUDGET: usize = 1 << 31;

/// How much output of one process is kept for its readers, and what happens to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputPolicy {
    /// Bytes of stdout and stderr together, at most 2 GiB. Default: 4 MiB.
    ///
    /// What is already on its way when the budget is reached comes on top: at most two batches of
    /// 64 KiB, or one message where that is larger.
    pub budget: usize,
    /// What happens to more. Default: [`Overflow::Pause`].
    pub overflow: Overflow,
}

impl Default for OutputPolicy {
    fn default() -> Self {
        Self {
            budget: 4 * 1024 * 1024,
            overflow: Overflow::default(),
        }
    }
}

impl OutputPolicy {
    /// What is wrong with it.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self.budget {
            0 => Some("has a budget of 0 bytes; at least 1 is needed"),
            1..=MAX_BUDGET => None,
            _ => Some("has a budget of more than 2 GiB; choose a smaller one"),
        }
    }

    /// What a server is to send unacknowledged (v2), so that it is noticed here when the budget is
    /// reached.
    pub(crate) fn window(&self) -> u64 {
        (self.budget as u64).saturating_add(4).max(MIN_WINDOW)
    }
}

/// What happens to output over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The link is not read, so that the process stops, until somebody reads the output or waits
    /// for something behind it.
    Pause {
        /// Longest pause without a byte read, after which output is dropped rather than the link
        /// left unread (servers drop a client that answers no ping). Default: 10 s.
        max: Duration,
    },
    /// The oldest output is dropped; its reader sees an error with the number of bytes.
    DropOldest,
    /// The process is killed, and its readers see an error after as much as fits.
    Fail,
}

impl Default for Overflow {
    fn default() -> Self {
        Self::Pause {
            max: Duration::from_secs(10),
        }
    }
}

/// Why no more output comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The process ended, and this was all.
    Complete,
    /// The process ended, and the server stopped reading while another process still held the
    /// output.
    Cut,
    /// The sandbox was lost: there may have been more.
    SandboxLost(SandboxEnd),
    /// The budget was exceeded under [`Overflow::Fail`].
    Overflowed,
    /// The process's actor is gone.
    ActorGone,
}

/// The output of one exec. `P` is a permit to read the link, given back by being dropped.
#[derive(Debug)]
pub struct OutputBuffer<P> {
    policy: OutputPolicy,
    streams: [StreamBuffer; 2],
    /// In which order the bytes in `streams` arrived.
    order: Order,
    used: usize,
    permits: Vec<P>,
    /// Somebody waits for something behind the output.
    awaited: bool,
    /// A kill was asked for: in v1 everything may be dropped.
    killed: bool,
    /// No reader is left and none can come.
    unreadable: bool,
    /// In v2 the server keeps to a window, and the link is always read.
    windowed: bool,
    /// Another client is to read on from here: what no reader has taken is never dropped.
    handed_on: bool,
    /// Since when the link, in v2 the process, is held back and nobody reads here.
    paused_since: Option<Instant>,
    /// The longest pause is over; until the next read, everything may be dropped.
    stalled: bool,
    finish: Option<Finish>,
}

impl<P> OutputBuffer<P> {
    /// An empty buffer. A budget of nothing counts as one byte: with less there would never be
    /// room.
    pub fn new(policy: OutputPolicy) -> Self {
        Self {
            policy: OutputPolicy {
                budget: policy.budget.clamp(1, MAX_BUDGET),
                ..policy
            },
            streams: Default::default(),
            order: Order::default(),
            used: 0,
            permits: Vec::new(),
            awaited: false,
            killed: false,
            unreadable: false,
            windowed: false,
            handed_on: false,
            paused_since: None,
            stalled: false,
            finish: None,
        }
    }

    /// Takes output from the link. `false`: the budget is exceeded and the process is to be killed.
    #[must_use]
    pub fn handle_output(&mut self, stream: StdStream, data: Bytes) -> bool {
        if self.finish.is_some() || self.unreadable {
            return true;
        }
        let room = self.policy.budget.saturating_sub(self.used);
        if self.policy.overflow == Overflow::Fail && data.len() > room {
            let fits = Bytes::copy_from_slice(&data[..utf8_boundary(&data[..room])]);
            self.keep(stream, fits);
            self.finish(Finish::Overflowed);
            return false;
        }
        self.keep(stream, data);
        self.make_room();
        true
    }

    fn keep(&mut self, stream: StdStream, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.used += data.len();
        self.order.push(stream, data.len());
        let buffer = &mut self.streams[stream as usize];
        buffer.starved = false;
        buffer.push(data);
    }

    /// Output that never came, and never will.
    pub fn handle_gap(&mut self, stream: StdStream, bytes: u64) {
        if bytes > 0 && self.finish.is_none() && !self.unreadable {
            let dropped = self.streams[stream as usize].push_gap(bytes);
            self.forget(stream, dropped);
        }
    }

    /// Bytes were taken from the front of a stream.
    fn forget(&mut self, stream: StdStream, bytes: usize) {
        self.used -= bytes;
        self.order.remove(stream, bytes);
    }

    /// Takes the permit of a batch from the link; it is given back once there is room. In v2 there
    /// is no need to hold the link back.
    pub fn handle_permit(&mut self, permit: P, now: Instant) {
        if self.windowed || self.has_room() {
            return;
        }
        self.permits.push(permit);
        self.paused_since.get_or_insert(now);
    }

    /// The server sends at most so much that is not taken (v2). From now on the link is not held
    /// back: under [`Overflow::Pause`] the server stops the process.
    pub fn set_window(&mut self, window: u64) {
        self.windowed = true;
        if let Overflow::Pause { .. } = self.policy.overflow {
            // Less than 4 bytes of the window may be left over: a code point is not split.
            let full = usize::try_from(window)
                .unwrap_or(usize::MAX)
                .saturating_sub(3);
            self.policy.budget = self.policy.budget.min(full).max(1);
        }
        self.make_room();
    }

    /// Bytes of each stream that no reader has taken and that were not dropped. What is kept under
    /// another policy than [`Overflow::Pause`] does not hold the process back, and counts as taken.
    pub fn untaken(&self) -> [usize; 2] {
        match self.policy.overflow {
            Overflow::Pause { .. } => [self.streams[0].kept, self.streams[1].kept],
            Overflow::DropOldest | Overflow::Fail => [0, 0],
        }
    }

    /// Leaves the output that no reader has taken to another client (v2). `false`: under this
    /// policy it counts as taken.
    #[must_use]
    pub fn hand_on(&mut self) -> bool {
        self.handed_on |= matches!(self.policy.overflow, Overflow::Pause { .. });
        self.handed_on
    }

    /// Whether another client may read on from here.
    pub fn is_handed_on(&self) -> bool {
        self.handed_on
    }

    /// Whether a reader found nothing in a stream and still waits. Set by a read as well.
    pub fn set_starved(&mut self, stream: StdStream, starved: bool) {
        self.streams[stream as usize].starved = starved;
    }

    /// Somebody waits, or nobody waits any more, while the process is held back (v2).
    pub fn update_pause(&mut self, now: Instant) {
        if self.windowed {
            let waits = self.awaited || self.streams.iter().any(|stream| stream.starved);
            match waits && !self.has_room() {
                true => _ = self.paused_since.get_or_insert(now),
                false => self.paused_since = None,
            }
        }
    }

    /// No more output comes. What is kept stays readable.
    pub fn finish(&mut self, finish: Finish) {
        self.finish.get_or_insert(finish);
        self.resume();
    }

    /// Sets whether a caller waits for something behind the output.
    pub fn set_awaited(&mut self, awaited: bool) {
        self.awaited = awaited;
        self.make_room();
    }

    /// A kill was asked for, or was refused.
    pub fn set_killed(&mut self, killed: bool) {
        self.killed = killed;
        self.make_room();
    }

    /// No reader can read this buffer any more.
    pub fn set_unreadable(&mut self) {
        self.unreadable = true;
        self.streams = Default::default();
        self.order = Order::default();
        self.used = 0;
        self.resume();
    }

    /// A reader holds a stream.
    pub fn add_reader(&mut self, stream: StdStream) {
        self.streams[stream as usize].readers += 1;
    }

    /// A reader let go of a stream.
    pub fn remove_reader(&mut self, stream: StdStream) {
        let buffer = &mut self.streams[stream as usize];
        buffer.readers = buffer.readers.saturating_sub(1);
        buffer.starved &= buffer.readers > 0;
        self.make_room();
    }

    /// The next piece of a stream. `None`: nothing is there now; see [`finished`](Self::finished).
    pub fn read(&mut self, stream: StdStream, now: Instant) -> Option<Piece> {
        self.read_at_most(stream, usize::MAX, now)
    }

    /// The next piece of a stream, of at most so many bytes.
    pub fn read_at_most(&mut self, stream: StdStream, most: usize, now: Instant) -> Option<Piece> {
        let piece = self.streams[stream as usize].pop(most);
        if let Some(Piece::Data(data)) = &piece {
            self.forget(stream, data.len());
        }
        self.streams[stream as usize].starved = piece.is_none() && self.finish.is_none();
        if piece.is_some() {
            self.stalled = false;
            self.paused_since = self.paused_since.map(|_| now);
        }
        self.make_room();
        self.update_pause(now);
        piece
    }

    /// The next piece of both streams, in order of arrival. A gap is found where its stream goes
    /// on.
    pub fn read_either(&mut self, now: Instant) -> Option<(StdStream, Piece)> {
        let of = |stream| move |piece| (stream, piece);
        let piece = match self.order.first() {
            Some((stream, run)) => self.read_at_most(stream, run, now).map(of(stream)),
            None => [StdStream::Stdout, StdStream::Stderr]
                .into_iter()
                .find_map(|stream| self.read(stream, now).map(of(stream))),
        };
        if piece.is_some() {
            // The reader of both waits for neither. Its owner knows whether another reader does.
            self.set_starved(StdStream::Stdout, false);
            self.set_starved(StdStream::Stderr, false);
            self.update_pause(now);
        }
        piece
    }

    /// Why no more output comes, once that is known.
    pub fn finished(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// Bytes kept.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Whether the link is held back.
    #[cfg(test)]
    pub(super) fn is_paused(&self) -> bool {
        !self.permits.is_empty()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Overflow::Pause { max } = self.policy.overflow else {
            return None;
        };
        if self.handed_on {
            return None;
        }
        self.paused_since.and_then(|since| since.checked_add(max))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| now >= due) {
            self.stalled = true;
            self.make_room();
        }
    }

    fn has_room(&self) -> bool {
        self.used < self.policy.budget || self.finish.is_some() || self.unreadable
    }

    fn may_evict(&self, stream: StdStream) -> bool {
        match self.policy.overflow {
            Overflow::Fail => false,
            Overflow::DropOldest => true,
            Overflow::Pause { .. } if self.handed_on => false,
            Overflow::Pause { .. } => {
                let awaited = self.awaited || self.streams[order::other(stream) as usize].starved;
                // In v2 the word of a kill does not wait for room, and what was printed before it
                // is not lost.
                let killed = self.killed && !self.windowed;
                killed || self.stalled || awaited && self.streams[stream as usize].readers == 0
            }
        }
    }

    /// Drops output where that is allowed and needed, and gives permits back where there is room.
    fn make_room(&mut self) {
        while !self.has_room() {
            let mut excess = self.used - self.policy.budget + 1;
            if self.windowed && self.policy.overflow != Overflow::DropOldest {
                // Enough for an acknowledgement, so that the process goes on.
                excess = excess.max(self.policy.budget / 3);
            }
            let fullest = [StdStream::Stdout, StdStream::Stderr]
                .into_iter()
                .filter(|&stream| self.may_evict(stream))
                .max_by_key(|&stream| self.streams[stream as usize].kept);
            let Some(stream) = fullest else { return };
            match self.streams[stream as usize].evict(excess) {
                0 => return,
                evicted => self.forget(stream, evicted),
            }
        }
        self.resume();
    }

    fn resume(&mut self) {
        self.permits.clear();
        self.paused_since = None;
    }
}

#[cfg(test)]
mod tests;
