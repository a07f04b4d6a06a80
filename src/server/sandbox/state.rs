//! [`State`]: what changes in the life of a sandbox.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use crate::{
    protocol::{ServerMessage, Status, names::CLOSE_ERROR},
    server::{
        execution::Execution,
        link::{ExecItem, Link},
    },
};

/// What changes in the life of a sandbox.
pub(in crate::server) struct State {
    pub(super) link: Option<Arc<Link>>,
    /// The attached client has taken over the exec, or there is none to take over.
    pub(super) resumed: bool,
    /// What belongs to the exec while no client has taken it over.
    pub(super) held: VecDeque<ExecItem>,
    pub(super) held_bytes: usize,
    pub(super) exec: Option<Execution>,
    /// The current exec was announced as running.
    pub(super) announced: bool,
    /// An exec was asked for at some time.
    pub(super) ever_ran: bool,
    /// Kills that wait for the end of the exec.
    pub(super) kills: usize,
    pub(super) idle_since: Instant,
}

impl State {
    /// The state of a sandbox that was just made for the client at the other end of `link`.
    pub(in crate::server) fn new(link: Arc<Link>) -> Self {
        Self {
            link: Some(link),
            resumed: true,
            held: VecDeque::new(),
            held_bytes: 0,
            exec: None,
            announced: false,
            ever_ran: false,
            kills: 0,
            idle_since: Instant::now(),
        }
    }
}

impl Drop for State {
    /// A sandbox that ends as it should has taken its client out before: this is a panic, or the
    /// end of the runtime. The client does not wait for ever.
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            link.push(ServerMessage::status(Status::SandboxError));
            link.push(ServerMessage::error("The server lost the sandbox."));
            link.close(CLOSE_ERROR);
        }
    }
}
