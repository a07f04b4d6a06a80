//! A client: its machines, connected by mailboxes like its actors.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::process::Exec;
use crate::{
    machine::{
        Connection, ConnectionAction, ConnectionConfig, Epoch, Failure, LinkCommand, LinkError,
        LinkFact, Mode, NewExec, Process, ProcessAction, ProcessFact, ProcessId, ProcessReply,
        ReconnectPolicy, RequestId, Sandbox, SandboxAction, SandboxConfig, SandboxReply,
        SandboxState, Stdin, Timeouts,
    },
    protocol::{ExecId, ExecOptions, OutputPiece, SandboxToken, Version},
};

/// A request of the user.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Exec,
    /// A write of this many bytes.
    Write(usize),
    Close,
    /// A flush, with the number of bytes that were written before.
    Flush(u64),
    Wait,
    Kill,
}

pub(super) enum Answer {
    Sandbox(Result<SandboxReply, Failure>),
    Process(Result<ProcessReply, Failure>),
}

/// An action of the client for the world to perform.
pub(super) enum Out {
    Send(String),
    /// A message that could not be sent, because the link was gone.
    Lost(String),
    Dial(Epoch),
    Drop(Epoch),
}

/// A message between actors.
enum Mail {
    Fact(ProcessId, ProcessFact),
    Output(ProcessId, OutputPiece),
    Report(ProcessId, ProcessAction),
}

pub(super) struct Client {
    pub(super) connection: Connection,
    pub(super) sandbox: Sandbox,
    pub(super) execs: BTreeMap<ProcessId, Exec>,
    mail: VecDeque<(u64, Mail)>,
    /// The delivery time of mail.
    delay: u64,
    pub(super) out: VecDeque<Out>,
    requests: u64,
    pub(super) pending: BTreeMap<RequestId, (ExecId, Asked)>,
    pub(super) answers: Vec<(ExecId, Asked, Answer)>,
}

impl Client {
    pub(super) fn new(number: u64, seed: u64) -> Self {
        let mut connection = Connection::new(ConnectionConfig {
            auto_reconnect: true,
            policy: ReconnectPolicy {
                max_elapsed: None,
                ..ReconnectPolicy::default()
            },
            busy_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(2),
            seed,
        });
        connection.start();
        Self {
            connection,
            sandbox: Sandbox::new(SandboxConfig {
                mode: Mode::Attach("sandbox-1".into(), SandboxToken::new("s3cret")),
                timeouts: Timeouts::default(),
                process: Exec::config(),
                exec_prefix: format!("c{number}"),
            }),
            execs: BTreeMap::new(),
            mail: VecDeque::new(),
            delay: seed % 3,
            out: VecDeque::new(),
            requests: 0,
            pending: BTreeMap::new(),
            answers: Vec::new(),
        }
    }

    // Requests of the user.

    pub(super) fn exec(
        &mut self,
        script: usize,
        options: &ExecOptions,
        input: Option<Vec<u8>>,
        now: Instant,
    ) -> Option<RequestId> {
        self.requests += 1;
        let request = RequestId(self.requests);
        let code = script.to_string();
        let mut run = NewExec::code("model", &code);
        run.options = options.clone();
        run.stdin = input
            .clone()
            .map_or(Stdin::Open, |it| Stdin::Bytes(it.into()));
        let (process, machine) = self.sandbox.exec(request, run, now)?;
        let (id, _) = machine.place().expect("an id");
        let id = id.clone();
        let mut exec = Exec::new(id.clone(), machine);
        exec.closed = input.is_some();
        exec.written = input.unwrap_or_default();
        exec.accepted = exec.written.len();
        self.execs.insert(process, exec);
        self.pending.insert(request, (id, Asked::Exec));
        Some(request)
    }

    pub(super) fn adopt(&mut self, id: ExecId, offsets: [u64; 2], window: u64) -> &mut Exec {
        let adopted = self.sandbox.adopt(id.clone(), window, offsets);
        let (process, machine) = adopted.expect("it runs");
        let mut exec = Exec::new(id, machine);
        exec.claimed = true;
        self.execs.entry(process).or_insert(exec)
    }

    /// Sends a request to a process to which the user has a handle.
    pub(super) fn ask(
        &mut self,
        pick: usize,
        what: impl FnOnce(&mut Exec) -> Asked,
        ask: impl FnOnce(&mut Process, RequestId),
    ) {
        let claimed = self.execs.values_mut().filter(|exec| exec.claimed);
        let mut claimed: Vec<_> = claimed.collect();
        if claimed.is_empty() {
            return;
        }
        let index = pick % claimed.len();
        self.requests += 1;
        let request = RequestId(self.requests);
        let exec = &mut claimed[index];
        let asked = what(exec);
        self.pending.insert(request, (exec.id.clone(), asked));
        ask(&mut exec.machine, request);
        exec.wake();
    }

    pub(super) fn is_running(&self) -> bool {
        *self.sandbox.state() == SandboxState::Running
    }

    /// Whether a lost link is dialled again.
    pub(super) fn is_armed(&self) -> bool {
        *self.sandbox.state() != SandboxState::Attaching
    }

    // Events of the world.

    pub(super) fn opened(&mut self, epoch: Epoch, version: Version, now: Instant) {
        self.connection.handle_opened(epoch, version);
        self.join(now);
    }

