//! The end of a sandbox: every request is settled, the process is told, the link is closed.

use super::{Exec, ExecPhase, Pending, Sandbox, SandboxAction, SandboxReply};
use crate::machine::{
    Effect, Failure, LinkError, ProcessFact, SandboxEnd, SandboxEvent, SandboxState,
};

impl Sandbox {
    pub(super) fn violation(&mut self, detail: String) {
        let detail = self.redact(detail);
        self.finish(SandboxEnd::LinkLost {
            cause: LinkError::Protocol { detail },
            attempts: 0,
        });
    }

    /// The sandbox is over: every request is settled, the process is told, the link is closed.
    pub(super) fn finish(&mut self, end: SandboxEnd) {
        if matches!(self.state, SandboxState::Ended(_)) {
            return;
        }
        // A checkpoint that came first can be restored.
        let gone = !end.may_live() && end != SandboxEnd::Checkpointed;
        self.ready_due = None;
        self.reason_due = None;
        self.deleted_due = None;
        self.abandoned_due = None;
        self.leftover = None;
        self.actions.push_back(SandboxAction::Disarm);

        let ended = |what, effect| Failure::SandboxEnded {
            what,
            end: end.clone(),
            effect,
        };
        for request in std::mem::take(&mut self.ready) {
            self.settle(request, Err(Failure::NotOpened { end: end.clone() }));
        }
        if let Some(Exec { process, phase }) = self.exec.take() {
            if let ExecPhase::Starting { request, .. } = phase {
                self.settle(
                    request,
                    Err(ended("confirm the start of the process", Effect::Unknown)),
                );
            }
            self.actions.push_back(SandboxAction::Tell(
                process,
                ProcessFact::SandboxEnded(end.clone()),
            ));
        }
        self.end_named(&end);
        self.refuse_queued(ended(super::queue::RUN_CODE, Effect::NotApplied));
        let effect = self.kill_effect(&end);
        for Pending { request, .. } in std::mem::take(&mut self.kills) {
            let result = if gone {
                Ok(SandboxReply::Done)
            } else {
                Err(ended("confirm the kill of the sandbox", effect))
            };
            self.settle(request, result);
        }
        if let Some(Pending { request, .. }) = self.checkpoint.take() {
            let result = match &end {
                SandboxEnd::Checkpointed => Ok(SandboxReply::Done),
                _ => Err(ended("confirm the checkpoint", Effect::Unknown)),
            };
            self.settle(request, result);
        }
        if let Some(Pending { request, .. }) = self.snapshot.take() {
            self.settle(
                request,
                Err(ended("confirm the filesystem snapshot", Effect::Unknown)),
            );
        }
        self.set_state(SandboxState::Ended(end.clone()));
        self.event(SandboxEvent::Ended(end));
        self.actions.push_back(SandboxAction::CloseLink);
    }

    /// What is known of a kill of the sandbox that this end left without a confirmation.
    pub(super) fn kill_effect(&self, end: &SandboxEnd) -> Effect {
        match end {
            SandboxEnd::LinkLost { .. } | SandboxEnd::NotReady { .. } | SandboxEnd::Closed
                if !self.kill_left =>
            {
                Effect::NotApplied
            }
            _ => Effect::Unknown,
        }
    }
}
