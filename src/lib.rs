//! Client runtime for remote code sandboxes, built from actors.

pub mod machine;
pub mod protocol;
#[cfg(feature = "server")]
pub mod server;

pub use machine::ReconnectPolicy;
pub use protocol::{SandboxId, SandboxToken};
