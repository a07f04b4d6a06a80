//! Client runtime for remote code sandboxes, built from actors.
//!
//! A sandbox is a place on a server where code runs that nobody trusts. This crate creates sandboxes,
//! runs code in them, streams what it prints, feeds its stdin, kills it, and says how it ended; over
//! one WebSocket for each sandbox, to services such as Cloud Run Sandbox, or to the [`LocalServer`] in
//! this crate that really runs bash and python.
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
//! println!("{}", process.wait().await?);
//!
//! sandbox.kill().await?;
//! # Ok(())
//! # }
//! # #[cfg(not(all(unix, feature = "client", feature = "server")))]
//! # fn main() {}
//! ```
//!
//! # Where to look
//!
//! | | |
//! | --- | --- |
//! | [`Sandbox`], [`SandboxBuilder`] | create, attach, run code, store, kill |
//! | [`Process`], [`OutputStream`], [`MergedOutput`], [`ProcessStdin`] | one exec: its streams, its stdin, its end |
//! | [`Command`], [`Output`] | code with arguments, environment, directory, input and timeout |
//! | [`ProcessRef`] | a process that another program goes on with |
//! | [`OutputPolicy`] | what happens to output that nobody reads |
//! | [`ReconnectPolicy`], [`SandboxEvent`] | a link that is lost, and what is told of it |
//! | [`TokenSource`] | a bearer token for each dial |
//! | [`Error`], [`ErrorKind`], [`Effect`] | why something failed, and whether it took effect |
//! | [`ProcessEnd`], [`SandboxEnd`] | how things ended; a lost process is told from a finished one |
//! | [`actor`] | the actors and their messages, for programs made of actors |
//! | [`server`] | the local server |
//! | `test_util` | recordings and a player, a proxy with faults: to test your programs |
//! | [`protocol`], [`machine`] | the wire and the state machines: pure, usable alone |
//!
//! # Errors
//!
//! Everything that is awaited settles: with a result, or with an error that says why, also when an
//! actor panics, the network goes, or the last handle is dropped. The text of an [`Error`] holds the
//! server's own reason and says what to do; [`Error::kind`] is for programs; [`Error::effect`] tells
//! whether the request took effect all the same. A non-zero exit is no error, and neither is the end
//! of a process whose sandbox was lost: that is [`ProcessEnd::SandboxLost`].
//!
//! # Two versions of the protocol
//!
//! Deployed services speak v1. This crate adds [v2](protocol::v2): output and stdin arrive exactly once whatever
//! happens to the connection, code that is asked for runs once, endings are told by cause, and any number of processes
//! run at once. It is offered at every dial and spoken where the server selects it, as the [`LocalServer`] does;
//! [`Sandbox::protocol_version`] tells. What a v1 service cannot do is refused with [`ErrorKind::Unsupported`], or, where
//! it can only not tell, reported as unknown.
//!
//! # Cancellation and dropping
//!
//! Dropping a handle kills nothing, except where it says so
//! ([`kill_on_drop`](Command::kill_on_drop)). With the last handle of a sandbox its connection is
//! closed. Dropping the future of a creation or an exec before it resolves kills what it would have
//! given: nobody could get a handle to it. Dropping that of an attach only closes the connection.
//!
//! # Secrets
//!
//! Tokens and header values are never in a log, an error or a `Debug`.
//!
//! # Features
//!
//! `client` (default): all of the above but the server. `tls` (default): `wss://`. `google-auth`: ID tokens
//! of Google on every dial. `server`: the local server, Unix only. `cli`: the command `actix-sandbox`. `test-util`: `test_util`, to test your own programs. Without any: [`protocol`] and [`machine`] alone, without tokio or actix.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "client")]
pub mod actor;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod error;
pub mod machine;
pub mod protocol;
#[cfg(any(feature = "client", all(unix, feature = "server")))]
mod rest;
#[cfg(all(unix, feature = "server"))]
pub mod server;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod test_util;
#[cfg(feature = "client")]
mod transport;

#[cfg(feature = "client")]
pub use actor::{MergedOutput, OutputStream, ProcessActor, ProcessOutput, SandboxActor};
#[cfg(feature = "client")]
pub use client::{
    Command, EventStream, ExistingSandbox, Language, LineStream, NewSandbox, OpenMode, Output,
    Process, ProcessRef, ProcessStdin, Runtime, Sandbox, SandboxBuilder, TextStream,
};
#[cfg(feature = "client")]
pub use error::{Error, ErrorKind};
pub use machine::{
    Effect, OutputPolicy, Overflow, ProcessEnd, ProcessId, ReconnectPolicy, SandboxEnd,
    SandboxEvent, SandboxState,
};
pub use protocol::{SandboxId, SandboxToken, Status, StdStream, Version as ProtocolVersion};
#[cfg(all(unix, feature = "server"))]
pub use server::LocalServer;
#[cfg(feature = "client")]
pub use transport::{BearerToken, TokenError, TokenSource, UrlError};

/// The programs of the README, so that they compile.
#[cfg(all(doctest, unix, feature = "client", feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
