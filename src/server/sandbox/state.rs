//! [`State`]: what changes in the life of a sandbox.

use std::sync::Arc;

use tokio::{task::JoinHandle, time::Instant};

use crate::{
    machine::StoredExec,
    protocol::{Status, names::CLOSE_ERROR},
    server::{
        exec::{exec_table::ExecTable, output_pump::Drains},
        session::client_link::Link,
        store::{storage::Stamp, turns::Stop},
    },
};

/// What changes in the life of a sandbox.
pub(crate) struct State {
    pub(super) link: Option<Arc<Link>>,
    pub(super) execs: ExecTable,
    /// Output of execs that ended, which processes in the background still hold.
    pub(super) drains: Drains,
    /// A filesystem snapshot that is being taken.
    pub(super) snapshot: Option<Snapshot>,
    /// The checkpoint that it was restored from.
    pub(super) restored_from: Option<Stamp>,
    pub(super) idle_since: Instant,
    /// Code ran when that was last looked at.
    pub(super) was_busy: bool,
    /// Until then it is not handed over.
    pub(super) keep_until: Option<Instant>,
}

impl State {
    /// The state of a sandbox that was just made for the client at the other end of `link`.
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
            snapshot: None,
            restored_from,
            idle_since: Instant::now(),
            was_busy: false,
            keep_until: None,
        }
    }
}

impl Drop for State {
    /// A sandbox that ends normally has taken its link out before. So this is a panic, or the end
    /// of the runtime: the client is told, so that it doesn't wait forever.
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

/// A snapshot that is being taken. Dropped, it is given up.
pub(super) struct Snapshot {
    pub(super) asked_by: Arc<Link>,
    pub(super) task: JoinHandle<Result<(), String>>,
    pub(super) stop: Stop,
}

impl Snapshot {
    /// Waits for the result.
    pub(super) async fn done(&mut self) -> Result<(), String> {
        let lost = |_panic| Err("The server lost it.".to_owned());
        (&mut self.task).await.unwrap_or_else(lost)
    }

    /// Gives it up, and waits until nothing of it is left.
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
