//! [`SandboxHandle`]: sends commands to a sandbox.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::{
    protocol::ClientMessage,
    server::{
        exec::shared_exec::SharedExec, http::client_address::ClientAddress, identity::TokenHash,
        session::client_link::Link,
    },
};

/// The way to a sandbox.
#[derive(Clone)]
pub(crate) struct SandboxHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) token: TokenHash,
    /// The address of the client that created or restored the sandbox.
    pub(super) client: Option<ClientAddress>,
}

impl SandboxHandle {
    /// Passes a message of a client on, and waits until the sandbox has taken it. So the socket of
    /// a client that sends faster is read slower, and one message waits instead of a queue. Does
    /// nothing if the sandbox is gone.
    pub(crate) async fn say(&self, link: &Arc<Link>, request: ClientMessage<'static>) {
        let link = link.clone();
        let (obeyed, is_obeyed) = oneshot::channel();
        let command = Command::Say {
            link,
            request,
            obeyed,
        };
        if self.commands.send(command).await.is_ok()
            && let Ok(exec) = is_obeyed.await
        {
            exec.make_way().await;
        }
    }
}

/// Commands on their way to a sandbox.
pub(crate) const COMMANDS_IN_FLIGHT: usize = 16;

/// What a sandbox is told.
pub(crate) enum Command {
    /// A client wants to attach. The answer is false if another client is attached.
    Attach {
        link: Arc<Link>,
        answer: oneshot::Sender<bool>,
    },
    /// A message of a client. The sandbox drops `obeyed` when it has taken it. It sends the exec
    /// that got input, so that the session waits for room.
    Say {
        link: Arc<Link>,
        request: ClientMessage<'static>,
        obeyed: oneshot::Sender<Arc<SharedExec>>,
    },
    /// Another server waits for the sandbox.
    HandOver,
    /// Another server may have taken the sandbox.
    LockLost,
    /// The server stops.
    Stop,
}
