//! [`OutputBuffer`]: the output of one exec under a byte budget.
//!
//! Protocol v1 has no flow control: output, statuses and answers share one TCP stream. If a process
//! prints faster than its output is read, a client can stop reading the link (then statuses queue
//! behind the output), drop output, or use more memory. This buffer never exceeds its budget. The
//! [`OutputPolicy`] selects one of the other two. Under [`Overflow::Pause`], the choice depends on
//! who waits:
//!
//! - While no caller waits for a message behind the output, the link is not read, so the process
//!   blocks.
//! - When a caller waits (in a `kill`, a `wait`, a request to the sandbox, or a read of the *other*
//!   stream), the link is read again. Output over the budget is dropped from a stream that has no
//!   reader, oldest first. A later reader gets an error at the gap.
//! - Output of a stream that has a reader is dropped only after a kill, or if the reader has read
//!   nothing for the maximum pause.
//!
//! Under v2, each exec has a window, and the link is always read. A full window pauses the process
//! instead of the link. Then only a `wait` and a reader of the other stream can wait behind the
//! output.

mod order;
mod stream;

use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::stream::Piece;
use self::{order::Order, stream::StreamBuffer};
use super::SandboxEnd;
use crate::protocol::{StdStream, limits::MIN_WINDOW, utf8_boundary};

/// With a larger budget, the length of a run in [`Order`] could overflow.
const MAX_BUDGET: usize = 1 << 31;

/// How much unread output of a process the client buffers, and what happens to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputPolicy {
    /// The maximum number of unread bytes of stdout and stderr together, from 1 byte to 2 GiB.
    /// Default: 4 MiB.
    ///
    /// Output that is already on its way when the budget is reached may exceed it: by at most two
    /// batches of 64 KiB, or by one message if that is larger.
    pub budget: usize,
    /// What happens to output over the budget. Default: [`Overflow::Pause`].
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
    /// Returns what is wrong with the policy. `None` if it is valid.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self.budget {
            0 => Some("has a budget of 0 bytes; at least 1 is needed"),
            1..=MAX_BUDGET => None,
            _ => Some("has a budget of more than 2 GiB; choose a smaller one"),
        }
    }

    /// The window to ask the server for (v2). It is a little larger than the budget, so that the
    /// client notices when the budget is reached.
    pub(crate) fn window(&self) -> u64 {
        (self.budget as u64).saturating_add(4).max(MIN_WINDOW)
    }
}

/// What happens to output over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Backpressure: the process pauses until its output is read. While a caller waits for a
    /// message that queues behind the output, for example in `Process::wait`, output of streams
    /// without a reader is dropped instead, oldest first. A later reader gets an error with the
    /// number of bytes.
    Pause {
        /// The maximum pause while no byte is read. After it, the oldest output is dropped and the
        /// process continues. The limit exists because servers drop clients that don't answer
        /// pings. Under protocol v2, where pings are always answered, it applies only while a
        /// caller waits. `Duration::MAX` means no limit; under protocol v1, a service may then
        /// close the connection. Default: 10 s.
        max: Duration,
    },
    /// The oldest output is dropped. Its reader gets an error with the number of bytes.
    DropOldest,
    /// The process is killed. Its readers get the output that fits into the budget, then an error.
    Fail,
}

impl Default for Overflow {
    fn default() -> Self {
        Self::Pause {
            max: Duration::from_secs(10),
        }
    }
}

/// Why the output ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The process ended, and the output is complete.
    Complete,
    /// The process ended, and the server stopped reading while a background process still held the
    /// output open.
    Cut,
    /// The sandbox was lost. Output may be missing.
    SandboxLost(SandboxEnd),
    /// The budget was exceeded under [`Overflow::Fail`].
    Overflowed,
    /// The process's actor is gone.
    ActorGone,
}