    pub(super) fn lost(&mut self, epoch: Epoch, now: Instant) {
        let cause = LinkError::Dropped {
            detail: "cut".into(),
        };
        self.connection.handle_lost(epoch, cause, now);
        self.join(now);
    }

    pub(super) fn frame(&mut self, epoch: Epoch, text: String, now: Instant) {
        self.sandbox.handle_frame(epoch, &Bytes::from(text), now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let execs = self.execs.values().filter_map(Exec::poll_timeout);
        let machines = [self.sandbox.poll_timeout(), self.connection.poll_timeout()];
        execs.chain(machines.into_iter().flatten()).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
        self.sandbox.handle_timeout(now);
        for exec in self.execs.values_mut() {
            exec.handle_timeout(now);
        }
        self.join(now);
    }

    /// Delivers between the connection and the sandbox, which takes no time.
    fn join(&mut self, now: Instant) {
        while let Some(action) = self.connection.poll_action() {
            match action {
                ConnectionAction::Dial(epoch) => self.out.push_back(Out::Dial(epoch)),
                ConnectionAction::Drop(epoch) => self.out.push_back(Out::Drop(epoch)),
                ConnectionAction::Tell(LinkFact::Lost { cause, .. }) => {
                    panic!("given up: {cause:?}");
                }
                ConnectionAction::Tell(fact) => self.sandbox.handle_link(fact, now),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn mail_due(&self) -> Option<u64> {
        self.mail.front().map(|&(due, _)| due)
    }

    /// Does everything that is due now. Returns whether anything was.
    pub(super) fn run(&mut self, time: u64, now: Instant) -> bool {
        let mut ran = false;
        self.join(now);
        while let Some(action) = self.sandbox.poll_action() {
            self.act(action, time, now);
            ran = true;
        }
        for (&process, exec) in &mut self.execs {
            for action in exec.poll() {
                let mail = Mail::Report(process, action);
                self.mail.push_back((time + self.delay, mail));
                ran = true;
            }
        }
        while self.mail_due().is_some_and(|due| due <= time) {
            let (_, mail) = self.mail.pop_front().expect("mail");
            self.deliver(mail, time, now);
            ran = true;
        }
        ran
    }

    fn act(&mut self, action: SandboxAction, time: u64, now: Instant) {
        let due = time + self.delay;
        match action {
            SandboxAction::Send(text) => self.out.push_back(Out::Send(text)),
            SandboxAction::Settle(request, answer) => {
                if let Ok(SandboxReply::Started(process)) = &answer {
                    let exec = self.execs.get_mut(process).expect("an exec");
                    exec.claimed = true;
                }
                self.settle(request, Answer::Sandbox(answer));
            }
            SandboxAction::Tell(process, fact) => {
                self.mail.push_back((due, Mail::Fact(process, fact)));
            }
            SandboxAction::Output(process, piece) => {
                self.mail.push_back((due, Mail::Output(process, piece)));
            }
            SandboxAction::Link(command @ LinkCommand::Confirm(_)) => {
                self.connection.handle_command(command, now);
            }
            SandboxAction::Event(_) => {}
            other => panic!("{other:?}"),
        }
        self.join(now);
    }

    fn deliver(&mut self, mail: Mail, time: u64, now: Instant) {
        match mail {
            Mail::Fact(process, fact) => self.exec_mut(process).handle_fact(fact, now),
            Mail::Output(process, piece) => self.exec_mut(process).handle_output(piece, now),
            Mail::Report(process, action) => self.report(process, action, time),
        }
    }

    fn exec_mut(&mut self, process: ProcessId) -> &mut Exec {
        self.execs.get_mut(&process).expect("an exec")
    }

    fn report(&mut self, process: ProcessId, action: ProcessAction, time: u64) {
        let can_send = self.sandbox.can_send(process);
        match action {
            ProcessAction::Settle(request, answer) => {
                self.settle(request, Answer::Process(answer));
            }
            ProcessAction::Send(text) if can_send => self.out.push_back(Out::Send(text)),
            ProcessAction::SendStdin { number, frame } if can_send => {
                let text = frame.into_text();
                self.out.push_back(Out::Send(text));
                let written = ProcessFact::StdinWritten(number);
                let due = time + self.delay;
                self.mail.push_back((due, Mail::Fact(process, written)));
            }
            ProcessAction::Send(text) => self.out.push_back(Out::Lost(text)),
            ProcessAction::SendStdin { .. } => {}
            ProcessAction::Ended { end, .. } => {
                let exec = self.exec_mut(process);
                let earlier = exec.ended.replace(end);
                assert_eq!(earlier, None, "{:?} ended twice", exec.id);
                self.sandbox.process_ended(process);
            }
            ProcessAction::StreamEnded(_) => {}
            ProcessAction::OutputEnded(finish) => self.exec_mut(process).finish(finish),
            ProcessAction::Settled => {
                let exec = self.exec_mut(process);
                assert!(exec.ended.is_some() && exec.output_ended.is_some());
                assert!(!std::mem::replace(&mut exec.settled, true), "settled twice");
                self.sandbox.process_settled(process);
            }
            ProcessAction::SendKill => panic!("v1"),
        }
    }

    fn settle(&mut self, request: RequestId, answer: Answer) {
        let asked = self.pending.remove(&request);
        let (id, asked) = asked.unwrap_or_else(|| panic!("{request:?} was answered twice"));
        self.answers.push((id, asked, answer));
    }
}
