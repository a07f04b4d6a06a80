//! Whatever a server does, the client's answer is one error that says why: never a panic, a hang,
//! or memory without a bound. One test for each row of "Bad input", and of "Create and attach" in the
//! table of parity as far as it is about creating.

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

#[path = "../scripted/mod.rs"]
mod scripted;

mod creating;
mod dialling;
mod frames;
mod hostile;
mod links;
mod options;
mod reconnecting;
mod refusals;
mod secrets;
mod tls;
