//! Tests of terminals and signals, end to end, on the backend that `ACTIX_SANDBOX_BACKEND` names.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod messages;
mod operations;
mod screens;
mod signals;
