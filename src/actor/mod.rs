//! Layer 3: the actors and their messages. Thin: IO and routing; what to do is decided in [`machine`](crate::machine).
//!
//! | actor | owns | talks to |
//! | --- | --- | --- |
//! | [`SandboxActor`] | the sandbox's life | its connection, its processes, subscribers |
//! | [`ProcessActor`] | one exec: output, stdin, how it ended | its sandbox |
//! | [`ConnectionActor`] | the link, and when to dial it again | its sandbox |
//!
//! The handles of [`Sandbox`](crate::Sandbox) and [`Process`](crate::Process) are a thin wrapper
//! around exactly these messages. See the example `actor_messages` for a program that uses the actors alone.
//!
//! **Lifetime.** A [`SandboxActor`] lives as long as an address of it; with the last one it closes the
//! connection and ends, also in the middle of an outage. A [`ProcessActor`] lives until its process
//! has ended and no address of it is left.
//!
//! **Panics.** A panic in an actor ends it. Everybody who waits for an answer of it gets an error, and
//! the other actors of the sandbox learn of it and end what depended on it.

#![expect(
    clippy::disallowed_methods,
    reason = "do_send is what actors have; what is in flight is bounded by credits, budgets and one-at-a-time rules"
)]

/// A debug event under the sandbox's span. A span that is off does not keep its events from being
/// emitted, so that is asked first.
macro_rules! debug_in {
    ($span:expr, $($event:tt)+) => {
        if !$span.is_disabled() {
            $span.in_scope(|| tracing::debug!($($event)+));
        }
    };
}

use crate::machine::ProcessId;

mod connection;
mod driver;
mod messages;
mod outgoing;
mod output;
mod process;
mod random;
mod reply;
mod sandbox;
mod settings;
mod state;
mod subscribers;
#[cfg(test)]
mod tests;

pub use crate::transport::Credit;
pub use connection::{ConnectionActor, ConnectionCommand, ConnectionReport};
pub use messages::{
    AttachProcess, Checkpoint, CloseStdin, Exec, FlushStdin, GetPlace, GetState, GetVersion, Kill,
    KillSandbox, Open, Opened, ProcessPlace, SnapshotFilesystem, StartedProcess, Stdin, Subscribe,
    Wait, WriteStdin,
};
pub(crate) use messages::{Start, StartKey};
pub use output::{MergedOutput, OutputStream, ProcessOutput};
pub use process::ProcessActor;
pub(crate) use process::Unclaimed;
pub(crate) use random::random_bits;
pub use reply::Deferred;
pub use sandbox::SandboxActor;
pub(crate) use settings::Settings;
pub(crate) use state::StateReader;

/// Kills a process without waiting for the answer, for a handle that is being dropped.
///
/// It goes through the sandbox's actor, so that an exec that is asked for next comes after it.
pub(crate) fn kill_in_background(process: ProcessId, sandbox: &actix::Addr<SandboxActor>) {
    sandbox.do_send(sandbox::Unheld(process));
}

/// Nobody waits for a start any more: it is not sent, or what it starts is killed.
pub(crate) fn cancel_in_background(start: StartKey, sandbox: &actix::Addr<SandboxActor>) {
    sandbox.do_send(sandbox::CancelStart(start));
}

/// Subscribes the reader of a stream to the events of a sandbox.
pub(crate) fn subscribe_stream(
    sandbox: &actix::Addr<SandboxActor>,
) -> tokio::sync::mpsc::Receiver<crate::SandboxEvent> {
    let (sink, events) = subscribers::queue();
    sandbox.do_send(sandbox::AddSubscriber(sink));
    events
}

/// Kills a sandbox to which no handle is left, now or as soon as it is there.
pub(crate) fn discard_in_background(sandbox: &actix::Addr<SandboxActor>) {
    sandbox.do_send(sandbox::Discard);
}
