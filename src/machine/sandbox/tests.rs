//! Tables and properties of the sandbox machine.
//!
//! A [`Fixture`] feeds the machine with frames as a server sends them, and sorts its actions. It
//! fails if a request is answered twice.

#![allow(
    clippy::disallowed_methods,
    reason = "any instant will do as the origin of virtual time"
)]

mod features;
mod kill;
mod life;
mod properties;
mod reconnect;
mod store;
mod v1;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::{
    machine::{Effect, LinkFact},
    protocol::Status,
};

type Answer = Result<SandboxReply, Failure>;

/// A command of the machine to the connection.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Control {
    Resume(String),
    Link(LinkCommand),
}

pub(super) const DISABLE_RECONNECT: Control = Control::Link(LinkCommand::DisableReconnect);
pub(super) const CLOSE: Control = Control::Link(LinkCommand::Close);

pub(super) fn confirm(epoch: u64) -> Control {
    Control::Link(LinkCommand::Confirm(Epoch(epoch)))
}

pub(super) fn refuse(epoch: u64, cause: LinkError) -> Control {
    Control::Link(LinkCommand::Refuse(Epoch(epoch), cause))
}

pub(super) fn lost(cause: LinkError) -> LinkFact {
    LinkFact::Lost { cause, attempts: 0 }
}

pub(super) fn run_true() -> NewExec<'static> {
    NewExec::code("bash", "true")
}

pub(super) struct Fixture {
    pub(super) sandbox: Sandbox,
    pub(super) now: Instant,
    epoch: u64,
    requests: u64,
    answers: BTreeMap<RequestId, Answer>,
    sent: Vec<String>,
    told: Vec<(ProcessId, ProcessFact)>,
    output: Vec<(ProcessId, String)>,
    control: Vec<Control>,
    events: Vec<SandboxEvent>,
}

pub(super) const P1: ProcessId = ProcessId(1);
pub(super) const P2: ProcessId = ProcessId(2);
pub(super) const KILL_PROCESS: &str = r#"{"action":"kill_process"}"#;
pub(super) const KILL_SANDBOX: &str = r#"{"action":"kill_sandbox"}"#;
pub(super) const RECONNECT: &str = r#"{"action":"reconnect"}"#;
pub(super) const IDENTITY: &str =
    r#"{"event":"sandbox_id","sandbox_id":"sandbox-1","sandbox_token":"s3cret"}"#;

pub(super) fn dropped() -> LinkError {
    LinkError::Dropped {
        detail: "cut".into(),
    }
}

