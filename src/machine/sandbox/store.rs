//! Storing a sandbox: its files by a snapshot, all of it by a checkpoint or a handoff.

use std::time::Instant;

use super::{Mode, Pending, Sandbox, SandboxReply};
use crate::{
    machine::{Effect, Failure, LinkCommand, RequestId, SandboxEnd, SandboxState},
    protocol::{ClientMessage, Status},
};

const SNAPSHOT: &str = "snapshot the filesystem";
const CONFIRM_SNAPSHOT: &str = "confirm the filesystem snapshot";
const CHECKPOINT: &str = "checkpoint the sandbox";

#[derive(Debug, Default)]
pub(super) struct Store {
    /// The checkpoint in progress. Cleared by a refusal, its timeout and the end.
    checkpoint: Option<Pending>,
    /// The snapshot in progress. Cleared by its answer, its timeout, the loss of the link and the
    /// end.
    snapshot: Option<Pending>,
    /// The number of snapshots that were given up. Their answers may still arrive until the server
    /// starts the next snapshot.
    late_snapshots: u32,
    /// Whether another client has asked the server for the sandbox. Never cleared.
    pub(super) handing_off: bool,
}

impl Store {
    pub(super) fn is_awaited(&self) -> bool {
        self.checkpoint.is_some() || self.snapshot.is_some()
    }

    /// Whether the sandbox is leaving this client. Then the client must not reconnect to it.
    pub(super) fn is_leaving(&self) -> bool {
        self.handing_off || self.checkpoint.is_some()
    }

    pub(super) fn timeout(&self) -> Option<Instant> {
        let pending = self.checkpoint.iter().chain(&self.snapshot);
        pending.map(|pending| pending.due).min()
    }
}

impl Sandbox {
    /// Stores the files of the sandbox under a name.
    pub fn snapshot_filesystem(&mut self, request: RequestId, name: &str, now: Instant) {
        let what = SNAPSHOT;
        let allowed = match self.store.snapshot {
            Some(_) => Err(Failure::AlreadyUnderWay { what }),
            None => Ok(()),
        };
        if let Err(failure) = self.require_running(what).and(allowed) {
            return self.actions.settle(request, Err(failure));
        }
        let pending = Pending::new(request, now, self.config.timeouts.store);
        self.store.snapshot = Some(pending);
        let name = Some(name.into());
        self.actions
            .send(&ClientMessage::SnapshotFilesystem { name });
    }

    /// Stores the sandbox and ends the session.
    ///
    /// Fails if the sandbox was created without that option, because a server would end the
    /// session.
    pub fn checkpoint(&mut self, request: RequestId, now: Instant) {
        let what = CHECKPOINT;
        let allowed = match &self.config.mode {
            _ if self.store.checkpoint.is_some() => Err(Failure::AlreadyUnderWay { what }),
            Mode::Create(it) if !it.enable_checkpoint => {
                let option = "enable_sandbox_checkpoint";
                let disabled = Failure::NotEnabled { what, option };
                self.require_running(what).and(Err(disabled))
            }
            _ => self.require_running(what),
        };
        if let Err(failure) = allowed {
            return self.actions.settle(request, Err(failure));
        }
        let pending = Pending::new(request, now, self.config.timeouts.store);
        self.store.checkpoint = Some(pending);
        self.actions.link(LinkCommand::DisableReconnect);
        self.actions.send(&ClientMessage::Checkpoint);
    }

    pub(super) fn handle_checkpointed(&mut self) {
        self.finish(match self.store.handing_off {
            true => SandboxEnd::HandedOff,
            false => SandboxEnd::Checkpointed,
        });
    }

    pub(super) fn handle_checkpoint_refused(
        &mut self,
        status: Status,
        reason: Option<String>,
        now: Instant,
    ) {
        let checkpoint = self.store.checkpoint.take();
        let failure = Failure::refused(CHECKPOINT, status, reason);
        self.actions.fail(checkpoint, failure);
        self.return_from(SandboxState::Checkpointing);
        self.kill_abandoned(now);
    }

    /// Another client takes over the sandbox.
    pub(super) fn handle_lock_release(&mut self) {
        self.store.handing_off = true;
        self.actions.link(LinkCommand::DisableReconnect);
    }

    pub(super) fn handle_snapshot_status(&mut self, status: Status, reason: Option<String>) {
        if status == Status::FilesystemSnapshotCreating {
            // The server starts this snapshot, so no answer to an earlier one follows.
            if self.store.snapshot.is_some() {
                self.store.late_snapshots = 0;
            }
        } else if self.store.late_snapshots > 0 {
            self.store.late_snapshots -= 1;
        } else if let Some(Pending { request, .. }) = self.store.snapshot.take() {
            let result = match status {
                Status::FilesystemSnapshotCreated => Ok(SandboxReply::Done),
                _ => Err(Failure::refused(SNAPSHOT, status, reason)),
            };
            self.actions.settle(request, result);
        }
    }

    pub(super) fn handle_store_link_down(&mut self) {
        self.give_up_snapshot(Failure::link_lost(CONFIRM_SNAPSHOT, Effect::Unknown));
    }

    pub(super) fn handle_store_timeout(&mut self, now: Instant) {
        let after = self.config.timeouts.store;
        let checkpoint = self.store.checkpoint.take_if(|it| it.is_due(now));
        let failure = Failure::timeout("the checkpoint", after);
        self.actions.fail(checkpoint, failure);
        let snapshot = self.store.snapshot.as_ref();
        if snapshot.is_some_and(|it| it.is_due(now)) {
            self.give_up_snapshot(Failure::timeout("the filesystem snapshot", after));
        }
    }

    fn give_up_snapshot(&mut self, failure: Failure) {
        if let Some(snapshot) = self.store.snapshot.take() {
            self.store.late_snapshots += 1;
            self.actions.fail(Some(snapshot), failure);
        }
    }

    pub(super) fn end_store(&mut self, end: &SandboxEnd) {
        if let Some(Pending { request, .. }) = self.store.checkpoint.take() {
            let result = match end {
                SandboxEnd::Checkpointed => Ok(SandboxReply::Done),
                _ => Err(Failure::ended(
                    "confirm the checkpoint",
                    end,
                    Effect::Unknown,
                )),
            };
            self.actions.settle(request, result);
        }
        let snapshot = self.store.snapshot.take();
        let failure = Failure::ended(CONFIRM_SNAPSHOT, end, Effect::Unknown);
        self.actions.fail(snapshot, failure);
    }
}
