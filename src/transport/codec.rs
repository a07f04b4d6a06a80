//! [`GuardedCodec`]: a WebSocket codec that rejects an oversized frame by the length in its header.

use std::io;

use actix_codec::{Decoder, Encoder};
use actix_http::ws::{Codec, Frame, Item, Message, ProtocolError};
use bytes::{Buf, BytesMut};

use crate::{
    machine::LinkError,
    protocol::{FrameHeader, FrameTooLarge},
};

/// The error of a [`GuardedCodec`]. It ends the link.
#[derive(Debug)]
pub(crate) struct CodecError(pub(crate) LinkError);

impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        Self(LinkError::Dropped {
            detail: error.to_string(),
        })
    }
}

impl From<ProtocolError> for CodecError {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Io(error) if error.kind() != io::ErrorKind::InvalidData => error.into(),
            error => Self(LinkError::Protocol {
                detail: format!("bad WebSocket frame: {error}"),
            }),
        }
    }
}

/// A client-side codec that checks the length of a payload against a limit before it buffers the
/// payload.
#[derive(Debug)]
pub(crate) struct GuardedCodec {
    inner: Codec,
    limit: usize,
    /// Whether the first frame of a fragmented message has arrived and the last one has not.
    fragmented: bool,
}

impl GuardedCodec {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            inner: Codec::new().max_size(limit).client_mode(),
            limit,
            fragmented: false,
        }
    }

    /// The fast path: takes a complete, unfragmented text message from the front of `src`. Most
    /// messages are of this kind. Returns `None` if the inner codec must decode `src`.
    fn whole_text(&self, src: &mut BytesMut) -> Option<Frame> {
        const WHOLE_TEXT: u8 = 0x81;
        if self.fragmented || *src.first()? != WHOLE_TEXT || *src.get(1)? & 0x80 != 0 {
            return None;
        }
        let header = FrameHeader::parse(src)?;
        let payload = usize::try_from(header.payload_len).ok()?;
        let end = header.header_len.checked_add(payload)?;
        if payload > self.limit || src.len() < end {
            return None;
        }
        let mut frame = src.split_to(end).freeze();
        frame.advance(header.header_len);
        Some(Frame::Text(frame))
    }
}

impl Decoder for GuardedCodec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        if let Some(frame) = self.whole_text(src) {
            return Ok(Some(frame));
        }
        // The inner codec consumes whole frames, so `src` always starts with a header.
        if let Some(header) = FrameHeader::parse(src)
            && header.payload_len > self.limit as u64
        {
            let error = FrameTooLarge {
                declared: header.payload_len,
                limit: self.limit,
            };
            return Err(CodecError(LinkError::Protocol {
                detail: error.to_string(),
            }));
        }
        let frame = self.inner.decode(src)?;
        if let Some(Frame::Continuation(item)) = &frame {
            self.fragmented = !matches!(item, Item::Last(_));
        }
        Ok(frame)
    }
}

impl Encoder<Message> for GuardedCodec {
    type Error = CodecError;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> Result<(), CodecError> {
        Ok(self.inner.encode(message, dst)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_header_alone() {
        let mut codec = GuardedCodec::new(1024);
        let mut src = BytesMut::from(&[0x81, 127, 0, 0, 0, 0, 0x40, 0, 0, 0][..]);
        let error = codec
            .decode(&mut src)
            .expect_err("1 GiB announced")
            .0
            .to_string();
        assert!(
            error.contains("1073741824 bytes") && error.contains("limit is 1024"),
            "{error}"
        );
        assert!(src.capacity() < 2048, "memory grew");
    }

    #[test]
    fn a_whole_text_between_the_fragments_of_another_is_refused() {
        let mut codec = GuardedCodec::new(1024);
        let mut src = BytesMut::from(&b"\x81\x01a\x01\x01b\x81\x01c"[..]);
        let mut next = || codec.decode(&mut src);
        assert!(matches!(next(), Ok(Some(Frame::Text(text))) if text == "a"));
        assert!(matches!(next(), Ok(Some(Frame::Continuation(_)))));
        assert!(next().is_err());
    }

    #[test]
    fn the_fast_path_decodes_like_the_inner_codec() {
        let mut stream = Vec::new();
        for length in [0, 1, 125, 126, 1024, 1025] {
            stream.extend([0x81, 126]);
            stream.extend(u16::to_be_bytes(length));
            stream.extend(vec![b'x'; usize::from(length)]);
        }
        for end in 0..=stream.len() {
            let mut guarded = GuardedCodec::new(1024);
            let mut plain = Codec::new().max_size(1024).client_mode();
            let mut sources = [0, 1].map(|_| BytesMut::from(&stream[..end]));
            for _ in 0..7 {
                let [one, other] = &mut sources;
                match (guarded.decode(one), plain.decode(other)) {
                    (Ok(one), Ok(other)) => assert_eq!(one, other),
                    // The guarded codec rejects the frame by its header alone.
                    (Err(_), Err(_) | Ok(None)) => break,
                    other => panic!("{other:?} of {end} bytes"),
                }
                assert_eq!(sources[0], sources[1]);
            }
        }
    }

    #[test]
    fn a_frame_within_the_limit_passes() {
        let mut codec = GuardedCodec::new(1024);
        let mut src = BytesMut::from(&b"\x81\x02hi\x81"[..]);
        assert!(matches!(codec.decode(&mut src), Ok(Some(Frame::Text(text))) if text == "hi"));
        assert!(matches!(codec.decode(&mut src), Ok(None)));
    }
}
