//! [`Peer`]: the server's end of one replayed connection.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use actix_codec::Framed;
use actix_http::ws::{CloseCode, CloseReason, Codec, Frame, Item, Message};
use futures::{Sink, SinkExt, Stream};
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::protocol::{Encoded, Fragment, Reassembly, limits::DEFAULT_MAX_MESSAGE_BYTES};

/// How far a connection has been replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// Cut; the client may not have noticed yet.
    Cut,
    /// Closing, by the server or the client.
    Ending,
}

/// An action of a client.
pub(super) enum Heard {
    Text(String),
    /// The client ended the connection.
    Gone,
}

/// A connection.
pub(super) struct Peer {
    pub(super) conn: String,
    /// Whether protocol v2 was selected.
    pub(super) is_v2: bool,
    pub(super) stage: Stage,
    pub(super) is_gone: bool,
    /// Frames that no line has expected yet. Text that isn't JSON is stored as a JSON string.
    pub(super) said: VecDeque<Value>,
    /// Input from v1 messages that no line has expected yet.
    pub(super) input: String,
    framed: Framed<TcpStream, Codec>,
    reassembly: Reassembly,
}

impl Peer {
    pub(super) fn new(conn: String, is_v2: bool, framed: Framed<TcpStream, Codec>) -> Self {
        Self {
            conn,
            is_v2,
            stage: Stage::Open,
            is_gone: false,
            said: VecDeque::new(),
            input: String::new(),
            framed,
            reassembly: Reassembly::new(DEFAULT_MAX_MESSAGE_BYTES),
        }
    }

    /// Returns the next action of the client. Answers pings and the close frame.
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        while !self.is_gone {
            let frame = match Pin::new(&mut self.framed).poll_next(cx) {
                Poll::Pending => {
                    // Send the answers that are still buffered.
                    let _ = Sink::<Message>::poll_flush(Pin::new(&mut self.framed), cx);
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(_) => break,
            };
            let fragment = match frame {
                Frame::Text(text) => return Poll::Ready(Heard::Text(lossy(&text))),
                Frame::Ping(payload) => {
                    self.answer(Message::Pong(payload), cx);
                    continue;
                }
                Frame::Close(reason) => {
                    if self.stage == Stage::Open {
                        self.answer(Message::Close(reason), cx);
                    }
                    break;
                }
                Frame::Pong(_) => continue,
                // A recording has the text message that means the same.
                Frame::Binary(data) => {
                    return Poll::Ready(Heard::Text(Encoded::Binary(data).into_text()));
                }
                Frame::Continuation(Item::FirstText(data) | Item::FirstBinary(data)) => {
                    Fragment::First(data)
                }
                Frame::Continuation(Item::Continue(data)) => Fragment::Middle(data),
                Frame::Continuation(Item::Last(data)) => Fragment::Last(data),
            };
            match self.reassembly.push(fragment) {
                Ok(Some(text)) => return Poll::Ready(Heard::Text(lossy(&text))),
                Ok(None) => {}
                Err(_) => break,
            }
        }
        self.is_gone = true;
        Poll::Ready(Heard::Gone)
    }

    /// Queues an answer. A client that doesn't read gets none.
    fn answer(&mut self, message: Message, cx: &mut Context<'_>) {
        let mut framed = Pin::new(&mut self.framed);
        if let Poll::Ready(Ok(())) = Sink::<Message>::poll_ready(framed.as_mut(), cx)
            && framed.as_mut().start_send(message).is_ok()
        {
            let _ = Sink::<Message>::poll_flush(framed, cx);
        }
    }

    pub(super) async fn send(&mut self, text: String) -> io::Result<()> {
        let sent = self.framed.send(Message::Text(text.into())).await;
        sent.map_err(io::Error::other)
    }

    /// Starts the close handshake.
    pub(super) async fn close(&mut self, code: u16) {
        self.stage = Stage::Ending;
        let reason = CloseReason {
            code: CloseCode::from(code),
            description: None,
        };
        // The client may be gone already.
        let _ = self.framed.send(Message::Close(Some(reason))).await;
    }

    /// Ends the connection without a close frame. Earlier messages still arrive, because the socket
    /// stays open until the client is gone.
    pub(super) async fn cut(&mut self) {
        self.stage = Stage::Cut;
        let _ = self.framed.io_mut().shutdown().await;
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
