//! Tests of the client and the local server together, with real bash and Python. A test belongs
//! here if it checks what a user of the crate sees. Tests of v2 on broken links are in
//! `tests/lossless`.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod attach;
mod chaos;
mod exec;
mod handoff;
mod late_output;
mod lifetime;
mod normal_machine;
mod parity;
mod port_refused;
mod reconnect;
mod record_and_play;
mod stores;
mod streams;
