//! The client against peers that run no code: scripted servers that misbehave, and recordings of a real
//! server. Most tests are rows of "Bad input": the answer is one error that says why, never a panic, a
//! hang or memory without a bound.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::large_futures,
    reason = "whole sessions are joined in one test; nothing depends on the size"
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
