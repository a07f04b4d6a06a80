//! The boundaries of each backend. A test belongs here if it selects the backends itself: each test runs
//! on all that work on this machine. `CI_BACKENDS=1` makes the tests fail if one of them does not work.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod backends;
mod clean_start;
