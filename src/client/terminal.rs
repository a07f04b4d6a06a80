//! [`Terminal`]: a terminal in a sandbox, as tokio's [`AsyncRead`] and [`AsyncWrite`].

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Command, Process, ProcessStdin, Sandbox};
use crate::{
    Error, Language, OutputStream, ProcessEnd,
    actor::{Exec, ExecProgram},
    machine::OutputPolicy,
    protocol::{Builtin, TerminalSize},
};

/// The program of a terminal unless another is chosen: a login shell.
const SHELL: [&str; 2] = ["bash", "-l"];

/// The value of `TERM` by default.
const TERM: &str = "xterm-256color";

/// Options of a terminal. [`Sandbox::terminal`] returns this builder, and [`open`](Self::open)
/// starts the program.
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # futures::executor::block_on(async {
/// # let server = actix_sandbox::LocalServer::start().await?;
/// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let mut terminal = sandbox.terminal().size(100, 30).open().await?;
/// terminal.write_all(b"stty size; exit\n").await?;
/// let mut screen = String::new();
/// terminal.read_to_string(&mut screen).await?;
/// assert!(screen.contains("30 100"));
/// # sandbox.kill().await?;
/// # Ok(())
/// # })
/// # }
/// # #[cfg(not(all(unix, feature = "server")))]
/// # fn main() {}
/// ```
#[must_use = "the program runs when the terminal is opened"]
#[derive(Clone, Debug)]
pub struct TerminalBuilder {
    command: Command,
    size: (u16, u16),
}

impl TerminalBuilder {
    /// The number of columns and rows, each from 1 to [`TerminalSize::MAX`]. Default: 80 columns,
    /// 24 rows.
    pub fn size(mut self, columns: u16, rows: u16) -> Self {
        self.size = (columns, rows);
        self
    }

    /// The program, by its path or its name in `PATH`, without arguments. It runs without a shell.
    /// Default: `bash -l`, a login shell.
    pub fn program(mut self, program: impl Into<String>) -> Self {
        self.command
            .set_program(ExecProgram::Argv(vec![program.into()]));
        self
    }

    /// Runs this code instead of a program.
    pub fn code(mut self, language: impl Into<Language>, code: impl Into<String>) -> Self {
        self.command.set_program(ExecProgram::Code {
            language: language.into(),
            code: code.into(),
        });
        self
    }

    /// Adds an argument of the program or the code: see [`Command::arg`]. Call
    /// [`program`](Self::program) first, because it removes earlier arguments. Without it, the
    /// argument is passed to `bash -l`.
    pub fn arg(self, arg: impl Into<String>) -> Self {
        self.change(|command| command.arg(arg))
    }

    /// Adds several arguments, in order.
    pub fn args<A: Into<String>>(self, args: impl IntoIterator<Item = A>) -> Self {
        self.change(|command| command.args(args))
    }

    /// Sets an environment variable, in addition to those of the sandbox. A login shell may replace
    /// it: many set `PATH` as `/etc/profile` says. Default: `TERM` is `xterm-256color`.
    pub fn env(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.change(|command| command.env(name, value))
    }

    /// Sets several environment variables.
    pub fn envs<N: Into<String>, V: Into<String>>(
        self,
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.change(|command| command.envs(vars))
    }

    /// The working directory: see [`Command::cwd`].
    pub fn cwd(self, directory: impl Into<String>) -> Self {
        self.change(|command| command.cwd(directory))
    }

    /// The time limit of the program, rounded down to whole milliseconds. When it elapses, the
    /// server kills the program, which ends as [`ProcessEnd::TimedOut`]. Default: none. The
    /// server's own limit on the run time of processes doesn't apply to terminals.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.change(|command| command.timeout(timeout))
    }

    /// Whether to kill the program when the last handle of the terminal is dropped. Default: yes.
    pub fn kill_on_drop(self, kill: bool) -> Self {
        self.change(|command| command.kill_on_drop(kill))
    }

    /// Starts the program. Resolves when it is running.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the program.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption): the size is out of range.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1
    ///   or doesn't support terminals. Nothing was sent.
    /// - The other errors of [`Command::spawn`].
    pub async fn open(self) -> Result<Terminal, Error> {
        let (columns, rows) = self.size;
        let mut command = self.command;
        command.set_terminal(checked_size(columns, rows)?);
        Ok(Terminal::new(command.spawn().await?))
    }

    fn change(mut self, change: impl FnOnce(Command) -> Command) -> Self {
        self.command = change(self.command);
        self
    }
}

