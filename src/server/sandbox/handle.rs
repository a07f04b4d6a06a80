//! [`SandboxHandle`]: sends commands to a sandbox.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::entry::Entry;
use crate::{
    protocol::ClientMessage,
    server::{
        exec::shared_exec::SharedExec, http::client_address::ClientAddress, identity::TokenHash,
        session::client_link::Link,
    },
};

/// A handle for sending commands to a sandbox. Holding one doesn't keep the sandbox alive.
#[derive(Clone)]
pub(crate) struct SandboxHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) token: TokenHash,
    /// The address of the client that created or restored the sandbox.
    pub(super) client: Option<ClientAddress>,
    /// The sandbox in the list. `None` if it runs the code of a single request.
    pub(super) entry: Option<Arc<Entry>>,
}

impl SandboxHandle {
    /// Sends a client's message to the sandbox, and waits until the sandbox has handled it. After
    /// v1 stdin, also waits while the process has much unread input. So a client that sends too
    /// fast is read slower, and at most one of its messages waits. Does nothing if the sandbox has
    /// ended.
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

/// Capacity of the channel that carries commands to a sandbox.
pub(crate) const COMMANDS_IN_FLIGHT: usize = 16;

/// A command for a sandbox.
pub(crate) enum Command {
    /// Attach a client. The answer is false if another client is attached.
    Attach {
        link: Arc<Link>,
        answer: oneshot::Sender<bool>,
    },
    /// Handle a client's message, then drop `obeyed`. If the message was stdin for the v1 exec,
    /// send that exec through `obeyed`: the session then waits for the process to read.
    Say {
        link: Arc<Link>,
        request: ClientMessage<'static>,
        obeyed: oneshot::Sender<Arc<SharedExec>>,
    },
    /// Another server waits for the lock of the sandbox.
    HandOver,
    /// This server has lost the lock, so another server may have taken the sandbox.
    LockLost,
    /// This server is shutting down.
    Stop,
}
