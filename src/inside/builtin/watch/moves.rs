//! [`Moves`]: pairs the two halves of a rename.

use super::below;

/// How many milliseconds to wait for the second half of a rename. The kernel puts both halves into
/// the queue at once, but not atomically.
pub(super) const WAIT: u8 = 20;

/// How many other events may come between the halves.
const EVENTS: u32 = 16;

/// The first half of a rename: a file or directory that was moved away.
pub(super) struct Move {
    pub(super) cookie: u32,
    pub(super) path: Vec<u8>,
    pub(super) is_directory: bool,
}

/// At most one move whose second half has not come.
#[derive(Default)]
pub(super) struct Moves {
    pending: Option<Move>,
    /// How many events came after the pending move.
    events: u32,
}

impl Moves {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_none()
    }

    pub(super) fn hold(&mut self, first: Move) {
        self.pending = Some(first);
        self.events = 0;
    }

    /// Takes the pending move if it has this cookie.
    pub(super) fn take(&mut self, cookie: u32) -> Option<Move> {
        self.pending.take_if(|first| first.cookie == cookie)
    }

    /// Takes the pending move if its second half is no longer expected. With `path`, does so only
    /// if the order of the move and of an event at `path` matters, or if too many events have come.
    pub(super) fn expire(&mut self, path: Option<&[u8]>) -> Option<Move> {
        self.events += 1;
        let is_late = self.events > EVENTS;
        self.pending.take_if(|first| match path {
            Some(path) => is_late || below(path, &first.path).is_some(),
            None => true,
        })
    }
}
