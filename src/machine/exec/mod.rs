//! One exec: [`Process`] at the client, [`ServedExec`] at the server.

mod client;
mod server;
mod v1;
mod v2;

pub use client::{Process, ProcessAction, ProcessConfig, ProcessFact, ProcessReply};
pub use server::{ServedExec, StoredExec};
pub use v1::{FAILED, Nonce, TrailerFilter, wrap};
pub use v2::Admission;
