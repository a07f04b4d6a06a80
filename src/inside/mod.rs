//! What happens inside one sandbox: processes, their streams and how they end.
//!
//! The first process of a `namespace` or `gvisor` sandbox is an [`agent`](crate::server::agent()).
//! The server talks to it through `remote`. Server and agent exchange `frames`, which carry
//! `messages`. The backend `host` starts processes from the server, with `spawn`. No HTTP, no
//! actors.

#[cfg(target_os = "linux")]
pub(crate) mod agent;
pub(crate) mod builtin;
#[cfg(target_os = "linux")]
pub(crate) mod filter;
pub(crate) mod frames;
pub(crate) mod here;
pub(crate) mod messages;
#[cfg(target_os = "linux")]
pub(crate) mod proc;
pub(crate) mod process;
#[cfg(target_os = "linux")]
pub(crate) mod remote;
pub(crate) mod spawn;
pub(crate) mod terminal;

#[cfg(all(target_os = "linux", feature = "unstable-internals"))]
pub use remote::check_frames;
