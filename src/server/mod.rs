//! A server that speaks the same protocol and really runs code, for newcomers, tests and benchmarks.
//!
//! [`LocalServer`] is a whole server; [`SandboxService`] is to be mounted into an actix-web
//! application. Unix only. It uses [`protocol`](crate::protocol), and neither actors nor clients of
//! this crate.
//!
//! # What it is not
//!
//! It keeps sandboxes apart and cleans up after them, but it confines nothing: code runs as the user
//! of the server and can do what that user can. It listens on the loopback interface unless told
//! otherwise, gives every sandbox a token, and refuses web pages.
//!
//! # How a sandbox runs
//!
//! - `python` and `bash` run with the `python3` and `bash` of this machine, each in a process group of
//!   its own, with a clean environment: `PATH`, `LANG`, `HOME`, `TMPDIR`, `PYTHONUNBUFFERED`, and the
//!   markers `ACTIX_SANDBOX_…` by which the server finds its processes again.
//! - Each sandbox has a directory of its own; the working directory is `HOME`. Files, and processes in
//!   the background, live as long as the sandbox.
//! - Output comes as it is written; pieces within about a millisecond leave as one message. What is
//!   not UTF-8 comes as U+FFFD. What background processes write after their exec ended is dropped.
//! - A client that does not read stops its process, by full pipes, and nothing else.
//! - When its link is lost a sandbox lives on until its idle timeout, and output is kept up to
//!   [`ServerBuilder::output_buffer`].
//!
//! # Inside
//!
//! ```text
//!  socket ── Session (actor: writes) ◄── Link (queue) ◄── Sandbox (task) ◄── Execution (task) ── process
//!     └───── Conversation (task: reads) ── commands ───────► │                    ▲
//!                                                            └── kill, stdin ─────┘
//! ```
//!
//! Sandboxes live on one thread of their own, sessions on the workers of the HTTP server. A sandbox
//! waits for nobody: not for a client that does not read, not for a process that does not.

mod attach;
mod backend;
mod config;
mod error;
mod execute;
mod execution;
mod handoff;
mod incoming;
mod link;
mod local;
mod manager;
mod output;
mod routes;
mod sandbox;
mod service;
mod session;
mod stdin;
mod store;
mod token;
mod watchdog;

pub use config::ServerBuilder;
pub use error::ServerError;
pub use local::LocalServer;
pub use service::SandboxService;
