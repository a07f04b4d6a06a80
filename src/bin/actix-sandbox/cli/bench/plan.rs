//! [`Plan`]: the validated settings of a benchmark.

use std::time::Duration;

use actix_sandbox::{Language, server::Backend};

use super::{condition::Condition, pace::Pace};
use crate::cli::service::Service;

/// What to measure.
pub(super) enum Target {
    Service(Service),
    /// A local server, with the size of its warm pool.
    Local(Backend, usize),
}

/// The settings of a benchmark, validated.
pub(super) struct Plan {
    pub(super) target: Target,
    pub(super) pace: Pace,
    pub(super) execs: u32,
    pub(super) language: Language,
    pub(super) code: String,
    pub(super) timeout: Duration,
    pub(super) reconnect: bool,
    pub(super) fail_if: Vec<Condition>,
}
