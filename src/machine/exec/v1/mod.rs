//! How the client makes up for what v1 execs lack.
//!
//! | file | |
//! | --- | --- |
//! | `mod.rs` | [`UnnamedExec`]: text messages for stdin, the grace after a kill |
//! | `wrap.rs` | [`wrap`]: a program around the code that reports how the code ended |
//! | `trailer.rs` | [`TrailerFilter`]: takes that report out of the output |

mod trailer;
mod wrap;

pub(super) use trailer::TrailerFilter;
pub use wrap::{Nonce, wrap};

use std::time::Instant;

use bytes::Bytes;

use crate::{
    machine::ProcessEnd,
    protocol::{ClientMessage, StdStream},
};

/// The client's side of a v1 exec on the wire.
#[derive(Debug, Default)]
pub(super) struct UnnamedExec {
    /// The filter of wrapped code.
    trailer: Option<TrailerFilter>,
    /// When the process counts as killed even if no `DONE` arrives. Set by the first
    /// `FORCE_KILLED`.
    kill_due: Option<Instant>,
}

impl UnnamedExec {
    /// Creates an exec whose code is [wrapped](wrap).
    pub(super) fn wrapped(nonce: &Nonce) -> Self {
        Self {
            trailer: Some(TrailerFilter::new(nonce)),
            kill_due: None,
        }
    }

    /// Returns the part of a piece of output that readers may read now, without the trailer and
    /// without bytes that may be its beginning.
    pub(super) fn filter_output(&mut self, stream: StdStream, data: Bytes) -> Bytes {
        match &mut self.trailer {
            Some(trailer) if stream == StdStream::Stdout => trailer.handle_output(data),
            _ => data,
        }
    }

    /// Returns the bytes that were held back. Called when the output has ended, so that they can't
    /// be a trailer.
    pub(super) fn take_held_output(&mut self) -> Bytes {
        let held = self.trailer.as_mut().map(TrailerFilter::finish);
        held.unwrap_or_default()
    }

    pub(super) fn unsupported_stdin(data: &[u8], eof: bool) -> Option<&'static str> {
        match eof {
            true => Some("the end of input"),
            false if std::str::from_utf8(data).is_err() => Some("input that is not UTF-8"),
            false => None,
        }
    }

    pub(super) fn stdin(data: &[u8]) -> String {
        // Only UTF-8 was accepted, and no code point was split.
        ClientMessage::stdin(String::from_utf8_lossy(data)).encode()
    }

    pub(super) fn handle_force_killed(&mut self, due: Instant) {
        self.kill_due.get_or_insert(due);
    }

    pub(super) fn kill_due(&self) -> Option<Instant> {
        self.kill_due
    }

    /// How the process ended, as reported by the trailer in its output.
    pub(super) fn end(&self) -> ProcessEnd {
        let said = self.trailer.as_ref().and_then(TrailerFilter::end);
        said.cloned().unwrap_or(ProcessEnd::Unknown)
    }
}

#[cfg(test)]
mod tests;
