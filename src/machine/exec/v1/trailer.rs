//! [`TrailerFilter`]: removes the trailer from stdout, however the stream is cut into pieces.

use std::fmt;

use bytes::Bytes;

use super::wrap::Nonce;
use crate::machine::ProcessEnd;

/// The first and last byte of a trailer. It is rare in text, so output is rarely held back.
const MARK: u8 = 0x1e;

/// The maximum length of an ending such as `exit 255`, in bytes.
const MAX_ENDING: usize = 16;

/// Passes output on at once, except bytes that may be the beginning of the trailer. Only the first
/// trailer counts.
pub(crate) struct TrailerFilter {
    /// The bytes of the trailer before the ending. Cleared when the trailer was found, or the
    /// stream has ended.
    beginning: Option<Vec<u8>>,
    /// Output that may be the beginning of the trailer.
    held: Bytes,
    /// The end that the trailer reported, once it has arrived.
    end: Option<ProcessEnd>,
}

impl fmt::Debug for TrailerFilter {
    /// Shows neither the nonce nor the output.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrailerFilter")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// The meaning of the bytes from a mark on.
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

    /// The end that the trailer reported, once it has arrived.
    pub(crate) fn end(&self) -> Option<&ProcessEnd> {
        self.end.as_ref()
    }

    /// Handles output. Returns the bytes, including those held back earlier, that are not part of a
    /// trailer.
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

    /// Ends the stream. Returns the bytes that were held back, which are output.
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
