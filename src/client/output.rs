//! [`Output`]: the collected output of a process, and how it ended.

use std::{borrow::Cow, str::Utf8Error};

use bytes::Bytes;

use crate::{Error, ProcessEnd};

/// The collected output of a process, in bytes, and how the process ended.
///
/// Under protocol v1, [`end`](Self::end) doesn't tell whether the code succeeded: every script ends
/// as [`ProcessEnd::Unknown`]. If you need the exit code on a service that speaks only v1, use
/// [`SandboxBuilder::lift`](crate::SandboxBuilder::lift), or let the code print it, for example
/// with `…; echo "exit $?"`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How the process ended.
    pub end: ProcessEnd,
    /// Everything that the process wrote to stdout.
    pub stdout: Bytes,
    /// Everything that the process wrote to stderr.
    pub stderr: Bytes,
    /// Whether the output was cut off: see
    /// [`OutputStream::is_cut`](crate::OutputStream::is_cut).
    pub cut: bool,
}

impl Output {
    /// Whether the process exited with code 0: see [`ProcessEnd::success`].
    pub fn success(&self) -> bool {
        self.end.success()
    }

    /// Its stdout as text.
    ///
    /// # Errors
    ///
    /// Fails if stdout is not UTF-8.
    pub fn stdout_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.stdout)
    }

    /// Its stderr as text.
    ///
    /// # Errors
    ///
    /// Fails if stderr is not UTF-8.
    pub fn stderr_str(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.stderr)
    }

    /// Its stdout as text. U+FFFD replaces bytes that are not UTF-8.
    pub fn stdout_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Its stderr as text. U+FFFD replaces bytes that are not UTF-8.
    pub fn stderr_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }

    /// Returns the output if the process exited with code 0, and an error for every other end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ProcessFailed`](crate::ErrorKind::ProcessFailed). The text says how the process
    /// ended and contains the end of its stderr, at most 2,000 bytes. [`ProcessEnd::Unknown`] is
    /// such an error, too. Under protocol v1, every process ends like that: on a service that
    /// speaks only v1, use [`SandboxBuilder::lift`](crate::SandboxBuilder::lift).
    pub fn error_for_status(self) -> Result<Self, Error> {
        match self.success() {
            true => Ok(self),
            false => Err(Error::process_failed(
                self.end.clone(),
                &self.stderr_lossy(),
            )),
        }
    }
}
