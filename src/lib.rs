//! Client runtime for remote code sandboxes, built from actors.

pub mod machine;
pub mod protocol;

pub use machine::ReconnectPolicy;
pub use protocol::{SandboxId, SandboxToken};
