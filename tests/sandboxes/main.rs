//! Tests of what a client chooses for a whole sandbox (labels, variables, lifetime), and of the list
//! of a server's sandboxes. Client and local server run together.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod lifetime;
mod limits;
mod list;
mod options;
