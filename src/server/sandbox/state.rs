//! [`State`]: what changes in the life of a sandbox.

use std::{collections::VecDeque, sync::Arc};

use tokio::{
    sync::oneshot::{self, error::RecvError},
    time::Instant,
};

use crate::{
    machine::StoredExec,
    protocol::{Status, names::CLOSE_ERROR},
    server::{
        exec::{named_execs::NamedExecs, output_pump::Drains, v1_exec::V1Exec},
        session::client_link::{ExecItem, Link},
        store::{storage::Stamp, turns::Stop},
    },
};

/// What changes in the life of a sandbox.
pub(crate) struct State {
    pub(super) link: Option<Arc<Link>>,
    /// The attached client has taken over the exec, or there is none to take over.
    pub(super) resumed: bool,
    /// What belongs to the exec while no client has taken it over.
    pub(super) held: VecDeque<ExecItem>,
    pub(super) held_bytes: usize,
    pub(super) exec: Option<V1Exec>,
    /// The execs that have a name.
    pub(super) named: NamedExecs,
    /// Output of execs that ended, which processes in the background still hold.
    pub(super) drains: Drains,
    /// The current exec was announced as running.
    pub(super) announced: bool,
    /// An exec was asked for at some time.
    pub(super) ever_ran: bool,
    /// Kills that wait for the end of the exec.
    pub(super) kills: usize,
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
    /// The state of a sandbox without an attached client.
    fn unattached() -> Self {
        Self {
            link: None,
            resumed: true,
            held: VecDeque::new(),
            held_bytes: 0,
            exec: None,
            named: NamedExecs::new(),
            drains: Drains::default(),
            announced: false,
            ever_ran: false,
            kills: 0,
            snapshot: None,
            restored_from: None,
            idle_since: Instant::now(),
            was_busy: false,
            keep_until: None,
        }
    }

    /// The state of a sandbox that was just restored, before a client attaches.
    pub(crate) fn restored(from: Stamp, execs: Vec<StoredExec>) -> Self {
        let mut state = Self::unattached();
        state.named = NamedExecs::restored(execs);
        state.restored_from = Some(from);
        state
    }

    /// The state of a sandbox that was just made for the client at the other end of `link`.
    pub(crate) fn attached(link: Arc<Link>) -> Self {
        let mut state = Self::unattached();
        state.link = Some(link);
        state
    }
}

impl Drop for State {
    /// A sandbox that ends as it should has taken its client out before: this is a panic, or the
    /// end of the runtime. The client does not wait for ever.
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
    pub(super) done: oneshot::Receiver<Result<(), String>>,
    pub(super) stop: Stop,
}

impl Snapshot {
    /// The result; an error means that the task panicked.
    pub(super) async fn done(&mut self) -> Result<Result<(), String>, RecvError> {
        (&mut self.done).await
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
