//! An exec is code that runs in a sandbox. These are its state machines at both ends of the link.
//!
//! | file | |
//! | --- | --- |
//! | `client/` | [`Process`]: the exec at the client. Sends one stream and receives two |
//! | `server/` | [`ServedExec`]: the exec at the server (v2). Receives one stream and sends two |
//! | `v1/` | how the client makes up for what v1 execs lack |
//!
//! Both ends keep their offsets in [`stream`](super::stream).

mod client;
mod server;
mod v1;

pub use client::{Process, ProcessAction, ProcessConfig, ProcessFact, ProcessReply};
pub use server::{ServedExec, StoredExec};
pub use v1::{Nonce, wrap};
