//! [`Command`]: code to run and how to run it; [`ExecBuilder`] and [`RunBuilder`], its two short forms.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use futures::future::try_join3;

use super::{Language, Output, OutputExt, Process, Sandbox, streams::READ_LIMIT};
use crate::{
    Error, OutputPolicy, ProcessEnd,
    actor::{Exec, Start, StartKey, Stdin},
};

/// Code to run in a sandbox: its arguments, environment, working directory, input and time limit.
///
/// Made by [`Sandbox::command`]; shaped like [`std::process::Command`], but that every option takes the command and
/// gives it back. End it with [`spawn`](Self::spawn), [`output`](Self::output) or [`status`](Self::status).
///
/// Arguments, environment, working directory, time limit, output grace and input that ends need
/// protocol v2. A v1 server runs such a command only with [`wrap_for_v1`](Self::wrap_for_v1), which
/// does not bring the last three; otherwise it is refused with
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) and nothing runs.
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
        Self {
            sandbox,
            exec: Exec::new(language, code),
            kill_on_drop: false,
            limit: READ_LIMIT,
        }
    }

    /// Adds an argument of the code: `$1` and on in bash, `sys.argv[1:]` in Python. Default: none.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.exec.options.args.push(arg.into());
        self
    }

    /// Adds arguments of the code.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        let args = args.into_iter().map(Into::into);
        self.exec.options.args.extend(args);
        self
    }

    /// Sets a variable of the environment, beside those that the sandbox has. The last of a name counts.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, env) = (name.into(), &mut self.exec.options.env);
        env.retain(|(other, _)| *other != name);
        env.push((name, value.into()));
        self
    }

    /// Sets variables of the environment.
    pub fn envs<N: Into<String>, V: Into<String>>(
        self,
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        vars.into_iter()
            .fold(self, |command, (name, value)| command.env(name, value))
    }

    /// The working directory, absolute or from the usual one; it must exist. Default: the usual one.
    pub fn cwd(mut self, directory: impl Into<String>) -> Self {
        self.exec.options.cwd = Some(directory.into());
        self
    }

    /// How long the process may run; then it is killed with its children, and ends as
    /// [`ProcessEnd::TimedOut`]. In whole milliseconds, at least one. Default: as long as the server allows.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.exec.options.timeout_ms = Some(millis.max(1));
        self
    }

    /// How long its output goes on after its end, while another process in the background holds its
    /// stdout or stderr. Then the streams end, [`Output::cut`] and
    /// [`OutputStream::is_cut`](crate::OutputStream::is_cut) say so, and what is printed later is
    /// dropped. Time in which the output budget is full does not count. In whole milliseconds.
    /// Default: the server's, 2 s on this crate's. Protocol v1 has no such option: a server waits
    /// for as long as it likes.
    pub fn output_grace(mut self, grace: Duration) -> Self {
        let millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.exec.options.output_grace_ms = Some(millis);
        self
    }

    /// All of its input; stdin is closed after it. Default: for [`spawn`](Self::spawn) stdin stays open,
    /// for [`output`](Self::output) and [`status`](Self::status) there is no input.
    pub fn stdin(mut self, input: impl Into<Bytes>) -> Self {
        self.exec.stdin = Stdin::Bytes(input.into());
        self
    }

    /// How much output is kept for its readers. Default: the sandbox's own policy.
    pub fn output_policy(mut self, policy: OutputPolicy) -> Self {
        self.exec.output = Some(policy);
        self
    }

    /// Most bytes of each stream that [`output`](Self::output) collects. Default: 64 MiB.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Whether to wrap the code on a server that speaks protocol v1, so that arguments, environment, working directory and
    /// how it ended work there, too. Default: no. On v2, where all of that is part of the protocol, it has no effect.
    ///
    /// The server is then sent a program that runs the code in a `bash` or `python` of its own and adds how it ended
    /// to its stdout, under a random number and out of sight of the readers. What comes of it:
    ///
    /// - The end is [`Exited`](ProcessEnd::Exited) or [`Signaled`](ProcessEnd::Signaled), and
    ///   [`Unknown`](ProcessEnd::Unknown) where that line is missing: lost with a link, or in a stdout that the server stopped
    ///   reading, as some do at bytes that are not UTF-8; or the program that wrote it was killed by the code.
    /// - A working directory that is not there, or arguments that are too long, end as `Exited(125)`, with the reason in
    ///   stderr.
    /// - A time limit, an output grace and input that ends stay unsupported, as are other
    ///   languages.
    /// - The code is not the first process: its parent is another shell or Python. Python's `__file__` and bash's
    ///   `$0` name the program around it, and Python shows no source lines in tracebacks.
    /// - For bash it needs `python3`, without which signal 9 is `Exited(137)`, and `env` for variables.
    /// - **It is a report, no proof**: code that reads its parent's program can print an end of its own.
    pub fn wrap_for_v1(mut self, wrap: bool) -> Self {
        self.exec.wrap_for_v1 = wrap;
        self
    }

    /// Whether the process is killed when its last handle is dropped. Default: no;
    /// [`output`](Self::output) and [`status`](Self::status) do it in any case.
    pub fn kill_on_drop(mut self, kill: bool) -> Self {
        self.kill_on_drop = kill;
        self
    }

    /// Starts it. Resolves when the server says that it runs.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::exec`]; and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).
    ///
    /// Dropping the future kills the process if it starts: nobody would have a handle to it.
    pub async fn spawn(self) -> Result<Process, Error> {
        if self.exec.output.is_some_and(|policy| policy.budget == 0) {
            return Err(Error::option(
                "output_policy",
                "has a budget of 0 bytes; at least 1 is needed",
            ));
        }
        let key = StartKey::unique();
        let starting = Starting(Some((self.sandbox.clone(), key)));
        let answer = self.sandbox.addr().send(Start(self.exec, key)).await;
        starting.answered();
        let started = answer
            .map_err(Error::mailbox("run code"))??
            .claim()
            .ok_or_else(|| Error::actor_gone("run code"))?;
        Ok(Process::new(self.sandbox, started, self.kill_on_drop))
    }

    /// Runs it to its end and collects its output, until no process holds that any more or the
    /// [grace](Self::output_grace) is over: then [`Output::cut`] is set.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn); and the output is larger than [`output_limit`](Self::output_limit), or the sandbox
    /// was lost. A non-zero exit is no error: see [`Output::error_for_status`].
    ///
    /// Dropping the future kills the process.
    pub async fn output(self) -> Result<Output, Error> {
        let limit = self.limit;
        let process = self.without_input().kill_on_drop(true).spawn().await?;
        let (stdout, stderr) = (process.stdout(), process.stderr());
        // Both at once: neither holds the other back.
        let collected = try_join3(
            stdout.read_to_limit(limit),
            stderr.read_to_limit(limit),
            process.wait(),
        )
        .await;
        match collected {
            Ok((_, _, ProcessEnd::SandboxLost { end })) => Err(Error::sandbox_lost(end)),
            Ok((stdout, stderr, end)) => {
                Ok(Output::new(end, &stdout, &stderr, process.is_output_cut()))
            }
            Err(error) => {
                // The sandbox is free again when this returns; why the kill failed matters less.
                let _ = process.kill().await;
                Err(error)
            }
        }
    }

    /// Runs it to its end and tells how it ended. What it prints is dropped.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn). A non-zero exit is no error, nor is a lost sandbox:
    /// see [`ProcessEnd`].
    ///
    /// Dropping the future kills the process.
    pub async fn status(self) -> Result<ProcessEnd, Error> {
        let command = self.without_input().kill_on_drop(true);
        let policy = OutputPolicy {
            overflow: crate::Overflow::DropOldest,
            ..command.exec.output.unwrap_or_default()
        };
        command.output_policy(policy).spawn().await?.wait().await
    }

    fn without_input(mut self) -> Self {
        if let Stdin::Open = self.exec.stdin {
            self.exec.stdin = Stdin::Null;
        }
        self
    }
}

