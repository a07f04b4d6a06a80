//! Run untrusted code in remote sandboxes.
//!
//! A client creates a sandbox, runs code in it, streams the output, writes to stdin and gets the
//! exit status. It opens one WebSocket per sandbox, either to a service deployed from
//! [cloud-run-sandbox](https://github.com/GoogleCloudPlatform/cloud-run-sandbox), or to the
//! [`LocalServer`] of this crate, which runs bash and Python on this machine.
//!
//! **By default the [`LocalServer`] confines nothing**: code runs as your user. For untrusted code,
//! use `LocalServer::builder().backend(Backend::Confined)`, and call `server::agent()` first in
//! `main`.
//!
//! This program needs the feature `server`:
//!
//! ```
//! # #[cfg(all(unix, feature = "client", feature = "server"))]
//! # #[actix::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use actix_sandbox::{Language, LocalServer, Sandbox};
//! use futures::StreamExt;
//!
//! let server = LocalServer::start().await?; // or the URL of a service
//! let sandbox = Sandbox::create(server.url()).await?;
//!
//! let process = sandbox.exec(Language::Python, "print(input())").await?;
//! process.write_to_stdin("hello\n").await?;
//! let mut lines = process.stdout().lines();
//! while let Some(line) = lines.next().await {
//!     assert_eq!(line?, "hello");
//! }
//! println!("{}", process.wait().await?); // "exited with code 0"
//!
//! sandbox.kill().await?;
//! # Ok(())
//! # }
//! # #[cfg(not(all(unix, feature = "client", feature = "server")))]
//! # fn main() {}
//! ```
//!
//! Handles such as [`Sandbox`] and [`Process`] are `Send + Sync`. They work in an actix System, in
//! any tokio runtime and in a plain thread.
//!
//! # Where to look
//!
//! The [`guide`] explains each topic with tested programs, from first steps to a service in
//! production.
//!
//! | | |
//! | --- | --- |
//! | [`Sandbox`], [`SandboxBuilder`] | create or attach, run code, store, kill |
//! | [`Command`], [`Output`] | code with arguments, environment, directory, input and timeout |
//! | [`Process`], [`OutputStream`], [`MergedOutput`], [`ProcessStdin`] | one process: its streams, stdin and exit status |
//! | [`PortStream`], [`PortForward`] | connections to ports of a sandbox |
//! | [`OutputPolicy`] | backpressure: what happens to output that isn't read |
//! | [`ReconnectPolicy`], [`SandboxEvent`], [`EventStream`] | when the client redials a lost connection; the events of a sandbox |
//! | [`ProcessRef`] | a reference with which another program resumes a process where this program stopped reading |
//! | [`Error`], [`ErrorKind`], [`Effect`] | why a request failed, and whether it took effect |
//! | [`actor`] | the actors and their messages |
//! | [`server`] | the local server, its backends and its threat model |
//! | [`test_util`] | recordings, and a proxy that injects faults |
//!
//! # Errors
//!
//! No future of this crate hangs because an actor panicked, the network failed or the last handle
//! was dropped. Instead, the future resolves with an error that states the reason.
//!
//! The text of an [`Error`] says what failed, why (in the server's words, if it gave a reason) and
//! what to do. Programs match on [`Error::kind`]. [`Error::effect`] tells whether the failed
//! request took effect on the server, if that is known.
//!
//! A non-zero exit status is not an error. Neither is a sandbox that is lost while a process runs:
//! [`Process::wait`] then returns [`ProcessEnd::SandboxLost`].
//!
//! # Protocol versions
//!
//! Services deployed from cloud-run-sandbox speak protocol v1. This crate adds [v2](protocol_v2):
//! exactly-once output and stdin across reconnects, idempotent execs, exit statuses, and concurrent
//! processes. The client offers v2 at each dial and falls back to v1. [`Sandbox::protocol_version`]
//! returns the version in use. A request that v1 can't express fails with
//! [`ErrorKind::Unsupported`]. With [`SandboxBuilder::lift`], a program in the sandbox of a v1
//! service provides what v2 adds to execs.
//!
//! # Dropping and cancellation
//!
//! - Dropping a handle kills nothing, unless [`kill_on_drop`](SandboxBuilder::kill_on_drop) is set.
//! - When the last handle to a sandbox and its processes is dropped, the connection closes. The
//!   sandbox lives on until its idle timeout.
//! - Dropping the future of a creation or of an exec cancels it. If the server has already created
//!   the sandbox or started the process, the client kills it.
//! - Dropping the future of an attach closes the connection; the sandbox lives on.
//! - Dropping the future of another call doesn't withdraw a request that was already sent. The
//!   section "Cancel safety" of a method lists exceptions.
//!
//! # Secrets
//!
//! No log, error or `Debug` output contains a token or the value of a header.
//!
//! # Features
//!
//! | feature | default | adds |
//! | --- | --- | --- |
//! | `client` | yes | the client (Linux, macOS, Windows) |
//! | `tls` | yes | `wss://` and `https://`, with rustls |
//! | `google-auth` | no | a Google ID token on each dial |
//! | `server` | no | the local server (Unix) |
//! | `object-store` | no | server state in an S3 or Google Cloud Storage bucket |
//! | `cli` | no | the command `actix-sandbox` |
//! | `test-util` | no | the module [`test_util`], to test your own programs |
//! | `unstable-internals` | no | the modules `protocol` and `machine`, without a stability guarantee |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(all(unix, feature = "client", feature = "server", feature = "test-util")),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the docs describe every feature; docs.rs builds them with all of them"
    )
)]

