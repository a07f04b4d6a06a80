//! Tests of protocol v2 end to end: every byte arrives exactly once, and every process ends with
//! its status. The client talks to the local server over real sockets, in some tests through a
//! proxy that breaks links.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod backpressure;
mod bytes;
mod chaos;
mod commands;
mod ends;
mod moves;
mod references;
mod repeated_starts;
mod versions;

use actix_sandbox::OutputStream;
use futures::StreamExt;

/// Reads a stream to its end.
async fn read(mut stream: OutputStream) -> Result<Vec<u8>, actix_sandbox::Error> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

/// Returns pseudo-random bytes. The same seed gives the same bytes.
fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut chance = support::proxy::Chance::new(seed ^ 0xb17e5);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&chance.below(1 << 48).to_le_bytes()[..6]);
    }
    bytes.truncate(length);
    bytes
}
