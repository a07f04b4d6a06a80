//! Tests of the command `actix-sandbox`, run as a process: its arguments, its output, how it
//! handles signals, and the files that it leaves. `program` in `tests/support` starts the process.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod doctor;
mod failures;
mod files;
mod forward;
mod run;
mod sandboxes;
mod serve;
mod service;
mod shell;
mod top;
