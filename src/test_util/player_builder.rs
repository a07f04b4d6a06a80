//! [`PlayerBuilder`]: the options of a player.

use std::time::Duration;

use super::Recording;

/// Options of a [`Player`](super::Player).
#[derive(Clone, Debug)]
#[must_use = "the player listens when it is started"]
pub struct PlayerBuilder {
    pub(super) recording: Recording,
    pub(super) patience: Duration,
    pub(super) keep_time: bool,
}

impl PlayerBuilder {
    /// How long the client may let the player wait, before that is a deviation. Default: 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether what the server does comes after the time that was recorded, not at once. Default: no.
    pub fn keep_time(mut self, keep: bool) -> Self {
        self.keep_time = keep;
        self
    }
}
