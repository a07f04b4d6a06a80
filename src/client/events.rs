//! [`EventStream`]: the events of a sandbox as a stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc;

use crate::SandboxEvent;

/// The events of a sandbox, from the call of [`Sandbox::events`](crate::Sandbox::events) on.
///
/// Keeps at most 256 events that are not read. More are dropped, and [`SandboxEvent::Lagged`]
/// stands in their place with their number. The last event is [`SandboxEvent::Ended`], which is
/// never dropped; then the stream ends. It ends without that event if the sandbox's actor is gone.
///
/// The stream does not count as a handle of the sandbox.
///
/// **Cancel safety.** Dropping a read loses nothing.
#[derive(Debug)]
#[must_use = "streams do nothing unless they are polled"]
pub struct EventStream(pub(super) mpsc::Receiver<SandboxEvent>);

impl Stream for EventStream {
    type Item = SandboxEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SandboxEvent>> {
        self.0.poll_recv(cx)
    }
}
