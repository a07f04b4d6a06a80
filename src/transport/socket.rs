//! [`Socket`]: reads and writes the frames of one open WebSocket.
//!
//! A socket allocates its buffers only while data passes, so an idle link has none. It reads into a
//! large buffer that all links of the thread share, so that fast peers need few system calls.

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

/// Free space of the shared buffer for one read, in bytes.
const READ: usize = 64 * 1024;
/// A read of fewer bytes is copied out of the shared buffer. For a longer read, the socket takes
/// over the buffer. So a frame that the consumer keeps never holds a mostly unused buffer in
/// memory.
const SMALL: usize = READ / 4;
/// The number of unwritten bytes at which the socket must write before it accepts more.
const WRITE: usize = 8 * 1024;

/// Initial size of the write buffer, in bytes: room for short messages, such as an acknowledgement
/// and a request.
const SMALL_MESSAGES: usize = 512;

thread_local! {
    /// The shared read buffer of the thread. It is empty, and taken out during a read.
    static SHARED: Cell<BytesMut> = Cell::default();
}

/// An open WebSocket, as a sequence of frames in each direction.
pub(crate) struct Socket {
    io: BoxedSocket,
    codec: GuardedCodec,
    /// Bytes that are read but not decoded.
    unread: BytesMut,
    /// Bytes that are encoded but not written.
    unwritten: BytesMut,
    ended: bool,
}

impl Socket {
    /// Wraps the stream of a dial. A frame may have at most `limit` bytes.
    pub(crate) fn new(framed: Framed<BoxedSocket, Codec>, limit: usize) -> Self {
        let parts = framed.into_parts();
        Self {
            io: parts.io,
            codec: GuardedCodec::new(limit),
            // The bytes that arrived together with the upgrade response.
            unread: BytesMut::from(&*parts.read_buf),
            unwritten: parts.write_buf,
            ended: false,
        }
    }

    /// Returns the next frame. `None` if the stream ended between two frames.
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
                return Poll::Ready(Some(Err(dropped("the stream ended inside a frame"))));
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
            // Grow the buffer with the bytes received, not with the length that the header
            // declares.
            self.unread
                .reserve(missing.min(READ.max(self.unread.len())));
            return pin!(self.io.read_buf(&mut self.unread)).poll(cx);
        }
        // A thread that is exiting has already dropped its shared buffer.
        let mut buffer = SHARED.try_with(Cell::take).unwrap_or_default();
        buffer.reserve(READ);
        let read = pin!(self.io.read_buf(&mut buffer)).poll(cx);
        if buffer.len() < SMALL {
            self.unread = BytesMut::from(&*buffer);
            buffer.clear();
            let _ = SHARED.try_with(|shared| shared.set(buffer));
        } else {
            self.unread = buffer;
        }
        read
    }

    /// Ready when the socket accepts another message.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.unwritten.len() < WRITE {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Encodes a message into the write buffer.
    pub(crate) fn send(&mut self, message: Message) -> Result<(), LinkError> {
        if self.unwritten.is_empty() {
            // Reserve room for several short messages, because growing the buffer later costs more.
            self.unwritten.reserve(SMALL_MESSAGES);
        }
        let encoded = self.codec.encode(message, &mut self.unwritten);
        encoded.map_err(|error| error.0)
    }

    /// Writes all buffered bytes and flushes the stream.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let mut io = Pin::new(&mut self.io);
        while !self.unwritten.is_empty() {
            match ready!(io.as_mut().poll_write(cx, &self.unwritten)) {
                Ok(0) => return Poll::Ready(Err(dropped("the stream accepts no more data"))),
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn pair() -> (Socket, DuplexStream) {
        let (near, far) = tokio::io::duplex(4 * LIMIT);
        let io: BoxedSocket = Box::new(near);
        (Socket::new(Framed::new(io, Codec::new()), LIMIT), far)
    }

    fn next(socket: &mut Socket) -> Poll<Option<Result<Frame, LinkError>>> {
        socket.poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn text(length: usize) -> Vec<u8> {
        let mut frame = vec![0x81, 127];
        frame.extend((length as u64).to_be_bytes());
        frame.extend((0..length).map(|at| b'a' + (at % 26) as u8));
        frame
    }

    #[tokio::test]
    async fn frames_arrive_whole_however_the_stream_is_cut() {
        for cut in [1, 7, 5_000, 70_000, LIMIT] {
            let (mut socket, mut far) = pair();
            let lengths = [0, 1, 300, 20_000, 200_000, 3, 70_000];
            let stream: Vec<u8> = lengths.iter().flat_map(|&length| text(length)).collect();
            // Leave out the long frames when the stream is written byte by byte.
            let stream = if cut == 1 { &stream[..1_000] } else { &stream };
            let mut came = Vec::new();
            for chunk in stream.chunks(cut) {
                far.write_all(chunk).await.expect("room");
                while let Poll::Ready(Some(Ok(Frame::Text(frame)))) = next(&mut socket) {
                    assert_eq!(frame, text(frame.len())[10..]);
                    came.push(frame.len());
                }
                assert!(next(&mut socket).is_pending());
            }
            let whole = if cut == 1 { 3 } else { lengths.len() };
            assert_eq!(came, lengths[..whole], "cut every {cut} bytes");
            if cut > 1 {
                assert_eq!(socket.unread.capacity(), 0);
            }
        }
    }

    #[tokio::test]
    async fn an_end_inside_a_frame_is_an_error() {
        let (mut socket, mut far) = pair();
        far.write_all(&text(5)).await.expect("room");
        drop(far);
        assert!(matches!(next(&mut socket), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(next(&mut socket), Poll::Ready(None)));

        let (mut socket, mut far) = pair();
        far.write_all(&text(5)[..12]).await.expect("room");
        drop(far);
        let Poll::Ready(Some(Err(LinkError::Dropped { detail }))) = next(&mut socket) else {
            panic!("expected an error")
        };
        assert!(detail.contains("inside a frame"), "{detail}");
    }

    #[tokio::test]
    async fn sent_messages_are_written_and_leave_no_buffer() {
        use tokio::io::AsyncReadExt;

        let (mut socket, mut far) = pair();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(socket.poll_ready(&mut cx).is_ready());
            socket.send(Message::Text("hello".into())).expect("encoded");
        }
        assert!(matches!(socket.poll_flush(&mut cx), Poll::Ready(Ok(()))));
        assert_eq!(socket.unwritten.capacity(), 0);
        let mut written = [0; 3 * 11];
        far.read_exact(&mut written).await.expect("three frames");
        assert!(written.chunks(11).all(|frame| frame[..2] == [0x81, 0x85]));
    }
}
