//! One exec at the client: its readers, and the part of its actor that drives the machine and the
//! output.

use std::time::Instant;

use crate::{
    machine::{
        Finish, OutputBuffer, OutputPolicy, Overflow, Piece, Process, ProcessAction, ProcessConfig,
        ProcessEnd, ProcessFact,
    },
    protocol::{ExecId, OutputPiece, StdStream},
};

/// The speed of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speed {
    Fast,
    /// One piece in this many milliseconds.
    Slow(u64),
    Stopped,
}

struct Reader {
    speed: Speed,
    due: u64,
}

pub(super) struct Exec {
    pub(super) id: ExecId,
    pub(super) machine: Box<Process>,
    buffer: OutputBuffer<()>,
    readers: [Reader; 2],
    /// Everything that readers read.
    pub(super) heard: [Vec<u8>; 2],
    /// The number of bytes after whose reading the actor is woken.
    wake_after: Option<u64>,
    woken: bool,
    /// Everything that was written to stdin, accepted or not.
    pub(super) written: Vec<u8>,
    /// Whether this client closed stdin.
    pub(super) closed: bool,
    /// Whether an earlier client may have closed stdin, so that no more input is taken.
    pub(super) closed_before: bool,
    /// The number of written bytes that were accepted.
    pub(super) accepted: usize,
    /// Whether the user has a handle.
    pub(super) claimed: bool,
    /// Whether no handle will ever exist.
    pub(super) abandoned: bool,
    /// Whether it ended without a report of the server: it never started, or the link now leads to
    /// a server of another version.
    pub(super) left: bool,
    pub(super) ended: Option<ProcessEnd>,
    pub(super) output_ended: Option<Finish>,
    pub(super) settled: bool,
}

impl Exec {
    pub(super) fn new(id: ExecId, machine: Box<Process>) -> Self {
        let policy = OutputPolicy {
            // The pause is so long that no output is dropped.
            overflow: Overflow::Pause {
                max: std::time::Duration::from_secs(1_000_000),
            },
            ..OutputPolicy::default()
        };
        let mut buffer = OutputBuffer::new(policy);
        buffer.set_window(machine.window().expect("a window"));
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            buffer.add_reader(stream);
        }
        let reader = || Reader {
            speed: Speed::Fast,
            due: 0,
        };
        Self {
            id,
            machine,
            buffer,
            readers: [reader(), reader()],
            heard: Default::default(),
            wake_after: None,
            woken: true,
            written: Vec::new(),
            closed: false,
            closed_before: false,
            accepted: 0,
            claimed: false,
            abandoned: false,
            left: false,
            ended: None,
            output_ended: None,
            settled: false,
        }
    }

    pub(super) fn config() -> ProcessConfig {
        ProcessConfig {
            stdin_budget: 300,
            ..ProcessConfig::default()
        }
    }

    // The actor.

    pub(super) fn handle_fact(&mut self, fact: ProcessFact, now: Instant) {
        self.left |= matches!(fact, ProcessFact::SandboxEnded(_));
        self.abandoned |= matches!(fact, ProcessFact::Abandoned);
        self.machine.handle_fact(fact, now);
        self.buffer
            .set_window(self.machine.window().expect("a window"));
        self.woken = true;
    }

    pub(super) fn handle_output(&mut self, piece: OutputPiece, now: Instant) {
        let offset = piece.place.expect("a place").offset;
        let (gap, new) = self
            .machine
            .handle_output(piece.stream, Some(offset), piece.data);
        assert_eq!(gap, 0, "output of {:?} was lost", self.id);
        assert!(self.buffer.handle_output(piece.stream, new));
        self.buffer.handle_permit((), now);
        self.buffer.update_pause(now);
        assert!(!self.buffer.is_paused(), "the link is always read");
        let window = self.machine.window().expect("a window");
        assert!(self.buffer.used() as u64 <= window, "over the window");
        self.machine.handle_output_kept();
        self.woken = true;
    }

    /// Wakes the actor after a request to the machine.
    pub(super) fn wake(&mut self) {
        self.woken = true;
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let machine = self.machine.poll_timeout().into_iter();
        machine.chain(self.buffer.poll_timeout()).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.buffer.handle_timeout(now);
        self.machine.handle_timeout(now);
        self.woken = true;
    }

    /// Runs the actor when it was woken. Returns the actions of its machine.
    pub(super) fn poll(&mut self) -> Vec<ProcessAction> {
        if !std::mem::take(&mut self.woken) {
            return Vec::new();
        }
        if let Some((received, after)) = self.machine.acknowledgeable() {
            self.wake_after = Some(after);
            let taken = self.taken(received);
            self.machine.handle_taken(taken);
        }
        let actions: Vec<_> = std::iter::from_fn(|| self.machine.poll_action()).collect();
        self.buffer.set_awaited(self.machine.is_awaited(false));
        self.buffer.set_killed(self.machine.is_kill_wanted());
        actions
    }

    fn taken(&self, received: [u64; 2]) -> [u64; 2] {
        let untaken = self.buffer.untaken();
        [0, 1].map(|it| received[it] - untaken[it] as u64)
    }

    /// Ends the output.
    pub(super) fn finish(&mut self, finish: Finish) {
        self.buffer.finish(finish.clone());
        let earlier = self.output_ended.replace(finish);
        assert_eq!(earlier, None, "the output of {:?} ended twice", self.id);
    }

    /// Returns the position at which another client resumes.
    pub(super) fn place(&mut self) -> (ExecId, [u64; 2], u64) {
        if let Some((received, _)) = self.machine.acknowledgeable() {
            self.machine.handle_taken(self.taken(received));
        }
        let (id, taken) = self.machine.place().expect("a place");
        assert_eq!(taken, [0, 1].map(|it| self.heard[it].len() as u64));
        let window = self.machine.window().expect("a window");
        (id.clone(), taken, window)
    }

    // The readers.

    pub(super) fn set_speed(&mut self, stream: StdStream, speed: Speed) {
        self.readers[stream as usize].speed = speed;
    }

    pub(super) fn reads_at(&self) -> Option<u64> {
        let slow = |reader: &&Reader| matches!(reader.speed, Speed::Slow(_));
        self.readers
            .iter()
            .filter(slow)
            .map(|reader| reader.due)
            .min()
    }

    /// Lets the readers read. Returns whether they read anything.
    pub(super) fn read(&mut self, time: u64, now: Instant) -> bool {
        if !self.claimed || self.abandoned {
            return false;
        }
        let mut got = false;
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            let reader = &mut self.readers[stream as usize];
            let most = match reader.speed {
                Speed::Fast => usize::MAX,
                Speed::Slow(pause) if reader.due <= time => {
                    reader.due = time + pause;
                    1
                }
                Speed::Slow(_) | Speed::Stopped => 0,
            };
            for _ in 0..most {
                let before = self.buffer.used();
                let piece = self.buffer.read(stream, now);
                let taken = (before - self.buffer.used()) as u64;
                self.count_taken(taken);
                match piece {
                    Some(Piece::Data(data)) => {
                        got = true;
                        self.heard[stream as usize].extend_from_slice(&data);
                    }
                    Some(Piece::Gap(gap)) => panic!("{gap} bytes of {:?} were dropped", self.id),
                    None => break,
                }
            }
        }
        got
    }

    fn count_taken(&mut self, bytes: u64) {
        if let Some(after) = &mut self.wake_after {
            *after = after.saturating_sub(bytes);
            if *after == 0 {
                self.wake_after = None;
                self.woken = true;
            }
        }
    }
}
