//! [`PlayerBuilder`]: the options of a player.

use std::time::Duration;

use super::Recording;

/// Options of a [`Player`](super::Player).
#[derive(Clone, Debug)]
#[must_use = "the player doesn't listen until it is started"]
pub struct PlayerBuilder {
    pub(super) recording: Recording,
    pub(super) patience: Duration,
    pub(super) keep_time: bool,
}

impl PlayerBuilder {
    /// How long the player waits for the client before it reports a deviation. Default: 30 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether the server's messages keep their recorded times. Default: no.
    pub fn keep_time(mut self, keep: bool) -> Self {
        self.keep_time = keep;
        self
    }
}
