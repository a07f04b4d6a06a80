//! [`Deviation`]: where a client deviates from a recording.

use std::fmt;

use super::Line;

/// Maximum number of characters to quote of a frame.
const MOST: usize = 400;

/// Where a client deviated from a recording: the line, what it expects, and what happened instead.
///
/// The message quotes frames, so it can contain code and input of the program under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    recording: String,
    line: Option<(usize, String)>,
    expected: String,
    found: String,
}

impl Deviation {
    pub(super) fn new(
        recording: &str,
        line: Option<&Line>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            recording: recording.to_owned(),
            line: line.map(|line| (line.number, line.conn.clone())),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The number of the line in the recording, from 1. `None` if the whole recording was played.
    pub fn line(&self) -> Option<usize> {
        self.line.as_ref().map(|(number, _)| *number)
    }

    /// What the recording expects.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What happened instead.
    pub fn found(&self) -> &str {
        &self.found
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.line {
            Some((number, conn)) => {
                write!(f, "{}, line {number} (connection {conn})", self.recording)?
            }
            None => write!(f, "{}, after its last line", self.recording)?,
        }
        write!(f, ": expected {}, but {}", self.expected, self.found)
    }
}

impl std::error::Error for Deviation {}

/// A frame in backticks, cut to [`MOST`] characters.
pub(super) fn quoted(frame: impl fmt::Display) -> String {
    let text = frame.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("`{}…` ({} bytes)", &text[..at], text.len()),
        None => format!("`{text}`"),
    }
}
