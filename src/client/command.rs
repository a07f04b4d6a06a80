//! [`Command`]: code to run, with its options.

use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join3;

use super::{Output, Process, Sandbox, streams::READ_LIMIT};
use crate::{
    Error, Language, OutputPolicy, ProcessEnd,
    actor::{Exec, ExecProgram, Start, StartKey, Stdin},
    protocol::{ExecId, TerminalSize},
};

/// Code to run in a sandbox: its arguments, environment, working directory, input and time limit.
///
/// [`Sandbox::command`] returns a command; [`Sandbox::exec`] and [`Sandbox::run`] are short forms.
/// A command works like [`std::process::Command`], except that each option consumes the command and
/// returns it. Run the command with [`spawn`](Self::spawn), [`output`](Self::output) or
/// [`run_to_end`](Self::run_to_end).
///
/// Arguments, environment, working directory, time limit, output grace, [`stdin`](Self::stdin) and
/// [`exec_id`](Self::exec_id) need protocol v2. On a v1 server, a command with one of these options
/// fails with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), and no code runs. On a
/// service that speaks only v1, use [`SandboxBuilder::lift`](crate::SandboxBuilder::lift).
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # futures::executor::block_on(async {
/// # let server = actix_sandbox::LocalServer::start().await?;
/// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
/// use std::time::Duration;
///
/// use actix_sandbox::{Language, ProcessEnd};
///
/// let output = sandbox
///     .command(Language::Bash, r#"echo "$GREETING, $1"; cat; exit 3"#)
///     .arg("world")
///     .env("GREETING", "hello")
///     .stdin("some input\n")
///     .timeout(Duration::from_secs(10))
///     .output()
///     .await?;
/// assert_eq!(output.stdout, "hello, world\nsome input\n");
/// assert_eq!(output.end, ProcessEnd::Exited(3));
/// assert!(output.error_for_status().is_err());
/// # sandbox.kill().await?;
/// # Ok(())
/// # })
/// # }
/// # #[cfg(not(all(unix, feature = "server")))]
/// # fn main() {}
/// ```
#[must_use = "code runs when the command is spawned"]
#[derive(Clone, Debug)]
pub struct Command {
    sandbox: Sandbox,
    exec: Exec,
    kill_on_drop: bool,
    limit: usize,
}

impl Command {
    pub(super) fn new(sandbox: Sandbox, language: Language, code: String) -> Self {
        Self::of(sandbox, Exec::new(language, code))
    }

    pub(super) fn of(sandbox: Sandbox, exec: Exec) -> Self {
        Self {
            sandbox,
            exec,
            kill_on_drop: false,
            limit: READ_LIMIT,
        }
    }

