//! Escapes text from a sandbox, which could otherwise control the terminal.

/// Escapes control characters, line separators and characters that change the direction of text.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // `escape_debug` would escape these, too.
            '"' | '\'' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// Like [`escaped`], but keeps line feeds.
pub(crate) fn escaped_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escaped).collect();
    lines.join("\n")
}

/// Escapes control characters, and bytes that are not UTF-8.
pub(crate) fn escaped_bytes(bytes: &[u8]) -> String {
    let escape = |piece: std::str::Utf8Chunk<'_>| {
        let invalid = piece.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        escaped(piece.valid()) + &invalid.collect::<String>()
    };
    bytes.utf8_chunks().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped() {
        for (name, expected) in [
            (&b"plain \xc3\xbc"[..], "plain \u{fc}"),
            (b"\x1b[2J\n\t\x7f", "\\u{1b}[2J\\n\\t\\u{7f}"),
            (b"\xff\x80a\xc3", "\\xff\\x80a\\xc3"),
            ("\u{9b}31m\u{202e}".as_bytes(), "\\u{9b}31m\\u{202e}"),
        ] {
            assert_eq!(escaped_bytes(name), expected);
        }
    }
}
