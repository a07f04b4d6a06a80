//! [`Link`]: what lies between one sandbox and the session of its client.
//!
//! The sandbox pushes, the session's writer pops. The queue is shared, so that nothing of an exec is
//! in anybody's hands but the socket's: when the link is lost, the sandbox takes back what was not
//! popped. The sandbox never waits for the writer; it asks [`Link::queued_bytes`] first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::sync::Notify;

use crate::{
    protocol::{ServerMessage, Status, StdStream, Version},
    server::{
        exec::{named_exec::NamedExec, output_pump::MAX_PIECE_BYTES},
        http::client_address::ClientAddress,
    },
};

/// Answers that may wait for a client that does not read; then it is cut off.
const MAX_WAITING_ANSWERS: usize = 1_024;

/// What a queued piece costs beside its bytes.
const PIECE_OVERHEAD: usize = 128;

/// Something that belongs to an exec, and is kept for `reconnect` while there is no link.
#[derive(Clone, Debug)]
pub(crate) enum ExecItem {
    /// A piece of output.
    Output(StdStream, String),
    /// A status, or the reason of one.
    Message(ServerMessage),
}

impl ExecItem {
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Output(_, text) => text.len() + PIECE_OVERHEAD,
            Self::Message(_) => PIECE_OVERHEAD,
        }
    }
}

/// What the writer of a session is to put on the wire.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Text(String),
    Pong(Bytes),
    /// A close frame, with its code; without one to echo an empty close frame.
    Close(Option<u16>),
}

enum Entry {
    Exec(ExecItem),
    /// An answer to this client alone: of no use once its link is lost.
    Answer(ServerMessage),
    Close(u16),
}

#[derive(Default)]
struct State {
    queue: VecDeque<Entry>,
    /// Cost of the exec items in the queue.
    bytes: usize,
    /// The last to go out was an item of the exec without a name: the named ones are next.
    named_next: bool,
    /// Number of the answers in the queue.
    answers: usize,
    /// The named execs that go out here, in the order of their turns.
    named: VecDeque<Arc<NamedExec>>,
    /// The latest ping alone is answered, which the protocol permits.
    pong: Option<Bytes>,
    /// What to close with after the client closed.
    farewell: Option<Option<u16>>,
    /// The sandbox waits until less than this is queued.
    low_water: Option<usize>,
    /// A close frame is in the queue or was popped: nothing is taken any more.
    closing: bool,
    /// The close frame was popped.
    closed: bool,
    /// Nothing comes from the client any more, and nothing goes to it but a farewell.
    dead: bool,
    /// More is about to be queued that belongs together with what is: see [`Link::cork`].
    corked: bool,
}

impl State {
    /// The next message of a named exec, each in its turn.
    fn poll_named(&mut self) -> Option<ServerMessage> {
        for _ in 0..self.named.len() {
            let exec = self.named.pop_front()?;
            let message = exec.poll_message();
            // One that is settled has said its last.
            if message.is_some() || !exec.look(|exec| exec.is_settled()) {
                self.named.push_back(exec);
            }
            if message.is_some() {
                return message;
            }
        }
        None
    }
}

/// The queue to one client.
#[derive(Default)]
pub(crate) struct Link {
    version: Version,
    client: Option<ClientAddress>,
    state: Mutex<State>,
    /// The task that takes what is queued.
    writer: Arc<AtomicWaker>,
    ended: Notify,
    room: Notify,
}

/// Holds back what a link has queued. See [`Link::cork`].
pub(crate) struct Cork(Arc<Link>);

impl Drop for Cork {
    fn drop(&mut self) {
        self.0.change(|state| state.corked = false);
    }
}

impl Link {
    /// A link to a client, which speaks this version of the protocol.
    pub(crate) fn new(version: Version, client: Option<ClientAddress>) -> Self {
        Self {
            version,
            client,
            ..Self::default()
        }
    }

    /// The version that it speaks.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The address of the client, as far as it is known.
    pub(crate) fn client(&self) -> Option<ClientAddress> {
        self.client
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the writer.
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.writer.wake();
    }

    /// Queues something of an exec; gives it back when the link is at its end.
    pub(crate) fn push_exec(&self, item: ExecItem) -> Result<(), ExecItem> {
        let mut state = self.lock();
        if state.closing || state.dead {
            return Err(item);
        }
        match (item, state.queue.back_mut()) {
            // A client that does not keep up gets fewer, larger pieces.
            (ExecItem::Output(stream, text), Some(Entry::Exec(ExecItem::Output(last, queued))))
                if *last == stream && queued.len() + text.len() <= MAX_PIECE_BYTES =>
            {
                queued.push_str(&text);
                state.bytes += text.len();
            }
            (item, _) => {
                state.bytes += item.cost();
                state.queue.push_back(Entry::Exec(item));
            }
        }
        drop(state);
        self.writer.wake();
        Ok(())
    }

    /// Queues an answer to this client.
    pub(crate) fn push(&self, message: ServerMessage) {
        let mut state = self.lock();
        if state.closing || state.dead {
            return;
        }
        if state.answers >= MAX_WAITING_ANSWERS {
            tracing::info!("a client left {MAX_WAITING_ANSWERS} answers unread and is cut off");
            drop(state);
            return self.die();
        }
        state.answers += 1;
        state.queue.push_back(Entry::Answer(message));
        drop(state);
        self.writer.wake();
    }

