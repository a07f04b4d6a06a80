//! Which names Windows can't represent.

/// Why Windows can't represent a name of an entry, or a relative target of a link. `None` if it
/// can.
pub(super) fn problem(path: &[u8]) -> Option<&'static str> {
    let Ok(path) = std::str::from_utf8(path) else {
        return Some("Windows has no names that are not UTF-8");
    };
    let is_special = |letter| letter < ' ' || r#"<>:"|?*\"#.contains(letter);
    if path.contains(is_special) {
        return Some("the name has a character that Windows does not allow");
    }
    let mut parts = path.split('/');
    if parts.any(|part| part.ends_with(['.', ' ']) && !matches!(part, "." | "..")) {
        return Some("on Windows, a name can't end with a dot or a space");
    }
    let mut parts = path.split('/');
    match parts.any(is_device) {
        true => Some("the name is that of a device of Windows"),
        false => None,
    }
}

/// Whether a name is that of a device. An extension does not matter.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or_default().trim_end();
    let stem = stem.to_ascii_uppercase();
    let numbered = ["COM", "LPT"]
        .iter()
        .find_map(|name| stem.strip_prefix(name));
    let numbers = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "¹", "²", "³",
    ];
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&&*stem)
        || numbered.is_some_and(|number| numbers.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_windows_lacks_have_a_reason() {
        let wrong = [
            "a:b",
            "a\\b",
            "..\\a",
            "d/a?",
            "a.",
            "d./a",
            "a ",
            "NUL",
            "d/com1.txt",
            "aux.c",
            "a\nb",
            "LPT¹",
            "nul .txt",
        ];
        for name in wrong {
            assert!(problem(name.as_bytes()).is_some(), "{name}");
        }
        assert!(problem(b"\xff").is_some());
        for name in [
            "a", "./a", "../a", "d/.a", "com", "com10", "console", "ü", "nula",
        ] {
            assert_eq!(problem(name.as_bytes()), None, "{name}");
        }
    }
}
