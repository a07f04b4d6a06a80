//! Tables and properties of the output machine.

#![allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]

mod windowed;

use std::rc::Rc;

use StdStream::{Stderr, Stdout};

use super::{stream::MAX_GAPS, *};

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
    /// Delivers a batch of output, if the link is being read.
    fn deliver(&mut self, stream: StdStream, byte: u8, len: usize) -> bool {
        if Rc::strong_count(&self.permit) > 1 {
            return false;
        }
        assert!(self.buffer.handle_output(stream, vec![byte; len].into()));
        self.buffer.handle_permit(self.permit.clone(), self.now);
        true
    }
    /// Delivers output until the link is paused. Returns the number of KiB.
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
fn pause_holds_the_link_until_a_read_and_loses_nothing() {
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
fn unread_output_before_a_waiter_is_drained_within_budget() {
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
fn an_unread_stream_does_not_block_the_reader_of_the_other() {
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
fn a_kill_drains_output_under_any_policy() {
    let mut link = Link::new(pause());
    link.buffer.add_reader(Stdout);
    assert_eq!(link.flood(Stdout), 8);
    link.buffer.set_killed(true);
    assert_eq!(link.flood(Stdout), 1000);
}

#[test]
fn a_reader_idle_for_the_longest_pause_counts_as_gone() {
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
fn only_whole_code_points_are_dropped() {
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
fn fail_keeps_buffered_output_and_requests_one_kill() {
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
fn abandoned_output_is_not_kept() {
    let mut link = Link::new(pause());
    link.flood(Stdout);
    link.buffer.set_unreadable();
    assert_eq!(link.flood(Stdout), 1000);
    assert_eq!(link.buffer.used(), 0);
}

#[test]
fn a_zero_budget_does_not_pause_the_link_forever() {
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
fn finish_resumes_the_link_and_keeps_the_output() {
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

#[test]
fn output_behind_a_gap_makes_room_too() {
    let mut link = Link::new(Overflow::DropOldest);
    assert!(link.deliver(Stdout, b'a', 1));
    link.buffer.handle_gap(Stdout, 1);
    let first = link.buffer.read(Stdout, link.now);
    assert_eq!(first, Some(Piece::Data("a".into())));
    for _ in 0..9 * KIB {
        assert!(link.deliver(Stdout, b'x', 1));
    }
    assert!(link.buffer.used() < 8 * KIB);
}

#[test]
fn many_gaps_are_bounded_and_every_byte_is_counted() {
    let mut link = Link::new(Overflow::default());
    for _ in 0..3 * MAX_GAPS {
        assert!(link.buffer.handle_output(Stdout, vec![b'x'; 2].into()));
        link.buffer.handle_gap(Stdout, 1);
    }
    assert!(link.buffer.streams[0].pieces.len() <= 2 * MAX_GAPS);
    assert_eq!(link.buffer.used(), 2 * MAX_GAPS);
    assert_eq!(link.buffer.untaken(), [2 * MAX_GAPS, 0]);
    let kept = 2 * MAX_GAPS;
    let lost = 3 * MAX_GAPS as u64 + 4 * MAX_GAPS as u64;
    assert_eq!(link.read_all(Stdout), (kept, lost));
    assert_eq!(link.buffer.used(), 0);
}

/// A reader of both streams always gets the oldest remaining byte.
#[test]
fn both_streams_are_read_in_the_order_of_arrival() {
    use proptest::prelude::*;
    #[derive(Clone, Debug)]
    enum Step {
        Deliver(StdStream, usize),
        Read(StdStream, usize),
        ReadEither,
    }
    let stream = || prop_oneof![Just(Stdout), Just(Stderr)];
    let step = prop_oneof![
        6 => (stream(), prop_oneof![1usize..5, 1000usize..3000]).prop_map(|(s, n)| Step::Deliver(s, n)),
        1 => (stream(), 1usize..2000).prop_map(|(s, n)| Step::Read(s, n)),
        3 => Just(Step::ReadEither),
    ];
    let overflow = prop_oneof![Just(Overflow::default()), Just(Overflow::DropOldest)];
    proptest!(|(overflow in overflow, steps in prop::collection::vec(step, 0..200))| {
        let mut link = Link::new(overflow);
        // The unread bytes, numbered, in order of arrival.
        let mut unread: Vec<(StdStream, u8)> = Vec::new();
        let mut number = 0u8;
        for step in steps {
            match step {
                Step::Deliver(s, n) if link.buffer.used() < 8 * KIB => {
                    let data: Vec<u8> = (0..n).map(|_| { number = number.wrapping_add(1); number }).collect();
                    unread.extend(data.iter().map(|&byte| (s, byte)));
                    prop_assert!(link.buffer.handle_output(s, data.into()));
                }
                Step::Deliver(..) => {}
                Step::Read(s, most) => {
                    if let Some(Piece::Data(data)) = link.buffer.read_at_most(s, most, link.now) {
                        prop_assert!(data.len() <= most);
                    }
                }
                Step::ReadEither => match link.buffer.read_either(link.now) {
                    Some((s, Piece::Data(data))) => {
                        let next = unread.drain(..data.len());
                        prop_assert!(next.eq(data.iter().map(|&byte| (s, byte))));
                    }
                    Some((_, Piece::Gap(_))) => {}
                    None => prop_assert!(unread.is_empty()),
                },
            }
            // The bytes that were read or dropped were the oldest of their stream.
            for s in [Stdout, Stderr] {
                let left = unread.iter().filter(|(of, _)| *of == s).count();
                let mut gone = left - link.buffer.streams[s as usize].kept;
                unread.retain(|(of, _)| {
                    let goes = *of == s && gone > 0;
                    gone -= usize::from(goes);
                    !goes
                });
            }
        }
    });
}