    /// Queues an error status and its reason.
    pub(crate) fn refuse(&self, status: Status, reason: String) {
        self.push(match self.version {
            Version::V1 => ServerMessage::status(status),
            Version::V2 => ServerMessage::status_because(status, reason.clone()),
        });
        self.push(ServerMessage::error(reason));
    }

    /// Holds back what is queued until the guard is dropped, so that the client receives it at once.
    ///
    /// The Python client takes a `DONE` that comes a moment after a refusal for the end of its next exec.
    pub(crate) fn cork(self: &Arc<Self>) -> Cork {
        self.lock().corked = true;
        Cork(self.clone())
    }

    /// From now on, this exec goes out here, beginning with what it has to say already. A link
    /// forgets an exec that is settled and has nothing to say.
    pub(crate) fn add(&self, exec: &Arc<NamedExec>) {
        exec.set_writer(self.writer.clone());
        self.change(|state| {
            if !state.dead && !state.named.iter().any(|known| Arc::ptr_eq(known, exec)) {
                state.named.push_back(exec.clone());
            }
        });
    }

    /// Queues a close frame; what is pushed later is dropped.
    pub(crate) fn close(&self, code: u16) {
        self.change(|state| {
            if !state.closing && !state.dead {
                state.closing = true;
                state.queue.push_back(Entry::Close(code));
            }
        });
        self.ended.notify_waiters();
    }

    /// Ends the link without a close frame.
    pub(crate) fn die(&self) {
        self.change(|state| {
            state.dead = true;
            state.named.clear();
        });
        self.ended.notify_waiters();
    }

    /// Ends the link because the client closed it; the close frame is answered.
    pub(crate) fn closed_by_client(&self, code: Option<u16>) {
        let mut state = self.lock();
        if !state.closed {
            state.farewell = Some(code);
        }
        drop(state);
        self.die();
    }

    /// Answers a ping.
    pub(crate) fn pong(&self, payload: Bytes) {
        self.change(|state| state.pong = Some(payload));
    }

    /// Whether the link is dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Whether the link is dead or a close frame is on its way.
    pub(crate) fn is_ending(&self) -> bool {
        let state = self.lock();
        state.closing || state.dead
    }

    /// Resolves when the link is dead or a close frame is on its way.
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

    /// Cost of the exec items that wait here.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Resolves when the exec items that wait here cost less than `low_water`.
    pub(crate) async fn drained_below(&self, low_water: usize) {
        loop {
            {
                let mut state = self.lock();
                if state.bytes < low_water {
                    return;
                }
                state.low_water = Some(low_water);
            }
            self.room.notified().await;
        }
    }

    /// Takes back what belongs to the exec and was not popped. Answers and a close frame stay.
    pub(crate) fn take_back(&self) -> VecDeque<ExecItem> {
        let mut state = self.lock();
        state.bytes = 0;
        let mut taken = VecDeque::new();
        for entry in std::mem::take(&mut state.queue) {
            match entry {
                Entry::Exec(item) => taken.push_back(item),
                other => state.queue.push_back(other),
            }
        }
        taken
    }

    /// The next thing to write; `None` when the session is over.
    pub(crate) fn poll_pop(&self, cx: &Context<'_>) -> Poll<Option<Outgoing>> {
        // The waker is only left where there is nothing: a writer that rests must not be woken.
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
            // What else is queued stays where it is: the sandbox takes it back.
            return Poll::Ready(state.farewell.take().map(Outgoing::Close));
        }
        if !state.closed && !state.corked {
            if let Some(payload) = state.pong.take() {
                return Poll::Ready(Some(Outgoing::Pong(payload)));
            }
            // One that prints without end would keep the named ones waiting as long.
            if matches!(state.queue.front(), Some(Entry::Exec(_)))
                && std::mem::take(&mut state.named_next)
                && let Some(message) = state.poll_named()
            {
                return Poll::Ready(Some(Outgoing::Text(message.encode())));
            }
            if let Some(entry) = state.queue.pop_front() {
                let outgoing = match entry {
                    Entry::Exec(item) => {
                        state.named_next = true;
                        state.bytes = state.bytes.saturating_sub(item.cost());
                        if state.low_water.is_some_and(|low| state.bytes < low) {
                            state.low_water = None;
                            self.room.notify_one();
                        }
                        drop(state);
                        Outgoing::Text(match item {
                            ExecItem::Output(stream, text) => {
                                ServerMessage::output(stream, text).encode()
                            }
                            ExecItem::Message(message) => message.encode(),
                        })
                    }
                    Entry::Answer(message) => {
                        state.answers = state.answers.saturating_sub(1);
                        Outgoing::Text(message.encode())
                    }
                    Entry::Close(code) => {
                        state.closed = true;
                        Outgoing::Close(Some(code))
                    }
                };
                return Poll::Ready(Some(outgoing));
            }
            if let Some(message) = state.poll_named() {
                return Poll::Ready(Some(Outgoing::Text(message.encode())));
            }
        }
        Poll::Pending
    }
}

/// The link. It is dead as soon as its reader or its writer has stopped.
pub(super) struct Guard(pub(super) Arc<Link>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.die();
    }
}

#[cfg(test)]
mod tests;
