//! The lift against the local server, which speaks v1 here as the reference service does: its start
//! and its life, and attacks from inside of the sandbox. The suites `lossless`, `files`,
//! `terminals`, `ports` and `metrics` run through the lift with `LIFT=1`. `program.rs` runs the
//! tests of the program itself, which are in Python.
#![cfg(all(target_os = "linux", feature = "client", feature = "server"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod life;
mod program;
mod start;