    /// Adds an argument: `$1`, `$2`, … in bash, `sys.argv[1:]` in Python. Default: none.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        let args = match &mut self.exec.program {
            ExecProgram::Argv(argv) => argv,
            _ => &mut self.exec.options.args,
        };
        args.push(arg.into());
        self
    }

    /// Adds several arguments, in order.
    pub fn args<A: Into<String>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable, in addition to those of the sandbox. A later value for the
    /// same name replaces an earlier one.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, env) = (name.into(), &mut self.exec.options.env);
        env.retain(|(other, _)| *other != name);
        env.push((name, value.into()));
        self
    }

    /// Sets several environment variables.
    pub fn envs<N: Into<String>, V: Into<String>>(
        self,
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        vars.into_iter()
            .fold(self, |command, (name, value)| command.env(name, value))
    }

    /// The working directory, which must exist. A relative path starts at the home directory of the
    /// sandbox. Default: the home directory of the sandbox.
    #[doc(alias = "current_dir")]
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.exec.options.cwd = Some(directory.into());
        self
    }

    /// The time limit of the process. When it is exceeded, the server kills the process and its
    /// children, and the process ends as [`ProcessEnd::TimedOut`]. Rounded down to whole
    /// milliseconds, at least 1 ms. The server's own limit applies as well. Default: the server's
    /// limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.exec.options.timeout_ms = Some(millis.max(1));
        self
    }

    /// The grace period for output. A background process can hold stdout or stderr open after the
    /// main process has exited. The server then keeps reading for this long. When the grace period
    /// is over, the streams end, and the server drops later output. [`Output::cut`] and
    /// [`OutputStream::is_cut`](crate::OutputStream::is_cut) are then `true`. Time in which the
    /// output budget is full doesn't count. The server may use a shorter period. Rounded down to
    /// whole milliseconds. Default: the server's grace period, 2 s on the server of this crate.
    pub fn output_grace(mut self, grace: Duration) -> Self {
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.exec.options.output_grace_ms = Some(millis);
        self
    }

    /// Sends this input and then closes stdin. Default: with [`spawn`](Self::spawn), stdin stays
    /// open; with [`output`](Self::output) and [`run_to_end`](Self::run_to_end), stdin is empty.
    ///
    /// Protocol v1 can't close stdin: a command with this option fails there with
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported). Without the option, stdin stays
    /// open under v1, even with `output` and `run_to_end`. A program that reads stdin to the end,
    /// such as `cat`, then waits forever. In the code, redirect the stdin of such a program with
    /// `</dev/null`.
    pub fn stdin(mut self, input: impl Into<Bytes>) -> Self {
        self.exec.stdin = Stdin::Bytes(input.into());
        self
    }

    /// Sets the id of the process on the server, so that the start is idempotent. If the server
    /// knows a process of this sandbox with the same id, it starts nothing. The returned
    /// [`Process`] is then the earlier one, whatever the code and options of this command are. So a
    /// program that has crashed can repeat its request, and the code runs once. Default: a new,
    /// random id.
    ///
    /// An id is text of 1 to 128 bytes, and unique in the sandbox. The server of this crate
    /// remembers the ids of running processes, and of ended ones as long as all ids of the sandbox
    /// are at most 1,024. Operations on files count, too. A checkpoint doesn't contain the id of a
    /// process whose end a client has received: after a restore, a start with this id runs the code
    /// again. With [the lift](crate::SandboxBuilder::lift), all ids are forgotten when its program
    /// exits, which it does at a checkpoint and when the sandbox is idle.
    ///
    /// Only an explicit kill, a signal, a time limit or [`kill_on_drop`](Self::kill_on_drop) ends a
    /// process with an id. If a future is dropped, or the server doesn't answer in time, the
    /// process continues, and the caller can repeat the start.
    ///
    /// The streams of the earlier process:
    ///
    /// - **Output** starts at the oldest byte that the server still has. If an earlier client has
    ///   read some output, the first read fails with
    ///   [`ErrorKind::OutputLost`](crate::ErrorKind::OutputLost), and the stream continues after
    ///   the gap. To keep the whole output across a crash, redirect it to a file in the sandbox.
    /// - **Input** starts at its first byte. The server drops the bytes that it has received
    ///   before, so a caller that sends the same input again neither loses nor duplicates a byte.
    ///
    /// ```no_run
    /// use actix_sandbox::{Error, Language, Sandbox};
    ///
    /// # async fn resume(url: &str, id: String, token: String) -> Result<(), Error> {
    /// // Runs the job, or waits for the job that a worker started before it crashed.
    /// let sandbox = Sandbox::attach(url, id, token).await?;
    /// let command = sandbox.command(Language::Bash, "./job.sh > output").exec_id("job-17");
    /// let end = command.spawn().await?.wait().await?;
    /// println!("{end}: {}", sandbox.files().read_to_string("output").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`spawn`](Self::spawn), [`output`](Self::output) and [`run_to_end`](Self::run_to_end) fail
    /// with these kinds:
    ///
    /// - [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption): the id is empty or too
    ///   long. Nothing was sent.
    /// - [`ErrorKind::WrongState`](crate::ErrorKind::WrongState): this client already follows a
    ///   process with this id, and has not read the end of its output. Dropped handles don't change
    ///   that.
    /// - [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported): the server speaks protocol v1.
    pub fn exec_id(mut self, id: impl Into<String>) -> Self {
        self.exec.id = Some(ExecId::new(id.into()));
        self
    }

    /// How much unread output the client buffers, and what happens to output over this budget.
    /// Default: the [policy of the sandbox](crate::SandboxBuilder::output_policy).
    pub fn output_policy(mut self, policy: OutputPolicy) -> Self {
        self.exec.output = Some(policy);
        self
    }

    /// The maximum number of bytes of each stream that [`output`](Self::output) collects. If a
    /// stream has more, `output` kills the process and fails. Default: 64 MiB.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Whether to kill the process when its last handle is dropped. Without an
    /// [id](Self::exec_id), the futures of [`output`](Self::output) and
    /// [`run_to_end`](Self::run_to_end) always kill the process when they are dropped. Default: no.
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    /// Starts the process. Resolves when the server reports that the process runs.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the exec. If the request was already sent, the client kills the
    /// process as soon as it starts, because no handle to it exists. With an [id](Self::exec_id),
    /// the process continues instead.
    ///
    /// # Errors
    ///
    /// The errors of [`Sandbox::exec`], [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
    /// if the server speaks v1 and the command needs v2, and
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) if the output policy or the
    /// [id](Self::exec_id) is invalid.
    pub async fn spawn(self) -> Result<Process, Error> {
        if let Some(problem) = self.exec.output.and_then(|policy| policy.problem()) {
            return Err(Error::option("output_policy", problem));
        }
        let key = StartKey::unique();
        let starting = Starting(Some((self.sandbox.clone(), key)));
        let answer = self.sandbox.addr().send(Start(self.exec, key)).await;
        starting.answered();
        let started = answer.map_err(Error::mailbox("run code"))??;
        Ok(Process::new(self.sandbox, started, self.kill_on_drop))
    }

    /// Runs the process to its end and collects its output, in bytes. If a background process still
    /// holds the output open after the [grace period](Self::output_grace), [`Output::cut`] is
    /// `true`. Under protocol v1, stdin [stays open](Self::stdin).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the process, unless it has an [id](Self::exec_id).
    ///
    /// # Errors
    ///
    /// The errors of [`spawn`](Self::spawn). Also fails if a stream exceeds
    /// [`output_limit`](Self::output_limit), if output was dropped under the
    /// [`output_policy`](Self::output_policy), or if the sandbox is lost. A non-zero exit code is
    /// not an error: see [`Output::error_for_status`].
    #[doc(alias = "wait_with_output")]
    pub async fn output(self) -> Result<Output, Error> {
        let (limit, has_id) = (self.limit, self.exec.id.is_some());
        let process = self.for_its_end().spawn().await?;
        let (stdout, stderr) = (process.stdout(), process.stderr());
        // Reads both streams concurrently, so that neither blocks the other.
        let collected = try_join3(
            stdout.read_to_limit(limit),
            stderr.read_to_limit(limit),
            process.wait(),
        )
        .await;
        match collected {
            Ok((_, _, ProcessEnd::SandboxLost { end })) => Err(Error::sandbox_lost(end)),
            Ok((stdout, stderr, end)) => Ok(Output {
                end,
                stdout,
                stderr,
                cut: process.is_output_cut(),
            }),
            Err(error) if has_id => Err(error),
            Err(error) => {
                // Wait for the kill, because under v1, the sandbox can't run another process before
                // it. Return the first error rather than an error of the kill.
                let _ = process.kill().await;
                Err(error)
            }
        }
    }

    /// Runs the process to its end, drops the output, and returns how the process ended. Under
    /// protocol v1, stdin [stays open](Self::stdin).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the process, unless it has an [id](Self::exec_id).
    ///
    /// # Errors
    ///
    /// The errors of [`spawn`](Self::spawn). Neither a non-zero exit code nor a lost sandbox is an
    /// error: see [`ProcessEnd`].
    #[doc(alias = "status")]
    pub async fn run_to_end(self) -> Result<ProcessEnd, Error> {
        let mut command = self.for_its_end();
        command.exec.discards_output = true;
        let process = command.spawn().await?;
        process.discard_output();
        process.wait().await
    }

    pub(super) fn set_program(&mut self, program: ExecProgram) {
        self.exec.program = program;
    }

    pub(super) fn set_terminal(&mut self, size: TerminalSize) {
        self.exec.options.terminal = Some(size);
    }

    /// The command without input, for a caller that waits for its end. If the caller stops waiting,
    /// the process is killed, unless it has an id.
    fn for_its_end(mut self) -> Self {
        if let Stdin::Open = self.exec.stdin {
            self.exec.stdin = Stdin::Null;
        }
        self.kill_on_drop |= self.exec.id.is_none();
        self
    }
}

