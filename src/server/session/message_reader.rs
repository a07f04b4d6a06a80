//! [`Incoming`]: reads messages from the payload of an upgraded request.
//!
//! It checks the *declared* length of a frame before it buffers the frame. The same limit applies
//! to a message of several fragments.

use actix_codec::Decoder;
use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::protocol::{
    Fragment, FrameGuard, Piece, Reassembly, ReassemblyError, names::CLOSE_TOO_BIG,
};

/// Close code for a peer that breaks the framing (RFC 6455, 7.4.1).
const CLOSE_PROTOCOL: u16 = 1002;

/// What the client sent, or how reading ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A text message, or a piece of stdin in a binary message.
    Message(Bytes),
    Ping(Bytes),
    /// The close frame, with its code.
    Close(Option<u16>),
    /// The session must end, for this reason. With a code, the server sends a close frame.
    Refused(String, Option<u16>),
    /// The connection is lost.
    Lost,
}

/// The incoming half of a session.
pub(crate) struct Incoming {
    payload: web::Payload,
    buffer: BytesMut,
    codec: Codec,
    guard: FrameGuard,
    reassembly: Reassembly,
    /// Whether a frame in the buffer declares a length over the limit.
    over: bool,
    /// Whether the rest of the payload can't be parsed as frames.
    unreadable: bool,
}

impl Incoming {
    /// Reads messages of at most `limit` bytes.
    pub(crate) fn new(payload: web::Payload, limit: usize) -> Self {
        Self {
            payload,
            buffer: BytesMut::new(),
            codec: Codec::new().max_size(limit),
            guard: FrameGuard::new(limit),
            reassembly: Reassembly::new(limit),
            over: false,
            unreadable: false,
        }
    }

    /// Reads the next event.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no data is lost.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            match self.codec.decode(&mut self.buffer) {
                Ok(Some(frame)) => {
                    if self.buffer.is_empty() {
                        // The empty buffer shares an allocation with the frame. Release it, so that
                        // the memory is freed with the frame.
                        self.buffer = BytesMut::new();
                    }
                    if let Some(event) = self.accept(frame) {
                        return event;
                    }
                    continue;
                }
                Ok(None) if self.over => return self.too_large(),
                Ok(None) => {}
                Err(ProtocolError::Overflow) => return self.too_large(),
                Err(error) => return self.give_up(error.to_string(), CLOSE_PROTOCOL),
            }
            match self.payload.next().await {
                Some(Ok(chunk)) => {
                    // The frames before the one that is too large are still handled.
                    self.over = self.guard.feed(&chunk).is_err();
                    self.buffer.extend_from_slice(&chunk);
                }
                Some(Err(_)) | None => return Event::Lost,
            }
        }
    }

    /// Reads and drops the payload until the client closes or the connection is lost.
    pub(crate) async fn drain(&mut self) {
        while !self.unreadable {
            if let Event::Close(_) | Event::Lost = self.next().await {
                return;
            }
        }
        self.buffer = BytesMut::new();
        while let Some(Ok(_)) = self.payload.next().await {}
    }

    fn give_up(&mut self, why: String, code: u16) -> Event {
        self.unreadable = true;
        Event::Refused(why, Some(code))
    }

    fn too_large(&mut self) -> Event {
        self.give_up("a message over the size limit".to_owned(), CLOSE_TOO_BIG)
    }

    fn accept(&mut self, frame: Frame) -> Option<Event> {
        let fragment = match frame {
            Frame::Text(text) => return Some(Event::Message(text)),
            // Under v1, the parser refuses it.
            Frame::Binary(data) if Piece::read(&data).is_some() => {
                return Some(Event::Message(data));
            }
            Frame::Continuation(Item::FirstBinary(data)) if Piece::begins(&data) => {
                Fragment::First(data)
            }
            Frame::Binary(_) | Frame::Continuation(Item::FirstBinary(_)) => {
                let why = "a binary message that is not a piece of stdin";
                return Some(Event::Refused(why.to_owned(), None));
            }
            Frame::Ping(payload) => return Some(Event::Ping(payload)),
            Frame::Pong(_) => return None,
            Frame::Close(reason) => {
                return Some(Event::Close(reason.map(|reason| reason.code.into())));
            }
            Frame::Continuation(Item::FirstText(data)) => Fragment::First(data),
            Frame::Continuation(Item::Continue(data)) => Fragment::Middle(data),
            Frame::Continuation(Item::Last(data)) => Fragment::Last(data),
        };
        match self.reassembly.push(fragment) {
            Ok(None) => None,
            Ok(Some(message)) => Some(Event::Message(message)),
            Err(ReassemblyError::TooLarge { .. }) => Some(self.too_large()),
            Err(error @ ReassemblyError::OutOfOrder) => {
                Some(self.give_up(error.to_string(), CLOSE_PROTOCOL))
            }
        }
    }
}
