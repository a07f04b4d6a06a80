//! The actors and their messages, for programs that use actix actors directly.
//!
//! | actor | owns | created by |
//! | --- | --- | --- |
//! | [`SandboxActor`] | one sandbox: its state and its connection | [`into_actor`] |
//! | [`ProcessActor`] | one exec: its output, stdin and exit status | [`Exec`], [`AttachProcess`] |
//!
//! [`into_actor`]: crate::SandboxBuilder::into_actor
//!
//! The handles [`Sandbox`](crate::Sandbox) and [`Process`](crate::Process) are thin wrappers around
//! these messages. The example `actor_messages` uses the actors without the handles.
//!
//! **Lifetime.** A [`SandboxActor`] lives as long as an address of it exists. When the last address
//! is dropped, it closes the connection and stops, even while the client reconnects. A
//! [`ProcessActor`] lives until its process has ended and no address of it exists.
//!
//! **Panics.** A panic stops the actor. Callers that wait for its answer get an error. The other
//! actors of the sandbox end the processes and requests that depended on it.

// Layer 3: IO and routing. The machines decide what happens. A third actor, `ConnectionActor`, owns
// the link and dials again after a loss. Only the sandbox's actor sends messages to it.

#![expect(
    clippy::disallowed_methods,
    reason = "actors send with do_send; credits and budgets bound what is in flight"
)]

/// Emits a debug event under the sandbox's span. The macro checks the span first, because a
/// disabled span doesn't disable events in it.
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
mod inbound;
mod language;
mod output;
mod owner;
mod process;
mod process_messages;
mod processes;
mod random;
mod reply;
mod requests;
mod sandbox;
mod sandbox_messages;
mod settings;
mod state;
mod subscribers;
#[cfg(test)]
mod tests;

pub use crate::machine::Stdin;
pub use crate::protocol::{Builtin, ExecId, ExecOptions};
pub use language::Language;
pub use output::{MergedOutput, OutputStream, ProcessOutput};
pub use process::ProcessActor;
pub(crate) use process::write_taken;
use process_messages::WriteTaken;
pub use process_messages::{
    CloseStdin, FlushStdin, GetPlace, Kill, ProcessPlace, Wait, WriteStdin,
};
pub(crate) use random::random_bits;
pub use reply::Deferred;
use requests::Background;
pub use sandbox::SandboxActor;
pub use sandbox_messages::{
    AttachProcess, Checkpoint, Exec, ExecProgram, GetFeatures, GetState, GetVersion, KillSandbox,
    Open, Opened, SnapshotFilesystem, StartedProcess, Subscribe,
};
pub(crate) use sandbox_messages::{Start, StartKey};
pub(crate) use settings::Settings;
pub(crate) use state::StateReader;

/// Kills a process without waiting for an answer, when its last handle is dropped.
///
/// The message goes to the sandbox's actor, so that the kill is handled before any later exec.
pub(crate) fn kill_in_background(process: ProcessId, sandbox: &actix::Addr<SandboxActor>) {
    sandbox.do_send(Background::KillProcess(process));
}

/// Cancels a [`Start`] whose future was dropped. The request is not sent, or the process that it
/// starts is killed.
pub(crate) fn cancel_in_background(start: StartKey, sandbox: &actix::Addr<SandboxActor>) {
    sandbox.do_send(Background::CancelStart(start));
}

/// Returns a queue that receives the events of a sandbox from now on.
pub(crate) fn subscribe_stream(
    sandbox: &actix::Addr<SandboxActor>,
) -> tokio::sync::mpsc::Receiver<crate::SandboxEvent> {
    let (sink, events) = subscribers::queue();
    sandbox.do_send(requests::AddSubscriber(sink));
    events
}

/// Runs a task on the thread of a sandbox's actor. If the actor is gone, drops the task.
pub(crate) fn run_beside(
    task: futures::future::BoxFuture<'static, ()>,
    sandbox: &actix::Addr<SandboxActor>,
) {
    sandbox.do_send(Background::Run(task));
}

/// Kills a sandbox without a handle, at once or as soon as it is created.
pub(crate) fn abandon_in_background(sandbox: &actix::Addr<SandboxActor>) {
    sandbox.do_send(Background::Abandon);
}
