//! [`IgnoreRules`]: which files an upload leaves out, in the syntax of `.gitignore`.

use std::{fmt, path::Path};

/// Rules in the syntax of `.gitignore`. The last rule that matches a path wins.
///
/// If a directory is left out, everything in it is left out: no later rule can include a file in
/// it. Supported: comments, `!`, `/` at the start, in the middle and at the end, `*`, `?`, `**`,
/// sets such as `[a-z]` and `[!0]`, and `\` before a special character. The rules also match names
/// that are not UTF-8. Not supported: named classes such as `[[:alpha:]]`.
#[derive(Clone, Default)]
pub(crate) struct IgnoreRules(Vec<Rule>);

#[derive(Clone)]
struct Rule {
    /// A pattern for the whole path.
    pattern: String,
    includes: bool,
    directories_only: bool,
}

impl IgnoreRules {
    /// Reads the rules from lines. Skips empty lines and comments.
    pub(crate) fn new<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Self {
        let rules = lines
            .into_iter()
            .filter_map(|line| Rule::new(line.as_ref()));
        Self(rules.collect())
    }

    /// Whether to leave out a path, which is relative to the top of the tree. The caller asks only
    /// about paths whose parents are not left out.
    pub(crate) fn excludes(&self, path: &Path, is_directory: bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
        if std::path::MAIN_SEPARATOR != '/' {
            let separator = std::path::MAIN_SEPARATOR as u8;
            let separators = bytes.iter_mut().filter(|byte| **byte == separator);
            separators.for_each(|byte| *byte = b'/');
        }
        let rule = self.0.iter().rev().find(|rule| {
            (is_directory || !rule.directories_only) && fast_glob::glob_match(&rule.pattern, &bytes)
        });
        rule.is_some_and(|rule| !rule.includes)
    }
}

impl Rule {
    fn new(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.starts_with('#') {
            return None;
        }
        let (includes, line) = match line.strip_prefix('!') {
            Some(line) => (true, line),
            None => (false, line),
        };
        let line = without_spaces_at_the_end(line);
        let (directories_only, line) = match line.strip_suffix('/') {
            Some(line) => (true, line),
            None => (false, line),
        };
        if line.is_empty() {
            return None;
        }
        // A pattern with a slash is relative to the top. A pattern without one matches at every
        // level.
        let mut pattern = String::new();
        if !line.contains('/') {
            pattern.push_str("**/");
        }
        // To the library, braces are special too. To git, they aren't.
        let mut is_escaped = false;
        for letter in line.strip_prefix('/').unwrap_or(line).chars() {
            if matches!(letter, '{' | '}' | '!') && !is_escaped && !pattern.ends_with('[') {
                pattern.push('\\');
            }
            is_escaped = letter == '\\' && !is_escaped;
            pattern.push(letter);
        }
        Some(Self {
            pattern,
            includes,
            directories_only,
        })
    }
}

/// Removes spaces at the end, unless a `\` precedes them.
fn without_spaces_at_the_end(line: &str) -> &str {
    let trimmed = line.trim_end_matches(' ');
    let slashes = trimmed.len() - trimmed.trim_end_matches('\\').len();
    match slashes % 2 == 1 && trimmed.len() < line.len() {
        true => &line[..=trimmed.len()],
        false => trimmed,
    }
}

impl fmt::Debug for IgnoreRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns = self.0.iter().map(|rule| &rule.pattern);
        f.debug_list().entries(patterns).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_as_in_git() {
        // The rules, and paths with whether they are left out. A slash ends a directory.
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (&["*.o"], &["a.o", "d/a.o", ".o"], &["a.oo", "a.c"]),
            (
                &["target/"],
                &["target/", "d/target/"],
                &["target", "targets/"],
            ),
            (&["/target"], &["target", "target/"], &["d/target"]),
            (&["a/b"], &["a/b"], &["d/a/b", "b"]),
            (&["**/b"], &["b", "a/b", "a/a/b"], &["ab"]),
            (&["a/**"], &["a/b", "a/b/c"], &["a/", "b/a/c"]),
            (&["a/**/b"], &["a/b", "a/x/b", "a/x/y/b"], &["a/xb"]),
            (&["a/*"], &["a/b"], &["a/b/c"]),
            (&["?"], &["a", "d/b"], &["ab"]),
            (&["[a-c]1"], &["a1", "c1"], &["d1"]),
            (&["[!a]1"], &["b1"], &["a1"]),
            (&["*", "!*.c"], &["a.o"], &["a.c", "d/a.c"]),
            (&["!a", "a"], &["a"], &[]),
            (&["# a", "", "   ", "/", "!"], &[], &["# a", "a", " "]),
            (&["\\#a", "\\!b"], &["#a", "!b"], &["a", "b"]),
            (&["a  ", "b\\ "], &["a", "b "], &["a  ", "b"]),
            (&["{a,b}", "x\\*"], &["{a,b}", "x*"], &["a", "b", "xy"]),
            (&["a\r"], &["a"], &[]),
            (&["ü*"], &["üb"], &["u"]),
        ];
        for (lines, left_out, kept) in cases {
            let rules = IgnoreRules::new(*lines);
            let excludes = |path: &&str| {
                let directory = path.strip_suffix('/');
                rules.excludes(Path::new(directory.unwrap_or(path)), directory.is_some())
            };
            let wrong = left_out.iter().find(|path| !excludes(path));
            assert_eq!(wrong, None, "{lines:?} leaves out");
            assert_eq!(
                kept.iter().find(|path| excludes(path)),
                None,
                "{lines:?} keeps"
            );
        }
    }

    #[test]
    fn a_hostile_pattern_does_not_take_exponential_time() {
        let rules = IgnoreRules::new(["*a".repeat(40) + "b", "**/a/".repeat(20) + "b"]);
        assert!(!rules.excludes(Path::new(&"a".repeat(200)), false));
        assert!(!rules.excludes(Path::new(&"a/".repeat(100)), false));
    }
}
