//! Pieces of streams in binary frames (v2): [`Encoded`], and the layout of a frame.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 1 | the stream: 0 stdin, 1 stdout, 2 stderr |
//! | 1 | flags: 1 if the stream ends after these bytes |
//! | 1 | the length of the exec's id in bytes |
//! | that length | the id, in UTF-8 |
//! | 8 | the offset, big endian |
//! | rest | the bytes of the stream |
//!
//! Such a frame means the same as the message `stdin`, `stdout` or `stderr` in a text frame. The
//! first byte tells the two apart: JSON never begins with 0, 1 or 2.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    StdStream,
    data::{print_base64_piece, print_piece},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;

const EOF: u8 = 1;

/// The payload of a frame that carries a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// The payload of a text frame.
    Text(String),
    /// The payload of a binary frame.
    Binary(Bytes),
}

impl Encoded {
    /// The length in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// The message as text. A binary frame becomes the text message that means the same.
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Binary(bytes) => {
                let text = Piece::read(&bytes).map(|piece| piece.to_text());
                text.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    }
}

impl From<String> for Encoded {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// A piece of a stream in a binary frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The stream. `None` stands for stdin.
    pub stream: Option<StdStream>,
    /// The id of the exec.
    pub exec: &'a str,
    /// The number of bytes of the stream before these.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// Whether the stream ends after these bytes.
    pub eof: bool,
}

impl<'a> Piece<'a> {
    /// Whether the first fragment of a binary frame may begin a piece.
    pub fn begins(fragment: &[u8]) -> bool {
        fragment.first().is_none_or(|kind| *kind <= STDERR)
    }

    /// Reads the payload of a binary frame. `None` if it doesn't have the layout.
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (&[kind, flags, length], rest) = frame.split_first_chunk()?;
        let stream = match kind {
            STDIN => None,
            STDOUT => Some(StdStream::Stdout),
            STDERR => Some(StdStream::Stderr),
            _ => return None,
        };
        let (exec, rest) = rest.split_at_checked(length.into())?;
        let (offset, data) = rest.split_first_chunk()?;
        Some(Self {
            stream,
            exec: std::str::from_utf8(exec).ok()?,
            offset: u64::from_be_bytes(*offset),
            data,
            eof: flags & EOF != 0,
        })
    }

    /// Encodes the piece as a binary frame, or as the text message if the id is longer than 255
    /// bytes.
    pub fn encode(self) -> Encoded {
        let Ok(length) = u8::try_from(self.exec.len()) else {
            return Encoded::Text(self.to_text());
        };
        let mut frame = BytesMut::with_capacity(11 + self.exec.len() + self.data.len());
        frame.put_u8(match self.stream {
            None => STDIN,
            Some(StdStream::Stdout) => STDOUT,
            Some(StdStream::Stderr) => STDERR,
        });
        frame.put_u8(if self.eof { EOF } else { 0 });
        frame.put_u8(length);
        frame.put_slice(self.exec.as_bytes());
        frame.put_u64(self.offset);
        frame.put_slice(self.data);
        Encoded::Binary(frame.freeze())
    }

    /// The text message that means the same.
    pub fn to_text(self) -> String {
        let place = Some((self.exec, self.offset));
        print_piece(self.event(), place, self.data, self.eof)
    }

    /// Like [`to_text`](Self::to_text), with the bytes as base64 in any case.
    pub(crate) fn to_base64_text(self) -> String {
        let place = Some((self.exec, self.offset));
        print_base64_piece(self.event(), place, self.data, self.eof)
    }

    fn event(&self) -> &'static str {
        self.stream.map_or("stdin", StdStream::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_survive_binary_frames() {
        for (stream, eof, data) in [
            (None, true, &b""[..]),
            (Some(StdStream::Stdout), false, b"\0\xff"),
            (Some(StdStream::Stderr), false, b"text"),
        ] {
            let piece = Piece {
                stream,
                exec: "7f3a-1",
                offset: u64::MAX,
                data,
                eof,
            };
            let Encoded::Binary(frame) = piece.encode() else {
                panic!()
            };
            assert_eq!(Piece::read(&frame), Some(piece));
            for length in 0..17 {
                assert_eq!(Piece::read(&frame[..length]), None, "{length}");
            }
        }
    }

    #[test]
    fn the_layout_of_a_binary_frame_is_frozen() {
        let piece = Piece {
            stream: Some(StdStream::Stdout),
            exec: "e",
            offset: 258,
            data: b"\xff",
            eof: true,
        };
        let frame = b"\x01\x01\x01e\0\0\0\0\0\0\x01\x02\xff";
        assert_eq!(piece.encode(), Encoded::Binary(Bytes::from_static(frame)));
        let text = r#"{"event":"stdout","exec":"e","offset":258,"data_b64":"/w==","eof":true}"#;
        assert_eq!(piece.encode().into_text(), text);
    }

    #[test]
    fn no_text_message_is_read_as_a_binary_frame() {
        for text in ["{}", " {\"event\":\"stdout\"}", "\n[]", "\u{3}abc"] {
            assert_eq!(Piece::read(text.as_bytes()), None, "{text}");
        }
    }
}
