//! [`TrailerFilter`]: takes the trailer out of stdout, wherever the stream is cut into pieces.

use std::fmt;

use bytes::Bytes;

use super::wrap::Nonce;
use crate::machine::ProcessEnd;

/// Begins and ends a trailer. It is rare in text, so that output is rarely held back.
const MARK: u8 = 0x1e;

/// Most bytes of `exit 255` and the like.
const MAX_ENDING: usize = 16;

/// Passes output on at once, except what may be the beginning of the trailer. The first trailer
/// counts.
pub(crate) struct TrailerFilter {
    /// The bytes of the trailer before the ending. Cleared when it was found, or the stream is
    /// over.
    beginning: Option<Vec<u8>>,
    /// Output that may be the beginning of the trailer.
    held: Bytes,
    /// What the trailer said, once it has come.
    end: Option<ProcessEnd>,
}

impl fmt::Debug for TrailerFilter {
    /// Shows neither the nonce nor output.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrailerFilter")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// What begins at a mark.
enum Found {
    /// Output.
    Nothing,
    /// The beginning of a trailer, if the right bytes follow.
    Perhaps,
    /// A trailer of this length.
    Trailer(usize, ProcessEnd),
}

impl TrailerFilter {
    /// Looks for the trailer with this nonce.
    pub(crate) fn new(nonce: &Nonce) -> Self {
        let beginning = format!("\u{1e}actix-sandbox {nonce} ").into_bytes();
        Self {
            beginning: Some(beginning),
            held: Bytes::new(),
            end: None,
        }
    }

    /// What the trailer said, once it has come.
    pub(crate) fn end(&self) -> Option<&ProcessEnd> {
        self.end.as_ref()
    }

    /// Output came. Returns what of it, and of what was held back, is no trailer.
    pub(crate) fn handle_output(&mut self, data: Bytes) -> Bytes {
        let Some(beginning) = &self.beginning else {
            return data;
        };
        let mut data = match self.held.is_empty() {
            true => data,
            false => [std::mem::take(&mut self.held), data].concat().into(),
        };
        let mut from = 0;
        while let Some(mark) = data[from..].iter().position(|&byte| byte == MARK) {
            from += mark;
            match look(beginning, &data[from..]) {
                Found::Nothing => from += 1,
                Found::Perhaps => {
                    self.held = data.split_off(from);
                    break;
                }
                Found::Trailer(length, end) => {
                    let rest = [&data[..from], &data[from + length..]].concat();
                    self.beginning = None;
                    self.end = Some(end);
                    return rest.into();
                }
            }
        }
        data
    }

    /// The stream is over: what was held back was output.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.beginning = None;
        std::mem::take(&mut self.held)
    }
}

fn look(beginning: &[u8], data: &[u8]) -> Found {
    let Some(rest) = data.strip_prefix(beginning) else {
        return match beginning.starts_with(data) {
            true => Found::Perhaps,
            false => Found::Nothing,
        };
    };
    let ending = &rest[..rest.len().min(MAX_ENDING)];
    let Some(length) = ending.iter().position(|&byte| byte == MARK) else {
        return match ending.len() < MAX_ENDING {
            true => Found::Perhaps,
            false => Found::Nothing,
        };
    };
    match parse(&ending[..length]) {
        Some(end) => Found::Trailer(beginning.len() + length + 1, end),
        None => Found::Nothing,
    }
}

fn parse(ending: &[u8]) -> Option<ProcessEnd> {
    let (what, number) = std::str::from_utf8(ending).ok()?.split_once(' ')?;
    let number = number.parse::<u8>().ok()?.into();
    match what {
        "exit" => Some(ProcessEnd::Exited(number)),
        "signal" => Some(ProcessEnd::Signaled(number)),
        _ => None,
    }
}
