//! Layer 1: the state machines. They are pure: they take messages and instants, and return actions.
//!
//! Every machine has four kinds of method: `handle_*` (the network reports something), commands
//! (the user requests something), `poll_*` (what to do next) and getters. Time and seeds are
//! arguments, so every order of events can be tested without a socket and without waiting.
//!
//! | machine | owns |
//! | --- | --- |
//! | [`Connection`] | the state of the link: dialling, open, backing off or closed |
//! | [`Sandbox`] | the state of a sandbox, and the requests that wait for answers |
//! | [`Process`] | one exec at the client: its end, its stdin and the callers that wait |
//! | [`OutputBuffer`] | the unread output of one exec, within a budget |
//! | [`ServedExec`] | one named exec at the server (v2): its unacknowledged output, its stdin and its end |
//! | [`Backoff`], [`Keepalive`] | when to dial again, and when to treat a link as dead |

#![cfg_attr(
    not(feature = "unstable-internals"),
    allow(unreachable_pub, reason = "reachable with that feature")
)]
#![cfg_attr(
    not(all(unix, feature = "client", feature = "server")),
    allow(dead_code, unused_imports, reason = "only the other side uses it")
)]

mod backoff;
mod connection;
mod end;
mod event;
mod exec;
mod failure;
mod keepalive;
mod link_error;
mod output;
mod sandbox;
mod stream;
#[cfg(test)]
mod tests;

pub use backoff::{Backoff, ReconnectPolicy};
pub use connection::{
    Connection, ConnectionAction, ConnectionConfig, ConnectionState, Epoch, LinkCommand, LinkFact,
};
pub use end::{ProcessEnd, SandboxEnd, SandboxState};
pub use event::SandboxEvent;
pub use exec::{
    Process, ProcessAction, ProcessConfig, ProcessFact, ProcessReply, ServedExec, StoredExec,
};
pub use failure::{Effect, Failure};
pub use keepalive::{Keepalive, KeepaliveAction, KeepaliveConfig};
pub use link_error::{LinkError, UpgradeRefusal};
pub use output::{Finish, OutputBuffer, OutputPolicy, Overflow, Piece};
pub use sandbox::{
    Mode, NewExec, Sandbox, SandboxAction, SandboxConfig, SandboxReply, Stdin, Timeouts,
};

/// The number of a request, chosen by the owner of the machine. The machine settles each request
/// exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The number of a process in its sandbox. The client counts from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.0)
    }
}

/// Returns `now + wait`. Limits the wait to a hundred years, because a longer one, such as
/// `Duration::MAX`, could overflow the clock and panic.
fn later(now: std::time::Instant, wait: std::time::Duration) -> std::time::Instant {
    const HUNDRED_YEARS: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 86_400);
    now + wait.min(HUNDRED_YEARS)
}
