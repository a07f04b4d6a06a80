//! The text of an [`Error`]: what failed, why, and what to do.

use std::{fmt, io};

use super::{Error, Repr};
use crate::machine::{LinkError, ProcessEnd, SandboxEnd};

/// What to do if the service refuses the upgrade with 401 or 403 and gives no reason.
const AUTHENTICATE: &str = "; the service may need authentication: turn on \
     `.google_auth(true)` (the same as `.use_google_auth(true)`), or add a \
     `.bearer_token_source(…)` or an `Authorization` header (on Cloud Run the caller needs the role \
     roles/run.invoker)";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Repr::Url(error) => error.fmt(f),
            Repr::Builtin(error) => error.fmt(f),
            Repr::LocalFile { what, path, error } => {
                write!(f, "cannot {what} '{}': {}", path.display(), error.io())?;
                match error.io().kind() {
                    io::ErrorKind::FileTooLarge => {
                        f.write_str("; raise it by `.max_bytes(…)` or `.max_entries(…)`")
                    }
                    _ => Ok(()),
                }
            }
            Repr::LocalAddress(error) => write!(f, "cannot listen on the local address: {error}"),
            Repr::Option { option, problem } => write!(f, "the option `{option}` {problem}"),
            Repr::Config(error) => {
                write!(
                    f,
                    "{error} Add `.checkpoint(true)` (the same as `.enable_sandbox_checkpoint(true)`), \
                     or remove the other option."
                )
            }
            Repr::Failure(failure) => {
                failure.fmt(f)?;
                match self.link_error() {
                    Some(LinkError::UpgradeRefused(refusal)) if refusal.needs_credentials() => {
                        f.write_str(AUTHENTICATE)
                    }
                    _ => Ok(()),
                }
            }
            Repr::NotListed(cause) => {
                f.write_str("cannot list the sandboxes: ")?;
                not_listed(cause, f)
            }
            Repr::OutputLost { stream, bytes } => write!(
                f,
                "{bytes} bytes of {stream} were dropped here, because they were not read in time; \
                 read the output while the process runs, or raise the budget or the maximum pause \
                 (`.output_policy(…)`)"
            ),
            Repr::OutputOverflow { budget } => {
                write!(
                    f,
                    "the process was killed, because its unread output exceeded the budget of \
                     {budget} bytes; read the output while the process runs, or raise the budget \
                     (`.output_policy(…)`)"
                )
            }
            Repr::OutputTooLarge { limit } => write!(
                f,
                "the output is larger than the limit of {limit} bytes; read it as a stream, or \
                 raise the limit"
            ),
            Repr::SandboxLost(end @ SandboxEnd::ProcessLost { .. }) => {
                write!(f, "the result may be incomplete: {end}")
            }
            Repr::SandboxLost(end) => write!(
                f,
                "the result may be incomplete, because the sandbox is over: {end}"
            ),
            Repr::ActorGone { what } => {
                write!(
                    f,
                    "cannot {what}: the sandbox's actor is gone, because it panicked or its System \
                     was stopped"
                )
            }
            Repr::Runtime(problem) => write!(f, "cannot start the runtime: {problem}"),
            Repr::ProcessFailed { end, stderr } => {
                match end {
                    ProcessEnd::Unknown => f.write_str(
                        "the server did not report whether the process succeeded; on a service that \
                         speaks only protocol v1, use `.lift(true)`",
                    )?,
                    end => write!(f, "the process did not succeed: {end}")?,
                }
                match stderr.as_str() {
                    "" => Ok(()),
                    stderr => write!(f, "; the end of its stderr:\n{stderr}"),
                }
            }
        }
    }
}

/// Why a list failed. The texts of some causes are about a WebSocket, which a list doesn't use.
fn not_listed(cause: &LinkError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match cause {
        LinkError::UpgradeRefused(refusal) => {
            let (address, status) = (&refusal.address, refusal.status);
            write!(f, "{address} refused the request with HTTP status {status}")?;
            if let Some(reason) = &refusal.reason {
                write!(f, ": {reason}")?;
            }
            match status {
                404 => f.write_str(
                    "; use the URL of the server with its secret path, and a server that can list \
                     sandboxes",
                ),
                _ if refusal.needs_credentials() => f.write_str(AUTHENTICATE),
                _ => Ok(()),
            }
        }
        LinkError::NotWebSocket { address, detail } => write!(
            f,
            "{address} is not an HTTP server: {detail}; is the port right?"
        ),
        LinkError::ConnectTimeout { address, after } => {
            write!(f, "no complete answer from {address} within {after:?}")
        }
        cause => fmt::Display::fmt(cause, f),
    }
}

impl fmt::Debug for Error {
    /// Writes the message, because a `main` that returns the error prints `Debug`. `{:#?}` also
    /// shows the kind and the effect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        f.debug_struct("Error")
            .field("kind", &self.kind())
            .field("effect", &self.effect())
            .field("message", &self.to_string())
            .finish()
    }
}
