//! Client runtime for remote code sandboxes, built from actors.

pub mod protocol;

pub use protocol::{SandboxId, SandboxToken};
