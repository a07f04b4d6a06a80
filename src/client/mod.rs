//! Layer 4: what users see. Handles, builders and streams: a thin coat over the messages of
//! [`actor`](crate::actor).

mod builder;
mod command;
mod language;
mod output;
mod process;
mod process_ref;
mod runtime;
mod sandbox;
mod streams;

pub use builder::{ExistingSandbox, NewSandbox, OpenMode, SandboxBuilder};
pub use command::{Command, ExecBuilder, RunBuilder};
pub use language::Language;
pub use output::Output;
pub use process::Process;
pub use process_ref::ProcessRef;
pub use runtime::Runtime;
pub use sandbox::Sandbox;
pub use streams::{LineStream, OutputExt, TextStream};
