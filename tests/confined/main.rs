//! Tests of what each backend must stop. A test belongs here if it selects the backends itself.
//! Each test runs on every backend that works on this machine. With `CI_BACKENDS=1`, the tests fail
//! if a backend doesn't work.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod attacks;
mod backends;
mod clean_start;
mod gvisor;
mod limits;
mod processes;
mod warm;
