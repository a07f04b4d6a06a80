//! What runs the code: the traits that a sandbox needs of a backend, and the backends.

use std::{borrow::Cow, io};

use futures::future::BoxFuture;
use tokio::io::AsyncWrite;

use crate::{
    protocol::SandboxId,
    server::{exec::output_pump::Pipe, store::archive::layout::Trees},
};

/// A language that a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    Bash,
}

impl Language {
    /// The supported languages, as error messages name them.
    pub(crate) const NAMES: &'static str = "python, bash";

    /// The program that runs it.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Python => "python3",
            Self::Bash => "bash",
        }
    }

    /// The language that a client names, also by an alias.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "python" | "python3" | "py" => Some(Self::Python),
            "bash" | "sh" => Some(Self::Bash),
            _ => None,
        }
    }
}

/// Makes sandboxes.
pub(crate) trait Backend: Send + Sync + 'static {
    /// Its name, as it is chosen by.
    fn name(&self) -> &'static str;

    /// Makes a sandbox.
    fn create(&self, id: &SandboxId) -> BoxFuture<'_, io::Result<Box<dyn BackendSandbox>>>;

    /// Ends the backend, once every sandbox is deleted.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// Code to run, and how.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) language: Language,
    pub(crate) code: String,
    pub(crate) args: Vec<String>,
    /// Additions to the environment.
    pub(crate) env: Vec<(String, String)>,
    /// The working directory, from the usual one.
    pub(crate) cwd: Option<String>,
}

impl Job {
    /// Code, run as usual.
    pub(crate) fn new(language: Language, code: String) -> Self {
        Self {
            language,
            code,
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
        }
    }

    /// The variables that code gets in addition to the usual ones. `site` is the directory of [`site`] as code sees it:
    /// Python can import from its working directory, as with `python3 -c`, though the code is in a file elsewhere.
    pub(super) fn variables(&self, site: &str) -> Vec<(&str, Cow<'_, str>)> {
        const SEARCHED: &str = "PYTHONPATH";
        let mut variables: Vec<_> = self
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), Cow::from(value)))
            .collect();
        if self.language == Language::Python {
            match variables.iter_mut().rfind(|(name, _)| *name == SEARCHED) {
                Some((_, value)) if !value.is_empty() => *value = format!("{site}:{value}").into(),
                _ => variables.push((SEARCHED, site.to_owned().into())),
            }
        }
        variables
    }

    /// The [`variables`](Self::variables) as the file that a confined process reads them from: on a command line, every
    /// user of the machine could read them, and the helpers that start the code must not have them. The marks come last,
    /// so that the caller cannot replace them.
    #[cfg(target_os = "linux")]
    pub(super) fn pairs<'a>(
        &'a self,
        site: &str,
        marks: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> String {
        let marks = marks.into_iter().map(|(name, mark)| (name, mark.into()));
        let variables = self.variables(site).into_iter();
        let pairs: Vec<_> = variables
            .chain(marks)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("\0")
    }
}

/// How a main process ended, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// One sandbox.
pub(crate) trait BackendSandbox: Send + Sync + 'static {
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

    /// The directories that its archives hold. Nothing that the server trusts is in them.
    fn trees(&self) -> Trees;

    /// Its trees were filled from an archive, before anything has run in it. The error is the reason for
    /// the client.
    fn unpacked(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// Ends every process of the sandbox and removes its files. The error is the reason for the client.
    fn delete(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// Code that was started.
pub(crate) struct Started {
    pub(crate) stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
    pub(crate) process: Box<dyn Process>,
}

/// The processes of one exec.
pub(crate) trait Process: Send {
    /// Resolves when the main process ended. May be called again, and may be dropped.
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>>;

    /// Ends the main process and all its children; resolves when none is left. The error is the
    /// reason for the client.
    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>>;
}
