//! [`ServerError`]: why a server did not start. Uses nothing of the crate.

use std::{fmt, io, path::PathBuf};

/// Why a server did not start.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address could not be listened on.
    #[error(
        "cannot listen on {address}: choose another address, or port 0 for a free one \
         (`LocalServer::builder().address(\"127.0.0.1:0\")`): {source}"
    )]
    Bind {
        /// The address that was asked for.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory for the sandboxes could not be made.
    #[error(
        "cannot use {} for the sandboxes (`.directory(…)`, `--directory`): {source}",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory for snapshots and checkpoints could not be used.
    #[error(
        "cannot use {} for snapshots and checkpoints (`.state_directory(…)`, `--state`): {source}",
        path.display()
    )]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The place for snapshots and checkpoints that a URL names could not be used.
    #[error("cannot use {url} for snapshots and checkpoints (`.state_url(…)`): {source}")]
    StateUrl {
        /// The URL, without what may be a secret.
        url: String,
        /// What is in the way.
        #[source]
        source: io::Error,
    },
    /// The secret of the server could not be used.
    #[error("cannot use the secret of the server ({place}): {source}")]
    Secret {
        /// Where it comes from.
        place: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// The helper process that cleans up after a crash of this one could not be started.
    #[error(
        "cannot start `sh`, which the server needs to clean up after a crash: is it on the PATH? {source}"
    )]
    Watchdog {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A variable of the environment names no backend.
    #[error("the variable {variable} cannot be used: {reason}")]
    UnknownBackend {
        /// Its name.
        variable: &'static str,
        /// What it holds, and what was expected.
        reason: String,
    },
    /// [`Backend::Confined`](super::Backend::Confined) was chosen, and no backend that confines
    /// works here.
    #[error("no backend that confines code works here: {reason}")]
    NotConfined {
        /// What each of them lacks.
        reason: String,
    },
    /// The backend that was chosen does not work here.
    #[error(
        "the backend `{backend}` does not work here: {reason}; choose another (`.backend(Backend::Host)` runs code as this user, \
         `Backend::Auto` takes the best that works)"
    )]
    Backend {
        /// Its name.
        backend: &'static str,
        /// What is in the way.
        reason: String,
    },
    /// A limit of the sandboxes is so small that no program could start in them.
    #[error(
        "the option `{option}` is {given}{unit}, which is too little: at least {least} are needed"
    )]
    Limit {
        /// The method that sets it.
        option: &'static str,
        /// What it was set to.
        given: u64,
        /// The least that can be used.
        least: u64,
        /// What is counted, after a space; empty where the option says it.
        unit: &'static str,
    },
    /// A thread or its runtime could not be started.
    #[error(
        "cannot start the threads of the server: the system may be out of threads or files: {source}"
    )]
    Runtime {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread of the server ended before it was ready.
    #[error("a thread of the server ended before it was ready; this is a bug")]
    Died,
}

impl fmt::Debug for ServerError {
    /// The text: it is what a `main` that returns the error prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
