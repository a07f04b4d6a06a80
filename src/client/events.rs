//! [`EventStream`]: the events of a sandbox as a stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc;

use crate::SandboxEvent;

/// The events of a sandbox that happen after the call to
/// [`Sandbox::events`](crate::Sandbox::events).
///
/// Buffers at most 256 unread events. Further events are dropped, and a [`SandboxEvent::Lagged`]
/// reports how many. The last event is [`SandboxEvent::Ended`], which is never dropped. Then the
/// stream ends. If the sandbox's actor is gone, the stream ends without that event.
///
/// The stream doesn't count as a handle of the sandbox, so it doesn't keep the connection open.
///
/// # Cancel safety
///
/// Cancel safe: dropping a read loses no event.
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct EventStream(pub(super) mpsc::Receiver<SandboxEvent>);

impl Stream for EventStream {
    type Item = SandboxEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SandboxEvent>> {
        self.0.poll_recv(cx)
    }
}
