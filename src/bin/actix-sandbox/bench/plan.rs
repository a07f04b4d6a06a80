//! [`Plan`]: the validated settings of a benchmark.

use std::time::Duration;

use actix_sandbox::{BearerToken, Language, server::Backend};

/// The service to measure.
pub(super) enum Target {
    Url(String),
    Local(Backend),
}

/// The settings of a benchmark, validated.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) token: Option<BearerToken>,
    pub(super) sandboxes: Option<u64>,
    pub(super) duration: Option<Duration>,
    pub(super) concurrency: usize,
    /// Arrivals per second of an open loop. `None` for a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) warm_up: Duration,
    pub(super) execs: u32,
    pub(super) language: Language,
    pub(super) code: String,
    pub(super) timeout: Duration,
    pub(super) reconnect: bool,
}
