//! The frames between the server and the agent of a sandbox. Pure.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 4 | the number of bytes that follow, little endian |
//! | 1 | the kind: 0 control, 1 data, 2 credit |
//! | rest | depends on the kind |
//!
//! - Control: a message in JSON.
//! - Data: the exec (4 bytes), the stream (1), then the bytes of the stream.
//! - Credit: the exec (4 bytes), the stream (1), the number of bytes granted (4).
//!
//! A data frame without bytes ends its stream. The agent sends one for stdin when no process can
//! read stdin any more.
//!
//! Each stream of an exec has a credit: the number of bytes that its sender may still send. The
//! credit starts at [`WINDOW`], and the receiver adds to it as it passes bytes on. So the receiver
//! never holds more than [`WINDOW`] bytes of a stream.
//!
//! The frames of an agent are hostile input. The [`Decoder`] refuses a frame by its declared
//! length, before it buffers the frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;

/// The most bytes of one stream that may be in flight: sent, but not yet passed on by the receiver.
pub(crate) const WINDOW: u32 = 256 * 1024;

/// The most bytes in one data frame.
pub(crate) const MAX_DATA_BYTES: usize = 64 * 1024;

/// The most bytes in one message of an agent.
pub(crate) const MAX_REPLY_BYTES: usize = 16 * 1024;

/// The most bytes in one message of the server. It may hold code, by default up to 16 MiB, and the
/// arguments of a program, which the kernel limits to 2 MiB. JSON can take six bytes for one.
pub(crate) const MAX_REQUEST_BYTES: usize = 32 * 1024 * 1024;

const CONTROL: u8 = 0;
const DATA: u8 = 1;
const CREDIT: u8 = 2;

const LENGTH_BYTES: usize = 4;
/// The exec and the stream, which start the body of data and credit frames.
const ADDRESS_BYTES: usize = 5;

/// A stream of an exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stream {
    /// To the process.
    Stdin,
    /// From the process.
    Stdout,
    /// From the process.
    Stderr,
}

impl Stream {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A message in JSON.
    Control(Bytes),
    /// Bytes of a stream. No bytes mean the end of the stream.
    Data {
        /// The number of the exec.
        exec: u32,
        /// The stream.
        stream: Stream,
        /// At most [`MAX_DATA_BYTES`].
        bytes: Bytes,
    },
    /// The receiver of a stream lets its sender send more.
    Credit {
        /// The number of the exec.
        exec: u32,
        /// The stream.
        stream: Stream,
        /// How many more bytes.
        bytes: u32,
    },
}

/// Why bytes are not frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The frame declares more bytes than its kind may have.
    #[error("a frame of {length} bytes, where at most {most} are allowed")]
    TooLong {
        /// The declared length.
        length: u32,
        /// The most bytes that are allowed.
        most: usize,
    },
    /// The frame is shorter than its kind needs, or its kind or stream doesn't exist.
    #[error("a frame that is not valid")]
    Invalid,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    max_control_bytes: usize,
}

impl Decoder {
    /// Accepts messages of up to `max_control_bytes`.
    pub(crate) fn new(max_control_bytes: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            max_control_bytes,
        }
    }

    /// The buffer to append received bytes to.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Returns the next frame. `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// Fails if the bytes are not a frame. The decoder can't be used after an error.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((length, kind)) = self.header() else {
            return Ok(None);
        };
        let (least, most) = match kind {
            CONTROL => (0, self.max_control_bytes),
            DATA => (ADDRESS_BYTES, ADDRESS_BYTES + MAX_DATA_BYTES),
            CREDIT => (ADDRESS_BYTES + 4, ADDRESS_BYTES + 4),
            _ => return Err(FrameError::Invalid),
        };
        let too_long = FrameError::TooLong { length, most };
        let bytes = usize::try_from(length).map_err(|_| too_long)?;
        // The length also counts the kind.
        let body = bytes.checked_sub(1).ok_or(FrameError::Invalid)?;
        if body > most {
            return Err(too_long);
        }
        if body < least {
            return Err(FrameError::Invalid);
        }
        if self.buffer.len() < LENGTH_BYTES + bytes {
            self.buffer
                .reserve(LENGTH_BYTES + bytes - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(LENGTH_BYTES + bytes).freeze();
        frame.advance(LENGTH_BYTES + 1);
        if kind == CONTROL {
            return Ok(Some(Frame::Control(frame)));
        }
        let exec = frame.get_u32_le();
        let stream = Stream::from_byte(frame.get_u8()).ok_or(FrameError::Invalid)?;
        Ok(Some(match kind {
            DATA => Frame::Data {
                exec,
                stream,
                bytes: frame,
            },
            _ => Frame::Credit {
                exec,
                stream,
                bytes: frame.get_u32_le(),
            },
        }))
    }

    /// The declared length and the kind of the next frame.
    fn header(&self) -> Option<(u32, u8)> {
        let (length, rest) = self.buffer.split_first_chunk::<LENGTH_BYTES>()?;
        Some((u32::from_le_bytes(*length), *rest.first()?))
    }
}

/// Appends a message.
///
/// # Errors
///
/// Fails if the message can't be encoded as JSON, or takes 4 GiB or more.
pub(crate) fn put_control(
    buffer: &mut BytesMut,
    message: &impl Serialize,
) -> serde_json::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(1 + body.len()).map_err(serde::ser::Error::custom)?;
    buffer.put_u32_le(length);
    buffer.put_u8(CONTROL);
    buffer.put_slice(&body);
    Ok(())
}

