//! [`Session`]: writes what the [`Link`] holds to the client.
//!
//! An actor of actix-web-actors, fed by the link one message at a time, because its own queue has
//! no bound. An actor whose peer does not read is not polled at all, so it does nothing else.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix::{Actor, ActorContext, AsyncContext, StreamHandler};
use actix_http::ws::{CloseCode, CloseReason, Message, ProtocolError};
// Its successor, actix-ws, has no actors.
use actix_web_actors::ws;
use futures::Stream;

use super::client_link::{Guard, Link, Outgoing};
use crate::yield_now::Yield;

/// The writing half.
pub(super) struct Session {
    pub(super) link: Arc<Link>,
}

impl Actor for Session {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(Outbound {
            link: Guard(self.link.clone()),
            paused: false,
            since_yield: 0,
            yielding: None,
        });
    }
}

impl StreamHandler<Outgoing> for Session {
    fn handle(&mut self, outgoing: Outgoing, ctx: &mut Self::Context) {
        match outgoing {
            Outgoing::Text(text) => ctx.text(text),
            Outgoing::Pong(payload) => ctx.pong(&payload),
            Outgoing::Close(code) => ctx.close(code.map(|code| CloseReason {
                code: CloseCode::from(code),
                description: None,
            })),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        // Without a close frame before it this drops the socket, which is meant.
        ctx.stop();
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Session {
    fn handle(&mut self, _: Result<Message, ProtocolError>, _: &mut Self::Context) {
        // Nothing comes this way: the conversation reads.
    }
}

/// Output that is written before the thread looks at its other sockets, in bytes.
const YIELD_AFTER: usize = 256 * 1024;

/// What the link holds, one message for each time the connection can take more.
///
/// A client that reads as fast as its process prints keeps this ready all the time, so it takes a
/// [`Yield`] now and then: or else a kill would wait for seconds to be read.
struct Outbound {
    link: Guard,
    paused: bool,
    since_yield: usize,
    yielding: Option<Yield>,
}

impl Stream for Outbound {
    type Item = Outgoing;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Outgoing>> {
        if std::mem::take(&mut self.paused) {
            // The connection asks again if it has room for more.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.since_yield >= YIELD_AFTER {
            self.since_yield = 0;
            self.yielding = Some(Yield::begin());
        }
        if let Some(yielding) = &self.yielding {
            ready!(yielding.poll(cx));
            self.yielding = None;
        }
        let next = self.link.0.poll_pop(cx);
        match &next {
            Poll::Ready(Some(outgoing)) => {
                self.paused = true;
                if let Outgoing::Text(text) = outgoing {
                    self.since_yield += text.len();
                }
            }
            Poll::Ready(None) => {}
            Poll::Pending => self.since_yield = 0,
        }
        next
    }
}
