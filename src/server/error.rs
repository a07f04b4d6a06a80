//! [`ServerError`]: why a server did not start. Imports nothing of this crate.

use std::{fmt, io, path::PathBuf};

/// Why a server did not start.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server could not listen on the address.
    #[error(
        "cannot listen on {address}: choose another address, or port 0 for a free one \
         (`LocalServer::builder().address(\"127.0.0.1:0\")`): {source}"
    )]
    Bind {
        /// The configured address.
        address: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The directory for the sandboxes could not be created or used.
    #[error(
        "cannot use {} for the sandboxes (`.directory(…)`, `--directory`): {source}",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
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
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The storage for snapshots and checkpoints that a URL names could not be used.
    #[error("cannot use {url} for snapshots and checkpoints (`.state_url(…)`): {source}")]
    StateUrl {
        /// The URL, without the parts that may contain a secret.
        url: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The secret of the server could not be used.
    #[error("cannot use the secret of the server ({place}): {source}")]
    Secret {
        /// Where the secret comes from.
        place: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The watchdog process, which cleans up after a crash of the server, could not be started.
    #[error(
        "cannot start `sh`, which the server needs to clean up after a crash: is it on the PATH? {source}"
    )]
    Watchdog {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The value of an environment variable doesn't name a backend.
    #[error("the variable {variable} cannot be used: {reason}")]
    UnknownBackend {
        /// The name of the variable.
        variable: &'static str,
        /// The value, and the values that are allowed.
        reason: String,
    },
    /// [`Backend::Confined`](super::Backend::Confined) was selected, but no backend that confines
    /// code works on this machine.
    #[error("no backend that confines code works here: {reason}")]
    NotConfined {
        /// The reason for each of these backends.
        reason: String,
    },
    /// The selected backend does not work on this machine.
    #[error(
        "the backend `{backend}` does not work here: {reason}; choose another (`.backend(Backend::Host)` runs code as this user, \
         `Backend::Auto` takes the best that works)"
    )]
    Backend {
        /// The name of the backend.
        backend: &'static str,
        /// The reason.
        reason: String,
    },
    /// A limit for the sandboxes is so small that no program could start.
    #[error(
        "the option `{option}` is {given}{unit}, which is too little: at least {least} are needed"
    )]
    Limit {
        /// The method that sets the limit.
        option: &'static str,
        /// The configured value.
        given: u64,
        /// The smallest allowed value.
        least: u64,
        /// The unit, with a space before it. Empty if the name of the option gives the unit.
        unit: &'static str,
    },
    /// [`ServerBuilder::warm`](super::ServerBuilder::warm) is greater than the maximum.
    #[error("the option `warm` is {given}, which is too large: the maximum is {most}")]
    WarmTooMany {
        /// The configured value.
        given: usize,
        /// The largest allowed value.
        most: usize,
    },
    /// A [warm pool](super::ServerBuilder::warm) was configured, but the backend `host` has none.
    #[error(
        "the option `warm` needs a backend that confines code, but the backend is `host`: choose \
         `.backend(Backend::Confined)`, or leave out `.warm(…)`"
    )]
    WarmOnHost,
    /// A thread or its runtime could not be started.
    #[error(
        "cannot start the threads of the server: the system may be out of threads or files: {source}"
    )]
    Runtime {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A thread of the server ended before it was ready.
    #[error("a thread of the server ended before it was ready; this is a bug")]
    Died,
}

impl fmt::Debug for ServerError {
    /// Formats the error like `Display`, because a `main` that returns it prints its `Debug` form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
