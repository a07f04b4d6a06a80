//! A server: execs, each a [`ServedExec`] around a program, and the sandbox that drives them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};

use super::program::{Do, Exit, OUTPUT_PIPE, Program};
use crate::{
    machine::ServedExec,
    protocol::{
        self, ClientMessage, EndReason, ExecEnd, ExecId, ExecOptions, ExecUpdate, NamedMessage,
        ServerMessage, Status, StdStream, Version,
        limits::{DEFAULT_WINDOW, MIN_WINDOW},
    },
};

/// The maximum number of bytes that are read from a pipe at once.
const READ: usize = 700;
/// The largest window.
pub(super) const MAX_WINDOW: u64 = 4_096;

pub(super) struct Served {
    pub(super) exec: ServedExec,
    pub(super) program: Program,
    starts_at: u64,
    /// Input that the pipe has not taken.
    feeding: Bytes,
    pub(super) fed: u64,
    deadline: Option<u64>,
    /// The grace period of the output.
    grace: u64,
    /// The end of the grace period.
    reads_until: Option<u64>,
    /// The reason of the kill in progress.
    dying: Option<EndReason>,
    started: bool,
}

impl Served {
    /// Whether its main process has ended.
    pub(super) fn is_over(&self) -> bool {
        self.exec.end().is_some()
    }
}

/// A simple pseudo-random generator.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % end.max(1)
    }
}

pub(super) struct Server {
    pub(super) execs: BTreeMap<ExecId, Served>,
    /// Acknowledged execs that the server no longer knows.
    pub(super) forgotten: BTreeMap<ExecId, Served>,
    /// The scripts of the execs, by number.
    pub(super) scripts: Vec<Vec<Do>>,
    /// Every exec that was started.
    pub(super) ran: BTreeSet<ExecId>,
    /// Messages that wait for the link, other than those of execs.
    pub(super) answers: Vec<ServerMessage>,
    random: Random,
}

impl Server {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            execs: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            scripts: Vec::new(),
            ran: BTreeSet::new(),
            answers: Vec::new(),
            random: Random(seed),
        }
    }

    /// A client attaches.
    pub(super) fn attach(&mut self) {
        self.detach();
        self.answers
            .push(ServerMessage::status(Status::SandboxRunning));
    }

    /// The actual state of an exec, whether or not the client knows it.
    pub(super) fn truth(&self, id: &ExecId) -> Option<&Served> {
        self.execs.get(id).or_else(|| self.forgotten.get(id))
    }

    pub(super) fn detach(&mut self) {
        self.answers.clear();
        for served in self.execs.values_mut() {
            served.exec.detach();
        }
    }

    /// Checkpoints and restores the sandbox.
    pub(super) fn restore(&mut self) {
        self.detach();
        for served in self.execs.values_mut() {
            served.kill(EndReason::SandboxLost);
            served.drain(&mut self.random);
        }
        let execs = std::mem::take(&mut self.execs).into_iter();
        let (settled, kept) = execs.partition(|(_, served)| served.exec.is_settled());
        self.forgotten.extend::<BTreeMap<_, _>>(settled);
        self.execs = kept;
        for served in self.execs.values_mut() {
            let stored = served.exec.store().expect("it is over");
            served.exec = ServedExec::restored(stored);
        }
    }

    pub(super) fn handle(&mut self, text: &str, now: u64) {
        let message = ClientMessage::parse_as(text.as_bytes(), Version::V2);
        let Ok(ClientMessage::Named(id, message)) = message else {
            panic!("not for v2: {text}")
        };
        match (message, self.execs.get_mut(&id)) {
            (NamedMessage::Exec(..), Some(served)) => served.exec.attach(None),
            (NamedMessage::Exec(protocol::Program::Code(request), options), None) => {
                let script: usize = request.code.expect("code").parse().expect("a number");
                self.start(id, script, &options, now);
            }
            (NamedMessage::Stdin { offset, data, eof }, Some(served)) => {
                served.exec.handle_stdin(offset, &data, eof);
            }
            (NamedMessage::Ack { offsets, done }, Some(served)) => {
                served.exec.handle_ack(offsets, done)
            }
            (NamedMessage::Kill, Some(served)) => {
                served.kill(EndReason::Killed);
                // After the exit, the processes that hold the output open are killed.
                served.program.kill();
                served.exec.handle_kill();
            }
            (NamedMessage::Reconnect { offsets }, Some(served)) => {
                served.exec.attach(Some(offsets));
            }
            (NamedMessage::Reconnect { .. }, None) => {
                let mut update = ExecUpdate::new(id);
                update.end = Some(ExecEnd::lost());
                let done = Status::ExecutionDone;
                self.answers
                    .push(ServerMessage::exec_status(done, update, None));
            }
            (NamedMessage::Kill, None) => {
                let killed = Status::ExecutionForceKilled;
                let update = ExecUpdate::new(id);
                self.answers
                    .push(ServerMessage::exec_status(killed, update, None));
            }
            (NamedMessage::Stdin { .. } | NamedMessage::Ack { .. }, None) => {}
            (other, _) => panic!("{other:?}"),
        }
    }

    fn start(&mut self, id: ExecId, script: usize, options: &ExecOptions, now: u64) {
        if script % 13 == 12 {
            let why = "not this one".to_owned();
            let status = Status::ExecutionError;
            let update = ExecUpdate::new(id);
            let refused = ServerMessage::exec_status(status, update, Some(why.clone()));
            return self.answers.extend([refused, ServerMessage::error(why)]);
        }
        assert!(self.ran.insert(id.clone()), "{id:?} ran twice");
        let window = options.window.unwrap_or(DEFAULT_WINDOW);
        let window = window.clamp(MIN_WINDOW, MAX_WINDOW);
        let served = Served {
            exec: ServedExec::new(id.clone(), window),
            program: Program::new(self.scripts[script].clone()),
            starts_at: now + self.random.below(3) * 20,
            feeding: Bytes::new(),
            fed: 0,
            deadline: options.timeout_ms.map(|millis| now + millis),
            grace: options.output_grace_ms.unwrap_or(2_000),
            reads_until: None,
            dying: None,
            started: false,
        };
        self.execs.insert(id, served);
    }

    /// Runs everything. Returns whether anything happened.
    pub(super) fn run(&mut self, now: u64) -> bool {
        let random = &mut self.random;
        let mut ran = false;
        for served in self.execs.values_mut() {
            ran |= served.run(now, random);
        }
        ran
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        let alive = self.execs.values().filter(|it| !it.exec.is_done());
        let due = alive.flat_map(|served| match served.started {
            true => {
                let alive = served.program.exit.is_none();
                let deadline = served.deadline.filter(|_| alive);
                [deadline, served.program.wakes_at(), served.reads_until]
            }
            false => [Some(served.starts_at), None, None],
        });
        due.flatten().min()
    }

    /// Returns the next message to the client.
    pub(super) fn poll_message(&mut self) -> Option<ServerMessage> {
        if !self.answers.is_empty() {
            return Some(self.answers.remove(0));
        }
        let count = self.execs.len() as u64;
        let first = self.random.below(count) as usize;
        let mut execs: Vec<_> = self.execs.values_mut().collect();
        execs.rotate_left(first);
        execs
            .into_iter()
            .find_map(|served| served.exec.poll_message())
    }
}

