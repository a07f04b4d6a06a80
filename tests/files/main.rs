//! Tests of the operations on files, end to end, on the backend that `ACTIX_SANDBOX_BACKEND` names.
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
mod by_message;
mod full_disk;
mod hostile;
mod interrupted;
mod many;
mod messages;
mod operations;
mod transfers;
mod watching;
