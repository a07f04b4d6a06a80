//! What runs the code: the traits that a sandbox needs of a backend, and the backends.

mod choose;
#[cfg(target_os = "linux")]
mod confine;
mod files;
#[cfg(target_os = "linux")]
mod gvisor;
mod host;
pub(super) mod launch;
#[cfg(target_os = "linux")]
mod namespace;
mod remove;
pub(super) mod spawn;
mod sweep;

use std::{io, path::Path};

use futures::future::BoxFuture;
use tokio::io::AsyncWrite;

pub(super) use choose::start;
pub(super) use remove::remove_tree;

use super::{
    output::Pipe,
    store::archive::{Packer, Unpacker},
};
use crate::protocol::SandboxId;

/// The trees of files that every backend has, in an archive: `HOME`, and the place for temporary files.
const HOME: &str = "home";
const TEMPORARY: &str = "tmp";

/// The tree of what else is at `/`, of a backend in which a sandbox has a root of its own.
const ROOT: &str = "root";

/// The tree with the memory of its processes, of a backend that can store that.
const MEMORY: &str = "memory";

/// That an archive that was unpacked here has no memory: only the backend that stored it could go on with it.
fn without_memory(directory: &Path) -> io::Result<()> {
    match directory.join(MEMORY).exists() {
        false => Ok(()),
        true => Err(io::Error::other(
            "it holds the memory of processes, with which only the backend `gvisor` goes on",
        )),
    }
}

/// A language that a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    Bash,
}

impl Language {
    /// The supported languages, as error messages name them.
    pub(super) const NAMES: &'static str = "python, bash";

    /// The program that runs it.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Bash => "bash",
        }
    }

    /// The language that a client names, also by an alias.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "python" | "python3" | "py" => Some(Self::Python),
            "bash" | "sh" => Some(Self::Bash),
            _ => None,
        }
    }
}

/// Makes sandboxes.
pub(super) trait Backend: Send + Sync + 'static {
    /// Its name, as it is chosen by.
    fn name(&self) -> &'static str;

    /// Makes a sandbox.
    fn create(&self, id: &SandboxId) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>>;

    /// Ends the backend, once every sandbox is deleted.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// Code to run, and how.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) language: Language,
    pub(super) code: String,
    pub(super) args: Vec<String>,
    /// Additions to the environment.
    pub(super) env: Vec<(String, String)>,
    /// The working directory, from the usual one.
    pub(super) cwd: Option<String>,
}

impl Job {
    /// Code, run as usual.
    pub(super) fn new(language: Language, code: String) -> Self {
        Self {
            language,
            code,
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
        }
    }
}

/// How a main process ended, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

/// One sandbox.
pub(super) trait BackendSandbox: Send + Sync + 'static {
    /// Starts code. The error is the reason for the client.
    fn start(&self, job: Job) -> BoxFuture<'_, Result<Started, String>>;

    /// Ends every process of the sandbox before a checkpoint, so that its files stay as they are. A backend that can store
    /// memory puts that beside the files first; the processes go on when the files are unpacked, or when code is next
    /// started. The error is the reason for the client.
    fn freeze(&self) -> BoxFuture<'_, Result<(), String>>;

    /// The checkpoint failed: what [`freeze`](Self::freeze) has stored goes on. The error is the reason for the log.
    fn thaw(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Adds every file of the sandbox to an archive.
    fn pack(&self, packer: Packer) -> BoxFuture<'_, io::Result<Packer>>;

    /// Takes the files of an archive over, into a sandbox in which nothing has run yet.
    fn unpack(&self, unpacker: Unpacker) -> BoxFuture<'_, io::Result<()>>;

    /// Ends every process of the sandbox and removes its files. The error is the reason for the client.
    fn delete(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Code that was started.
pub(super) struct Started {
    pub(super) stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub(super) stdout: Pipe,
    pub(super) stderr: Pipe,
    pub(super) process: Box<dyn Process>,
}

/// The processes of one exec.
pub(super) trait Process: Send {
    /// Resolves when the main process ended. May be called again, and may be dropped.
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>>;

    /// Ends the main process and all its children; resolves when none is left. The error is the
    /// reason for the client.
    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>>;
}
