//! Tests of the ports of a sandbox, end to end, on the backend that `ACTIX_SANDBOX_BACKEND` names.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod connecting;
mod forwarding;
mod interrupted;
mod listing;
mod messages;
mod program;