fn checked_size(columns: u16, rows: u16) -> Result<TerminalSize, Error> {
    TerminalSize::new(columns, rows).ok_or_else(|| {
        let most = TerminalSize::MAX;
        let problem =
            format!("is {columns} columns and {rows} rows; each must be from 1 to {most}");
        Error::option("size", problem)
    })
}

impl Sandbox {
    /// Returns a builder for a terminal: a program with a keyboard and a screen, by default a login
    /// shell. Needs protocol v2.
    pub fn terminal(&self) -> TerminalBuilder {
        let shell = SHELL.map(str::to_owned).to_vec();
        let mut exec = Exec::of(ExecProgram::Argv(shell));
        exec.options.binary = true;
        // Nothing on the screen may be dropped, whatever the policy of the sandbox.
        exec.output = Some(OutputPolicy::default());
        let command = Command::of(self.clone(), exec);
        TerminalBuilder {
            command: command.env("TERM", TERM).kill_on_drop(true),
            size: (
                TerminalSize::default().columns(),
                TerminalSize::default().rows(),
            ),
        }
    }
}

/// A terminal in a sandbox. [`TerminalBuilder::open`] returns it.
///
/// Reads return what the program shows, with its control sequences. Writes are keystrokes: Ctrl-C
/// is the byte 3, Ctrl-D is 4, Enter is 13 (carriage return). Every byte arrives exactly once and
/// in order in both directions, even if the connection is lost in between and the client
/// [reconnects](crate::SandboxBuilder::auto_reconnect).
///
/// After the program has exited, reads return the rest of the output, then 0 bytes. The output ends
/// when no process has the terminal open any more, or when the
/// [grace period](Command::output_grace) is over. If the terminal isn't read, the program pauses as
/// soon as its output fills the [budget](OutputPolicy).
///
/// A terminal has no end of input. A [`shutdown`](tokio::io::AsyncWriteExt::shutdown) only ends the
/// writes of this client, and the program doesn't notice it. Write the byte 4 (Ctrl-D) instead. A
/// program that starts, or that sets up its terminal, may drop keys that were typed before.
///
/// **Dropping** a terminal that [`TerminalBuilder::open`] returned kills the program, unless
/// [`kill_on_drop`](TerminalBuilder::kill_on_drop) is `false` or another handle of its
/// [`process`](Self::process) is left. A process to which this program has attached keeps running.
///
/// A terminal keeps the sandbox from becoming idle while its program runs and a client is attached.
///
/// Use `tokio::io::split` to read and write at the same time.
///
/// # Cancel safety
///
/// Reads and writes are cancel safe, like those of [`OutputStream`] and [`ProcessStdin`].
pub struct Terminal {
    process: Process,
    input: ProcessStdin,
    output: OutputStream,
}

impl Terminal {
    /// Reads and writes the terminal of a process, for example of one to which this program has
    /// [attached](Sandbox::attach_process). If the process has no terminal, this reads its stdout
    /// and writes its stdin, and [`resize`](Self::resize) fails.
    pub fn new(process: Process) -> Self {
        Self {
            input: process.stdin(),
            output: process.stdout(),
            process,
        }
    }

    /// Changes the size: see [`Process::resize`].
    ///
    /// # Errors
    ///
    /// Those of [`Process::resize`].
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        self.process.resize(columns, rows).await
    }

    /// Waits until the program has ended: see [`Process::wait`].
    ///
    /// # Errors
    ///
    /// Those of [`Process::wait`].
    pub async fn wait(&self) -> Result<ProcessEnd, Error> {
        self.process.wait().await
    }

    /// Kills the program and its children: see [`Process::kill`].
    ///
    /// # Errors
    ///
    /// Those of [`Process::kill`].
    pub async fn kill(&self) -> Result<(), Error> {
        self.process.kill().await
    }

    /// The program. Its stderr is empty, because a terminal joins both streams.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Process {
    /// Changes the size of the terminal of the process. Resolves when the terminal has the new
    /// size. The foreground processes then get SIGWINCH. Needs protocol v2.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption): a side is not from 1 to
    ///   [`TerminalSize::MAX`].
    /// - [`ErrorKind::Builtin`](crate::ErrorKind::Builtin), kind
    ///   [`NotFound`](crate::BuiltinErrorKind::NotFound): the main process has ended.
    /// - [`ErrorKind::Builtin`](crate::ErrorKind::Builtin), kind
    ///   [`InvalidInput`](crate::BuiltinErrorKind::InvalidInput): the process has no terminal.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1
    ///   or doesn't support terminals. Nothing was sent.
    /// - The errors of [`Sandbox::exec`].
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let size = checked_size(columns, rows)?;
        let exec = self.exec_id("resize the terminal")?;
        self.sandbox().apply(Builtin::Resize { exec, size }).await
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}