impl Fixture {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            sandbox: Sandbox::new(SandboxConfig {
                mode,
                timeouts: Timeouts::default(),
                process: ProcessConfig::default(),
                exec_prefix: "test".into(),
            }),
            now: Instant::now(),
            epoch: 0,
            requests: 0,
            answers: BTreeMap::new(),
            sent: Vec::new(),
            told: Vec::new(),
            output: Vec::new(),
            control: Vec::new(),
            events: Vec::new(),
        }
    }

    /// A sandbox that is being created, with an open link.
    pub(super) fn creating() -> (Self, RequestId) {
        Self::creating_with(Configuration {
            enable_checkpoint: true,
            ..Configuration::default()
        })
    }

    /// A sandbox that is being created with these options, with an open link.
    pub(super) fn creating_with(configuration: Configuration) -> (Self, RequestId) {
        let mut fixture = Self::new(Mode::Create(configuration));
        let open = fixture.ask(Sandbox::open);
        fixture.link();
        (fixture, open)
    }

    /// A sandbox that is being attached to, with an open link.
    pub(super) fn attaching() -> (Self, RequestId) {
        let mode = Mode::Attach("sandbox-1".into(), SandboxToken::new("s3cret"));
        let mut fixture = Self::new(mode);
        let open = fixture.ask(Sandbox::open);
        fixture.link();
        (fixture, open)
    }

    /// A sandbox that was created and runs.
    pub(super) fn running() -> Self {
        let (mut fixture, open) = Self::creating();
        fixture.say("SANDBOX_CREATING");
        fixture.frame(IDENTITY);
        fixture.say("SANDBOX_RUNNING");
        assert_eq!(fixture.answer(open), Some(Ok(SandboxReply::Ready)));
        fixture.forget();
        fixture
    }

    /// A sandbox in which a process runs.
    pub(super) fn executing() -> Self {
        let mut fixture = Self::running();
        let exec = fixture.exec();
        fixture.say("SANDBOX_EXECUTION_RUNNING");
        assert_eq!(fixture.answer(exec), Some(Ok(SandboxReply::Started(P1))));
        fixture.forget();
        fixture
    }

    /// A sandbox without a link, in which a process runs.
    pub(super) fn reconnecting() -> Self {
        let mut fixture = Self::executing();
        fixture.cut();
        fixture.forget();
        fixture
    }

    // ----- commands

    pub(super) fn ask(&mut self, command: impl FnOnce(&mut Sandbox, RequestId)) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        command(&mut self.sandbox, request);
        self.collect();
        request
    }
    pub(super) fn exec(&mut self) -> RequestId {
        let now = self.now;
        self.ask(|sandbox, request| {
            sandbox.exec(request, run_true(), now);
        })
    }
    pub(super) fn kill(&mut self) -> RequestId {
        let now = self.now;
        self.ask(|sandbox, request| sandbox.kill(request, now))
    }
    pub(super) fn checkpoint(&mut self) -> RequestId {
        let now = self.now;
        self.ask(|sandbox, request| sandbox.checkpoint(request, now))
    }
    pub(super) fn snapshot(&mut self) -> RequestId {
        let now = self.now;
        self.ask(|sandbox, request| sandbox.snapshot_filesystem(request, "snap", now))
    }
    pub(super) fn call(&mut self, command: impl FnOnce(&mut Sandbox)) {
        command(&mut self.sandbox);
        self.collect();
    }

    // ----- the network

    /// Opens the next link.
    pub(super) fn link(&mut self) {
        self.link_as(Version::V1);
    }
    pub(super) fn link_as(&mut self, version: Version) {
        self.epoch += 1;
        let opened = LinkFact::Opened(Epoch(self.epoch), version);
        self.sandbox.handle_link(opened, self.now);
        self.collect();
    }
    pub(super) fn frame(&mut self, text: &str) {
        self.frame_of(self.epoch, text);
    }
    pub(super) fn frame_of(&mut self, epoch: u64, text: &str) {
        let frame = Bytes::copy_from_slice(text.as_bytes());
        self.sandbox.handle_frame(Epoch(epoch), &frame, self.now);
        self.collect();
    }
    pub(super) fn say(&mut self, status: &str) {
        assert!(
            !matches!(Status::from_wire(status), Status::Unknown(_)),
            "{status}"
        );
        self.frame(&format!(
            r#"{{"event":"status_update","status":"{status}"}}"#
        ));
    }
    /// Sends statuses, named without the prefix `SANDBOX_`.
    pub(super) fn say_all(&mut self, statuses: &str) {
        for status in statuses.split_whitespace() {
            self.say(&format!("SANDBOX_{status}"));
        }
    }
    pub(super) fn reason(&mut self, message: &str) {
        self.frame(&format!(r#"{{"event":"error","message":"{message}"}}"#));
    }
    pub(super) fn say_because(&mut self, status: &str, message: &str) {
        self.say(status);
        self.reason(message);
    }
    pub(super) fn print(&mut self, text: &str) {
        self.frame(&format!(r#"{{"event":"stdout","data":"{text}"}}"#));
    }
    /// The link breaks, and the connection dials again.
    pub(super) fn cut(&mut self) {
        let reconnecting = LinkFact::Reconnecting {
            attempt: 1,
            delay: Duration::from_secs(1),
            cause: dropped(),
        };
        self.sandbox.handle_link(reconnecting, self.now);
        self.collect();
    }
    /// The link breaks for good.
    pub(super) fn lose(&mut self) {
        self.sandbox.handle_link(lost(dropped()), self.now);
        self.collect();
    }
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.sandbox.handle_timeout(self.now);
        self.collect();
    }
    /// Advances the time to the machine's next timeout.
    pub(super) fn pass_until_due(&mut self) -> Duration {
        let due = self
            .sandbox
            .poll_timeout()
            .expect("something is waited for");
        let time = due.saturating_duration_since(self.now);
        self.pass(time);
        time
    }

    // ----- results

    fn collect(&mut self) {
        while let Some(action) = self.sandbox.poll_action() {
            match action {
                SandboxAction::Send(text) => self.sent.push(text),
                SandboxAction::Settle(request, answer) => {
                    let earlier = self.answers.insert(request, answer);
                    assert_eq!(earlier, None, "{request:?} was answered twice");
                }
                SandboxAction::Tell(process, fact) => self.told.push((process, fact)),
                SandboxAction::Output(process, piece) => {
                    let text = String::from_utf8(piece.data.to_vec()).expect("text");
                    self.output.push((process, text));
                }
                SandboxAction::Resume(id, _) => {
                    self.control.push(Control::Resume(id.as_str().to_owned()));
                }
                SandboxAction::Link(command) => self.control.push(Control::Link(command)),
                SandboxAction::Event(event) => self.events.push(event),
            }
        }
    }

    pub(super) fn answer(&self, request: RequestId) -> Option<Answer> {
        self.answers.get(&request).cloned()
    }
    pub(super) fn failure(&self, request: RequestId) -> Failure {
        let answer = self.answer(request).expect("an answer");
        answer.expect_err("a failure")
    }
    /// The text of the failure that answered a request.
    pub(super) fn says(&self, request: RequestId) -> String {
        self.failure(request).to_string()
    }
    pub(super) fn sent(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }
    pub(super) fn told(&mut self) -> Vec<(ProcessId, ProcessFact)> {
        std::mem::take(&mut self.told)
    }
    pub(super) fn output(&mut self) -> Vec<(ProcessId, String)> {
        std::mem::take(&mut self.output)
    }
    pub(super) fn control(&mut self) -> Vec<Control> {
        std::mem::take(&mut self.control)
    }
    pub(super) fn events(&mut self) -> Vec<SandboxEvent> {
        std::mem::take(&mut self.events)
    }
    pub(super) fn forget(&mut self) {
        self.sent.clear();
        self.told.clear();
        self.output.clear();
        self.control.clear();
        self.events.clear();
    }
    pub(super) fn state(&self) -> SandboxState {
        self.sandbox.state().clone()
    }
    pub(super) fn end(&self) -> Option<SandboxEnd> {
        match self.sandbox.state() {
            SandboxState::Ended(end) => Some(end.clone()),
            _ => None,
        }
    }
}

/// Asserts that the sandbox has ended, every request is settled and no timeout is due.
pub(super) fn assert_over(fixture: &mut Fixture, what: &str) {
    let control = fixture.control();
    assert_eq!(control.last(), Some(&CLOSE), "{what}: {control:?}");
    assert!(control.contains(&DISABLE_RECONNECT), "{what}: {control:?}");
    assert_eq!(fixture.sandbox.poll_timeout(), None, "{what}");
    assert_eq!(
        fixture.answers.len() as u64,
        fixture.requests,
        "{what}: a request without an answer"
    );
    let ends = fixture.events();
    let ends = ends.iter().filter(|e| matches!(e, SandboxEvent::Ended(_)));
    assert_eq!(ends.count(), 1, "{what}");
}
