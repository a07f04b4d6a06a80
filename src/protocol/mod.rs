//! Layer 0: the wire. Messages with their parsing and printing, statuses, ids and limits.
//!
//! Everything here is pure: no IO, no clock, no runtime. Client and server share this code, so they
//! can't diverge.
//!
//! The names in messages are the field names of the structs ([`ServerMessage`], [`ClientMessage`],
//! [`SandboxConfig`]). A test compares each message with its JSON. Statuses, paths and close codes
//! are in [`names`].
//!
//! ```
//! use actix_sandbox::protocol::{ServerMessage, Status, Version};
//!
//! let frame = br#"{"event":"status_update","status":"SANDBOX_RUNNING"}"#;
//! let message = ServerMessage::parse_as(&frame[..].into(), Version::V1)?;
//! let ServerMessage::Status(update) = message else {
//!     panic!("a status update");
//! };
//! assert_eq!(update.status, Status::SandboxRunning);
//! # Ok::<(), actix_sandbox::protocol::ParseError>(())
//! ```

#![cfg_attr(
    not(feature = "unstable-internals"),
    allow(unreachable_pub, reason = "reachable with that feature")
)]
#![cfg_attr(
    not(all(unix, feature = "client", feature = "server")),
    allow(dead_code, unused_imports, reason = "only the other side uses it")
)]

mod binary;
mod builtin;
mod builtin_error;
mod client_message;
mod config;
mod data;
mod excerpt;
mod file_path;
mod file_result;
mod frame;
mod ids;
mod json;
pub mod labels;
pub mod limits;
pub mod listing;
mod metrics;
pub mod names;
mod pairing;
mod plain;
mod port;
mod reassembly;
mod sandbox_limits;
mod server_message;
mod signal;
mod status;
mod terminal;
mod utf8;
pub mod variables;
mod version;

pub use binary::{Encoded, Piece};
pub use builtin::{Builtin, Extended, MAX_RESULT_BYTES, WriteMode};
pub use builtin_error::{BuiltinError, BuiltinErrorKind};
pub use client_message::{ClientMessage, ExecOptions, ExecRequest, NamedMessage, Program};
pub use config::{ConfigError, MAX_SECONDS, SandboxConfig};
pub use excerpt::excerpt;
pub use file_path::FilePath;
pub use file_result::{
    ArchiveResult, FileEntry, FileEvent, FileKind, FileMetadata, SkippedFile, Transferred,
};
pub use frame::{FrameGuard, FrameHeader, FrameTooLarge};
pub use ids::{ExecId, SandboxId, SandboxToken};
pub use json::ParseError;
pub use listing::{ListedState, SandboxInfo};
pub use metrics::{Metrics, MetricsLimits, ProcessUsage, RunningExec, RunningExecs};
pub use pairing::Pairing;
pub use port::{ConnectEvent, ListeningPort, invalid_port};
pub use reassembly::{Fragment, Reassembly, ReassemblyError};
pub use sandbox_limits::SandboxLimits;
pub use server_message::{
    EndReason, ExecEnd, ExecUpdate, Identity, Outcome, OutputPiece, OutputPlace, OutputView,
    Received, ServerMessage, StatusUpdate,
};
pub use signal::Signal;
pub(crate) use status::Severity;
pub use status::Status;
pub use terminal::TerminalSize;
pub use utf8::{Utf8Decoder, utf8_boundary};
pub use variables::Variables;
pub use version::Version;

/// One of the two output streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StdStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl StdStream {
    /// The `event` name of this stream's messages: `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl std::fmt::Display for StdStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
