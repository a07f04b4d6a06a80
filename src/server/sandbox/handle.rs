//! [`SandboxHandle`]: the way to a sandbox, and the commands that go it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::{
    protocol::ClientMessage,
    server::{exec::stdin_queue::StdinQueue, identity::TokenHash, session::client_link::Link},
};

/// The way to a sandbox.
#[derive(Clone)]
pub(crate) struct SandboxHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) token: TokenHash,
    pub(crate) stdin: Arc<StdinSlot>,
}

impl SandboxHandle {
    /// Hands on what a client says, and waits until the sandbox has taken it: a client that sends
    /// faster has its socket read slower, and what waits is one message, not a queue of them.
    /// Nothing happens when the sandbox is gone.
    pub(crate) async fn say(&self, link: &Arc<Link>, request: ClientMessage<'static>) {
        let link = link.clone();
        let (obeyed, is_obeyed) = oneshot::channel();
        let command = Command::Say {
            link,
            request,
            obeyed,
        };
        if self.commands.send(command).await.is_ok() {
            // It is never sent, only dropped.
            let _ = is_obeyed.await;
        }
    }
}

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
        request: ClientMessage<'static>,
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
