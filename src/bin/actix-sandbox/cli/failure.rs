//! [`Failure`]: why a command failed, and its exit status.

use std::{error::Error as _, fmt::Display, io, process::ExitCode, time::Duration};

use actix_sandbox::{Error, LinkError, server::ServerError};

use crate::cli::shared::{self, TOKEN, say};

/// The exit statuses of most commands, for `--help`.
pub(crate) const STATUS: &str =
    "Exit status: 0; 1 if the command failed; 2 for wrong arguments; 130 after Ctrl-C.";

/// The status of a command that failed.
pub(crate) const FAILED: u8 = 1;
/// The status after wrong arguments, as with clap.
pub(crate) const WRONG_ARGUMENTS: u8 = 2;
/// The status of `run`, `shell`, `exec` and `attach` if the command itself failed, so that it
/// differs from the statuses of most programs. `docker run` uses the same.
pub(crate) const COMMAND_FAILED: u8 = 125;
/// The status after a timeout, as with `timeout` of the GNU coreutils.
pub(crate) const TIMED_OUT: u8 = 124;
/// The status that a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 128 + 2;
/// The status that a shell reports for a program that SIGPIPE ended.
const CLOSED_PIPE: u8 = 128 + 13;

/// How long the end of a command waits for the reader of stderr.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// Why a command failed.
pub(crate) struct Failure {
    status: u8,
    /// One sentence. `None` if there is nothing to say.
    reason: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: u8, reason: impl Display) -> Self {
        Self {
            status,
            reason: Some(reason.to_string()),
        }
    }

    /// A failure without a message: the user knows the reason.
    pub(crate) fn quiet(status: u8) -> Self {
        Self {
            status,
            reason: None,
        }
    }

    /// A failed write to this stream. A closed pipe, as in `… | head -1`, ends the command quietly.
    pub(crate) fn output(stream: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::quiet(CLOSED_PIPE),
            _ => Self::new(FAILED, format!("cannot write to {stream}: {error}")),
        }
    }

    /// A read from, or a write to, a stream of the client that failed.
    pub(crate) fn stream(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::new(FAILED, error),
        }
    }

    /// The reason. Empty if there is nothing to say.
    pub(crate) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    /// Drops the message after Ctrl-C, for commands that run until the user ends them.
    pub(crate) fn quiet_if_interrupted(self) -> Self {
        match self.status {
            INTERRUPTED => Self::quiet(INTERRUPTED),
            _ => self,
        }
    }

    /// Replaces the status [`FAILED`] by this one.
    pub(crate) fn with_status(mut self, status: u8) -> Self {
        if self.status == FAILED {
            self.status = status;
        }
        self
    }

    /// Prints the reason and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(reason) = self.reason {
            // In a thread, because a paused reader of stderr must not prevent the end.
            let (done, is_done) = std::sync::mpsc::sync_channel(1);
            std::thread::spawn(move || {
                say(reason);
                let _ = done.send(());
            });
            let _ = is_done.recv_timeout(SAID_WITHIN);
        }
        ExitCode::from(self.status)
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::new(FAILED, reason)
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self::new(FAILED, reason)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(FAILED, describe(&error))
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::new(FAILED, shared::local_not_started(&error))
    }
}

/// What the texts of the library say, and what the user of this command can do instead.
const FLAGS: [(&str, &str); 8] = [
    (
        "`enable_idle_timeout_auto_checkpoint`",
        "`--checkpoint-when-idle`",
    ),
    ("see `SandboxBuilder::lift`", "`--lift` adds it"),
    ("`.lift(true)`", "`--lift`"),
    (
        "`.checkpoint(true)` (`enable_sandbox_checkpoint`)",
        "`--checkpoint`",
    ),
    (
        "`.checkpoint(true)` (the same as `.enable_sandbox_checkpoint(true)`)",
        "`--checkpoint`",
    ),
    (
        "`.max_bytes(…)` or `.max_entries(…)`",
        "`--max-size` or `--max-entries` of `actix-sandbox cp`",
    ),
    ("`.google_auth(true)`", "`--google-auth`"),
    // The commands drop output only under protocol v1.
    (
        "read the output while the process runs, or raise the budget or the maximum pause \
         (`.output_policy(…)`)",
        "`--lift` avoids this",
    ),
];

/// Describes why a client call failed, with the flags to change. The library names its methods
/// instead.
pub(crate) fn describe(error: &Error) -> String {
    let cause = error.source().and_then(|it| it.downcast_ref());
    let token =
        format!("pass an access token in a file (`--token-file`) or in the variable {TOKEN}");
    match cause {
        // The library's text is about its methods.
        Some(LinkError::UpgradeRefused(refusal)) if refusal.needs_credentials() => {
            let refusal = refusal.to_string();
            let refusal = refusal.trim_end_matches('.');
            format!("the service refuses the request: {refusal}; {token}")
        }
        Some(LinkError::UpgradeRefused(refusal)) if [401, 403].contains(&refusal.status) => {
            format!("{}; {token}", error.to_string().trim_end_matches('.'))
        }
        _ => FLAGS
            .iter()
            .fold(error.to_string(), |text, (method, flag)| {
                text.replace(method, flag)
            }),
    }
}
