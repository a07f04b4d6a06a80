//! Tests of the client against peers that run no code: scripted servers that misbehave, and
//! recordings of the cloud-run-sandbox server. Each failure is one error that gives the cause. The
//! client never panics, never hangs and never allocates without bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::large_futures,
    reason = "a test joins the futures of whole sessions, and their size doesn't matter"
)]

#[path = "../support/mod.rs"]
mod support;

mod creating;
mod dialling;
mod frames;
mod hostile;
mod links;
mod options;
mod reconnecting;
mod refusals;
mod replay;
mod replay_machine;
mod secrets;
mod tls;
mod token_source;
