//! [`Connection`], [`Sandbox`], [`Process`] and [`OutputBuffer`] under random actions of a server,
//! a network and a user.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use actix_sandbox::{
    machine::{
        Connection, ConnectionAction, ConnectionConfig, Epoch, LinkCommand, LinkError, Mode,
        NewExec, OutputBuffer, OutputPolicy, Piece, Process, ProcessAction, ProcessConfig,
        ProcessId, ReconnectPolicy, RequestId, Sandbox, SandboxAction, SandboxConfig, SandboxState,
        Timeouts,
    },
    protocol::{
        ClientMessage, ExecOptions, OutputPiece, SandboxConfig as Configuration, SandboxToken,
        Status, StdStream, Version,
    },
};
use bytes::Bytes;

use super::input::Input;

const STREAMS: [StdStream; 2] = [StdStream::Stdout, StdStream::Stderr];
const WINDOW: usize = 4_096;
/// Maximum number of execs for one input.
const MOST: usize = 12;

/// An exec: its machine, its output, and which of its ends were reported.
struct Exec {
    machine: Box<Process>,
    buffer: OutputBuffer<()>,
    ended: bool,
    finished: bool,
    settled: bool,
    /// The number of a stdin message that the link hasn't written yet.
    in_flight: Option<u64>,
}

struct World {
    now: Instant,
    connection: Connection,
    sandbox: Sandbox,
    execs: BTreeMap<ProcessId, Exec>,
    dialling: Option<Epoch>,
    open: Option<Epoch>,
    /// The protocol version of the next links.
    version: Version,
    closed: bool,
    over: bool,
    requests: u64,
    /// Unanswered requests, each with the process that it was sent to. `None` for the sandbox.
    pending: BTreeMap<RequestId, Option<ProcessId>>,
}

