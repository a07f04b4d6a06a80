//! The client against a scripted server that misbehaves. Each failure is one error that gives the
//! cause. The client never panics, never hangs and never allocates without bound.

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
