//! The life of a sandbox: create, attach, loss of the link, deletion and the end.

use std::time::{Duration, Instant};

use super::{Mode, Sandbox, SandboxAction, SandboxReply, is_due, unsupported::unsupported_before};
use crate::{
    machine::{
        Epoch, Failure, LinkCommand, LinkError, LinkFact, RequestId, SandboxEnd, SandboxEvent,
        SandboxState, later,
    },
    protocol::{ClientMessage, Identity, Pairing, SandboxId, SandboxToken, Version, excerpt},
};

/// How long to wait for `KILLED` or `CHECKPOINTED` after the `DELETED` that is part of a kill or a
/// checkpoint.
const AFTER_DELETED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Life {
    pub(super) state: SandboxState,
    /// Set by an attach, or by the server's answer to a create. Never cleared.
    pub(super) identity: Option<(SandboxId, SandboxToken)>,
    /// The open link. Cleared when it is lost.
    pub(super) link: Option<Epoch>,
    /// The version of the link or, while there is none, of the last link.
    pub(super) version: Version,
    /// The features of the server that last reported `SANDBOX_RUNNING` (v2).
    pub(super) features: Vec<String>,
    /// The option of the new sandbox that the server doesn't support. The sandbox is then being
    /// killed. Never cleared.
    pub(super) unsupported: Option<&'static str>,
    /// Callers that wait for the sandbox to run. Cleared when the sandbox runs or ends.
    opens: Vec<RequestId>,
    /// When `SANDBOX_RUNNING` is due. Set when a link opens. Cleared when the status arrives or the
    /// link is lost.
    ready_due: Option<Instant>,
    /// Whether the server has begun to delete the sandbox. Never cleared.
    pub(super) deleting: bool,
    /// Whether the server has reported that the lifetime of the sandbox has ended. Never cleared.
    outlived: bool,
    /// When the status after `DELETED` is due. Set by a `DELETED` during a kill or a checkpoint.
    deleted_due: Option<Instant>,
}

