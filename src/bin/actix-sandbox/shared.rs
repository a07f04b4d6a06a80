//! What the commands have in common: arguments that mean the same in each, and errors in their
//! terms.

use std::{error::Error as _, io::Write, path::Path, time::Duration};

use actix_sandbox::{
    Error,
    machine::LinkError,
    server::{Backend, ServerError},
};
use futures::FutureExt;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The variable with the access token. It is no argument: those are seen by everybody on the machine.
pub(crate) const TOKEN: &str = "ACTIX_SANDBOX_TOKEN";
/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// The backend of this name. An empty variable is none, as it is for the library.
pub(crate) fn backend(name: &str) -> Result<Backend, String> {
    match name {
        "" => Ok(Backend::Auto),
        name => name.parse(),
    }
}

/// The access token, of a file or else of the variable, where there is one.
pub(crate) fn token(file: Option<&Path>) -> Result<Option<String>, String> {
    let (token, place) = match file {
        Some(file) => (read(file)?, file.display().to_string()),
        None => match std::env::var(TOKEN) {
            Ok(token) => (token, format!("the variable {TOKEN}")),
            Err(std::env::VarError::NotPresent) => return Ok(None),
            Err(error) => return Err(format!("the variable {TOKEN} cannot be used: {error}")),
        },
    };
    let token = token.trim();
    let is_sendable = token.bytes().all(|byte| byte.is_ascii_graphic());
    match token.len() >= SHORTEST_TOKEN && is_sendable {
        true => Ok(Some(token.to_owned())),
        false => Err(format!(
            "the access token in {place} cannot be used: expected at least {SHORTEST_TOKEN} characters, of ASCII, without \
             spaces; `head -c 24 /dev/urandom | base64` makes one"
        )),
    }
}

/// Why a server did not start, with the flags that change it: the library names its methods.
pub(crate) fn not_started(error: &ServerError) -> String {
    match error {
        ServerError::Bind { address, source } => format!(
            "cannot listen on {address}: {source}; choose another `--address`, for example 127.0.0.1:0 \
             for a free port"
        ),
        ServerError::Directory { path, source } => format!(
            "cannot use {} for the sandboxes: {source}; name a directory that this user may write to \
             (`--directory`)",
            path.display()
        ),
        ServerError::StateDirectory { path, source } => format!(
            "cannot use {} for snapshots and checkpoints: {source}; name a directory that belongs to \
             this user (`--state`)",
            path.display()
        ),
        ServerError::StateUrl { url, source } => {
            format!("cannot use {url} for snapshots and checkpoints (`--state`): {source}")
        }
        ServerError::Backend { backend, reason } => format!(
            "the backend `{backend}` does not work here: {reason}; choose another (`--backend host` runs \
             code as this user, `--backend auto` takes the best that works)"
        ),
        ServerError::NotConfined { reason } => format!(
            "no backend that confines code works here: {reason}; to run trusted code as this user, \
             use `--backend host`"
        ),
        ServerError::Limit {
            option,
            given,
            least,
            unit,
        } => {
            let flag = option.replace('_', "-");
            format!("`--{flag}`: {given}{unit} is too little; at least {least} are needed")
        }
        error => error.to_string(),
    }
}

/// Why a call of the client failed, with the flags that change it: the library names its methods.
pub(crate) fn failed(error: &Error) -> String {
    let cause = error.source().and_then(|it| it.downcast_ref());
    match cause {
        Some(
            cause @ LinkError::UpgradeRefused {
                status: 401 | 403,
                reason: None,
                ..
            },
        ) => format!(
            "cannot open the sandbox: {cause}; the service may want a token: give it in a file \
             (`--token-file`) or the variable {TOKEN}"
        ),
        _ => error.to_string(),
    }
}

/// Writes a line to the standard error. `eprintln!` would panic where the reader of that is gone.
pub(crate) fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "actix-sandbox: {line}");
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file).map_err(|error| {
        format!(
            "cannot read the access token from {}: {error}",
            file.display()
        )
    })
}

/// Lets this process open as many files as its hard limit permits. Many shells start programs with
/// a soft limit of 1024.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it was");
    }
}

/// Signals that come so soon after the first are part of it: `timeout` and cargo send two at once.
pub(crate) const SAME_WITHIN: Duration = Duration::from_secs(2);

/// The signals that end a command.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Those that came so far are not waited for.
    pub(crate) fn forget(&mut self) {
        while self.next().now_or_never().is_some() {}
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
