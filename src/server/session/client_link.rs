//! [`Link`]: the queue between a sandbox and the session of its client.
//!
//! The sandbox pushes answers, and the writer of the session pops them. The writer polls the execs
//! for their messages, so these stay with the execs until the socket takes them. The sandbox never
//! waits for the writer.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::sync::Notify;

use crate::{
    protocol::{Encoded, ServerMessage, Status, Version},
    server::{
        exec::{shared_exec::SharedExec, v1_adapter::refusal},
        http::client_address::ClientAddress,
    },
};

/// Maximum number of answers that wait for a client. A client that leaves more unread is
/// disconnected.
const MAX_WAITING_ANSWERS: usize = 1_024;

/// A frame for the writer of a session to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(Encoded),
    Pong(Bytes),
    /// A close frame and its code. `None` echoes an empty close frame.
    Close(Option<u16>),
}

#[derive(Default)]
struct State {
    /// Answers to this client. They are dropped with the link.
    queue: VecDeque<ServerMessage>,
    /// The execs that send on this link. The first has the next turn.
    execs: VecDeque<Arc<SharedExec>>,
    /// A v1 exec whose remaining messages come before the queue.
    first: Option<Arc<SharedExec>>,
    /// The payload of the latest ping. RFC 6455 permits answering only the latest.
    pong: Option<Bytes>,
    /// The code of the close frame to send after everything else.
    close: Option<u16>,
    /// The code of the close frame that answers the client's close frame.
    farewell: Option<Option<u16>>,
    /// Whether the writer has popped the close frame.
    closed: bool,
    /// The number of messages that the writer has popped.
    popped: u64,
    /// Whether the link has ended. Only `farewell` may still be sent.
    dead: bool,
}

impl State {
    /// Whether new messages are dropped.
    fn is_ending(&self) -> bool {
        self.dead || self.closed || self.close.is_some()
    }

    /// Returns the next message.
    fn poll_message(&mut self) -> Option<ServerMessage> {
        if let Some(exec) = &self.first {
            let message = exec.poll_message();
            if message.is_some() || exec.look(|exec| exec.is_attached() && !exec.is_settled()) {
                return message;
            }
            self.first = None;
        }
        self.queue.pop_front().or_else(|| self.poll_exec())
    }

    /// Returns the next message of an exec. The execs take turns.
    fn poll_exec(&mut self) -> Option<ServerMessage> {
        for _ in 0..self.execs.len() {
            let exec = self.execs.pop_front()?;
            let message = exec.poll_message();
            if exec.has_last_words() {
                // For example, a reason must directly follow its status.
                self.first = Some(exec.clone());
            }
            // A settled exec has sent its last message.
            if message.is_some() || !exec.look(|exec| exec.is_settled()) {
                self.execs.push_back(exec);
            }
            if message.is_some() {
                return message;
            }
        }
        None
    }
}

/// The queue of messages to one client.
#[derive(Default)]
pub(crate) struct Link {
    /// The version that the client speaks.
    pub(crate) version: Version,
    /// The address of the client, if known.
    pub(crate) client: Option<ClientAddress>,
    state: Mutex<State>,
    /// Wakes the task that pops messages.
    writer: Arc<AtomicWaker>,
    ended: Notify,
}

