//! [`Cli`]: client commands of `actix-sandbox`, with a home directory of their own.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, sync_channel},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::program::heed_signals;

/// How long a command may run.
const LIMIT: Duration = Duration::from_secs(60);

/// A user of the command: a home directory, and a service.
pub(crate) struct Cli {
    home: TempDir,
    url: String,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit status, or 128 and the number of the signal that ended the command.
    pub(crate) status: i32,
    /// The output. U+FFFD replaces bytes that are not UTF-8.
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Cli {
    /// A user without sandboxes, whose commands use the service at `url`.
    pub(crate) fn new(url: &str) -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            url: url.to_owned(),
        }
    }

    /// The home directory, which is also the working directory of commands.
    pub(crate) fn home(&self) -> &std::path::Path {
        self.home.path()
    }

    /// A command with these arguments, whose stdin is empty.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actix-sandbox"));
        command.args(arguments);
        self.adopt(&mut command);
        command
    }

    /// Makes this the user of a command, whose stdin is empty.
    pub(crate) fn adopt(&self, command: &mut Command) {
        heed_signals();
        let home = self.home.path();
        command
            .current_dir(home)
            .env("HOME", home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("XDG_DATA_HOME", home.join("data"))
            .env("SANDBOX_URL", &self.url)
            .env_remove("ACTIX_SANDBOX_TOKEN")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
    }

    /// Runs a command until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Running::start(self.command(arguments)).end()
    }

    /// Runs a command that must succeed. Returns its stdout.
    pub(crate) fn stdout_of(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {ran:?}");
        ran.stdout
    }

    /// Starts a command.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Creates a sandbox and returns its id.
    pub(crate) fn create(&self) -> String {
        self.stdout_of(&["create"]).trim().to_owned()
    }
}

/// A running command. Dropping it kills the command.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a command. Its stdout and stderr are pipes.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start_as_is(command)
    }

    /// Starts a command with the standard streams that it has.
    pub(crate) fn start_as_is(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// The process, for example to read from its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends a signal to the command, for example `INT`.
    pub(crate) fn signal(&self, signal: &str) {
        super::send_signal(self.0.id(), signal);
    }

    /// Waits until the command ends. Panics if it runs too long.
    pub(crate) fn end(mut self) -> Ran {
        let stdout = collect(self.0.stdout.take());
        let stderr = collect(self.0.stderr.take());
        let status = self.status();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran {
            status: code(status),
            stdout: text(stdout.join().unwrap()),
            stderr: text(stderr.join().unwrap()),
        }
    }

    /// Waits until the command ends. A thread kills it after [`LIMIT`].
    fn status(&mut self) -> ExitStatus {
        let (done, is_done) = sync_channel::<()>(1);
        let pid = self.0.id().to_string();
        let watchdog = thread::spawn(move || {
            let is_late = is_done.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            if is_late {
                let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
            }
            is_late
        });
        let status = self.0.wait().unwrap();
        drop(done);
        assert!(!watchdog.join().unwrap(), "it still ran after {LIMIT:?}");
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Not UTF-8, and complete only if the pipe is closed.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let signal = || status.signal().map_or(-1, |signal| 128 + signal);
    status.code().unwrap_or_else(signal)
}
