//! [`Ends`]: both ends of the streams between the agent and the main process of an exec.

use std::io::{self, PipeReader, PipeWriter};

use super::main_process::{Identity, Stdio};
use crate::{inside::terminal::Terminal, protocol::TerminalSize};

/// The streams of an exec: three pipes, or a terminal.
pub(super) struct Ends {
    /// The main process's ends.
    pub(super) stdio: Stdio,
    /// The agent's end of stdin. Reads and writes of the agent don't block.
    pub(super) stdin: PipeWriter,
    pub(super) stdout: PipeReader,
    /// `None` for a terminal: there, stderr is part of stdout.
    pub(super) stderr: Option<PipeReader>,
    pub(super) terminal: Option<Terminal>,
}

impl Ends {
    pub(super) fn new(
        terminal: Option<TerminalSize>,
        identity: Option<Identity<'_>>,
    ) -> io::Result<Self> {
        match terminal {
            None => Self::pipes(identity),
            Some(size) => Self::terminal(size, identity),
        }
    }

    fn pipes(identity: Option<Identity<'_>>) -> io::Result<Self> {
        let pipes = || Ok([io::pipe()?, io::pipe()?, io::pipe()?]);
        let [(stdin, input), (stdout, to_stdout), (stderr, to_stderr)] =
            create_for(identity, pipes)?;
        rustix::io::ioctl_fionbio(&input, true)?;
        for pipe in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        Ok(Self {
            stdio: Stdio {
                stdin,
                stdout: to_stdout,
                stderr: to_stderr,
            },
            stdin: input,
            stdout,
            stderr: Some(stderr),
            terminal: None,
        })
    }

    fn terminal(size: TerminalSize, identity: Option<Identity<'_>>) -> io::Result<Self> {
        let terminal = create_for(identity, || Terminal::open(size))?;
        Ok(Self {
            stdio: Stdio {
                stdin: terminal.inside()?.into(),
                stdout: terminal.inside()?.into(),
                stderr: terminal.inside()?.into(),
            },
            stdin: terminal.duplicate()?.into(),
            stdout: terminal.duplicate()?.into(),
            stderr: None,
            terminal: Some(terminal),
        })
    }
}

/// Calls `create` as the user of code, if the agent is another user.
fn create_for<T>(
    identity: Option<Identity<'_>>,
    create: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match identity {
        Some(identity) => identity.as_user(create),
        None => create(),
    }
}
