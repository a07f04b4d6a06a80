//! Client runtime for remote code sandboxes, built from actors.

pub mod protocol;
#[cfg(feature = "server")]
pub mod server;

pub use protocol::{SandboxId, SandboxToken};
