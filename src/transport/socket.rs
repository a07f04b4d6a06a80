//! [`Socket`]: the frames of one open WebSocket.
//!
//! Its buffers are there only while something passes, so that a link on which nothing happens costs none. What is read goes
//! first into a buffer that all links of a thread share, which is large: a peer that sends much is read in few calls.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use actix_codec::{AsyncWrite, Decoder, Encoder, Framed};
use actix_http::ws::{Codec, Frame, Message};
use awc::BoxedSocket;
use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use super::codec::GuardedCodec;
use crate::{machine::LinkError, protocol::FrameHeader};

/// Bytes that are read at once.
const READ: usize = 64 * 1024;
/// Fewer bytes than these are copied out of the shared buffer. With more, the buffer itself goes on, so that what somebody
/// keeps of it is never a small part of the memory that is kept.
const SMALL: usize = READ / 4;
/// Bytes that are encoded before they must be written.
const WRITE: usize = 8 * 1024;

thread_local! {
    /// Empty, and taken out while it is in use.
    static SHARED: Cell<BytesMut> = Cell::default();
}

/// An open WebSocket, frame by frame.
pub(crate) struct Socket {
    io: BoxedSocket,
    codec: GuardedCodec,
    /// Read, and not taken as frames.
    unread: BytesMut,
    /// Encoded, and not written.
    unwritten: BytesMut,
    ended: bool,
}

impl Socket {
    /// The socket of a dial, with frames of at most `limit` bytes.
    pub(crate) fn new(framed: Framed<BoxedSocket, Codec>, limit: usize) -> Self {
        let parts = framed.into_parts();
        Self {
            io: parts.io,
            codec: GuardedCodec::new(limit),
            // What came together with the answer to the dial.
            unread: BytesMut::from(&*parts.read_buf),
            unwritten: parts.write_buf,
            ended: false,
        }
    }

    /// The next frame. `None`: the stream ended, between two frames.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, LinkError>>> {
        loop {
            if !self.unread.is_empty() {
                match self.codec.decode(&mut self.unread) {
                    Ok(None) => {}
                    Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                    Err(error) => return Poll::Ready(Some(Err(error.0))),
                }
            }
            if self.ended && self.unread.is_empty() {
                return Poll::Ready(None);
            }
            if self.ended {
                return Poll::Ready(Some(Err(dropped("the stream ended in a frame"))));
            }
            match ready!(self.poll_read(cx)) {
                Ok(bytes) => self.ended = bytes == 0,
                Err(error) => return Poll::Ready(Some(Err(dropped(error)))),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.unread.is_empty() {
            let missing = match FrameHeader::parse(&self.unread) {
                Some(header) => {
                    let end = header.payload_len.saturating_add(header.header_len as u64);
                    let missing = end.saturating_sub(self.unread.len() as u64);
                    usize::try_from(missing).unwrap_or(usize::MAX)
                }
                None => FrameHeader::MAX_LEN,
            };
            // The memory follows what came, not what was announced.
            self.unread
                .reserve(missing.min(READ.max(self.unread.len())));
            return pin!(self.io.read_buf(&mut self.unread)).poll(cx);
        }
        let mut buffer = SHARED.take();
        buffer.reserve(READ);
        let read = pin!(self.io.read_buf(&mut buffer)).poll(cx);
        if buffer.len() < SMALL {
            self.unread = BytesMut::from(&*buffer);
            buffer.clear();
            SHARED.set(buffer);
        } else {
            self.unread = buffer;
        }
        read
    }

    /// Whether a message can be put to those that are to be written.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.unwritten.len() < WRITE {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Puts a message to those that are to be written.
    pub(crate) fn send(&mut self, message: Message) -> Result<(), LinkError> {
        let encoded = self.codec.encode(message, &mut self.unwritten);
        encoded.map_err(|error| error.0)
    }

    /// Writes what is to be written.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let mut io = Pin::new(&mut self.io);
        while !self.unwritten.is_empty() {
            match ready!(io.as_mut().poll_write(cx, &self.unwritten)) {
                Ok(0) => return Poll::Ready(Err(dropped("the stream takes nothing more"))),
                Ok(bytes) => self.unwritten.advance(bytes),
                Err(error) => return Poll::Ready(Err(dropped(error))),
            }
        }
        self.unwritten = BytesMut::new();
        io.poll_flush(cx).map_err(dropped)
    }
}

fn dropped(detail: impl ToString) -> LinkError {
    LinkError::Dropped {
        detail: detail.to_string(),
    }
}
