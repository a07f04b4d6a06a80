//! [`State`]: the mutable state of a sandbox.

use std::sync::Arc;

use tokio::{task::JoinHandle, time::Instant};

use crate::{
    machine::StoredExec,
    protocol::{Status, names::CLOSE_ERROR},
    server::{
        exec::{builtin::Turns, exec_table::ExecTable, output_pump::Drains},
        session::client_link::Link,
        store::{storage::Stamp, turns::Stop},
    },
};

/// The mutable state of a sandbox.
pub(crate) struct State {
    pub(super) link: Option<Arc<Link>>,
    pub(super) execs: ExecTable,
    /// Reads the output pipes of ended execs that background processes still hold open.
    pub(super) drains: Drains,
    /// Limits how many builtins run concurrently.
    pub(super) turns: Turns,
    /// The filesystem snapshot that is in progress.
    pub(super) snapshot: Option<Snapshot>,
    /// The checkpoint that the sandbox was restored from.
    pub(super) restored_from: Option<Stamp>,
    /// When the sandbox was created or restored on this server.
    pub(super) started: Instant,
    pub(super) idle_since: Instant,
    /// Whether an exec was running in the previous iteration of the task's loop.
    pub(super) was_busy: bool,
    /// Until when the sandbox ignores requests for a handoff.
    pub(super) keep_until: Option<Instant>,
}

impl State {
    /// The state of a new sandbox, with the link of the client that created it.
    pub(crate) fn attached(link: Arc<Link>) -> Self {
        Self::new(Some(link), ExecTable::new(), None)
    }

    /// The state of a sandbox that was just restored, before a client attaches.
    pub(crate) fn restored(from: Stamp, execs: Vec<StoredExec>) -> Self {
        Self::new(None, ExecTable::restored(execs), Some(from))
    }

    fn new(link: Option<Arc<Link>>, execs: ExecTable, restored_from: Option<Stamp>) -> Self {
        Self {
            link,
            execs,
            drains: Drains::default(),
            turns: Turns::default(),
            snapshot: None,
            restored_from,
            started: Instant::now(),
            idle_since: Instant::now(),
            was_busy: false,
            keep_until: None,
        }
    }
}

impl Drop for State {
    /// A sandbox that ends normally has already taken its link. If the link is still here, the task
    /// panicked or its runtime stopped. Reports an error to the client, which would wait forever.
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.refuse(
                Status::SandboxError,
                "The server lost the sandbox.".to_owned(),
            );
            link.close(CLOSE_ERROR);
        }
    }
}

/// A snapshot in progress. Dropping it stops the snapshot.
pub(super) struct Snapshot {
    pub(super) asked_by: Arc<Link>,
    pub(super) task: JoinHandle<Result<(), String>>,
    pub(super) stop: Stop,
}

impl Snapshot {
    /// Waits for the result.
    pub(super) async fn done(&mut self) -> Result<(), String> {
        let lost = |_panic| Err("The snapshot task failed.".to_owned());
        (&mut self.task).await.unwrap_or_else(lost)
    }

    /// Stops the snapshot, and waits until its task has ended.
    pub(super) async fn abandon(mut self) {
        self.stop.stop();
        let _ = self.done().await;
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.stop.stop();
    }
}
