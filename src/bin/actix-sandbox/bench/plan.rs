//! [`Plan`]: what a benchmark is to do.

use std::time::Duration;

use actix_sandbox::{BearerToken, Language, server::Backend};

/// What is measured.
pub(super) enum Target {
    Url(String),
    Local(Backend),
}

/// What is to be done.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) token: Option<BearerToken>,
    pub(super) sandboxes: Option<u64>,
    pub(super) duration: Option<Duration>,
    pub(super) concurrency: usize,
    /// Arrivals in a second, of an open loop.
    pub(super) rate: Option<f64>,
    pub(super) warm_up: Duration,
    pub(super) execs: u32,
    pub(super) language: Language,
    pub(super) code: String,
    pub(super) timeout: Duration,
    pub(super) reconnect: bool,
}
