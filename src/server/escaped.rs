//! [`Escaped`]: escapes text of a peer for the log.

use std::fmt::{self, Write};

/// Displays text on one line. Escapes control characters, line separators and characters that
/// change the direction of text. The server logs all text that comes from a client, from code or
/// from a file through this.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                // `escape_debug` would escape quotation marks, too.
                '"' | '\'' => self.0.write_char(character)?,
                _ => write!(self.0, "{}", character.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_line_or_controls_the_terminal() {
        let hostile = "a\nb\r\x1b[2J\x07\u{85}\u{2028}\u{202e}\u{9b}31m\0\u{7f}";
        let shown = Escaped(hostile).to_string();
        assert!(shown.chars().all(|it| it.is_ascii_graphic()), "{shown}");
        assert!(shown.starts_with("a\\nb\\r\\u{1b}[2J"), "{shown}");
    }

    #[test]
    fn ordinary_text_stays_readable() {
        let text = "cannot read \"/tmp/é\": it's gone";
        assert_eq!(Escaped(text).to_string(), text);
        assert_eq!(Escaped("a\\nb").to_string(), "a\\\\nb");
    }
}
