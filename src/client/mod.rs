//! Layer 4, the public API: handles, builders and streams. They are thin wrappers around the
//! messages of [`actor`](crate::actor).

// First, because rustdoc lists the methods of a type in the order of the modules.
mod sandbox;

mod builder;
mod command;
mod events;
mod files;
mod ignore;
mod json_lines;
mod lifetime;
mod list;
mod metrics;
mod operation;
mod output;
mod ports;
mod process;
mod process_ref;
mod runtime;
mod signal;
mod stdin;
mod streams;
mod terminal;
mod transfer;

use actix::{Actor, Addr, Context, Handler, Message};

pub use builder::{ExistingSandbox, NewSandbox, OpenMode, SandboxBuilder};
pub use command::Command;
pub use events::EventStream;
pub use files::{
    Download, FileEntries, FileEvents, FileReader, FileWriter, Files, TransferProgress,
    TransferSummary, Upload,
};
pub use list::ListSandboxes;
pub use metrics::RunningProcess;
pub use output::Output;
pub use ports::{PortForward, PortStream, WaitForPort};
pub use process::Process;
pub use process_ref::ProcessRef;
pub use runtime::Runtime;
pub use sandbox::Sandbox;
pub use stdin::ProcessStdin;
pub use streams::{LineStream, TextStream};
pub use terminal::{Terminal, TerminalBuilder};

/// Sends a message and waits for the answer. `what` names the request in an error.
async fn ask<A, M>(
    actor: &Addr<A>,
    message: M,
    what: &'static str,
) -> Result<M::Result, crate::Error>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message<Result: Send> + Send + 'static,
{
    let answer = actor.send(message).await;
    answer.map_err(crate::Error::mailbox(what))
}
