//! Names and targets of links that Windows can't represent.

/// Why Windows can't represent the name of an entry, or the target of a link. `None` if it can.
pub(super) fn problem(name: &[u8], target: Option<&[u8]>) -> Option<&'static str> {
    match target {
        Some(target) if target.starts_with(b"/") => {
            Some("the link has an absolute target, which has no meaning on Windows")
        }
        _ => problem_of(name).or_else(|| target.and_then(problem_of)),
    }
}

fn problem_of(path: &[u8]) -> Option<&'static str> {
    let Ok(path) = std::str::from_utf8(path) else {
        return Some("Windows allows only names that are Unicode text");
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
        true => Some("Windows reserves the name for a device"),
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
            assert!(problem(name.as_bytes(), None).is_some(), "{name}");
        }
        assert!(problem(b"\xff", None).is_some());
        for target in ["/etc", "//host/share", "a:b", "..\\x"] {
            assert!(problem(b"a", Some(target.as_bytes())).is_some(), "{target}");
        }
        assert_eq!(problem(b"a", Some(b"../b")), None);
        for name in [
            "a", "./a", "../a", "d/.a", "com", "com10", "console", "ü", "nula",
        ] {
            assert_eq!(problem(name.as_bytes(), None), None, "{name}");
        }
    }
}