/// An exec that was asked for and not answered. Dropped, it is cancelled.
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

/// Options of an exec. Await it to start the process. Made by [`Sandbox::exec`]; [`Sandbox::command`] has more.
///
/// It is no future itself but turns into one: where a macro or a combinator wants a future, as in
/// `futures::join!`, write `.into_future()`.
#[must_use = "code runs when the builder is awaited"]
#[derive(Clone, Debug)]
pub struct ExecBuilder(Command);

impl ExecBuilder {
    pub(super) fn new(command: Command) -> Self {
        Self(command)
    }

    /// How much output is kept for its readers. Default: the sandbox's own policy.
    pub fn output_policy(self, policy: OutputPolicy) -> Self {
        Self(self.0.output_policy(policy))
    }

    /// Whether the process is killed when its last handle is dropped. Default: no.
    pub fn kill_on_drop(self, kill: bool) -> Self {
        Self(self.0.kill_on_drop(kill))
    }
}

impl IntoFuture for ExecBuilder {
    type Output = Result<Process, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.spawn())
    }
}

/// Options of a run. Await it to run code to its end. Made by [`Sandbox::run`]; [`Sandbox::command`] has more.
///
/// It is no future itself but turns into one: where a macro or a combinator wants a future, as in
/// `futures::join!`, write `.into_future()`.
#[must_use = "code runs when the builder is awaited"]
#[derive(Clone, Debug)]
pub struct RunBuilder(Command);

impl RunBuilder {
    pub(super) fn new(command: Command) -> Self {
        Self(command)
    }

    /// Most bytes of each stream that are collected. Default: 64 MiB.
    pub fn output_limit(self, bytes: usize) -> Self {
        Self(self.0.output_limit(bytes))
    }
}

impl IntoFuture for RunBuilder {
    type Output = Result<Output, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.output())
    }
}