#[cfg(feature = "client")]
pub mod actor;
#[cfg(any(feature = "client", all(unix, feature = "server")))]
#[cfg_attr(
    not(all(unix, feature = "server")),
    allow(dead_code, reason = "the client uses all of it")
)]
mod archive;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod error;
#[cfg(all(unix, feature = "server", not(feature = "unstable-internals")))]
mod inside;
#[cfg(all(unix, feature = "server", feature = "unstable-internals"))]
pub mod inside;
#[cfg(feature = "client")]
mod lift;
#[cfg(all(unix, feature = "server"))]
pub mod server;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod test_util;
#[cfg(feature = "client")]
mod transport;
#[cfg(any(feature = "client", all(unix, feature = "server")))]
mod yield_now;

// The pure core. These modules are private without `unstable-internals`, so the compiler warns
// about items that neither the client nor the server uses.
#[cfg(not(feature = "unstable-internals"))]
mod machine;
#[cfg(feature = "unstable-internals")]
pub mod machine;
#[cfg(not(feature = "unstable-internals"))]
mod protocol;
#[cfg(feature = "unstable-internals")]
pub mod protocol;

#[doc = include_str!("protocol/V2.md")]
pub mod protocol_v2 {}

// Its programs, which doctests compile, need these features.
#[cfg(any(
    not(doctest),
    all(unix, feature = "client", feature = "server", feature = "test-util")
))]
pub mod guide;

#[cfg(feature = "client")]
#[doc(inline)]
pub use actor::{Language, MergedOutput, OutputStream};
#[cfg(feature = "client")]
pub(crate) use actor::{ProcessActor, ProcessOutput, SandboxActor};
#[cfg(feature = "client")]
pub use client::{
    Command, Download, EventStream, ExistingSandbox, FileEntries, FileEvents, FileReader,
    FileWriter, Files, LineStream, ListSandboxes, NewSandbox, OpenMode, Output, PortForward,
    PortStream, Process, ProcessRef, ProcessStdin, RunningProcess, Runtime, Sandbox,
    SandboxBuilder, Terminal, TerminalBuilder, TextStream, TransferProgress, TransferSummary,
    Upload, WaitForPort,
};
#[cfg(feature = "client")]
pub use error::{Error, ErrorKind};
pub use machine::{
    Effect, LinkError, OutputPolicy, Overflow, ProcessEnd, ProcessId, ReconnectPolicy, SandboxEnd,
    SandboxEvent, SandboxState, UpgradeRefusal,
};
pub use protocol::{
    Builtin, BuiltinError, BuiltinErrorKind, ConnectEvent, FileEntry, FileEvent, FileKind,
    FileMetadata, FilePath, ListeningPort, Metrics, MetricsLimits, ProcessUsage, Signal,
    SkippedFile, TerminalSize, Transferred, WriteMode,
};
pub use protocol::{
    ListedState, SandboxId, SandboxInfo, SandboxToken, Status, StdStream,
    Version as ProtocolVersion,
};
#[cfg(all(unix, feature = "server"))]
#[doc(inline)]
pub use server::LocalServer;
#[cfg(feature = "client")]
pub use transport::{BearerToken, TokenError, TokenSource};

/// Compiles the programs in the README, as doc tests.
#[cfg(all(doctest, unix, feature = "client", feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
