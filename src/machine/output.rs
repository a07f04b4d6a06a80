//! [`OutputBuffer`]: the output of one exec under a byte budget.
//!
//! Protocol v1 has no flow control: output, statuses and answers come down one TCP stream. When a
//! process prints faster than its output is read, a client can stop reading the link (and a status
//! waits behind the output), or drop output, or grow. Growing is never done here. Which of the other
//! two happens is the [`OutputPolicy`], and under [`Overflow::Pause`] it depends on who waits:
//!
//! - while nobody waits for anything behind the output, the link is not read, and the process stops;
//! - as soon as somebody does (a `kill`, a `wait`, a request to the sandbox, a subscriber, a reader of
//!   the *other* stream), the link is read on, and what does not fit is dropped from a stream that
//!   nobody reads, oldest first. The reader of it sees the gap as an error.
//! - A stream that has a reader is dropped from only after a kill, or when the reader took nothing
//!   for the longest pause.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};

use super::SandboxEnd;
use crate::protocol::StdStream;

/// Pieces shorter than this are gathered, so that many small ones cost no more than a few large ones.
const SMALL: usize = 1024;
/// A gathered piece is closed when it reaches this size.
const GATHERED: usize = 16 * 1024;

/// How much output of one process is kept for its readers, and what happens to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputPolicy {
    /// Bytes of stdout and stderr together. Default: 4 MiB.
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

/// What happens to output over the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The link is not read, so that the process stops, until somebody reads the output or waits for
    /// something behind it.
    Pause {
        /// Longest pause without a byte read, after which output is dropped rather than the link
        /// left unread (servers drop a client that answers no ping). Default: 10 s.
        max: Duration,
    },
    /// The oldest output is dropped; its reader sees an error with the number of bytes.
    DropOldest,
    /// The process is killed, and its readers see an error after what was kept.
    Fail,
}

impl Default for Overflow {
    fn default() -> Self {
        Self::Pause {
            max: Duration::from_secs(10),
        }
    }
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Output.
    Data(Bytes),
    /// This many bytes were dropped here.
    Gap(u64),
}

/// Why no more output comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The process ended, and this was all.
    Complete,
    /// The sandbox was lost: there may have been more.
    SandboxLost(SandboxEnd),
    /// The budget was exceeded under [`Overflow::Fail`].
    Overflowed,
    /// The process's actor is gone.
    ActorGone,
}

#[derive(Debug, Default)]
struct StreamBuffer {
    /// Dropped before `pieces`.
    gap: u64,
    pieces: VecDeque<Bytes>,
    /// Small pieces, gathered.
    tail: BytesMut,
    /// How many readers hold the stream.
    readers: usize,
    /// A reader found nothing and waits.
    starved: bool,
}

