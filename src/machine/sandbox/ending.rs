//! The end of a sandbox: every request is settled, the process is told, the link is closed.

use super::{Exec, ExecPhase, Pending, Sandbox, SandboxAction, SandboxReply};
use crate::{
    machine::{Effect, Failure, LinkError, ProcessFact, SandboxEnd, SandboxEvent, SandboxState},
    protocol::Status,
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
        // One that was checkpointed or handed over meanwhile lives elsewhere.
        let gone = match &end {
            SandboxEnd::Killed | SandboxEnd::Deleted | SandboxEnd::MaybeCheckpointed => true,
            SandboxEnd::Failed { .. } => !end.may_live(),
            _ => false,
        };
        self.ready_due = None;
        self.reason_due = None;
        self.deleted_due = None;
        self.abandoned_due = None;
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
        let effect = if self.kill_left {
            Effect::Unknown
        } else {
            Effect::NotApplied
        };
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
                // The server ended the sandbox, and stored nothing.
                SandboxEnd::Failed {
                    status: Status::SandboxCheckpointError,
                    ..
                } => Err(ended("checkpoint the sandbox", Effect::Applied)),
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
}
