//! [`Steering`]: acts on the main process of a running exec on behalf of a client.

use std::io;

use nix::errno::Errno;
use tokio::sync::{mpsc, oneshot};

use crate::{inside::process::Process, protocol::TerminalSize};

/// Capacity of the queue of actions. When it is full, callers wait.
const WAITING: usize = 4;

/// What to do with the main process of an exec.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Signal { signal: i32, group: bool },
    Resize(TerminalSize),
}

type Request = (Action, oneshot::Sender<io::Result<()>>);

/// Passes actions to the task of an exec.
#[derive(Clone)]
pub(crate) struct Steering(mpsc::Sender<Request>);

impl Steering {
    pub(super) fn new() -> (Self, Steered) {
        let (sender, requests) = mpsc::channel(WAITING);
        (Self(sender), Steered(requests))
    }

    /// Performs an action. Fails with ESRCH if the main process has ended.
    pub(crate) async fn act(self, action: Action) -> io::Result<()> {
        let ended = || io::Error::from(Errno::ESRCH);
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send((action, answer)).await;
        sent.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// The actions for the task of an exec.
pub(super) struct Steered(mpsc::Receiver<Request>);

impl Steered {
    /// Waits for the next action. Cancel safe.
    pub(super) async fn next(&mut self) -> Request {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// Performs an action and answers it.
pub(super) async fn perform((action, answer): Request, process: &mut dyn Process) {
    let done = match action {
        Action::Signal { signal, group } => process.signal(signal, group).await,
        Action::Resize(size) => process.resize(size).await,
    };
    let _ = answer.send(done);
}