impl Sandbox {
    /// Starts code. Resolves when the server reports that the code runs. Short for
    /// [`command`](Self::command) followed by [`spawn`](Command::spawn).
    ///
    /// During a reconnect, the exec waits. When the connection is back, the code starts, exactly
    /// once. Under protocol v2, several processes can run at once, each with its own streams. Under
    /// v1, one process can run at a time. If that process is being killed, the exec waits for its
    /// end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the exec. If the request was already sent, the client kills the
    /// process as soon as it starts, because no handle to it exists.
    ///
    /// # Errors
    ///
    /// Fails if:
    ///
    /// - the sandbox is neither running nor reconnecting;
    /// - another process runs (v1 only);
    /// - the server doesn't support the language or can't start the process (the sandbox lives on);
    /// - the server doesn't answer within [`exec_timeout`](crate::SandboxBuilder::exec_timeout). If
    ///   the process starts later, it is killed;
    /// - the connection is lost while the request waits for the answer. Under v1, the exec always
    ///   fails then. If the process has started, the client kills it after the reconnect. Under v2,
    ///   the exec only fails if the connection can't be re-established: on the next connection, the
    ///   client repeats the request, and the server still starts the code only once.
    pub async fn exec(
        &self,
        language: impl Into<Language>,
        code: impl Into<String>,
    ) -> Result<Process, Error> {
        self.command(language, code).spawn().await
    }

