//! What a sandbox is told, and the one thing that a session sees of it from outside.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::execs::NamedRequest;
use crate::{
    protocol::ExecId,
    server::{exec::stdin_queue::StdinQueue, session::client_link::Link},
};

/// Commands on their way to a sandbox.
pub(crate) const COMMANDS_IN_FLIGHT: usize = 16;

/// What a sandbox is told.
pub(crate) enum Command {
    /// A client wants to attach.
    Attach {
        link: Arc<Link>,
        answer: oneshot::Sender<Attached>,
    },
    /// A client says something. `obeyed` is dropped when that is done.
    Say {
        link: Arc<Link>,
        request: Request,
        obeyed: oneshot::Sender<()>,
    },
    /// Another server waits for the sandbox.
    HandOver,
    /// Another server may have taken the sandbox.
    LockLost,
    /// The server stops.
    Stop,
}

/// The answer to an attach.
pub(crate) enum Attached {
    Yes,
    /// Another client is attached.
    InUse,
}

/// What a client says after the configuration.
#[derive(Debug)]
pub(crate) enum Request {
    Exec {
        language: Option<String>,
        code: Option<String>,
    },
    Stdin(Option<String>),
    KillProcess,
    KillSandbox,
    SnapshotFilesystem(Option<String>),
    Checkpoint,
    Reconnect,
    /// Something about a named exec.
    Named(ExecId, NamedRequest),
}

/// Where a session finds the input queue of its sandbox's current exec.
#[derive(Debug, Default)]
pub(crate) struct StdinSlot(Mutex<Option<Arc<StdinQueue>>>);

impl StdinSlot {
    pub(crate) fn get(&self) -> Option<Arc<StdinQueue>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set(&self, queue: Option<Arc<StdinQueue>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = queue;
    }
}
