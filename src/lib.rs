//! Client runtime for remote code sandboxes, built from actors.

#[cfg(feature = "client")]
pub mod actor;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod error;
pub mod machine;
pub mod protocol;
#[cfg(all(unix, feature = "server"))]
pub mod server;
#[cfg(feature = "client")]
mod transport;

#[cfg(feature = "client")]
pub use actor::{OutputStream, ProcessActor, ProcessOutput, SandboxActor};
#[cfg(feature = "client")]
pub use client::{
    ExecBuilder, Language, LineStream, Output, OutputExt, Process, RunBuilder, Runtime, Sandbox,
    SandboxBuilder, TextStream,
};
#[cfg(feature = "client")]
pub use error::{Error, ErrorKind};
pub use machine::{
    Effect, OutputPolicy, Overflow, ProcessEnd, ProcessId, ReconnectPolicy, SandboxEnd,
    SandboxEvent, SandboxState,
};
pub use protocol::{SandboxId, SandboxToken, Status, StdStream};
#[cfg(all(unix, feature = "server"))]
pub use server::LocalServer;
#[cfg(feature = "client")]
pub use transport::UrlError;
