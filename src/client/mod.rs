//! Layer 4: what users see. Handles, builders and streams: a thin coat over the messages of
//! [`actor`](crate::actor).

mod builder;
mod language;
mod process;
mod runtime;
mod sandbox;
mod streams;

pub use builder::{ExistingSandbox, NewSandbox, OpenMode, SandboxBuilder};
pub use language::Language;
pub use process::{ExecBuilder, Output, Process, RunBuilder};
pub use runtime::Runtime;
pub use sandbox::Sandbox;
pub use streams::{LineStream, OutputExt, TextStream};
