//! A program on the server: a process that prints, echoes its input and ends. It may leave a child
//! behind.

use std::collections::VecDeque;

use crate::protocol::StdStream;

/// The capacity of a pipe for output, in bytes.
pub(super) const OUTPUT_PIPE: usize = 512;
/// The capacity of the pipe for input, in bytes.
const INPUT_PIPE: usize = 64;

#[derive(Clone, Debug)]
pub(super) enum Do {
    Print(StdStream, Vec<u8>),
    /// Prints this many bytes of text.
    Flood(StdStream, usize),
    /// Prints this many bytes, one at a time, alternating between the streams.
    Alternate(usize),
    /// Echoes its input until the input ends.
    Echo(StdStream),
    CloseInput,
    Sleep(u64),
    Exit(i32),
    /// The main process exits. A child that holds its output open runs the remaining steps.
    Leave(i32),
    Signal(i32),
    /// Does nothing until it is killed.
    Hang,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
}

#[derive(Debug)]
pub(super) struct Program {
    script: VecDeque<Do>,
    pub(super) pipes: [VecDeque<u8>; 2],
    /// Everything that was written to the pipes.
    pub(super) printed: [Vec<u8>; 2],
    input: VecDeque<u8>,
    /// Everything that the program read.
    pub(super) read: Vec<u8>,
    /// Whether the program reached the end of its input.
    pub(super) read_all: bool,
    /// Whether the other end of its input is closed.
    pub(super) input_over: bool,
    /// Whether the program closed its input.
    pub(super) input_closed: bool,
    wakes_at: Option<u64>,
    /// How the main process ended.
    pub(super) exit: Option<Exit>,
    /// Whether a child outlives the main process and holds its output open.
    pub(super) is_held: bool,
}

impl Program {
    pub(super) fn new(script: Vec<Do>) -> Self {
        Self {
            script: script.into(),
            pipes: Default::default(),
            printed: Default::default(),
            input: VecDeque::new(),
            read: Vec::new(),
            read_all: false,
            input_over: false,
            input_closed: false,
            wakes_at: None,
            exit: None,
            is_held: false,
        }
    }

    /// Ends the main process and its child.
    pub(super) fn kill(&mut self) {
        self.end(Exit::Signal(9));
    }

    /// Whether the main process or its child runs.
    pub(super) fn runs(&self) -> bool {
        self.exit.is_none() || self.is_held
    }

    pub(super) fn wakes_at(&self) -> Option<u64> {
        self.wakes_at.filter(|_| self.runs())
    }

    /// Ends the main process or, after it, its child.
    fn end(&mut self, exit: Exit) {
        self.exit.get_or_insert(exit);
        self.is_held = false;
    }

    /// Takes input. Returns how many bytes.
    pub(super) fn feed(&mut self, data: &[u8]) -> usize {
        let room = INPUT_PIPE - self.input.len();
        let count = room.min(data.len());
        self.input.extend(&data[..count]);
        count
    }

    fn print(&mut self, stream: StdStream, data: &[u8]) -> usize {
        let pipe = &mut self.pipes[stream as usize];
        let count = (OUTPUT_PIPE - pipe.len()).min(data.len());
        pipe.extend(&data[..count]);
        self.printed[stream as usize].extend_from_slice(&data[..count]);
        count
    }

    /// Runs until the program must wait. Returns whether it did anything.
    pub(super) fn run(&mut self, now: u64) -> bool {
        let mut ran = false;
        while self.runs() {
            let Some(next) = self.script.pop_front() else {
                self.end(Exit::Code(0));
                return true;
            };
            let (did, rest) = self.run_step(next, now);
            ran |= did;
            if let Some(rest) = rest {
                self.script.push_front(rest);
                return ran;
            }
        }
        ran
    }

    /// Runs a step. Returns whether it did anything, and the rest of the step if it must wait.
    fn run_step(&mut self, step: Do, now: u64) -> (bool, Option<Do>) {
        match step {
            Do::Print(stream, mut data) => {
                let count = self.print(stream, &data);
                data.drain(..count);
                (
                    count > 0,
                    (!data.is_empty()).then_some(Do::Print(stream, data)),
                )
            }
            Do::Flood(stream, bytes) => {
                let count = self.print(stream, &vec![b'f'; bytes]);
                let rest = bytes - count;
                (count > 0, (rest > 0).then_some(Do::Flood(stream, rest)))
            }
            Do::Alternate(bytes) => {
                let full = |pipe: &VecDeque<u8>| pipe.len() >= OUTPUT_PIPE;
                let mut rest = bytes;
                while rest > 0 && !self.pipes.iter().any(full) {
                    self.print(StdStream::Stdout, b"o");
                    self.print(StdStream::Stderr, b"e");
                    rest -= 1;
                }
                (rest < bytes, (rest > 0).then_some(Do::Alternate(rest)))
            }
            Do::Echo(stream) => {
                let data: Vec<_> = self.input.iter().copied().collect();
                let count = self.print(stream, &data);
                self.input.drain(..count);
                self.read.extend_from_slice(&data[..count]);
                let all = self.input_over && self.input.is_empty();
                self.read_all |= all && !self.input_closed;
                let over = self.input_closed || all;
                (count > 0, (!over).then_some(Do::Echo(stream)))
            }
            Do::CloseInput => {
                self.input_closed = true;
                self.input.clear();
                (true, None)
            }
            Do::Sleep(millis) => {
                let until = *self.wakes_at.get_or_insert(now + millis);
                let sleeps = now < until;
                if !sleeps {
                    self.wakes_at = None;
                }
                (!sleeps, sleeps.then_some(Do::Sleep(millis)))
            }
            Do::Exit(code) => {
                self.end(Exit::Code(code));
                (true, None)
            }
            Do::Leave(code) => {
                self.end(Exit::Code(code));
                self.is_held = true;
                self.input_closed = true;
                self.input.clear();
                (true, None)
            }
            Do::Signal(signal) => {
                self.end(Exit::Signal(signal));
                (true, None)
            }
            Do::Hang => (false, Some(Do::Hang)),
        }
    }
}
