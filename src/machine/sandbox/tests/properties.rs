//! Sandbox, processes and connection joined with a random server, user and network in virtual time.
//!
//! As between actors, messages between the machines wait in mailboxes and may cross. The [`World`]
//! checks each action; [`World::finish`] checks the state at the end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::machine::{
    Connection, ConnectionAction, ConnectionConfig, ConnectionState, Process, ProcessAction,
    ProcessConfig, ReconnectPolicy, tests::config,
};

#[derive(Clone, Debug)]
enum Step {
    Status(Status),
    StatusWithReason(Status),
    Reason,
    Output,
    Identity,
    Garbage,
    Unknown,
    StaleFrame,
    DialSucceeds,
    DialFails,
    Cut(bool),
    Time(u64),
    Open,
    Exec,
    Kill,
    Checkpoint,
    Snapshot,
    Detach,
    Abandon,
    KillProcess(bool),
    Wait,
    Write(usize),
    Flush,
    StdinTaken,
    StdinTakenLate,
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        4 => Just(Status::SandboxRunning),
        4 => Just(Status::ExecutionRunning),
        3 => Just(Status::ExecutionDone),
        3 => Just(Status::ExecutionForceKilled),
        2 => Just(Status::ExecutionError),
        2 => Just(Status::SandboxInUse),
        2 => Just(Status::ExecutionInProgressError),
        // Statuses that don't end the session.
        6 => prop::sample::select(
            Status::KNOWN.iter().filter(|s| !s.ends_session()).cloned().collect::<Vec<_>>()
        ),
        1 => prop::sample::select(Status::KNOWN),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => status().prop_map(Step::Status),
        1 => status().prop_map(Step::StatusWithReason),
        4 => Just(Step::Reason),
        6 => Just(Step::Output),
        1 => Just(Step::Unknown),
        2 => Just(Step::StaleFrame),
        8 => Just(Step::DialSucceeds),
        1 => Just(Step::DialFails),
        3 => any::<bool>().prop_map(Step::Cut),
        6 => (0u64..3_000).prop_map(Step::Time),
        1 => (0u64..70_000).prop_map(Step::Time),
        1 => Just(Step::Open),
        8 => Just(Step::Exec),
        1 => Just(Step::Kill),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Snapshot),
        2 => Just(Step::Abandon),
        3 => any::<bool>().prop_map(Step::KillProcess),
        2 => Just(Step::Wait),
        4 => (0usize..20).prop_map(Step::Write),
        1 => Just(Step::Flush),
        4 => Just(Step::StdinTaken),
        1 => Just(Step::StdinTakenLate),
    ]
}

fn rare() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Garbage),
        Just(Step::Identity),
        Just(Step::Detach)
    ]
}

fn steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    let step = prop_oneof![60 => step(), 1 => rare()];
    // The mailboxes are emptied after most steps.
    prop::collection::vec((step, prop::bool::weighted(0.85)), 0..120)
}

/// A message from the connection to the sandbox.
enum Mail {
    Frame(Epoch, String),
    Fact(LinkFact),
}

/// A process, and what the world knows about it.
struct Watched {
    machine: Box<Process>,
    /// Whether the process was told that it, or the sandbox, has ended.
    told_end: bool,
    ended: u32,
    last_output: Option<u64>,
    written: String,
    taken: String,
    in_flight: Option<(u64, String)>,
    late: Option<u64>,
}

struct World {
    now: Instant,
    connection: Connection,
    sandbox: Sandbox,
    processes: BTreeMap<ProcessId, Watched>,
    to_sandbox: VecDeque<Mail>,
    to_connection: VecDeque<SandboxAction>,

    dialling: Option<Epoch>,
    open: Option<Epoch>,
    /// The link that the sandbox knows of.
    known_link: Option<Epoch>,
    /// Whether the connection was told to close.
    closed: bool,
    ended: bool,
    /// The processes that the server reported as running.
    started: BTreeSet<ProcessId>,
    /// The messages of the server on links that were in use.
    heard: String,

    requests: u64,
    pending: BTreeMap<RequestId, &'static str>,
    counter: u64,
}

