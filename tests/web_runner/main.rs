//! Tests of the example `web_runner`: by a WebSocket client, and in headless Chromium.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod application;
mod browser;
mod pages;
mod visitor;
mod visitors;