impl Served {
    fn kill(&mut self, reason: EndReason) {
        if self.program.exit.is_none() {
            self.program.kill();
            self.dying = Some(reason);
        }
    }

    fn run(&mut self, now: u64, random: &mut Random) -> bool {
        if self.exec.is_done() || now < self.starts_at {
            return false;
        }
        let mut ran = false;
        if !std::mem::replace(&mut self.started, true) {
            self.exec.handle_started();
            ran = true;
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.kill(EndReason::TimedOut);
        }
        ran |= self.feed() | self.program.run(now) | self.read(random);
        if self.program.exit.is_some() && !self.is_over() {
            self.exit();
            self.reads_until = Some(now + self.grace);
            ran = true;
        }
        let cut = self.program.is_held && self.reads_until.is_some_and(|until| now >= until);
        if cut {
            self.drain(random);
            return true;
        }
        if !self.program.runs() && self.program.pipes.iter().all(|pipe| pipe.is_empty()) {
            self.exec.handle_done(false);
            ran = true;
        }
        if self.reads_until.is_some_and(|until| now >= until) {
            // The remaining output is in the pipes.
            self.reads_until = None;
        }
        ran
    }

    fn feed(&mut self) -> bool {
        let mut fed = false;
        loop {
            if self.feeding.is_empty() {
                match self.exec.poll_stdin() {
                    Some(data) => self.feeding = data,
                    None if self.exec.is_stdin_over() => {
                        return fed | !std::mem::replace(&mut self.program.input_over, true);
                    }
                    None => return fed,
                }
            }
            if self.program.input_closed || self.program.exit.is_some() {
                self.feeding.clear();
                self.exec.handle_stdin_closed();
                return true;
            }
            let count = self.program.feed(&self.feeding);
            if count == 0 {
                return fed;
            }
            self.feeding.advance(count);
            self.fed += count as u64;
            self.exec.handle_stdin_taken(count);
            fed = true;
        }
    }

    fn read(&mut self, random: &mut Random) -> bool {
        let first = random.below(2) as usize;
        let mut read = false;
        for index in [first, 1 - first] {
            let stream = [StdStream::Stdout, StdStream::Stderr][index];
            let room = self.dying.is_some() || self.exec.room() > 0;
            let pipe = &mut self.program.pipes[index];
            if pipe.is_empty() || !room {
                continue;
            }
            let most = 1 + random.below(READ as u64) as usize;
            let count = most.min(pipe.len());
            let data: Vec<_> = pipe.drain(..count).collect();
            self.exec.handle_output(stream, &data);
            if pipe.is_empty() && random.below(2) == 0 {
                self.exec.handle_silence(stream);
            }
            read = true;
        }
        let slack = READ + 2 * OUTPUT_PIPE;
        assert!(self.exec.kept() < self.exec.window() + slack as u64);
        read
    }

    /// Reads the remaining output and ends the exec. Later output of processes that hold it open is
    /// dropped.
    fn drain(&mut self, random: &mut Random) {
        if !self.exec.is_done() {
            self.dying.get_or_insert(EndReason::Exited);
            while self.read(random) {}
            self.started = true;
            self.exit();
            self.exec.handle_done(self.program.is_held);
            self.program.kill();
        }
    }

    fn exit(&mut self) {
        let (exit_code, signal) = match self.program.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let reason = self.dying.unwrap_or(EndReason::Exited);
        let end = ExecEnd {
            reason,
            exit_code,
            signal,
            lengths: None,
            output_cut: false,
            outcome: None,
        };
        self.exec.handle_exited(end, None);
    }
}