/// Runs the machines on a sequence of actions, then checks that everything settles.
pub fn client_machine(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    world.run();
    while !input.is_empty() {
        world.step(&mut input);
        world.run();
    }
    world.finish();
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let kind = input.byte();
        let mode = match kind % 2 {
            0 => Mode::Create(Configuration::default()),
            _ => Mode::Attach("sandbox-1".into(), SandboxToken::new("s3cret")),
        };
        let mut connection = Connection::new(ConnectionConfig {
            auto_reconnect: kind % 8 < 6,
            policy: ReconnectPolicy::default(),
            busy_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(2),
            seed: kind.into(),
        });
        connection.start();
        let config = SandboxConfig {
            mode,
            timeouts: Timeouts::default(),
            process: ProcessConfig {
                stdin_budget: 300,
                ..ProcessConfig::default()
            },
            exec_prefix: "f".into(),
        };
        let mut world = Self {
            now: Instant::now(),
            connection,
            sandbox: Sandbox::new(config),
            execs: BTreeMap::new(),
            dialling: None,
            open: None,
            version: if kind % 16 < 12 {
                Version::V2
            } else {
                Version::V1
            },
            closed: false,
            over: false,
            requests: 0,
            pending: BTreeMap::new(),
        };
        let request = world.request();
        world.sandbox.open(request);
        world
    }

    fn request(&mut self) -> RequestId {
        self.request_of(None)
    }

    fn request_of(&mut self, process: Option<ProcessId>) -> RequestId {
        self.requests += 1;
        self.pending.insert(RequestId(self.requests), process);
        RequestId(self.requests)
    }

    fn settled(&mut self, request: RequestId) {
        let asked = self.pending.remove(&request);
        assert!(asked.is_some(), "{request:?} was answered twice");
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<ProcessId> {
        let index = usize::from(input.byte()) % self.execs.len().max(1);
        self.execs.keys().nth(index).copied()
    }

    // Actions of the server, the network and the user.

    fn step(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match input.byte() % 24 {
            0 => self.frame(String::from_utf8_lossy(input.bytes(500)).into_owned()),
            1..=5 => self.status(input),
            6..=8 => self.output(input),
            9 => {
                let name = name(input);
                let offset = input.number(10);
                self.frame(format!(
                    r#"{{"event":"stdin_ack","exec":"{name}","offset":{offset}}}"#
                ));
            }
            10 => self.frame(
                r#"{"event":"sandbox_id","sandbox_id":"sandbox-1","sandbox_token":"s3cret"}"#
                    .into(),
            ),
            11 => self.frame(r#"{"event":"error","message":"why"}"#.into()),
            12 | 13 => {
                if let Some(epoch) = self.dialling.take() {
                    self.open = Some(epoch);
                    self.connection.handle_opened(epoch, self.version);
                }
            }
            14 => {
                if let Some(epoch) = self.dialling.take().or(self.open.take()) {
                    let detail = "cut".into();
                    let cause = LinkError::Dropped { detail };
                    self.connection.handle_lost(epoch, cause, now);
                }
            }
            15 => self.pass(Duration::from_millis(input.number(1_000) % 100_000)),
            16 | 17 => self.exec(input),
            18 => {
                let what = input.byte() % 5;
                let request = (what < 4).then(|| self.request());
                match (what, request) {
                    (0, Some(request)) => self.sandbox.open(request),
                    (1, Some(request)) => self.sandbox.kill(request, now),
                    (2, Some(request)) => self.sandbox.checkpoint(request, now),
                    (3, Some(request)) => self.sandbox.snapshot_filesystem(request, "snap", now),
                    _ => {
                        self.version = if self.version == Version::V1 {
                            Version::V2
                        } else {
                            Version::V1
                        }
                    }
                }
                if self.pending.len() > 500 {
                    self.sandbox.detach();
                }
            }
            19 => match input.byte() % 8 {
                0 => self.sandbox.abandon(now),
                1 => self.sandbox.detach(),
                2 => {
                    if let Some(process) = self.pick(input) {
                        self.sandbox.abandon_process(process);
                    }
                }
                _ => {
                    let request = RequestId(input.number(self.requests));
                    self.sandbox.cancel_exec(request);
                }
            },
            _ => self.ask(input),
        }
    }

    fn frame(&mut self, text: String) {
        if let Some(epoch) = self.open {
            self.sandbox
                .handle_frame(epoch, &Bytes::from(text), self.now);
        }
    }

    fn status(&mut self, input: &mut Input<'_>) {
        let status = &Status::KNOWN[usize::from(input.byte()) % Status::KNOWN.len()];
        let mut text = format!(r#"{{"event":"status_update","status":"{status}""#);
        let keys = input.byte();
        if keys & 1 > 0 {
            text += &format!(r#","exec":"{}""#, name(input));
        }
        for (bit, key) in [(2, "stdin"), (4, "window"), (8, "stdout"), (16, "stderr")] {
            if keys & bit > 0 {
                text += &format!(r#","{key}":{}"#, input.number(WINDOW as u64));
            }
        }
        if keys & 32 > 0 {
            let reasons = ["exited", "killed", "timed_out", "sandbox_lost", "odd"];
            let reason = reasons[usize::from(input.byte()) % reasons.len()];
            text += &format!(r#","reason":"{reason}","exit_code":{}"#, input.number(0));
        }
        if keys & 64 > 0 {
            text += r#","message":"why""#;
        }
        if keys & 128 > 0 {
            text += r#","output_cut":true"#;
        }
        self.frame(text + "}");
    }

    fn output(&mut self, input: &mut Input<'_>) {
        let stream = STREAMS[usize::from(input.byte() % 2)].as_str();
        let data = "x".repeat(input.bytes(2_000).len());
        let text = match self.version {
            Version::V1 => format!(r#"{{"event":"{stream}","data":"{data}"}}"#),
            _ => {
                let (name, offset) = (name(input), input.number(100));
                format!(
                    r#"{{"event":"{stream}","exec":"{name}","offset":{offset},"data":"{data}"}}"#
                )
            }
        };
        self.frame(text);
    }

    fn exec(&mut self, input: &mut Input<'_>) {
        if self.execs.len() >= MOST {
            return;
        }
        let options = ExecOptions {
            window: Some(WINDOW as u64),
            ..ExecOptions::default()
        };
        let request = self.request();
        let mut run = NewExec::code("bash", "true");
        run.options = options;
        let Some((process, mut machine)) = self.sandbox.exec(request, run, self.now) else {
            return;
        };
        if machine.window().is_some() && input.byte().is_multiple_of(4) {
            machine.give_input(input.bytes(1_000));
        }
        let mut buffer = OutputBuffer::new(OutputPolicy::default());
        if let Some(window) = machine.window() {
            buffer.set_window(window);
        }
        STREAMS
            .into_iter()
            .for_each(|stream| buffer.add_reader(stream));
        let exec = Exec {
            machine,
            buffer,
            ended: false,
            finished: false,
            settled: false,
            in_flight: None,
        };
        assert!(self.execs.insert(process, exec).is_none());
    }

    /// Sends a request to a process, reads its output, or reports a stdin message as written.
    fn ask(&mut self, input: &mut Input<'_>) {
        let Some(process) = self.pick(input) else {
            return;
        };
        let what = input.byte() % 9;
        let request = (what < 6).then(|| self.request_of(Some(process)));
        let now = self.now;
        let Some(exec) = self.execs.get_mut(&process) else {
            return;
        };
        match (what, request) {
            (0, Some(request)) => exec.machine.wait(request),
            (1, request) => exec.machine.kill(request, now),
            (2, Some(request)) => exec.machine.close_stdin(request),
            (3, Some(request)) => exec.machine.flush_stdin(request),
            (4 | 5, Some(request)) => exec.machine.write_stdin(request, input.bytes(400).to_vec()),
            (6, _) => {
                let written = exec.in_flight.take();
                let fact = written.map(actix_sandbox::machine::ProcessFact::StdinWritten);
                fact.into_iter()
                    .for_each(|fact| exec.machine.handle_fact(fact, now));
            }
            (7, _) => {
                let request = RequestId(input.number(self.requests));
                exec.machine.cancel(request);
                // A cancelled request gets no answer.
                if self.pending.get(&request) == Some(&Some(process)) {
                    self.pending.remove(&request);
                }
            }
            _ => exec.read(now),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        self.connection.handle_timeout(now);
        self.sandbox.handle_timeout(now);
        for exec in self.execs.values_mut() {
            exec.machine.handle_timeout(now);
            exec.buffer.handle_timeout(now);
        }
    }

    // Actions of the machines.

    fn run(&mut self) {
        for turn in 0.. {
            assert!(turn < 100_000, "the machines never become idle");
            for exec in self.execs.values_mut() {
                exec.acknowledge();
            }
            if let Some(action) = self.connection.poll_action() {
                self.for_connection(action);
            } else if let Some(action) = self.sandbox.poll_action() {
                self.for_sandbox(action);
            } else {
                let mut execs = self.execs.iter_mut();
                let next = execs.find_map(|(&id, exec)| Some((id, exec.machine.poll_action()?)));
                match next {
                    Some((process, action)) => self.for_process(process, action),
                    None => return,
                }
            }
        }
    }

    fn for_connection(&mut self, action: ConnectionAction) {
        let now = self.now;
        match action {
            ConnectionAction::Dial(epoch) => {
                assert!(!self.closed, "dialled after the close");
                assert!(self.dialling.is_none() && self.open.is_none(), "two links");
                self.dialling = Some(epoch);
            }
            ConnectionAction::Drop(epoch) => {
                self.dialling = self.dialling.filter(|&it| it != epoch);
                self.open = self.open.filter(|&it| it != epoch);
            }
            ConnectionAction::Close(_) => {}
            ConnectionAction::Tell(fact) => self.sandbox.handle_link(fact, now),
        }
    }

    fn for_sandbox(&mut self, action: SandboxAction) {
        let now = self.now;
        match action {
            SandboxAction::Send(text) => check_sent(&text, self.sandbox.version()),
            SandboxAction::Settle(request, _) => self.settled(request),
            SandboxAction::Tell(process, fact) => {
                let exec = self.execs.get_mut(&process).expect("a process");
                exec.machine.handle_fact(fact, now);
                if let Some(window) = exec.machine.window() {
                    assert!(window <= WINDOW as u64, "larger than requested");
                    exec.buffer.set_window(window);
                }
            }
            SandboxAction::Output(process, piece) => {
                let exec = self.execs.get_mut(&process).expect("a process");
                exec.handle_output(piece, now);
            }
            SandboxAction::Link(command) => {
                self.closed |= command == LinkCommand::Close;
                self.connection.handle_command(command, now);
            }
            SandboxAction::Event(event) => {
                assert!(!self.over, "after the end: {event:?}");
                self.over = matches!(event, actix_sandbox::machine::SandboxEvent::Ended(_));
            }
            SandboxAction::Resume(..) => {}
        }
    }

    fn for_process(&mut self, process: ProcessId, action: ProcessAction) {
        let can_send = self.sandbox.can_send(process);
        let exec = self.execs.get_mut(&process).expect("a process");
        assert!(
            !exec.settled || matches!(action, ProcessAction::Settle(..)),
            "an action after `Settled`: {action:?}"
        );
        match action {
            ProcessAction::Settle(request, _) => self.settled(request),
            ProcessAction::SendKill => self.sandbox.kill_process(process),
            ProcessAction::Send(text) => {
                if can_send {
                    check_sent(&text, Version::V2);
                }
            }
            ProcessAction::SendStdin { number, frame } => {
                let text = frame.into_text();
                if can_send {
                    check_sent(&text, self.sandbox.version());
                    exec.in_flight = Some(number);
                }
            }
            ProcessAction::Ended { .. } => {
                assert!(!std::mem::replace(&mut exec.ended, true), "ended twice");
                self.sandbox.process_ended(process);
            }
            ProcessAction::StreamEnded(stream) => exec.buffer.end_stream(stream),
            ProcessAction::OutputEnded(finish) => {
                assert!(
                    !std::mem::replace(&mut exec.finished, true),
                    "its output ended twice"
                );
                exec.buffer.finish(finish);
            }
            ProcessAction::Settled => {
                assert!(!std::mem::replace(&mut exec.settled, true), "settled twice");
                self.sandbox.process_settled(process);
            }
        }
    }

    /// Drops the last handle, lets readers read and time pass while the network is silent, and
    /// checks that everything ends.
    fn finish(&mut self) {
        self.sandbox.detach();
        self.run();
        for _ in 0..10_000 {
            for exec in self.execs.values_mut() {
                exec.read(self.now);
            }
            self.run();
            let execs = self
                .execs
                .values()
                .filter_map(|exec| exec.machine.poll_timeout());
            let machines = [self.sandbox.poll_timeout(), self.connection.poll_timeout()];
            match execs.chain(machines.into_iter().flatten()).min() {
                Some(due) => self.pass(due.saturating_duration_since(self.now)),
                None => match self.dialling.take() {
                    Some(epoch) => {
                        let detail = "silence".into();
                        let cause = LinkError::Dropped { detail };
                        self.connection.handle_lost(epoch, cause, self.now);
                    }
                    None => break,
                },
            }
            self.run();
        }
        assert!(matches!(self.sandbox.state(), SandboxState::Ended(_)));
        assert!(self.pending.is_empty(), "no answer: {:?}", self.pending);
        for (process, exec) in &self.execs {
            assert!(
                exec.ended && exec.finished,
                "{process} never ended: {:?}",
                (exec.ended, exec.finished, exec.buffer.used(), &exec.machine)
            );
            assert_eq!(exec.buffer.used(), 0);
        }
    }
}

impl Exec {
    fn handle_output(&mut self, piece: OutputPiece, now: Instant) {
        let offset = piece.place.map(|place| place.offset);
        let (gap, data) = self.machine.handle_output(piece.stream, offset, piece.data);
        assert!(data.is_empty() || !self.finished, "output after its end");
        self.buffer.handle_gap(piece.stream, gap);
        if !self.buffer.handle_output(piece.stream, data) {
            self.machine.kill(None, now);
        }
        self.buffer.handle_permit((), now);
        self.buffer.update_pause(now);
        self.machine.handle_output_kept();
    }

    /// Acknowledges the output that was read, as the actor does when it is woken.
    fn acknowledge(&mut self) {
        if let Some((received, _)) = self.machine.acknowledgeable() {
            let untaken = self.buffer.untaken();
            let taken = [0, 1].map(|it| {
                let taken = received[it].checked_sub(untaken[it] as u64);
                taken.expect("unread output was received")
            });
            self.machine.handle_taken(taken);
        }
        self.buffer.set_awaited(self.machine.is_awaited(false));
        self.buffer.set_killed(self.machine.is_kill_wanted());
    }

    fn read(&mut self, now: Instant) {
        for stream in STREAMS {
            while let Some(piece) = self.buffer.read(stream, now) {
                if let Piece::Data(data) = piece {
                    assert!(!data.is_empty());
                }
            }
        }
    }
}

/// Returns the id of an exec, which usually exists.
fn name(input: &mut Input<'_>) -> String {
    format!("f-{}", input.byte() % (MOST as u8 + 2))
}

/// Checks that the peer can parse a message. `{}` is a configuration without settings.
fn check_sent(text: &str, version: Version) {
    let message = ClientMessage::parse_as(text.as_bytes(), version);
    let is_read = !matches!(message, Err(_) | Ok(ClientMessage::Unknown));
    assert!(is_read || text == "{}", "{text}: {message:?}");
}