/// The unread output of one exec. `P` is a permit to read the link; dropping it returns the permit.
#[derive(Debug)]
pub struct OutputBuffer<P> {
    policy: OutputPolicy,
    streams: [StreamBuffer; 2],
    /// The order in which the bytes in `streams` arrived.
    order: Order,
    used: usize,
    permits: Vec<P>,
    /// Whether a caller waits for a message that may queue behind the output.
    awaited: bool,
    /// Whether a kill was requested. Then, under v1, all output may be dropped.
    killed: bool,
    /// Whether no reader exists and none can be created.
    unreadable: bool,
    /// Whether the server keeps to a window (v2). Then the link is always read.
    windowed: bool,
    /// Whether another client may resume the exec. Then unread output is never dropped.
    handed_on: bool,
    /// Since when the link (under v2, the process) is paused and no reader reads.
    paused_since: Option<Instant>,
    /// Whether the maximum pause is over. Then all output may be dropped until the next read.
    stalled: bool,
    /// For each stream, whether it has ended before the other one.
    ended: [bool; 2],
    finish: Option<Finish>,
}

impl<P> OutputBuffer<P> {
    /// Creates an empty buffer. A budget of 0 counts as 1, because otherwise there would never be
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
            ended: [false; 2],
            finish: None,
        }
    }

    /// Takes output from the link. Returns `false` if the output exceeds the budget and the process
    /// must be killed.
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

    /// Records that bytes of a stream were lost on the way.
    pub fn handle_gap(&mut self, stream: StdStream, bytes: u64) {
        if bytes > 0 && self.finish.is_none() && !self.unreadable {
            let dropped = self.streams[stream as usize].push_gap(bytes);
            self.forget(stream, dropped);
        }
    }

    /// Accounts for bytes that were removed from the front of a stream.
    fn forget(&mut self, stream: StdStream, bytes: usize) {
        self.used -= bytes;
        self.order.remove(stream, bytes);
    }

    /// Takes the permit of a batch from the link, and returns it once there is room. Under v2,
    /// returns it at once, because the link is never paused.
    pub fn handle_permit(&mut self, permit: P, now: Instant) {
        if self.windowed || self.has_room() {
            return;
        }
        self.permits.push(permit);
        self.paused_since.get_or_insert(now);
    }

    /// Sets how many bytes the server sends that readers have not taken (v2). From now on, the link
    /// is never paused. Under [`Overflow::Pause`], the server pauses the process instead.
    pub fn set_window(&mut self, window: u64) {
        self.windowed = true;
        if let Overflow::Pause { .. } = self.policy.overflow {
            // Up to 3 bytes of the window may stay unused, because a code point is not split.
            let full = usize::try_from(window)
                .unwrap_or(usize::MAX)
                .saturating_sub(3);
            self.policy.budget = self.policy.budget.min(full).max(1);
        }
        self.make_room();
    }

    /// The number of bytes of each stream that no reader has taken and that were not dropped. Under
    /// another policy than [`Overflow::Pause`], unread output doesn't pause the process and counts
    /// as taken.
    pub fn untaken(&self) -> [usize; 2] {
        match self.policy.overflow {
            Overflow::Pause { .. } => [self.streams[0].kept, self.streams[1].kept],
            Overflow::DropOldest | Overflow::Fail => [0, 0],
        }
    }

    /// Keeps the unread output for another client (v2). Returns `false` if the policy counts unread
    /// output as taken.
    #[must_use]
    pub fn hand_on(&mut self) -> bool {
        self.handed_on |= matches!(self.policy.overflow, Overflow::Pause { .. });
        self.handed_on
    }

    /// Whether another client may resume the exec.
    pub fn is_handed_on(&self) -> bool {
        self.handed_on
    }

    /// Sets whether a reader waits for output of this stream. A read sets it, too.
    pub fn set_starved(&mut self, stream: StdStream, starved: bool) {
        self.streams[stream as usize].starved = starved;
    }

    /// Starts or stops the clock of the pause (v2). It runs while the process is paused and a
    /// caller waits.
    pub fn update_pause(&mut self, now: Instant) {
        if self.windowed {
            let waits = self.awaited || self.streams.iter().any(|stream| stream.starved);
            match waits && !self.has_room() {
                true => _ = self.paused_since.get_or_insert(now),
                false => self.paused_since = None,
            }
        }
    }

    /// Ends the output. Buffered output stays readable.
    pub fn finish(&mut self, finish: Finish) {
        self.finish.get_or_insert(finish);
        self.resume();
    }

    /// Sets whether a caller waits for a message that may queue behind the output.
    pub fn set_awaited(&mut self, awaited: bool) {
        self.awaited = awaited;
        self.make_room();
    }

    /// Sets whether a kill was requested. A refused kill clears it.
    pub fn set_killed(&mut self, killed: bool) {
        self.killed = killed;
        self.make_room();
    }

    /// Drops all output, because no reader can exist any more.
    pub fn set_unreadable(&mut self) {
        self.unreadable = true;
        self.streams = Default::default();
        self.order = Order::default();
        self.used = 0;
        self.resume();
    }

    /// Ends one stream. Its buffered output stays readable.
    pub fn end_stream(&mut self, stream: StdStream) {
        self.ended[stream as usize] = true;
    }

    /// Whether a stream has ended and all of it was read.
    pub fn is_at_end(&self, stream: StdStream) -> bool {
        self.ended[stream as usize] && self.streams[stream as usize].kept == 0
    }

    /// Counts a new reader of a stream.
    pub fn add_reader(&mut self, stream: StdStream) {
        self.streams[stream as usize].readers += 1;
    }

    /// Counts a dropped reader of a stream.
    pub fn remove_reader(&mut self, stream: StdStream) {
        let buffer = &mut self.streams[stream as usize];
        buffer.readers = buffer.readers.saturating_sub(1);
        buffer.starved &= buffer.readers > 0;
        self.make_room();
    }

    /// Reads the next piece of a stream. `None` if there is none now: see
    /// [`finished`](Self::finished).
    pub fn read(&mut self, stream: StdStream, now: Instant) -> Option<Piece> {
        self.read_at_most(stream, usize::MAX, now)
    }

    /// Reads the next piece of a stream, at most `most` bytes.
    pub fn read_at_most(&mut self, stream: StdStream, most: usize, now: Instant) -> Option<Piece> {
        let piece = self.streams[stream as usize].pop(most);
        if let Some(Piece::Data(data)) = &piece {
            self.forget(stream, data.len());
        }
        let may_continue = self.finish.is_none() && !self.ended[stream as usize];
        self.streams[stream as usize].starved = piece.is_none() && may_continue;
        if piece.is_some() {
            self.stalled = false;
            self.paused_since = self.paused_since.map(|_| now);
        }
        self.make_room();
        self.update_pause(now);
        piece
    }

    /// Reads the next piece of either stream, in order of arrival. A gap is returned before the
    /// next piece of its stream.
    pub fn read_either(&mut self, now: Instant) -> Option<(StdStream, Piece)> {
        let of = |stream| move |piece| (stream, piece);
        let piece = match self.order.first() {
            Some((stream, run)) => self.read_at_most(stream, run, now).map(of(stream)),
            None => [StdStream::Stdout, StdStream::Stderr]
                .into_iter()
                .find_map(|stream| self.read(stream, now).map(of(stream))),
        };
        if piece.is_some() {
            // This reader doesn't wait any more. The owner sets the flags again if another reader
            // waits.
            self.set_starved(StdStream::Stdout, false);
            self.set_starved(StdStream::Stderr, false);
            self.update_pause(now);
        }
        piece
    }

    /// Why the output ended, once it has.
    pub fn finished(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// The number of buffered bytes.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Whether the link is paused.
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

    /// Handles the passage of time.
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
                // Under v2, the confirmation of a kill doesn't queue behind output, so earlier
                // output needn't be dropped.
                let killed = self.killed && !self.windowed;
                killed || self.stalled || awaited && self.streams[stream as usize].readers == 0
            }
        }
    }

    /// Drops output if that is necessary and allowed. Returns the permits if there is room.
    fn make_room(&mut self) {
        while !self.has_room() {
            let mut excess = self.used - self.policy.budget + 1;
            if self.windowed && self.policy.overflow != Overflow::DropOldest {
                // Drop enough to make an acknowledgement due, so that the process continues.
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