impl World {
    fn new(attach: bool, auto_reconnect: bool, seed: u64) -> Self {
        let mode = if attach {
            Mode::Attach("sandbox-1".into(), SandboxToken::new("s3cret"))
        } else {
            Mode::Create(Configuration {
                enable_checkpoint: true,
                ..Configuration::default()
            })
        };
        let timeouts = Timeouts::default();
        let mut connection = Connection::new(ConnectionConfig {
            auto_reconnect,
            policy: ReconnectPolicy::default(),
            busy_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(2),
            seed,
        });
        connection.start();
        let mut world = Self {
            now: Instant::now(),
            connection,
            sandbox: Sandbox::new(SandboxConfig {
                mode,
                timeouts,
                process: ProcessConfig {
                    stdin_budget: 32,
                    ..ProcessConfig::default()
                },
                exec_prefix: "test".into(),
            }),
            processes: BTreeMap::new(),
            to_sandbox: VecDeque::new(),
            to_connection: VecDeque::new(),
            dialling: None,
            open: None,
            known_link: None,
            closed: false,
            ended: false,
            started: BTreeSet::new(),
            heard: String::new(),
            requests: 0,
            pending: BTreeMap::new(),
            counter: 0,
        };
        world.act();
        world.ask(Step::Open);
        world
    }

    fn request(&mut self, what: &'static str) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.pending.insert(request, what);
        request
    }

    fn settled(&mut self, request: RequestId, granted: bool) {
        let what = self.pending.remove(&request);
        let words: &[&str] = match what {
            Some("open") => &["\"SANDBOX_RUNNING"],
            Some("exec") => &["SANDBOX_EXECUTION_RUNNING"],
            Some("kill") => &[
                "SANDBOX_KILLED",
                "SANDBOX_DELETED",
                "SANDBOX_LIFETIME_ENDED",
                "SANDBOX_CREATION_ERROR",
                "SANDBOX_LOCK_RENEWAL_ERROR",
                // A kill after a checkpoint succeeds; the checkpoint stays.
                "SANDBOX_CHECKPOINTED",
            ],
            Some("checkpoint") => &["SANDBOX_CHECKPOINTED"],
            Some("snapshot") => &["SANDBOX_FILESYSTEM_SNAPSHOT_CREATED"],
            Some("kill process") => &[
                "EXECUTION_DONE",
                "EXECUTION_FORCE_KILLED",
                "SANDBOX_KILLED",
                "SANDBOX_DELETED",
                // The process never started.
                "EXECUTION_ERROR",
                "LANGUAGE_ERROR",
            ],
            _ => &[""],
        };
        assert!(
            !granted || words.iter().any(|word| self.heard.contains(word)),
            "success of {what:?} without the word of the server"
        );
        assert!(
            what.is_some(),
            "{request:?} was answered twice or never asked"
        );
    }

    /// The newest process, which may have ended.
    fn newest(&mut self) -> Option<(ProcessId, &mut Watched)> {
        self.processes
            .iter_mut()
            .next_back()
            .map(|(&id, watched)| (id, watched))
    }

    fn frame(&mut self, text: String) {
        if let Some(epoch) = self.open {
            self.to_sandbox.push_back(Mail::Frame(epoch, text));
        }
    }

    fn status(&mut self, status: &Status, reason: &str) {
        self.frame(format!(
            r#"{{"event":"status_update","status":"{status}"{reason}}}"#
        ));
    }

