//! The output of a named exec (v2): the link is always read, and the window pauses the process.

use super::*;
use crate::machine::SandboxEnd;

const WINDOW: usize = 8 * KIB;

/// A server that prints as much as the window allows.
struct Flood {
    buffer: OutputBuffer<Rc<()>>,
    permit: Rc<()>,
    now: Instant,
    sent: usize,
}

impl Flood {
    fn new(budget: usize, overflow: Overflow) -> Self {
        let mut buffer = OutputBuffer::new(OutputPolicy { budget, overflow });
        buffer.set_window(WINDOW as u64);
        Self {
            buffer,
            permit: Rc::new(()),
            now: Instant::now(),
            sent: 0,
        }
    }

    fn pause() -> Self {
        Self::new(64 * KIB, pause())
    }

    /// The room in the window, in bytes, if the server receives every acknowledgement at once.
    fn room(&self) -> usize {
        let untaken: usize = self.buffer.untaken().iter().sum();
        WINDOW - untaken
    }

    /// Fills the window with code points of four bytes. Returns the number of bytes, at most 100
    /// windows.
    fn flood(&mut self, stream: StdStream) -> usize {
        let before = self.sent;
        while self.room() >= 4 && self.sent - before < 100 * WINDOW {
            let data = "\u{1F600}".repeat(self.room().min(KIB) / 4);
            self.sent += data.len();
            assert!(self.buffer.handle_output(stream, data.into()));
            self.buffer.handle_permit(self.permit.clone(), self.now);
            self.buffer.update_pause(self.now);
            assert_eq!(Rc::strong_count(&self.permit), 1, "the link is read");
            assert!(self.buffer.used() <= WINDOW);
        }
        self.sent - before
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

#[test]
fn a_full_window_loses_nothing_without_waiters() {
    let mut link = Flood::pause();
    assert_eq!(link.flood(Stdout), WINDOW);
    assert_eq!(link.buffer.poll_timeout(), None);
    // A kill drops no output either, because its confirmation doesn't queue behind output.
    link.buffer.set_killed(true);
    link.buffer
        .handle_timeout(link.now + Duration::from_secs(1000));
    assert_eq!(link.flood(Stdout), 0);
    assert_eq!(link.read_all(Stdout), (WINDOW, 0));
}

#[test]
fn a_waiter_for_the_end_releases_unread_output() {
    let mut link = Flood::pause();
    link.flood(Stdout);
    link.buffer.set_awaited(true);
    assert!(link.room() >= WINDOW / 4, "enough for an acknowledgement");
    assert!(link.flood(Stdout) >= 100 * WINDOW, "the process continues");
    let (bytes, lost) = link.read_all(Stdout);
    assert_eq!(
        bytes + lost as usize,
        link.sent,
        "all of it is there or counted"
    );
}

#[test]
fn a_waiting_reader_makes_room_in_the_unread_stream() {
    for left in 0..8 {
        let mut link = Flood::pause();
        link.flood(Stderr);
        let mut bytes = left;
        link.buffer.add_reader(Stdout);
        while bytes > 0 {
            bytes -= 1;
            link.buffer.streams[1].evict(1);
            link.buffer.used = link.buffer.streams[1].kept;
        }
        assert_eq!(link.buffer.read(Stdout, link.now), None);
        assert!(link.room() >= 4, "{left}");
        assert!(link.flood(Stdout) > 0, "{left}");
    }
}

#[test]
fn a_reader_idle_for_the_longest_pause_loses_old_output() {
    let mut link = Flood::pause();
    link.buffer.add_reader(Stderr);
    link.buffer.add_reader(Stdout);
    link.flood(Stderr);
    assert_eq!(link.buffer.poll_timeout(), None, "no caller waits");
    assert_eq!(link.buffer.read(Stdout, link.now), None);
    let due = link
        .buffer
        .poll_timeout()
        .expect("the reader of stdout waits");
    link.buffer.handle_timeout(due - Duration::from_millis(1));
    assert_eq!(link.room(), 0);
    link.now = due;
    link.buffer.handle_timeout(due);
    assert!(link.room() >= WINDOW / 4);
    assert_eq!(link.buffer.poll_timeout(), None);
    assert!(link.read_all(Stderr).1 > 0);
}

#[test]
fn a_slow_reader_of_both_streams_loses_nothing() {
    let mut link = Flood::pause();
    link.buffer.add_reader(Stdout);
    link.buffer.add_reader(Stderr);
    assert_eq!(link.buffer.read_either(link.now), None);
    assert!(link.buffer.handle_output(Stdout, "first".into()));
    assert!(link.buffer.read_either(link.now).is_some());
    link.flood(Stdout);
    assert_eq!(link.buffer.poll_timeout(), None, "no reader waits");
}

#[test]
fn output_that_was_handed_on_is_never_dropped() {
    let mut link = Flood::pause();
    link.flood(Stdout);
    link.buffer.add_reader(Stderr);
    assert!(link.buffer.hand_on());
    assert_eq!(link.buffer.read(Stderr, link.now), None);
    link.buffer.set_awaited(true);
    link.buffer.update_pause(link.now);
    assert_eq!(link.buffer.poll_timeout(), None);
    assert_eq!(link.read_all(Stdout), (WINDOW, 0));
    assert!(!Flood::new(WINDOW, Overflow::DropOldest).buffer.hand_on());
}

#[test]
fn gaps_stand_where_the_bytes_are_missing_and_count_as_taken() {
    let mut link = Flood::pause();
    assert!(link.buffer.handle_output(Stdout, "abc".into()));
    link.buffer.handle_gap(Stdout, 5);
    link.buffer.handle_gap(Stdout, u64::MAX);
    assert!(link.buffer.handle_output(Stdout, "def".into()));
    link.buffer.handle_gap(Stderr, 1);
    assert_eq!(link.buffer.untaken(), [6, 0]);
    let pieces: Vec<_> = std::iter::from_fn(|| link.buffer.read(Stdout, link.now)).collect();
    let data = |text: &'static str| Piece::Data(text.into());
    assert_eq!(pieces, [data("abc"), Piece::Gap(u64::MAX), data("def")]);
    assert_eq!(link.buffer.read(Stderr, link.now), Some(Piece::Gap(1)));
    link.buffer.finish(Finish::SandboxLost(SandboxEnd::Closed));
    link.buffer.handle_gap(Stdout, 1);
    assert_eq!(link.buffer.read(Stdout, link.now), None);
}

#[test]
fn other_policies_do_not_pause_the_process() {
    let mut link = Flood::new(4 * KIB, Overflow::DropOldest);
    assert!(link.flood(Stdout) >= 100 * WINDOW);
    assert!(link.buffer.used() <= 4 * KIB);
    let mut buffer: OutputBuffer<()> = OutputBuffer::new(OutputPolicy {
        budget: 4 * KIB,
        overflow: Overflow::Fail,
    });
    buffer.set_window(WINDOW as u64);
    assert!(buffer.handle_output(Stdout, vec![b'x'; 4 * KIB].into()));
    assert_eq!(buffer.untaken(), [0, 0]);
    assert!(!buffer.handle_output(Stderr, "x".into()));
}

#[test]
fn windows_of_any_size_open_again() {
    for window in [0, 1, 3, 4, 1024, u64::MAX] {
        let mut buffer: OutputBuffer<()> = OutputBuffer::new(OutputPolicy::default());
        buffer.set_window(window);
        assert!(buffer.handle_output(Stdout, vec![b'x'; 2000].into()));
        buffer.set_awaited(true);
        let untaken = buffer.untaken()[0] as u64;
        assert!(window < 4 || window - untaken >= 4, "{window}: {untaken}");
    }
}
