//! [`Launcher`]: starts the processes of a sandbox on this machine, with markers in their
//! environment by which the [`Sweeper`] finds them.

use std::{
    future::ready,
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::unix::pipe,
    process::{Child, Command},
};

use super::{
    context::ServerContext,
    sweep::{EXEC_MARKER, ID_VARIABLE, SANDBOX_MARKER, SERVER_MARKER, Target},
};
use crate::{
    inside::{
        process::{Exit, Input, Pipe, Process, Started},
        spawn,
        terminal::Terminal,
    },
    protocol::{SandboxId, TerminalSize},
    server::identity::random_hex,
};

/// Number of process groups of a sandbox at which its list drops those without a process.
const MANY_GROUPS: usize = 256;

/// A random marker value. Code must not guess the marker of another sandbox: a process that carries
/// it is killed with that sandbox, and could keep the kill from finishing.
pub(super) fn mark() -> io::Result<String> {
    random_hex::<16>().map_err(io::Error::from)
}

/// Starts the processes of one sandbox.
pub(super) struct Launcher {
    id: SandboxId,
    /// Marks the processes of this sandbox. The id can't serve as the marker: clients know it, and
    /// another server on this machine may have restored the same sandbox.
    name: String,
    /// The directory of this sandbox.
    root: PathBuf,
    context: Arc<ServerContext>,
    execs: AtomicU64,
    /// The process group of each exec, which may still hold background processes.
    groups: Mutex<Vec<Pid>>,
}

impl Launcher {
    /// `root` is the directory of the sandbox.
    pub(super) fn new(
        id: SandboxId,
        root: PathBuf,
        context: Arc<ServerContext>,
    ) -> io::Result<Self> {
        Ok(Self {
            id,
            name: mark()?,
            root,
            context,
            execs: AtomicU64::new(0),
            groups: Mutex::default(),
        })
    }

    /// The number of the next exec. The first is 1.
    pub(super) fn next(&self) -> u64 {
        self.execs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The name of the next exec.
    pub(super) fn exec(&self) -> io::Result<String> {
        Ok(format!("{}.{}", self.name, mark()?))
    }

    /// The environment variables that mark the processes of an exec.
    pub(super) fn marks<'a>(&'a self, exec: &'a str) -> [(&'static str, &'a str); 4] {
        [
            (SERVER_MARKER, &self.context.server),
            (ID_VARIABLE, self.id.as_str()),
            (SANDBOX_MARKER, &self.name),
            (EXEC_MARKER, exec),
        ]
    }

    /// Starts an exec with marked processes.
    ///
    /// `needs` is dropped when the exec is dropped.
    pub(super) fn spawn(
        &self,
        mut command: Command,
        terminal: Option<TerminalSize>,
        needs: impl Send + 'static,
        exec: String,
    ) -> io::Result<Started> {
        // Do everything that can fail before the process starts: only `MarkedProcess`, which is
        // made afterwards, kills its group.
        let ends = match terminal {
            None => Ends::pipes(&mut command)?,
            Some(size) => Ends::terminal(&mut command, size)?,
        };
        let child = command.spawn()?;
        // Closes the process's ends of the pipes in the server.
        drop(command);
        let ended = || io::Error::other("the process ended before the watchdog knew of it");
        let pid = child.id().ok_or_else(ended)?;
        self.context.watchdog.group_began(pid);
        let group = Pid::from_raw(pid.cast_signed());
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() >= MANY_GROUPS {
            groups.retain(|&group| killpg(group, None) != Err(Errno::ESRCH));
        }
        groups.push(group);
        drop(groups);
        Ok(Started {
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
            process: Box::new(MarkedProcess {
                child,
                terminal: ends.terminal,
                group: Some(group),
                exec,
                context: self.context.clone(),
                _needs: Box::new(needs),
            }),
        })
    }

    /// Kills every process of the sandbox. The error is the reason to report to the client.
    pub(super) async fn end_processes(&self) -> Result<(), String> {
        if self.execs.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let groups = self.groups();
        if !cfg!(target_os = "linux") {
            // The number of a process group that ended may have been reused. This risk is taken
            // only where there is no `/proc` to check.
            for &group in &groups {
                let _ = killpg(group, Signal::SIGKILL);
            }
        }
        self.context.sweeper.sweep(self.target()).await
    }

