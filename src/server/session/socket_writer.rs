//! [`Session`]: writes the messages of the [`Link`] to the client.
//!
//! It is an actor of actix-web-actors. It takes one message at a time from the link, because the
//! queue of its context has no limit. actix-web-actors doesn't poll an actor whose peer stopped
//! reading, so this actor does nothing else.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use actix::{Actor, ActorContext, AsyncContext, StreamHandler};
use actix_http::ws::{CloseCode, CloseReason, Message, ProtocolError};
// The newer crate actix-ws doesn't use actors.
use actix_web_actors::ws;
use futures::Stream;

use super::client_link::{Guard, Link, Outgoing};
use crate::{protocol::Encoded, yield_now::Yield};

/// The writing half of a session.
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
            Outgoing::Message(Encoded::Text(text)) => ctx.text(text),
            Outgoing::Message(Encoded::Binary(bytes)) => ctx.binary(bytes),
            Outgoing::Pong(payload) => ctx.pong(&payload),
            Outgoing::Close(code) => ctx.close(code.map(|code| CloseReason {
                code: CloseCode::from(code),
                description: None,
            })),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        // If no close frame was sent before, this closes the socket without one, as intended.
        ctx.stop();
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Session {
    fn handle(&mut self, _: Result<Message, ProtocolError>, _: &mut Self::Context) {
        // Never called: the conversation reads the payload.
    }
}

/// How many bytes are written before the task yields to the other sockets of the thread.
const YIELD_AFTER: usize = 256 * 1024;

/// A stream of the link's messages. It returns one each time the connection can take more.
///
/// If a client reads as fast as its process prints, this stream is always ready. So it uses
/// [`Yield`] after every [`YIELD_AFTER`] bytes. Otherwise a kill could wait for seconds before the
/// server reads it.
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
            // Return to the connection, which polls again if it has room for more.
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
                if let Outgoing::Message(message) = outgoing {
                    self.since_yield += message.bytes();
                }
            }
            Poll::Ready(None) => {}
            Poll::Pending => self.since_yield = 0,
        }
        next
    }
}