impl Life {
    /// The first of these features that the server doesn't have.
    pub(super) fn missing_feature(&self, needed: &[&'static str]) -> Option<&'static str> {
        let is_offered = |name: &str| self.features.iter().any(|it| it == name);
        needed.iter().copied().find(|name| !is_offered(name))
    }

    pub(super) fn new(mode: &Mode) -> Self {
        let (state, identity) = match mode {
            Mode::Create(_) => (SandboxState::Creating, None),
            Mode::Attach(id, token) => (SandboxState::Attaching, Some((id.clone(), token.clone()))),
        };
        Self {
            state,
            identity,
            link: None,
            version: Version::V1,
            features: Vec::new(),
            unsupported: None,
            opens: Vec::new(),
            ready_due: None,
            deleting: false,
            outlived: false,
            deleted_due: None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, SandboxState::Ended(_))
    }

    /// Whether the server accepts messages about the sandbox now.
    pub(super) fn is_linked(&self) -> bool {
        self.link.is_some() && self.state != SandboxState::Reconnecting && !self.is_over()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        self.ready_due.into_iter().chain(self.deleted_due).min()
    }

    /// Removes the token of the sandbox from a text of the server.
    pub(super) fn redact(&self, text: String) -> String {
        match &self.identity {
            Some((_, token)) => token.redact(text),
            None => text,
        }
    }
}

impl Sandbox {
    /// Waits until the sandbox runs. Fails if it ends first.
    pub fn open(&mut self, request: RequestId) {
        let result = match &self.life.state {
            SandboxState::Creating | SandboxState::Attaching => {
                return self.life.opens.push(request);
            }
            SandboxState::Killing if self.life.unsupported.is_some() => {
                return self.life.opens.push(request);
            }
            SandboxState::Ended(end) => Err(Failure::NotOpened { end: end.clone() }),
            _ => Ok(SandboxReply::Ready),
        };
        self.actions.settle(request, result);
    }

    /// Handles the drop of the last handle: closes the connection. A sandbox that is still being
    /// created is killed first, as soon as the server accepts a kill.
    pub fn detach(&mut self) {
        match self.life.state {
            SandboxState::Creating if self.life.link.is_some() => self.kill.abandoned = true,
            // An abandoned sandbox is killed after the reconnect, or if the checkpoint is refused.
            SandboxState::Reconnecting | SandboxState::Checkpointing if self.kill.abandoned => {}
            // The connection stays open until a kill in progress is confirmed or times out.
            SandboxState::Killing if self.kill.abandoned || self.kill.is_awaited() => {
                self.kill.abandoned = true;
            }
            SandboxState::Ended(_) => self.actions.link(LinkCommand::Close),
            _ => {
                // Kill the execs that are still starting, because their callers are gone, too.
                self.kill_v1_start();
                self.kill_exec_starts();
                self.finish(SandboxEnd::Closed);
            }
        }
    }

    /// Handles a report of the connection.
    pub fn handle_link(&mut self, fact: LinkFact, now: Instant) {
        match fact {
            LinkFact::Opened(epoch, version) => self.handle_opened(epoch, version, now),
            LinkFact::Reconnecting {
                attempt,
                delay,
                cause,
            } => {
                self.handle_outage(&cause, attempt, now);
                if !self.life.is_over() {
                    self.actions.event(SandboxEvent::Reconnecting {
                        attempt,
                        delay,
                        cause,
                    });
                }
            }
            LinkFact::Lost { cause, attempts } => self.handle_lost(cause, attempts, now),
            LinkFact::Closed => {
                self.drop_link(now);
                self.finish(SandboxEnd::Closed);
            }
        }
    }

    fn handle_opened(&mut self, epoch: Epoch, version: Version, now: Instant) {
        if self.life.is_over() {
            return;
        }
        self.life.link = Some(epoch);
        self.life.version = version;
        self.life.ready_due = Some(later(now, self.config.timeouts.ready));
        if let (SandboxState::Creating, Mode::Create(configuration)) =
            (&self.life.state, &self.config.mode)
        {
            if let Some(option) = unsupported_before(configuration, version) {
                return self.finish(SandboxEnd::Unsupported { option, gone: true });
            }
            let configuration = configuration.encode();
            self.actions.push(SandboxAction::Send(configuration));
        }
    }

    fn handle_outage(&mut self, cause: &LinkError, attempt: u32, now: Instant) {
        self.drop_link(now);
        match self.life.state {
            // While the sandbox is created or attached to, only a first dial that a busy server
            // refused is retried. So no link was lost.
            SandboxState::Creating | SandboxState::Attaching | SandboxState::Ended(_) => {}
            // The connection may have lost the link before it received `DisableReconnect`, so this
            // loss is final, too.
            _ if self.store.is_leaving() || self.life.deleted_due.is_some() => {
                self.handle_lost(cause.clone(), attempt.saturating_sub(1), now);
            }
            SandboxState::Reconnecting => {}
            _ => {
                self.set_state(SandboxState::Reconnecting);
                self.handle_v1_link_down();
                self.handle_execs_link_down(cause);
                self.kill.handle_link_down();
                self.handle_store_link_down();
            }
        }
    }

    fn handle_lost(&mut self, cause: LinkError, attempts: u32, now: Instant) {
        let opened = self.life.link.is_some() || attempts > 0;
        self.drop_link(now);
        if self.life.is_over() {
            return;
        }
        if opened {
            let cause = cause.clone();
            self.actions.event(SandboxEvent::GaveUp { cause, attempts });
        }
        self.finish(match self.life.deleted_due {
            // The server has already reported `DELETED`.
            Some(_) => self.end_after_deleted(),
            None => SandboxEnd::LinkLost { cause, attempts },
        });
    }

    fn drop_link(&mut self, now: Instant) {
        // Clear the link first: handling the status that was held back must not send messages on
        // the lost link.
        self.life.link = None;
        self.flush_pairing(now);
        self.v1.pairing = Pairing::default();
        self.life.ready_due = None;
    }

    pub(super) fn handle_identity(&mut self, identity: Identity) {
        let (id, token) = (identity.sandbox_id, identity.sandbox_token);
        match &self.life.identity {
            None => {
                self.life.identity = Some((id.clone(), token.clone()));
                self.actions.push(SandboxAction::Resume(id.clone(), token));
                self.actions.event(SandboxEvent::Created { sandbox_id: id });
            }
            Some((known, secret)) if *known == id && *secret == token => {}
            Some((known, _)) if *known == id => {
                self.violation("the server changed the token of the sandbox".to_owned());
            }
            Some(_) => {
                let other = excerpt(id.as_str().as_bytes());
                self.violation(format!("the server now calls the sandbox `{other}`"));
            }
        }
    }

    /// Handles `SANDBOX_RUNNING`, with the features of the server.
    pub(super) fn handle_running(&mut self, features: Vec<String>, now: Instant) {
        if self.life.identity.is_none() {
            return self.violation("SANDBOX_RUNNING before the sandbox's id".to_owned());
        }
        let reconnected = match self.life.state {
            SandboxState::Creating | SandboxState::Attaching => false,
            SandboxState::Reconnecting => true,
            _ => return self.handle_nothing_to_resume(),
        };
        self.life.features = features;
        self.life.ready_due = None;
        if self.refuse_ignored_options(now) {
            return;
        }
        self.set_state(SandboxState::Running);
        self.confirm_link();
        for request in std::mem::take(&mut self.life.opens) {
            self.actions.settle(request, Ok(SandboxReply::Ready));
        }
        if reconnected {
            self.actions.event(SandboxEvent::Reconnected);
            self.resume_v1();
            self.resume_execs();
        }
        self.kill_abandoned(now);
        self.send_kill();
        self.run_queued();
    }

    /// Handles the end of the sandbox's lifetime. If the sandbox still ran, `DELETED` follows.
    pub(super) fn handle_lifetime_ended(&mut self) {
        self.life.outlived = true;
        if !self.runs() {
            self.finish(SandboxEnd::LifetimeEnded);
        }
    }

    pub(super) fn handle_deleted(&mut self, now: Instant) {
        match self.life.state {
            // This status is part of a kill or a checkpoint. `KILLED` or `CHECKPOINTED` follows.
            SandboxState::Killing | SandboxState::Checkpointing if !self.life.outlived => {
                self.life.deleted_due.get_or_insert(now + AFTER_DELETED);
                self.actions.link(LinkCommand::DisableReconnect);
            }
            _ => self.finish(self.deleted()),
        }
    }

    pub(super) fn handle_life_timeout(&mut self, now: Instant) {
        if is_due(self.life.ready_due, now) {
            self.life.ready_due = None;
            // If the server reported an error, report that error instead of a timeout.
            self.flush_pairing(now);
            self.handle_not_ready();
        }
        if is_due(self.life.deleted_due, now) {
            self.finish(self.end_after_deleted());
        }
    }

    /// The service can't be lifted.
    pub fn handle_not_lifted(&mut self, reason: String) {
        let reason = self.life.redact(reason);
        if self.life.state == SandboxState::Reconnecting {
            let cause = LinkError::Dropped { detail: reason };
            return self.actions.refuse_link(self.life.link, cause);
        }
        self.kill_unopened();
        self.finish(SandboxEnd::NotLifted { reason });
    }

    /// Kills a new sandbox to which no caller gets a handle.
    fn kill_unopened(&mut self) {
        let is_new = self.life.state == SandboxState::Creating;
        if is_new && self.life.identity.is_some() {
            self.actions.send(&ClientMessage::KillSandbox);
        }
    }

    fn handle_not_ready(&mut self) {
        let after = self.config.timeouts.ready;
        match self.life.state {
            SandboxState::Creating | SandboxState::Attaching => {
                self.kill_unopened();
                let waited = format!("no SANDBOX_RUNNING within {after:?} of the connection");
                self.finish(SandboxEnd::NotReady { waited });
            }
            SandboxState::Reconnecting => self
                .actions
                .refuse_link(self.life.link, LinkError::NotReady { after }),
            _ => {}
        }
    }

    pub(super) fn set_state(&mut self, state: SandboxState) {
        if self.life.state != state {
            self.life.state = state.clone();
            self.actions.event(SandboxEvent::State(state));
        }
    }

    /// Enters a state in which the server kills or checkpoints the sandbox, as this client or
    /// another client requested.
    pub(super) fn leave_running(&mut self, state: SandboxState) {
        if self.runs() {
            self.set_state(state);
        }
    }

    /// Leaves the state of a kill or a checkpoint that the server refused. If a kill is still in
    /// progress, the state becomes `Killing`.
    pub(super) fn return_from(&mut self, refused: SandboxState) {
        if self.life.state == refused {
            self.set_state(match self.kill.is_sent() {
                true => SandboxState::Killing,
                false => SandboxState::Running,
            });
        }
        self.confirm_link();
    }

    fn runs(&self) -> bool {
        matches!(
            self.life.state,
            SandboxState::Running | SandboxState::Killing | SandboxState::Checkpointing
        )
    }

    /// Confirms that the sandbox runs on this link. From now on, a lost link is dialled again,
    /// unless a kill, a checkpoint or a handoff is in progress.
    fn confirm_link(&mut self) {
        if let Some(epoch) = self.life.link.filter(|_| self.runs()) {
            self.actions.link(LinkCommand::Confirm(epoch));
            if self.kill.is_sent() || self.store.is_leaving() {
                self.actions.link(LinkCommand::DisableReconnect);
            }
        }
    }

    /// The end after a `DELETED` without a further status. Such a `DELETED` confirms a kill, but
    /// not a checkpoint.
    fn end_after_deleted(&self) -> SandboxEnd {
        match self.life.state {
            SandboxState::Killing => SandboxEnd::Killed,
            SandboxState::Checkpointing if self.store.handing_off => SandboxEnd::HandedOff,
            _ => self.deleted(),
        }
    }

    /// The end after the server deleted the sandbox. The server doesn't report whether it
    /// checkpointed the idle sandbox first.
    pub(super) fn deleted(&self) -> SandboxEnd {
        match &self.config.mode {
            _ if self.life.outlived => SandboxEnd::LifetimeEnded,
            Mode::Create(it) if !it.enable_idle_timeout_auto_checkpoint => SandboxEnd::Deleted,
            _ => SandboxEnd::MaybeCheckpointed,
        }
    }

    /// Ends the sandbox because the server violated the protocol.
    pub(super) fn violation(&mut self, detail: String) {
        let detail = self.life.redact(detail);
        self.finish(SandboxEnd::LinkLost {
            cause: LinkError::Protocol { detail },
            attempts: 0,
        });
    }

    /// Ends the sandbox: settles every request, tells the processes and closes the link.
    pub(super) fn finish(&mut self, end: SandboxEnd) {
        if self.life.is_over() {
            return;
        }
        let end = self.end_of_unsupported(end);
        self.life.ready_due = None;
        self.life.deleted_due = None;
        self.actions.link(LinkCommand::DisableReconnect);
        for request in std::mem::take(&mut self.life.opens) {
            let failure = Failure::NotOpened { end: end.clone() };
            self.actions.settle(request, Err(failure));
        }
        self.end_v1(&end);
        self.end_execs(&end);
        self.end_kill(&end);
        self.end_store(&end);
        self.set_state(SandboxState::Ended(end.clone()));
        self.actions.event(SandboxEvent::Ended(end));
        self.actions.link(LinkCommand::Close);
    }
}