    fn groups(&self) -> Vec<Pid> {
        let groups = self.groups.lock();
        groups.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The processes of the sandbox, for a [`sweep`](super::sweep).
    pub(super) fn target(&self) -> Target {
        Target::Sandbox {
            name: self.name.clone(),
            directory: self.root.clone(),
            groups: self.groups().into_iter().map(Pid::as_raw).collect(),
        }
    }
}

/// The server's ends of the streams of a process.
struct Ends {
    stdin: Input,
    stdout: Pipe,
    stderr: Pipe,
    terminal: Option<Terminal>,
}

impl Ends {
    /// Gives the process three pipes.
    fn pipes(command: &mut Command) -> io::Result<Self> {
        let (stdin, input) = io::pipe()?;
        let (output, stdout) = io::pipe()?;
        let (errors, stderr) = io::pipe()?;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        Ok(Self {
            stdin: Box::new(pipe::Sender::from_owned_fd(input.into())?),
            stdout: Box::new(pipe::Receiver::from_owned_fd(output.into())?),
            stderr: Box::new(pipe::Receiver::from_owned_fd(errors.into())?),
            terminal: None,
        })
    }

    /// Gives the process a terminal.
    fn terminal(command: &mut Command, size: TerminalSize) -> io::Result<Self> {
        let terminal = Terminal::open(size)?;
        command
            .stdin(terminal.inside()?)
            .stdout(terminal.inside()?)
            .stderr(terminal.inside()?);
        spawn::control_terminal(command.as_std_mut());
        let (input, output) = (terminal.duplicate()?, terminal.duplicate()?);
        Ok(Self {
            stdin: Box::new(pipe::Sender::from_owned_fd_unchecked(input)?),
            stdout: Box::new(TerminalOutput(pipe::Receiver::from_owned_fd_unchecked(
                output,
            )?)),
            stderr: Box::new(tokio::io::empty()),
            terminal: Some(terminal),
        })
    }
}

/// The output of a terminal. It ends when no process has the terminal open any more.
struct TerminalOutput(pipe::Receiver);

impl AsyncRead for TerminalOutput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, buffer)) {
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
}

/// The processes of one exec. Also holds the resources that they need.
struct MarkedProcess {
    child: Child,
    /// `None` once the main process has ended, or if there is no terminal.
    terminal: Option<Terminal>,
    /// The process group. `None` once its leader has been reaped, because its number may be reused
    /// then.
    group: Option<Pid>,
    exec: String,
    context: Arc<ServerContext>,
    _needs: Box<dyn Send>,
}

impl Process for MarkedProcess {
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>> {
        Box::pin(async move {
            let status = match self.child.wait().await {
                // The program that embeds the server has taken the status.
                Err(error) if error.raw_os_error() == Some(Errno::ECHILD as i32) => {
                    return Ok(Exit::default());
                }
                status => status?,
            };
            self.terminal = None;
            if let Some(group) = self.group.take() {
                self.context
                    .watchdog
                    .group_ended(group.as_raw().cast_unsigned());
            }
            Ok(Exit {
                code: status.code(),
                signal: status.signal(),
            })
        })
    }

    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if let Some(group) = self.group {
                // On Linux, stop the group first and let the sweep kill it. The sweep finds a child
                // that left the group and has no marker by its parents, which must still exist.
                let signal = if cfg!(target_os = "linux") {
                    Signal::SIGSTOP
                } else {
                    Signal::SIGKILL
                };
                let _ = killpg(group, signal);
            }
            let swept = self
                .context
                .sweeper
                .sweep(Target::Exec(self.exec.clone()))
                .await;
            if let Some(group) = self.group {
                // The leader has not been reaped, so its number can't have been reused.
                let _ = killpg(group, Signal::SIGKILL);
            }
            swept?;
            let waited = self.wait().await;
            waited.map(drop).map_err(|error| error.to_string())
        })
    }

    fn signal(&mut self, signal: i32, group: bool) -> BoxFuture<'_, io::Result<()>> {
        // The leader of the group is the main process. Until it is reaped, its number is not
        // reused.
        let sent = match self.group.map(Pid::as_raw) {
            None => Err(Errno::ESRCH),
            Some(main) => spawn::send_signal(if group { -main } else { main }, signal),
        };
        Box::pin(ready(sent.map_err(io::Error::from)))
    }

    fn resize(&mut self, size: TerminalSize) -> BoxFuture<'_, io::Result<()>> {
        let resized = match &self.terminal {
            None if self.group.is_none() => Err(Errno::ESRCH),
            None => Err(Errno::ENOTTY),
            Some(terminal) => terminal.resize(size),
        };
        Box::pin(ready(resized.map_err(io::Error::from)))
    }
}

impl Drop for MarkedProcess {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
