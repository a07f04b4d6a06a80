//! Tests of the local server with a raw WebSocket client that sends and checks single messages. A
//! test belongs here if it checks the wire, HTTP requests or the directories of the server.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod archives;
mod bad_input;
mod callers;
mod execute;
mod flows;
mod hostile;
mod killed;
mod lifetime;
mod processes;
mod reconnect;
mod replay;
mod store;
mod unread_output;
mod v2;
