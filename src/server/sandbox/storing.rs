//! How a sandbox is stored: filesystem snapshots while it runs, and checkpoints, which end it.

use std::{io, sync::Arc};

use tokio::time::Instant;

use super::{leases::Lease, state::Snapshot, task::Sandbox};
use crate::{
    protocol::Status,
    server::{
        blocking::blocking,
        escaped::Escaped,
        session::client_link::Link,
        store::{
            checkpoints::{SnapshotName, reason},
            record::Record,
            turns::Stop,
        },
    },
};

impl Sandbox {
    /// Begins a filesystem snapshot in another task. The sandbox keeps running.
    pub(super) fn snapshot(&mut self, name: Option<&str>) {
        self.status(Status::FilesystemSnapshotCreating);
        let name = match name {
            None => Err("The name is missing.".to_owned()),
            Some(_) if self.state.snapshot.is_some() => {
                Err("A filesystem snapshot is already in progress.".to_owned())
            }
            Some(name) => SnapshotName::new(name),
        };
        let (link, name) = match (self.state.link.clone(), name) {
            (Some(link), Ok(name)) => (link, name),
            (_, Err(why)) => return self.snapshot_failed(&why),
            (None, Ok(_)) => return,
        };
        let stop = Stop::default();
        let stopped = stop.clone();
        let (store, backend) = (self.store.clone(), self.backend.clone());
        let task = tokio::spawn(async move {
            let saved = store.save_snapshot(&name, &*backend, stopped).await;
            saved.map_err(|error| reason(&error))
        });
        self.state.snapshot = Some(Snapshot {
            asked_by: link,
            task,
            stop,
        });
    }

    /// Handles the end of a snapshot: reports the result to the client that requested it, if that
    /// client is still attached.
    pub(super) fn on_snapshot(&mut self, result: Result<(), String>) {
        let Some(snapshot) = self.state.snapshot.take() else {
            return;
        };
        self.state.idle_since = Instant::now();
        tracing::debug!(sandbox = %self.id, ?result, "filesystem snapshot");
        let asked_by_attached = |link: &Arc<Link>| Arc::ptr_eq(link, &snapshot.asked_by);
        if !self.state.link.as_ref().is_some_and(asked_by_attached) {
            return;
        }
        match result {
            Ok(()) => self.status(Status::FilesystemSnapshotCreated),
            Err(why) => self.snapshot_failed(&why),
        }
    }

    fn snapshot_failed(&self, why: &str) {
        let id = &self.id;
        self.refuse(
            Status::FilesystemSnapshotError,
            format!("Failed to snapshot filesystem for sandbox {id}: {why}"),
        );
    }

    /// Returns a check to call right before a checkpoint of the sandbox is written or removed. The
    /// check fails if another server has taken the sandbox.
    pub(super) fn fence(&self) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let fence = self.lease.as_ref().map(Lease::fence);
        move || fence.map_or(Ok(()), |fence| fence())
    }

    /// Whether another server may have taken the sandbox. Also true if the store can't be read.
    pub(super) async fn is_lost(&self) -> bool {
        self.lease.is_some() && blocking(self.fence()).await.is_err()
    }

    /// Writes a checkpoint of the sandbox. On an error, which is the reason for the client, the
    /// sandbox continues, but may have lost its background processes.
    pub(super) async fn store(&mut self) -> Result<(), String> {
        if let Some(snapshot) = &mut self.state.snapshot {
            // Stop the snapshot, so that the checkpoint doesn't wait for it. Both would read the
            // same files.
            snapshot.stop.stop();
            let result = snapshot.done().await;
            self.on_snapshot(result);
        }
        self.state
            .execs
            .end_interactive("The sandbox was checkpointed.");
        // End the execs before the background processes that hold their output. So the execs report
        // that their output was cut.
        self.state.execs.told().await;
        // Background processes would change the files while they are stored.
        self.backend.freeze().await?;
        let record = Record {
            token: self.token.clone(),
            config: self.settings.config.clone(),
            created: self.settings.entry.created,
            ends_at: self.settings.entry.ends_at(),
        };
        let execs = self.state.execs.stored();
        let fence = self.fence();
        let saved = self
            .store
            .save_checkpoint(&self.id, &record, &execs, &*self.backend, fence)
            .await;
        if saved.is_err()
            && let Err(reason) = self.backend.thaw().await
        {
            tracing::warn!(sandbox = %self.id, reason = %Escaped(reason), "background processes are lost");
        }
        saved.map_err(|error| reason(&error))
    }

    /// Prepares the sandbox for a handoff: kills the execs and writes a checkpoint. The statuses
    /// are those in the recordings of the cloud-run-sandbox server.
    pub(super) async fn hand_over(&mut self) -> Result<(), String> {
        let ran = self.abandon_exec();
        self.status(Status::SandboxLockReleaseRequested);
        self.status(Status::SandboxCheckpointing);
        let why = "The sandbox was handed over to another server.";
        self.state.execs.end(why).await;
        if ran {
            self.status(Status::ExecutionForceKilled);
            self.status(Status::ExecutionDone);
        }
        self.store().await
    }

    /// Releases the lock of the deleted sandbox, if it has one.
    pub(super) async fn release(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        // Without a checkpoint, no server can restore the sandbox.
        let for_good = !self.store.has_checkpoint(&self.id).await;
        self.status(Status::SandboxLockReleasing);
        if let Err(error) = lease.release(for_good).await {
            // The lease expires soon, because it is no longer renewed.
            tracing::warn!(sandbox = %self.id, error = %Escaped(error), "a lock could not be released");
        }
        self.status(Status::SandboxLockReleased);
    }
}