/// Appends bytes of a stream, in as many data frames as they need.
pub(crate) fn put_data(buffer: &mut BytesMut, exec: u32, stream: Stream, bytes: &[u8]) {
    for piece in bytes.chunks(MAX_DATA_BYTES) {
        put_data_header(buffer, exec, stream, piece.len());
        buffer.put_slice(piece);
    }
}

/// Appends the end of a stream.
pub(crate) fn put_end(buffer: &mut BytesMut, exec: u32, stream: Stream) {
    put_data_header(buffer, exec, stream, 0);
}

/// Appends the start of a data frame. The caller appends its bytes, at most [`MAX_DATA_BYTES`].
fn put_data_header(buffer: &mut BytesMut, exec: u32, stream: Stream, bytes: usize) {
    buffer.put_u32_le((1 + ADDRESS_BYTES + bytes) as u32);
    buffer.put_u8(DATA);
    buffer.put_u32_le(exec);
    buffer.put_u8(stream as u8);
}

/// Appends a credit.
pub(crate) fn put_credit(buffer: &mut BytesMut, exec: u32, stream: Stream, bytes: u32) {
    buffer.put_u32_le((1 + ADDRESS_BYTES + 4) as u32);
    buffer.put_u8(CREDIT);
    buffer.put_u32_le(exec);
    buffer.put_u8(stream as u8);
    buffer.put_u32_le(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream() -> impl Strategy<Value = Stream> {
        prop_oneof![
            Just(Stream::Stdin),
            Just(Stream::Stdout),
            Just(Stream::Stderr)
        ]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        prop_oneof![
            "[a-z]{0,50}".prop_map(|text| {
                Frame::Control(Bytes::from(serde_json::to_vec(&text).unwrap()))
            }),
            (any::<u32>(), stream(), bytes()).prop_map(|(exec, stream, bytes)| Frame::Data {
                exec,
                stream,
                bytes,
            }),
            (any::<u32>(), stream(), any::<u32>()).prop_map(|(exec, stream, bytes)| {
                Frame::Credit {
                    exec,
                    stream,
                    bytes,
                }
            }),
        ]
    }

    fn put(buffer: &mut BytesMut, frame: &Frame) {
        match frame {
            Frame::Control(message) => {
                let text: String = serde_json::from_slice(message).unwrap();
                put_control(buffer, &text).unwrap();
            }
            Frame::Data {
                exec,
                stream,
                bytes,
            } if bytes.is_empty() => put_end(buffer, *exec, *stream),
            Frame::Data {
                exec,
                stream,
                bytes,
            } => put_data(buffer, *exec, *stream, bytes),
            Frame::Credit {
                exec,
                stream,
                bytes,
            } => put_credit(buffer, *exec, *stream, *bytes),
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cuts(
            frames in prop::collection::vec(frame(), 0..20),
            pieces in prop::collection::vec(1_usize..100, 1..20),
        ) {
            let mut sent = BytesMut::new();
            frames.iter().for_each(|frame| put(&mut sent, frame));
            let mut decoder = Decoder::new(MAX_REPLY_BYTES);
            let mut received = Vec::new();
            for piece in pieces.iter().cycle() {
                if sent.is_empty() {
                    break;
                }
                let piece = sent.split_to((*piece).min(sent.len()));
                decoder.buffer().extend_from_slice(&piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    received.push(frame);
                }
            }
            prop_assert_eq!(received, frames);
        }

        #[test]
        fn random_bytes_are_refused_or_buffered_within_the_bound(
            bytes in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let mut decoder = Decoder::new(MAX_REPLY_BYTES);
            decoder.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
            prop_assert!(decoder.buffer().capacity() < 2 * MAX_DATA_BYTES);
        }
    }

    #[test]
    fn a_frame_is_refused_by_its_declared_length() {
        let too_long = |kind, most: usize| {
            let mut decoder = Decoder::new(MAX_REPLY_BYTES);
            decoder.buffer().put_u32_le(most as u32 + 2);
            decoder.buffer().put_u8(kind);
            matches!(decoder.next_frame(), Err(FrameError::TooLong { .. }))
        };
        assert!(too_long(CONTROL, MAX_REPLY_BYTES));
        assert!(too_long(DATA, ADDRESS_BYTES + MAX_DATA_BYTES));
        assert!(too_long(CREDIT, ADDRESS_BYTES + 4));
        for invalid in [
            &[0, 0, 0, 0, 0][..],
            &[1, 0, 0, 0, 9],
            &[2, 0, 0, 0, DATA, 0],
        ] {
            let mut decoder = Decoder::new(MAX_REPLY_BYTES);
            decoder.buffer().extend_from_slice(invalid);
            assert_eq!(decoder.next_frame(), Err(FrameError::Invalid));
        }
    }

    #[test]
    fn data_is_cut_into_frames_of_the_largest_size() {
        let mut buffer = BytesMut::new();
        put_data(
            &mut buffer,
            1,
            Stream::Stdout,
            &vec![7; 2 * MAX_DATA_BYTES + 1],
        );
        let mut decoder = Decoder::new(MAX_REPLY_BYTES);
        decoder.buffer().extend_from_slice(&buffer);
        let mut lengths = Vec::new();
        while let Some(Frame::Data { bytes, .. }) = decoder.next_frame().unwrap() {
            lengths.push(bytes.len());
        }
        assert_eq!(lengths, [MAX_DATA_BYTES, MAX_DATA_BYTES, 1]);
    }
}
