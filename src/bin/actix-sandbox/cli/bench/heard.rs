//! [`Heard`]: the measurements of a process's output.

use std::cell::{Cell, RefCell};

use actix_sandbox::{Error, OutputStream};
use futures::StreamExt;
use tokio::time::Instant;

/// The measurements of a process's output.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) first: Cell<Option<Instant>>,
    pub(super) bytes: Cell<u64>,
    /// The last bytes of stderr, at most [`LAST`].
    last: RefCell<Vec<u8>>,
}

/// Maximum bytes of stderr to keep.
const LAST: usize = 1024;

impl Heard {
    pub(super) async fn all(
        &self,
        mut stream: OutputStream,
        see: impl Fn(&[u8]),
    ) -> Result<(), Error> {
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            see(&piece);
            let bytes = piece.len() as u64;
            if self.first.get().is_none() {
                self.first.set(Some(Instant::now()));
            }
            self.bytes.set(self.bytes.get() + bytes);
        }
        Ok(())
    }

    pub(super) fn keep_last(&self, piece: &[u8]) {
        let mut last = self.last.borrow_mut();
        last.extend_from_slice(&piece[piece.len().saturating_sub(LAST)..]);
        let excess = last.len().saturating_sub(LAST);
        last.drain(..excess);
    }

    /// Returns the last line of stderr that is not blank, with control characters replaced.
    pub(super) fn last_line(&self) -> Option<String> {
        let last = self.last.borrow();
        let text = String::from_utf8_lossy(&last);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(line.trim().replace(char::is_control, "\u{fffd}"))
    }
}
