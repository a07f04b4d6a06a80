//! [`Output`]: what a process printed, and how it ended.

use crate::{Error, ProcessEnd};

/// What a process printed, and how it ended.
///
/// Under protocol v1 [`end`](Self::end) does not tell whether the code succeeded: a failed script ends
/// as [`ProcessEnd::Unknown`] like any other. Where that matters, let the code print it, for example
/// with `…; echo "exit $?"`, or use [`Command::wrap_for_v1`](crate::Command::wrap_for_v1).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub end: ProcessEnd,
    /// Its stdout; what is not UTF-8 is replaced by U+FFFD.
    pub stdout: String,
    /// Its stderr, likewise.
    pub stderr: String,
    /// Whether output was cut off: the process has ended, another one in the background still held
    /// its stdout or stderr when the [grace](crate::Command::output_grace) was over, and what that
    /// prints is dropped. Protocol v1 cannot tell: there it is `false`.
    pub cut: bool,
}

impl Output {
    pub(super) fn new(end: ProcessEnd, stdout: &[u8], stderr: &[u8], cut: bool) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            end,
            stdout: text(stdout),
            stderr: text(stderr),
            cut,
        }
    }

    /// The output of a process that exited with code 0, and an error for every other end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ProcessFailed`](crate::ErrorKind::ProcessFailed), with how it ended and the last lines of its
    /// stderr; also for [`ProcessEnd::Unknown`]: nobody said that it succeeded.
    pub fn error_for_status(self) -> Result<Self, Error> {
        match &self.end {
            ProcessEnd::Exited(0) => Ok(self),
            end => Err(Error::process_failed(end.clone(), &self.stderr)),
        }
    }
}