impl StreamBuffer {
    fn push(&mut self, data: Bytes) {
        if data.len() < SMALL {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= GATHERED {
                self.close_tail();
            }
        } else {
            self.close_tail();
            self.pieces.push_back(data);
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.pieces
            .pop_front()
            .or_else(|| (!self.tail.is_empty()).then(|| self.tail.split().freeze()))
    }

    /// Drops at least `bytes` from the front, up to the next code point; gives how many it were.
    fn evict(&mut self, bytes: usize) -> usize {
        let mut evicted = 0;
        while evicted < bytes {
            let Some(mut piece) = self.pop() else { break };
            let mut cut = (bytes - evicted).min(piece.len());
            while piece.get(cut).is_some_and(|byte| byte & 0xC0 == 0x80) {
                cut += 1;
            }
            piece.advance(cut);
            evicted += cut;
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        self.gap += evicted as u64;
        evicted
    }
}

/// The output of one exec. `P` is a permit to read the link, given back by being dropped.
#[derive(Debug)]
pub struct OutputBuffer<P> {
    policy: OutputPolicy,
    streams: [StreamBuffer; 2],
    used: usize,
    permits: Vec<P>,
    /// Somebody waits for something behind the output.
    awaited: bool,
    /// A kill was asked for: everything may be dropped.
    killed: bool,
    /// No reader is left and none can come.
    unreadable: bool,
    /// Since when the link is not read and nobody reads here.
    paused_since: Option<Instant>,
    /// The longest pause is over; until the next read, everything may be dropped.
    stalled: bool,
    finish: Option<Finish>,
}

impl<P> OutputBuffer<P> {
    /// An empty buffer. A budget of nothing counts as one byte: with less there would never be room.
    pub fn new(policy: OutputPolicy) -> Self {
        Self {
            policy: OutputPolicy {
                budget: policy.budget.max(1),
                ..policy
            },
            streams: Default::default(),
            used: 0,
            permits: Vec::new(),
            awaited: false,
            killed: false,
            unreadable: false,
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
        if self.policy.overflow == Overflow::Fail
            && self.used.saturating_add(data.len()) > self.policy.budget
        {
            self.finish(Finish::Overflowed);
            return false;
        }
        self.used += data.len();
        let buffer = &mut self.streams[stream as usize];
        buffer.starved = false;
        buffer.push(data);
        self.make_room();
        true
    }

    /// Takes the permit of a batch from the link; it is given back once there is room.
    pub fn handle_permit(&mut self, permit: P, now: Instant) {
        if self.has_room() {
            return;
        }
        self.permits.push(permit);
        self.paused_since.get_or_insert(now);
    }

    /// No more output comes. What is kept stays readable.
    pub fn finish(&mut self, finish: Finish) {
        self.finish.get_or_insert(finish);
        self.resume();
    }

    /// Somebody waits, or nobody waits any more, for something behind the output.
    pub fn set_awaited(&mut self, awaited: bool) {
        self.awaited = awaited;
        self.make_room();
    }

    /// A kill was asked for, or was refused.
    pub fn set_killed(&mut self, killed: bool) {
        self.killed = killed;
        self.make_room();
    }

    /// Nobody can read this buffer any more.
    pub fn set_unreadable(&mut self) {
        self.unreadable = true;
        self.streams = Default::default();
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
        let buffer = &mut self.streams[stream as usize];
        let piece = if buffer.gap > 0 {
            Some(Piece::Gap(std::mem::take(&mut buffer.gap)))
        } else {
            buffer.pop().map(Piece::Data)
        };
        if let Some(Piece::Data(data)) = &piece {
            self.used -= data.len();
        }
        buffer.starved = piece.is_none() && self.finish.is_none();
        if piece.is_some() {
            self.stalled = false;
            self.paused_since = self.paused_since.map(|_| now);
        }
        self.make_room();
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
    pub fn is_paused(&self) -> bool {
        !self.permits.is_empty()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Overflow::Pause { max } = self.policy.overflow else {
            return None;
        };
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
            Overflow::Pause { .. } => {
                let other = match stream {
                    StdStream::Stdout => StdStream::Stderr,
                    StdStream::Stderr => StdStream::Stdout,
                };
                let awaited = self.awaited || self.streams[other as usize].starved;
                self.killed || self.stalled || awaited && self.streams[stream as usize].readers == 0
            }
        }
    }

    /// Drops output where that is allowed and needed, and gives permits back where there is room.
    fn make_room(&mut self) {
        while !self.has_room() {
            let excess = self.used - self.policy.budget + 1;
            let fullest = [StdStream::Stdout, StdStream::Stderr]
                .into_iter()
                .filter(|&stream| self.may_evict(stream))
                .max_by_key(|&stream| {
                    self.streams[stream as usize]
                        .pieces
                        .iter()
                        .map(Bytes::len)
                        .sum::<usize>()
                        + self.streams[stream as usize].tail.len()
                });
            let evicted = fullest.map_or(0, |stream| self.streams[stream as usize].evict(excess));
            if evicted == 0 {
                return;
            }
            self.used -= evicted;
        }
        self.resume();
    }

    fn resume(&mut self) {
        self.permits.clear();
        self.paused_since = None;
    }
}

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]
mod tests {
    use std::rc::Rc;

    use StdStream::{Stderr, Stdout};

    use super::*;

    const KIB: usize = 1024;

    struct Link {
        buffer: OutputBuffer<Rc<()>>,
        permit: Rc<()>,
        now: Instant,
    }

    impl Link {
        fn new(overflow: Overflow) -> Self {
            let policy = OutputPolicy {
                budget: 8 * KIB,
                overflow,
            };
            Self {
                buffer: OutputBuffer::new(policy),
                permit: Rc::new(()),
                now: Instant::now(),
            }
        }
        /// A batch of output, if the link is being read.
        fn deliver(&mut self, stream: StdStream, byte: u8, len: usize) -> bool {
            if Rc::strong_count(&self.permit) > 1 {
                return false;
            }
            assert!(self.buffer.handle_output(stream, vec![byte; len].into()));
            self.buffer.handle_permit(self.permit.clone(), self.now);
            true
        }
        /// Delivers until the link is held back; gives how many KiB came through.
        fn flood(&mut self, stream: StdStream) -> usize {
            (0..1000)
                .take_while(|_| self.deliver(stream, b'x', KIB))
                .count()
        }
        fn read_all(&mut self, stream: StdStream) -> (usize, u64) {
            let (mut bytes, mut lost) = (0, 0);
            while let Some(piece) = self.buffer.read(stream, self.now) {
                match piece {
                    Piece::Data(data) => bytes += data.len(),
                    Piece::Gap(gap) => lost += gap,
                }
            }
            (bytes, lost)
        }
    }

    fn pause() -> Overflow {
        Overflow::default()
    }

    #[test]
    fn small_pieces_are_gathered_and_order_is_kept() {
        let mut link = Link::new(pause());
        for byte in 0..100u8 {
            assert!(link.deliver(Stdout, byte, 3));
        }
        let Some(Piece::Data(data)) = link.buffer.read(Stdout, link.now) else {
            panic!()
        };
        assert_eq!(data.len(), 300);
        assert!(data.is_sorted());
    }

    #[test]
    fn pause_holds_the_link_until_somebody_reads_and_loses_nothing() {
        let mut link = Link::new(pause());
        link.buffer.add_reader(Stdout);
        assert_eq!(link.flood(Stdout), 8);
        assert!(link.buffer.is_paused());
        assert!(matches!(
            link.buffer.read(Stdout, link.now),
            Some(Piece::Data(_))
        ));
        assert!(!link.buffer.is_paused());
        assert_eq!(link.read_all(Stdout), (7 * KIB, 0));
    }

    #[test]
    fn a_waiter_behind_unread_output_gets_it_drained_within_the_budget() {
        let mut link = Link::new(pause());
        assert_eq!(link.flood(Stdout), 8);
        link.buffer.set_awaited(true);
        assert_eq!(link.flood(Stdout), 1000);
        assert!(link.buffer.used() < 8 * KIB);
        let (bytes, lost) = link.read_all(Stdout);
        assert_eq!(
            bytes as u64 + lost,
            1008 * KIB as u64,
            "every byte is there or counted as lost"
        );
    }

    #[test]
    fn a_waiter_does_not_cost_a_live_reader_its_output() {
        let mut link = Link::new(pause());
        link.buffer.add_reader(Stdout);
        link.buffer.set_awaited(true);
        assert_eq!(link.flood(Stdout), 8);
        assert_eq!(link.read_all(Stdout), (8 * KIB, 0));
    }

    #[test]
    fn a_reader_of_one_stream_is_not_held_back_by_the_other_that_nobody_reads() {
        let mut link = Link::new(pause());
        link.buffer.add_reader(Stdout);
        assert_eq!(link.flood(Stderr), 8);
        assert_eq!(link.buffer.read(Stdout, link.now), None);
        assert_eq!(link.flood(Stderr), 1000);
        assert!(link.deliver(Stdout, b'o', 10));
        assert_eq!(link.read_all(Stdout), (10, 0));
        let (_, lost) = link.read_all(Stderr);
        assert!(lost > 0, "the loss is visible to a later reader");
    }

    #[test]
    fn a_kill_drains_whoever_reads() {
        let mut link = Link::new(pause());
        link.buffer.add_reader(Stdout);
        assert_eq!(link.flood(Stdout), 8);
        link.buffer.set_killed(true);
        assert_eq!(link.flood(Stdout), 1000);
    }

    #[test]
    fn a_reader_that_takes_nothing_for_the_longest_pause_counts_as_gone() {
        let mut link = Link::new(pause());
        link.buffer.add_reader(Stdout);
        link.flood(Stdout);
        link.now += Duration::from_secs(9);
        link.buffer.read(Stdout, link.now);
        link.flood(Stdout);
        let due = link.buffer.poll_timeout().expect("paused");
        link.buffer.handle_timeout(due - Duration::from_millis(1));
        assert!(link.buffer.is_paused());
        link.buffer.handle_timeout(due);
        assert_eq!(link.flood(Stdout), 1000);
        assert!(link.read_all(Stdout).1 > 0);
        assert_eq!(
            link.flood(Stdout),
            8,
            "a reader that reads again is a reader"
        );
    }

    #[test]
    fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
        let mut link = Link::new(Overflow::DropOldest);
        for byte in 0..64 {
            assert!(link.deliver(Stdout, byte, KIB));
        }
        let Some(Piece::Gap(lost)) = link.buffer.read(Stdout, link.now) else {
            panic!()
        };
        let Some(Piece::Data(first)) = link.buffer.read(Stdout, link.now) else {
            panic!()
        };
        assert_eq!(first[0], 56);
        assert_eq!(
            lost as usize + first.len() + link.read_all(Stdout).0,
            64 * KIB
        );
    }

    #[test]
    fn what_is_dropped_is_whole_code_points() {
        let mut link = Link::new(Overflow::DropOldest);
        for _ in 0..10 {
            assert!(
                link.buffer
                    .handle_output(Stdout, "aé€😀".repeat(123).into())
            );
        }
        link.buffer.read(Stdout, link.now);
        while let Some(Piece::Data(data)) = link.buffer.read(Stdout, link.now) {
            assert!(std::str::from_utf8(&data).is_ok());
        }
    }

    #[test]
    fn fail_keeps_what_it_has_and_asks_for_the_kill_once() {
        let mut link = Link::new(Overflow::Fail);
        assert_eq!(
            (0..8)
                .filter(|_| link.buffer.handle_output(Stdout, vec![b'x'; KIB].into()))
                .count(),
            8
        );
        assert!(!link.buffer.handle_output(Stdout, vec![b'x'; KIB].into()));
        assert!(link.buffer.handle_output(Stdout, vec![b'x'; KIB].into()));
        assert_eq!(link.buffer.finished(), Some(&Finish::Overflowed));
        assert_eq!(link.read_all(Stdout), (8 * KIB, 0));
    }

    #[test]
    fn output_that_nobody_can_read_is_not_kept() {
        let mut link = Link::new(pause());
        link.flood(Stdout);
        link.buffer.set_unreadable();
        assert_eq!(link.flood(Stdout), 1000);
        assert_eq!(link.buffer.used(), 0);
    }

    #[test]
    fn a_budget_of_nothing_holds_no_link_for_ever() {
        let mut buffer = OutputBuffer::new(OutputPolicy {
            budget: 0,
            overflow: pause(),
        });
        let now = Instant::now();
        assert!(buffer.handle_output(Stdout, "xyz".into()));
        buffer.handle_permit((), now);
        buffer.handle_timeout(now + Duration::from_secs(10));
        assert!(!buffer.is_paused());
        assert_eq!(buffer.poll_timeout(), None, "the timer would fire for ever");
    }

    #[test]
    fn a_refused_kill_costs_a_reader_nothing() {
        let mut link = Link::new(pause());
        link.buffer.add_reader(Stdout);
        link.buffer.set_killed(true);
        link.buffer.set_killed(false);
        assert_eq!(link.flood(Stdout), 8);
    }

    #[test]
    fn finish_gives_the_link_back_and_keeps_what_is_there() {
        let mut link = Link::new(pause());
        link.flood(Stderr);
        link.buffer.finish(Finish::Complete);
        assert!(!link.buffer.is_paused());
        assert_eq!(link.read_all(Stderr), (8 * KIB, 0));
    }

    #[test]
    fn memory_stays_within_the_budget_under_any_sequence() {
        use proptest::prelude::*;
        #[derive(Clone, Debug)]
        enum Step {
            Deliver(bool, usize),
            Read(bool),
            Awaited(bool),
            Reader(bool, bool),
            Kill,
            Time,
        }
        let step = prop_oneof![
            8 => (any::<bool>(), 0usize..5000).prop_map(|(s, n)| Step::Deliver(s, n)),
            4 => any::<bool>().prop_map(Step::Read),
            1 => any::<bool>().prop_map(Step::Awaited),
            1 => (any::<bool>(), any::<bool>()).prop_map(|(s, add)| Step::Reader(s, add)),
            1 => Just(Step::Time),
        ];
        let step = prop_oneof![40 => step, 1 => Just(Step::Kill)];
        let overflow = prop_oneof![Just(Overflow::default()), Just(Overflow::DropOldest)];
        proptest!(|(overflow in overflow, steps in prop::collection::vec(step, 0..200))| {
            let stream = |first: bool| if first { Stdout } else { Stderr };
            let mut link = Link::new(overflow);
            let (mut sent, mut seen) = (0u64, 0u64);
            for step in steps {
                match step {
                    Step::Deliver(s, n) => if link.deliver(stream(s), b'x', n) { sent += n as u64 },
                    Step::Read(s) => match link.buffer.read(stream(s), link.now) {
                        Some(Piece::Data(data)) => seen += data.len() as u64,
                        Some(Piece::Gap(gap)) => seen += gap,
                        None => {}
                    },
                    Step::Awaited(awaited) => link.buffer.set_awaited(awaited),
                    Step::Reader(s, true) => link.buffer.add_reader(stream(s)),
                    Step::Reader(s, false) => link.buffer.remove_reader(stream(s)),
                    Step::Kill => link.buffer.set_killed(true),
                    Step::Time => {
                        link.now += Duration::from_secs(11);
                        link.buffer.handle_timeout(link.now);
                    }
                }
                prop_assert!(link.buffer.used() < 8 * KIB + 5000);
                prop_assert_eq!(link.buffer.is_paused(), Rc::strong_count(&link.permit) > 1);
                prop_assert!(!link.buffer.is_paused() || link.buffer.used() >= 8 * KIB);
            }
            for s in [Stdout, Stderr] {
                let (bytes, lost) = link.read_all(s);
                seen += bytes as u64 + lost;
            }
            prop_assert_eq!(seen, sent, "every byte is delivered or counted as lost");
        });
    }
}