impl Link {
    /// Creates a link to a client that speaks this version of the protocol.
    pub(crate) fn new(version: Version, client: Option<ClientAddress>) -> Self {
        Self {
            version,
            client,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the writer.
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.writer.wake();
    }

    /// Queues an answer to this client.
    pub(crate) fn push(&self, message: ServerMessage) {
        self.push_all([message]);
    }

    /// Queues messages that the client must receive together.
    pub(crate) fn push_all(&self, messages: impl IntoIterator<Item = ServerMessage>) {
        let mut state = self.lock();
        if state.is_ending() {
            return;
        }
        if state.queue.len() >= MAX_WAITING_ANSWERS {
            tracing::info!("a client left {MAX_WAITING_ANSWERS} answers unread and is cut off");
            drop(state);
            return self.die();
        }
        state.queue.extend(messages);
        drop(state);
        self.writer.wake();
    }

    /// Queues an error status and its reason.
    pub(crate) fn refuse(&self, status: Status, reason: String) {
        self.push_all(refusal(self.version, status, reason));
    }

    /// Adds an exec, which sends its messages on this link from now on. The link removes the exec
    /// when it is settled and has no more messages.
    pub(crate) fn add(&self, exec: &Arc<SharedExec>) {
        exec.set_writer(self.writer.clone());
        self.change(|state| {
            if !state.dead && !state.execs.iter().any(|known| Arc::ptr_eq(known, exec)) {
                state.execs.push_back(exec.clone());
            }
        });
    }

    /// Sends the messages of a v1 exec that is about to end before all answers.
    pub(crate) fn finish(&self, exec: &Arc<SharedExec>) {
        self.change(|state| state.first = Some(exec.clone()));
    }

    /// Removes all execs, so that another link can send their messages.
    pub(crate) fn forget_execs(&self) {
        let mut state = self.lock();
        state.execs.clear();
        state.first = None;
        drop(state);
        self.writer.wake();
    }

    /// Closes the link after all queued messages are sent. Messages that are pushed later are
    /// dropped.
    pub(crate) fn close(&self, code: u16) {
        self.change(|state| {
            if !state.is_ending() {
                state.close = Some(code);
            }
        });
        self.ended.notify_waiters();
    }

    /// Ends the link without a close frame.
    pub(crate) fn die(&self) {
        self.change(|state| {
            state.dead = true;
            state.execs.clear();
        });
        self.ended.notify_waiters();
    }

    /// Ends the link because the client sent a close frame, and queues the answer to it.
    pub(crate) fn closed_by_client(&self, code: Option<u16>) {
        let mut state = self.lock();
        if !state.closed {
            state.farewell = Some(code);
        }
        drop(state);
        self.die();
    }

    /// Queues the answer to a ping.
    pub(crate) fn pong(&self, payload: Bytes) {
        self.change(|state| state.pong = Some(payload));
    }

    /// Whether the link is dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Whether the link is dead, or its close frame is queued or sent.
    pub(crate) fn is_ending(&self) -> bool {
        self.lock().is_ending()
    }

    /// Resolves when the link is dead, or its close frame is queued or sent.
    pub(crate) async fn ends(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.is_ending() {
                return;
            }
            ended.await;
        }
    }

    /// The number of messages that the socket has accepted, at most one more.
    pub(crate) fn popped(&self) -> u64 {
        self.lock().popped
    }

    /// Returns the next frame to write. `None` when the session has ended.
    pub(crate) fn poll_pop(&self, cx: &Context<'_>) -> Poll<Option<Outgoing>> {
        // Register the waker only if nothing is queued. A writer that pauses to yield must not be
        // woken by new messages.
        match self.pop() {
            Poll::Pending => {
                self.writer.register(cx.waker());
                self.pop()
            }
            popped => popped,
        }
    }

    fn pop(&self) -> Poll<Option<Outgoing>> {
        let mut state = self.lock();
        if state.dead {
            return Poll::Ready(state.farewell.take().map(Outgoing::Close));
        }
        if state.closed {
            return Poll::Pending;
        }
        if let Some(payload) = state.pong.take() {
            return Poll::Ready(Some(Outgoing::Pong(payload)));
        }
        if let Some(message) = state.poll_message() {
            state.popped += 1;
            return Poll::Ready(Some(Outgoing::Message(message.to_frame())));
        }
        if state.first.is_some() {
            return Poll::Pending;
        }
        match state.close.take() {
            None => Poll::Pending,
            Some(code) => {
                state.closed = true;
                Poll::Ready(Some(Outgoing::Close(Some(code))))
            }
        }
    }
}

/// Ends the link when it is dropped. The reader and the writer of a session each hold one.
pub(super) struct Guard(pub(super) Arc<Link>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.die();
    }
}

#[cfg(test)]
mod tests;
