//! [`GuardedCodec`]: the WebSocket codec, which refuses a frame by its declared length.

use std::io;

use actix_codec::{Decoder, Encoder};
use actix_http::ws::{Codec, Frame, Message, ProtocolError};
use bytes::BytesMut;

use crate::{
    machine::LinkError,
    protocol::{FrameHeader, FrameTooLarge},
};

/// Why no more frames come.
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

/// A client's codec with a limit on the payload of one frame, checked before the payload is buffered.
#[derive(Debug)]
pub(crate) struct GuardedCodec {
    inner: Codec,
    limit: usize,
}

impl GuardedCodec {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            inner: Codec::new().max_size(limit).client_mode(),
            limit,
        }
    }
}

impl Decoder for GuardedCodec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        // The codec takes whole frames only, so a header is always at the front.
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
        Ok(self.inner.decode(src)?)
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
    fn a_frame_within_the_limit_passes() {
        let mut codec = GuardedCodec::new(1024);
        let mut src = BytesMut::from(&b"\x81\x02hi\x81"[..]);
        assert!(matches!(codec.decode(&mut src), Ok(Some(Frame::Text(text))) if text == "hi"));
        assert!(matches!(codec.decode(&mut src), Ok(None)));
    }
}
