//! [`Peer`]: the server's end of one connection that is played.

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

use crate::protocol::{Fragment, Reassembly, limits::DEFAULT_MAX_MESSAGE_BYTES};

/// How far a connection has been played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// The client cannot know yet that it is cut.
    Cut,
    /// Closed by the server, or left to the client.
    Ending,
}

/// What is heard from a client.
pub(super) enum Heard {
    Text(String),
    /// Nothing more comes.
    Gone,
}

/// A connection.
pub(super) struct Peer {
    pub(super) conn: String,
    /// Protocol v2 was selected: execs have names.
    pub(super) is_v2: bool,
    pub(super) stage: Stage,
    pub(super) is_gone: bool,
    /// Frames that no line has asked for yet; text that is no JSON as a JSON string.
    pub(super) said: VecDeque<Value>,
    /// Input by the messages of v1 that no line has asked for yet.
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

    /// The next thing that is heard. Pings and the close frame are answered.
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        while !self.is_gone {
            let frame = match Pin::new(&mut self.framed).poll_next(cx) {
                Poll::Pending => {
                    // What was answered before goes out.
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
                Frame::Binary(data) => return Poll::Ready(Heard::Text(lossy(&data))),
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

    /// Puts an answer behind what is being written. A client that takes nothing gets none.
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

    /// Begins the close handshake.
    pub(super) async fn close(&mut self, code: u16) {
        self.stage = Stage::Ending;
        let reason = CloseReason {
            code: CloseCode::from(code),
            description: None,
        };
        // A client that is gone needs no more.
        let _ = self.framed.send(Message::Close(Some(reason))).await;
    }

    /// Ends without a close frame. What was sent before arrives: the socket itself stays until the client is gone.
    pub(super) async fn cut(&mut self) {
        self.stage = Stage::Cut;
        let _ = self.framed.io_mut().shutdown().await;
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
