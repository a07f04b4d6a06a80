//! [`excerpt`]: the part of a frame that an error may quote.

use super::{limits::EXCERPT_CHARS, names::KEY_SANDBOX_TOKEN};

/// Returns at most [`EXCERPT_CHARS`] characters of a frame, on one line, for an error message.
///
/// A frame that may contain a token is not quoted at all, so that no secret gets into an error.
pub fn excerpt(frame: &[u8]) -> String {
    if contains(frame, KEY_SANDBOX_TOKEN.as_bytes()) {
        return "(not quoted: it may hold a token)".to_owned();
    }
    // A character has at most four bytes. Four more bytes tell whether anything was cut.
    let head = &frame[..frame.len().min(4 * EXCERPT_CHARS + 4)];
    let text = String::from_utf8_lossy(head);
    let mut quoted: String = text
        .chars()
        .take(EXCERPT_CHARS)
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect();
    if quoted.chars().count() == EXCERPT_CHARS
        && (text.chars().nth(EXCERPT_CHARS).is_some() || head.len() < frame.len())
    {
        quoted.pop();
        quoted.push('…');
    }
    quoted
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_frames_are_cut_to_the_limit() {
        let quoted = excerpt("é".repeat(5_000).as_bytes());
        assert_eq!(quoted.chars().count(), EXCERPT_CHARS);
        assert!(quoted.ends_with('…'));
    }

    #[test]
    fn short_frames_are_quoted_whole_without_control_characters() {
        assert_eq!(excerpt(b"not json"), "not json");
        assert_eq!(excerpt(b"a\nb\x1b[2J"), "a\u{FFFD}b\u{FFFD}[2J");
        assert_eq!(excerpt(b"\xff"), "\u{FFFD}");
    }

    #[test]
    fn frames_with_a_token_are_not_quoted() {
        let frame = br#"{"event":"sandbox_id","sandbox_id":1,"sandbox_token":"s3cret"}"#;
        assert!(!excerpt(frame).contains("s3cret"));
    }
}
