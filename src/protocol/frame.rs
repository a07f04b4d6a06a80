//! WebSocket frame headers (RFC 6455, 5.2), checked before the payload arrives.
//!
//! The first bytes of a frame declare its length. A library that checks the length only when the
//! whole frame is in memory can be made to buffer without limit. So the client and the server check
//! the *declared* length first.

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The length of the header in bytes, including the mask.
    pub header_len: usize,
    /// The declared length of the payload in bytes.
    pub payload_len: u64,
}

impl FrameHeader {
    /// The maximum length of a header, in bytes.
    pub const MAX_LEN: usize = 14;

    /// Reads the header at the beginning of `bytes`. `None` if it is incomplete.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let second = *bytes.get(1)?;
        let mask_len = if second & 0x80 == 0 { 0 } else { 4 };
        let (length_len, payload_len) = match second & 0x7F {
            126 => (
                2,
                u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
            ),
            127 => (8, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
            short => (0, u64::from(short)),
        };
        let header_len = 2 + length_len + mask_len;
        (bytes.len() >= header_len).then_some(Self {
            header_len,
            payload_len,
        })
    }
}

/// A frame declares more bytes than the limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {declared} bytes was announced, the limit is {limit} bytes")]
pub struct FrameTooLarge {
    /// The declared length, in bytes.
    pub declared: u64,
    /// The limit, in bytes.
    pub limit: usize,
}

/// Follows a stream of frames, chunk by chunk, and refuses a frame that is too large when its
/// header arrives.
#[derive(Debug)]
pub struct FrameGuard {
    limit: usize,
    header: [u8; FrameHeader::MAX_LEN],
    header_len: usize,
    payload_left: u64,
}

impl FrameGuard {
    /// Creates a guard for payloads of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            header: [0; FrameHeader::MAX_LEN],
            header_len: 0,
            payload_left: 0,
        }
    }

    /// Checks the next bytes of the stream.
    ///
    /// # Errors
    ///
    /// Fails if a header in them declares more than the limit. The stream must not be read any
    /// further then.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), FrameTooLarge> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= skipped;
                bytes = &bytes[skipped as usize..];
                continue;
            }
            self.header[self.header_len] = bytes[0];
            self.header_len += 1;
            bytes = &bytes[1..];
            if let Some(header) = FrameHeader::parse(&self.header[..self.header_len]) {
                self.header_len = 0;
                if header.payload_len > self.limit as u64 {
                    return Err(FrameTooLarge {
                        declared: header.payload_len,
                        limit: self.limit,
                    });
                }
                self.payload_left = header.payload_len;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_form_are_read() {
        let parse = FrameHeader::parse;
        assert_eq!(parse(&[0x81]), None);
        assert_eq!(
            parse(&[0x81, 5]),
            Some(FrameHeader {
                header_len: 2,
                payload_len: 5
            })
        );
        assert_eq!(parse(&[0x81, 0x85, 1, 2, 3]), None);
        assert_eq!(
            parse(&[0x81, 0x85, 1, 2, 3, 4]),
            Some(FrameHeader {
                header_len: 6,
                payload_len: 5
            })
        );
        assert_eq!(
            parse(&[0x81, 126, 1, 0]),
            Some(FrameHeader {
                header_len: 4,
                payload_len: 256
            })
        );
        let mut long = vec![0x81, 127];
        long.extend(u64::MAX.to_be_bytes());
        assert_eq!(
            parse(&long),
            Some(FrameHeader {
                header_len: 10,
                payload_len: u64::MAX
            })
        );
    }

    #[test]
    fn a_guard_finds_every_header_however_the_stream_is_cut() {
        let mut stream = vec![0x81, 3, b'a', b'b', b'c', 0x8A, 0, 0x81, 126, 0, 200];
        stream.extend([b'x'; 200]);
        stream.extend([0x82, 127, 0, 0, 0, 0, 0x40, 0, 0, 0]);
        for size in 1..stream.len() {
            let mut guard = FrameGuard::new(1_000);
            let verdict = stream.chunks(size).try_for_each(|chunk| guard.feed(chunk));
            assert_eq!(
                verdict,
                Err(FrameTooLarge {
                    declared: 1 << 30,
                    limit: 1_000
                }),
                "chunks of {size}"
            );
            let mut guard = FrameGuard::new(200);
            let whole = &stream[..stream.len() - 10];
            assert_eq!(
                whole.chunks(size).try_for_each(|chunk| guard.feed(chunk)),
                Ok(()),
                "chunks of {size}"
            );
        }
    }
}