    /// Runs code to its end and collects its output, at most 64 MiB of each stream. Short for
    /// [`command`](Self::command) followed by [`output`](Command::output). Under protocol v1, stdin
    /// [stays open](Command::stdin), so a program that reads stdin to the end needs `</dev/null`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the process.
    ///
    /// # Errors
    ///
    /// The errors of [`exec`](Self::exec). Also fails if a stream exceeds 64 MiB, if output was
    /// dropped under the [`output_policy`](crate::SandboxBuilder::output_policy), or if the sandbox
    /// is lost. A non-zero exit code is not an error: see [`Output::error_for_status`].
    pub async fn run(
        &self,
        language: impl Into<Language>,
        code: impl Into<String>,
    ) -> Result<Output, Error> {
        self.command(language, code).output().await
    }

    /// Returns a [`Command`] for this code, with options that [`exec`](Self::exec) and
    /// [`run`](Self::run) lack, such as arguments, environment, working directory, input, time
    /// limit and output policy.
    pub fn command(&self, language: impl Into<Language>, code: impl Into<String>) -> Command {
        Command::new(self.clone(), language.into(), code.into())
    }
}

/// An exec request that the actor has not answered. Dropping this guard cancels the exec.
struct Starting(Option<(Sandbox, StartKey)>);

impl Starting {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some((sandbox, key)) = self.0.take() {
            crate::actor::cancel_in_background(key, sandbox.addr());
        }
    }
}