    fn ask(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Status(status) => self.status(&status, ""),
            Step::StatusWithReason(status) => self.status(&status, r#","message":"why""#),
            Step::Reason => self.frame(r#"{"event":"error","message":"why"}"#.into()),
            Step::Output => {
                self.counter += 1;
                let counter = self.counter;
                self.frame(format!(r#"{{"event":"stderr","data":"{counter}"}}"#));
            }
            Step::Identity => self.frame(IDENTITY.into()),
            Step::Garbage => self.frame("garbage".into()),
            Step::Unknown => self.frame(r#"{"event":"levitation"}"#.into()),
            Step::StaleFrame => {
                let stale = Epoch(self.connection.epoch().0.saturating_sub(1));
                let text = r#"{"event":"status_update","status":"SANDBOX_ERROR"}"#;
                self.to_sandbox.push_back(Mail::Frame(stale, text.into()));
            }
            Step::DialSucceeds => {
                if let Some(epoch) = self.dialling.take() {
                    self.open = Some(epoch);
                    self.connection.handle_opened(epoch, Version::V1);
                }
            }
            Step::DialFails => {
                if let Some(epoch) = self.dialling.take() {
                    self.connection.handle_lost(epoch, dropped(), now);
                }
            }
            Step::Cut(clean) => {
                let (code, reason) = (Some(1000), String::new());
                let cause = if clean {
                    LinkError::Closed { code, reason }
                } else {
                    dropped()
                };
                if let Some(epoch) = self.open.take() {
                    self.connection.handle_lost(epoch, cause, now);
                }
            }
            Step::Time(millis) => self.pass(Duration::from_millis(millis)),
            Step::Open => {
                let request = self.request("open");
                self.sandbox.open(request);
            }
            Step::Exec => {
                let request = self.request("exec");
                if let Some((process, machine)) = self.sandbox.exec(request, run_true(), now) {
                    let watched = Watched {
                        machine,
                        told_end: false,
                        ended: 0,
                        last_output: None,
                        written: String::new(),
                        taken: String::new(),
                        in_flight: None,
                        late: None,
                    };
                    assert!(self.processes.insert(process, watched).is_none());
                }
            }
            Step::Kill => {
                let request = self.request("kill");
                self.sandbox.kill(request, now);
            }
            Step::Checkpoint => {
                let request = self.request("checkpoint");
                self.sandbox.checkpoint(request, now);
            }
            Step::Snapshot => {
                let request = self.request("snapshot");
                self.sandbox.snapshot_filesystem(request, "snap", now);
            }
            Step::Detach => self.sandbox.detach(),
            Step::Abandon => {
                if let Some((process, _)) = self.newest() {
                    self.sandbox.abandon_process(process);
                }
            }
            Step::KillProcess(answered) => {
                let request = answered.then(|| self.request("kill process"));
                match self.newest() {
                    Some((_, process)) => process.machine.kill(request, now),
                    None => drop(request.map(|request| self.pending.remove(&request))),
                }
            }
            Step::Wait => self.ask_process("wait", |process, request| process.wait(request)),
            Step::Flush => {
                self.ask_process("flush", |process, request| process.flush_stdin(request))
            }
            Step::Write(len) => {
                self.counter += 1;
                let data = format!("{}|{}", self.counter, "x".repeat(len));
                if let Some((_, process)) = self.newest() {
                    process.written.push_str(&data);
                }
                self.ask_process("write", |process, request| {
                    process.write_stdin(request, data)
                });
            }
            Step::StdinTaken => {
                if let Some((_, process)) = self.newest()
                    && let Some((number, data)) = process.in_flight.take()
                {
                    process.taken.push_str(&data);
                    let fact = ProcessFact::StdinWritten(number);
                    process.machine.handle_fact(fact, now);
                }
            }
            Step::StdinTakenLate => {
                if let Some((_, process)) = self.newest()
                    && let Some(number) = process.late.take()
                {
                    let fact = ProcessFact::StdinWritten(number);
                    process.machine.handle_fact(fact, now);
                }
            }
        }
    }

    fn ask_process(&mut self, what: &'static str, ask: impl FnOnce(&mut Process, RequestId)) {
        if self.processes.is_empty() {
            return;
        }
        let request = self.request(what);
        if let Some((_, process)) = self.newest() {
            ask(&mut process.machine, request);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.connection.handle_timeout(self.now);
        self.sandbox.handle_timeout(self.now);
        for process in self.processes.values_mut() {
            process.machine.handle_timeout(self.now);
        }
    }

    /// Performs the actions of the machines. Messages between the sandbox and the connection stay
    /// in the mailboxes.
    fn act(&mut self) {
        loop {
            if let Some(action) = self.sandbox.poll_action() {
                self.do_for_sandbox(action);
            } else if let Some(action) = self.connection.poll_action() {
                self.do_for_connection(action);
            } else if let Some((process, action)) = self
                .processes
                .iter_mut()
                .find_map(|(&id, process)| Some((id, process.machine.poll_action()?)))
            {
                self.do_for_process(process, action);
            } else {
                return;
            }
        }
    }

    fn do_for_sandbox(&mut self, action: SandboxAction) {
        if self.ended {
            let allowed = matches!(
                action,
                SandboxAction::Settle(..) | SandboxAction::Link(LinkCommand::Close)
            );
            assert!(allowed, "after the end: {action:?}");
        }
        match action {
            SandboxAction::Send(text) => self.check_sent(&text),
            SandboxAction::Settle(request, answer) => {
                self.settled(request, answer.is_ok());
                if let Ok(SandboxReply::Started(process)) = answer {
                    self.started.insert(process);
                }
            }
            SandboxAction::Tell(process, fact) => {
                let now = self.now;
                let newest = self.newest().map(|(newest, _)| newest);
                let started = self.started.contains(&process);
                let watched = self.processes.get_mut(&process).expect("a process");
                match fact {
                    ProcessFact::Done | ProcessFact::SandboxEnded(_) => {
                        assert!(!watched.told_end, "{process} was told its end twice");
                        watched.told_end = true;
                    }
                    ProcessFact::ForceKilled => {
                        // The pending request is the start of the newest process.
                        let starting = self.pending.values().any(|&what| what == "exec");
                        let waits = starting && newest == Some(process) && !started;
                        assert!(!waits, "killed before it started");
                    }
                    ProcessFact::LinkDown => {
                        watched.late = watched.in_flight.take().map(|(number, _)| number);
                    }
                    _ => {}
                }
                watched.machine.handle_fact(fact, now);
            }
            SandboxAction::Output(process, piece) => {
                let watched = self.processes.get_mut(&process).expect("a process");
                assert!(!watched.told_end, "output after the end");
                assert!(self.started.contains(&process), "output before the start");
                let text = std::str::from_utf8(&piece.data).expect("text");
                let counter = text.parse().ok();
                assert!(counter > watched.last_output, "output out of order");
                watched.last_output = counter;
            }
            SandboxAction::Event(event) => {
                self.ended |= matches!(event, SandboxEvent::Ended(_));
            }
            action => self.to_connection.push_back(action),
        }
    }

    fn check_sent(&mut self, text: &str) {
        assert!(self.known_link.is_some(), "sent without a link: {text}");
        assert_ne!(*self.sandbox.state(), SandboxState::Reconnecting, "{text}");
        if text == RECONNECT {
            let process = self.sandbox.process().expect("an exec in flight");
            assert!(!self.processes[&process].told_end);
        } else if text.contains("language") {
            let running = self
                .processes
                .values()
                .filter(|p| !p.told_end && p.ended == 0);
            // The new process is not watched yet, or is the only one.
            assert!(running.count() <= 1, "a second exec was sent");
        }
    }

    fn do_for_process(&mut self, process: ProcessId, action: ProcessAction) {
        let watched = self.processes.get_mut(&process).expect("a process");
        match action {
            ProcessAction::Settle(request, answer) => self.settled(request, answer.is_ok()),
            ProcessAction::SendKill => self.sandbox.kill_process(process),
            ProcessAction::SendStdin { number, frame } => {
                let text = frame.into_text();
                let Ok(ClientMessage::Stdin { data: Some(data) }) =
                    ClientMessage::parse_as(text.as_bytes(), Version::V1)
                else {
                    panic!("{text}")
                };
                assert!(watched.in_flight.is_none(), "two messages at once");
                let sent = format!("{}{data}", watched.taken);
                assert!(watched.written.starts_with(&sent), "stdin out of order");
                if self.sandbox.can_send(process) {
                    assert!(self.known_link.is_some());
                    watched.in_flight = Some((number, data.into_owned()));
                }
            }
            ProcessAction::Ended { .. } => {
                watched.ended += 1;
                assert_eq!(watched.ended, 1, "{process} ended twice");
                self.sandbox.process_ended(process);
            }
            ProcessAction::StreamEnded(_)
            | ProcessAction::OutputEnded(_)
            | ProcessAction::Settled => {
                assert_eq!(watched.ended, 1, "{process} settled before its end");
            }
            ProcessAction::Send(text) => panic!("v1 has no {text}"),
        }
    }

    fn do_for_connection(&mut self, action: ConnectionAction) {
        match action {
            ConnectionAction::Dial(epoch) => {
                assert!(!self.closed, "dialled after the close");
                assert!(self.dialling.is_none() && self.open.is_none(), "two links");
                self.dialling = Some(epoch);
            }
            ConnectionAction::Drop(epoch) => {
                self.dialling = self.dialling.filter(|&dialling| dialling != epoch);
                self.open = self.open.filter(|&open| open != epoch);
            }
            ConnectionAction::Close(_) => {}
            ConnectionAction::Tell(fact) => self.to_sandbox.push_back(Mail::Fact(fact)),
        }
    }

    /// Empties the mailboxes.
    fn deliver(&mut self) {
        self.act();
        loop {
            let now = self.now;
            if let Some(mail) = self.to_sandbox.pop_front() {
                match mail {
                    Mail::Frame(epoch, text) => {
                        if self.known_link == Some(epoch) {
                            self.heard.push_str(&text);
                        }
                        self.sandbox.handle_frame(epoch, &text.into(), now);
                    }
                    Mail::Fact(fact) => {
                        self.known_link = match &fact {
                            LinkFact::Opened(epoch, _) => Some(*epoch),
                            _ => None,
                        };
                        self.sandbox.handle_link(fact, now);
                    }
                }
            } else if let Some(action) = self.to_connection.pop_front() {
                if let SandboxAction::Link(command) = action {
                    self.closed |= command == LinkCommand::Close;
                    self.connection.handle_command(command, now);
                }
            } else {
                return;
            }
            self.act();
        }
    }

    /// Drops the last handle, keeps the network silent and lets time pass. Everything must end.
    fn finish(&mut self) {
        self.deliver();
        self.ask(Step::Detach);
        self.deliver();
        for _ in 0..10_000 {
            let processes = self.processes.values();
            let due = processes
                .filter_map(|process| process.machine.poll_timeout())
                .chain(self.sandbox.poll_timeout())
                .chain(self.connection.poll_timeout())
                .min();
            match due {
                Some(due) => self.pass(due.saturating_duration_since(self.now)),
                None if self.dialling.is_some() => self.ask(Step::DialFails),
                None => break,
            }
            self.deliver();
        }
        assert!(self.ended, "the sandbox is {}", self.sandbox.state());
        assert_eq!(*self.connection.state(), ConnectionState::Closed);
        assert_eq!(self.sandbox.poll_timeout(), None);
        for (process, watched) in &self.processes {
            assert_eq!(watched.ended, 1, "{process} never ended");
        }
        assert!(self.pending.is_empty(), "no answer: {:?}", self.pending);
    }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn everything_asked_is_answered_once_whatever_happens(
        attach in any::<bool>(),
        auto_reconnect in prop::bool::weighted(0.8),
        runs in prop::bool::weighted(0.9),
        seed in any::<u64>(),
        steps in steps(),
    ) {
        let mut world = World::new(attach, auto_reconnect, seed);
        if runs {
            world.ask(Step::DialSucceeds);
            world.act();
            world.ask(Step::Identity);
            world.ask(Step::Status(Status::SandboxRunning));
            world.deliver();
        }
        for (step, prompt) in steps {
            world.ask(step);
            world.act();
            if prompt {
                world.deliver();
            }
        }
        world.finish();
    }

    /// The server follows the protocol, so only the output of the process can be lost.
    #[test]
    fn no_output_is_lost_while_the_link_holds(
        pieces in prop::collection::vec("[^\"\\\\\u{0}-\u{1f}]{1,20}", 0..50),
    ) {
        let mut fixture = Fixture::executing();
        for (number, piece) in pieces.iter().enumerate() {
            match number % 7 {
                3 => fixture.say("SANDBOX_EXECUTION_ERROR"),
                5 => fixture.reason("An execution is already in progress."),
                6 => fixture.pass(Duration::from_secs(1)),
                _ => {}
            }
            fixture.print(piece);
        }
        let output: Vec<_> = fixture.output().into_iter().map(|(_, text)| text).collect();
        prop_assert_eq!(output, pieces);
    }
}
