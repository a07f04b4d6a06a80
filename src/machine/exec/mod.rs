//! An exec is code that runs in a sandbox. These are its state machines at both ends of the link.
//!
//! | file | |
//! | --- | --- |
//! | `client/` | [`Process`]: the exec at the client. Sends one stream and receives two |
//! | `server/` | [`ServedExec`]: the exec at the server (v2). Receives one stream and sends two |
//!
//! Both ends keep their offsets in [`stream`](super::stream).

mod client;
mod server;

pub use client::{Process, ProcessAction, ProcessConfig, ProcessFact, ProcessReply};
pub use server::{ServedExec, StoredExec};
