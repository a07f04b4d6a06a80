//! The kill of a sandbox, requested by callers or because the sandbox was abandoned.

use std::time::Instant;

use super::{Pending, Sandbox, SandboxReply, is_due};
use crate::{
    machine::{Effect, Failure, LinkCommand, RequestId, SandboxEnd, SandboxState, later},
    protocol::{ClientMessage, Status},
};

const KILL: &str = "kill the sandbox";
const CONFIRM: &str = "confirm the kill of the sandbox";

#[derive(Debug, Default)]
pub(super) struct Kill {
    /// Whether a kill was requested. Cleared when the server refuses it.
    wanted: bool,
    /// Whether the kill was sent on this link. Cleared by a refusal, a timeout and the loss of the
    /// link.
    sent: bool,
    /// Whether the kill was sent on any link, so that its effect is unknown. Cleared when the
    /// server refuses it.
    ever_sent: bool,
    /// The callers that wait for the kill. Cleared by the answer, a refusal, their timeouts and the
    /// end.
    requests: Vec<Pending>,
    /// Whether no handle exists and none will, so that the sandbox is killed as soon as possible.
    /// Never cleared.
    pub(super) abandoned: bool,
    /// When the kill of an abandoned sandbox times out. Cleared by the end.
    abandoned_due: Option<Instant>,
}

impl Kill {
    pub(super) fn is_awaited(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let first = self.requests.first().map(|kill| kill.due);
        first.into_iter().chain(self.abandoned_due).min()
    }

    /// The kill may be lost with the link, so it is sent again on the next link.
    pub(super) fn handle_link_down(&mut self) {
        self.sent = false;
    }

    /// The effect of a kill that was not confirmed before this end.
    fn effect(&self, end: &SandboxEnd) -> Effect {
        match end {
            SandboxEnd::LinkLost { .. } | SandboxEnd::NotReady { .. } | SandboxEnd::Closed
                if !self.ever_sent =>
            {
                Effect::NotApplied
            }
            _ => Effect::Unknown,
        }
    }
}

impl Sandbox {
    /// Kills the sandbox. Answers when the server confirms the kill. Any number of callers may ask.
    ///
    /// After the end of the sandbox, answers at once: with success if nothing is left to kill.
    pub fn kill(&mut self, request: RequestId, now: Instant) {
        let result = match &self.life.state {
            SandboxState::Running | SandboxState::Killing | SandboxState::Reconnecting => {
                let pending = Pending::new(request, now, self.config.timeouts.kill);
                self.kill.requests.push(pending);
                self.kill.wanted = true;
                return self.send_kill();
            }
            SandboxState::Ended(end) if end.leaves_nothing_to_kill() => Ok(SandboxReply::Done),
            SandboxState::Ended(end) => Err(Failure::ended(KILL, end, self.kill.effect(end))),
            _ => Err(self.wrong_state(KILL)),
        };
        self.actions.settle(request, result);
    }

    /// Kills a sandbox to which no caller has, or can get, a handle. The kill is sent as soon as
    /// the server accepts it, within the timeouts for getting ready and for a kill.
    pub fn abandon(&mut self, now: Instant) {
        match self.life.state {
            SandboxState::Creating => self.kill.abandoned = true,
            SandboxState::Running | SandboxState::Reconnecting => {
                self.kill.abandoned = true;
                self.kill_abandoned(now);
            }
            // The sandbox is killed if the checkpoint is refused. A successful checkpoint is kept.
            SandboxState::Checkpointing => {
                self.kill.abandoned = true;
                self.kill.abandoned_due = Some(later(now, self.config.timeouts.kill));
            }
            _ => {}
        }
    }

    /// Kills the sandbox if it was abandoned.
    pub(super) fn kill_abandoned(&mut self, now: Instant) {
        if self.kill.abandoned {
            self.kill.wanted = true;
            self.kill.abandoned_due = Some(later(now, self.config.timeouts.kill));
            self.send_kill();
        }
    }

    pub(super) fn send_kill(&mut self) {
        if self.kill.wanted && !self.kill.sent && self.life.is_linked() {
            self.kill.sent = true;
            self.kill.ever_sent = true;
            self.actions.link(LinkCommand::DisableReconnect);
            self.set_state(SandboxState::Killing);
            self.actions.send(&ClientMessage::KillSandbox);
        }
    }

    pub(super) fn handle_kill_refused(&mut self, status: &Status, reason: Option<&str>) {
        self.kill.wanted = false;
        self.kill.sent = false;
        self.kill.ever_sent = false;
        for kill in std::mem::take(&mut self.kill.requests) {
            let reason = reason.map(str::to_owned);
            let failure = Failure::refused(KILL, status.clone(), reason);
            self.actions.fail(Some(kill), failure);
        }
        if self.kill.abandoned {
            // No caller is left that could retry.
            return self.finish(SandboxEnd::Closed);
        }
        self.return_from(SandboxState::Killing);
    }

    pub(super) fn handle_kill_timeout(&mut self, now: Instant) {
        while self.kill.requests.first().is_some_and(|it| it.is_due(now)) {
            let kill = self.kill.requests.remove(0);
            self.kill.sent = false;
            let failure = match self.life.state {
                // The kill stays requested, and is sent when the link is back.
                SandboxState::Reconnecting => Failure::link_lost(CONFIRM, Effect::Unknown),
                _ => Failure::timeout("the kill of the sandbox", self.config.timeouts.kill),
            };
            self.actions.fail(Some(kill), failure);
            if self.kill.abandoned {
                self.finish(SandboxEnd::Closed);
            }
        }
        if is_due(self.kill.abandoned_due, now) {
            self.finish(SandboxEnd::Closed);
        }
    }

    pub(super) fn end_kill(&mut self, end: &SandboxEnd) {
        self.kill.abandoned_due = None;
        // A checkpoint doesn't confirm a kill, because the sandbox can be restored.
        let gone = !end.may_live() && *end != SandboxEnd::Checkpointed;
        let result = match gone {
            true => Ok(SandboxReply::Done),
            false => Err(Failure::ended(CONFIRM, end, self.kill.effect(end))),
        };
        for kill in std::mem::take(&mut self.kill.requests) {
            self.actions.settle(kill.request, result.clone());
        }
    }
}
