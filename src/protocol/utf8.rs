//! [`Utf8Decoder`]: converts pieces of bytes to text without splitting a code point.

/// Converts pieces of bytes to text.
///
/// A code point that is cut by the end of a piece waits for the next piece. Bytes that are not
/// UTF-8 become U+FFFD, as in [`String::from_utf8_lossy`].
///
/// ```
/// use actix_sandbox::protocol::Utf8Decoder;
///
/// let mut decoder = Utf8Decoder::default();
/// assert_eq!(decoder.decode(&[b'a', 0xC3]), "a");
/// assert_eq!(decoder.decode(&[0xA9]), "é");
/// assert_eq!(decoder.finish(), "");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Utf8Decoder {
    /// The first bytes of an incomplete code point: at most three.
    pending: Vec<u8>,
}

impl Utf8Decoder {
    /// Returns all text that is complete after this piece.
    pub fn decode(&mut self, piece: &[u8]) -> String {
        let joined;
        let bytes = if self.pending.is_empty() {
            piece
        } else {
            self.pending.extend_from_slice(piece);
            joined = std::mem::take(&mut self.pending);
            &joined[..]
        };
        let complete = bytes.len() - incomplete_tail(bytes);
        self.pending.extend_from_slice(&bytes[complete..]);
        String::from_utf8_lossy(&bytes[..complete]).into_owned()
    }

    /// Ends the text. Returns U+FFFD if a code point is incomplete, otherwise an empty string.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Returns the length of `bytes` without an incomplete code point at the end. Cutting there splits
/// no code point.
pub fn utf8_boundary(bytes: &[u8]) -> usize {
    bytes.len() - incomplete_tail(bytes)
}

/// The number of bytes at the end that form an incomplete code point, which more bytes could
/// complete.
fn incomplete_tail(bytes: &[u8]) -> usize {
    // A code point has at most four bytes, so its beginning is among the last three.
    for back in 1..=bytes.len().min(3) {
        let tail = &bytes[bytes.len() - back..];
        if tail[0] & 0xC0 == 0x80 {
            continue;
        }
        return match std::str::from_utf8(tail) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => back,
            _ => 0,
        };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_point_cut_at_every_position_comes_out_whole() {
        let text = "aé€😀z";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let bytes = text.as_bytes();
                let mut decoder = Utf8Decoder::default();
                let mut out = String::new();
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    out += &decoder.decode(piece);
                }
                assert_eq!(out + &decoder.finish(), text, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn invalid_utf8_is_replaced_and_delays_nothing() {
        let mut decoder = Utf8Decoder::default();
        assert_eq!(decoder.decode(b"\xff\xfeEND"), "\u{FFFD}\u{FFFD}END");
        assert_eq!(
            decoder.decode(b"\x80\x80\x80\x80"),
            "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}"
        );
        assert_eq!(decoder.decode(b"\xf0\x9f"), "");
        assert!(!decoder.pending.is_empty());
        assert_eq!(decoder.finish(), "\u{FFFD}");
        assert!(decoder.pending.is_empty());
    }

    #[test]
    fn any_cut_decodes_like_the_whole() {
        use proptest::prelude::*;
        proptest!(|(bytes in prop::collection::vec(prop::sample::select(vec![b'a', 0xC3, 0xA9, 0xE2, 0x82, 0xF0, 0x9F, 0x80, 0xFF]), 0..24), cut in 0usize..24)| {
            let cut = cut.min(bytes.len());
            let mut decoder = Utf8Decoder::default();
            let out = decoder.decode(&bytes[..cut]) + &decoder.decode(&bytes[cut..]) + &decoder.finish();
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes).into_owned());
        });
    }
}
