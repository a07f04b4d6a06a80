//! `actix-sandbox run`: runs code in a new sandbox.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use actix_sandbox::Process;
use clap::Args;

use crate::cli::{
    attached,
    code::Code,
    failure::{COMMAND_FAILED, Failure},
    files::report_skipped,
    runtime,
    session::{Session, SessionArguments},
    shared::{Assignment, assignment, duration},
    signals::Signals,
};

/// The exit statuses, for `--help`.
const STATUS: &str = "Exit status: that of the code, or 128 plus the number of the signal that ended it; \
    124 after --timeout; 125 if this command failed; 2 for wrong arguments. Ctrl-C interrupts the \
    code; after more than two seconds, a second Ctrl-C ends the command.";

#[derive(Args)]
#[command(
    after_help = STATUS,
    override_usage = "actix-sandbox run [OPTIONS] FILE [ARGS]...\n       \
                      actix-sandbox run [OPTIONS] -c CODE [ARGS]..."
)]
pub(crate) struct Run {
    /// File with the code, or - for standard input. Everything after it is an argument of the code.
    // One value, so that clap takes no option of the code for an option of this command.
    #[arg(
        required_unless_present = "code",
        trailing_var_arg = true,
        value_name = "FILE [ARGS]"
    )]
    words: Vec<OsString>,

    /// Runs this code instead of a file. The words that follow are arguments of the code. Write `--`
    /// before arguments that start with a dash.
    #[arg(
        short = 'c',
        long = "code",
        value_name = "CODE",
        allow_hyphen_values = true
    )]
    code: Option<String>,

    /// Language of the code: python or bash [default: by the name or the first line of the file;
    /// python for --code and standard input].
    #[arg(long, value_name = "NAME")]
    language: Option<String>,

    /// Uploads a file, or the contents of a directory, to the working directory of the code. May be
    /// given more than once.
    #[arg(long, value_name = "PATH")]
    upload: Vec<PathBuf>,

    /// Downloads this file or directory from the sandbox to the current directory after the code
    /// has ended, whatever its exit status. May be given more than once.
    #[arg(long, value_name = "PATH")]
    download: Vec<String>,

    /// Sets an environment variable of the code. NAME alone takes the value from the environment of
    /// this command. May be given more than once.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = assignment)]
    env: Vec<Assignment>,

    /// Kills the code after this time, for example 30s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,

    /// Starts with the files of this filesystem snapshot. Needs a service.
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,

    /// Keeps the sandbox until it is idle for 1h, and prints its id to standard error. Needs a
    /// service.
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    session: SessionArguments,
}

impl Run {
    pub(crate) fn run(mut self) -> Result<ExitCode, Failure> {
        // Before the signals are handled, because a read of stdin can't be cancelled.
        let done = self.code().and_then(|(code, arguments)| {
            runtime::run(|signals| self.start(code, arguments, signals))
        });
        done.map_err(|failure| failure.with_status(COMMAND_FAILED))
    }

    async fn start(
        mut self,
        code: Code,
        arguments: Vec<String>,
        mut signals: Signals,
    ) -> Result<ExitCode, Failure> {
        let snapshot = self.snapshot.take();
        let session = Session::create(&self.session, snapshot, self.keep, &mut signals).await?;
        let done = self
            .in_session(code, arguments, &session, &mut signals)
            .await;
        match self.keep {
            true => session.keep(done, &mut signals).await,
            false => session.end_after(done, &mut signals).await,
        }
    }

    async fn in_session(
        &self,
        code: Code,
        arguments: Vec<String>,
        session: &Session,
        signals: &mut Signals,
    ) -> Result<ExitCode, Failure> {
        let started = self.spawn(code, arguments, session);
        let process = attached::started(started, signals).await?;
        let ended = attached::run(&process, signals).await;
        if ended.is_err() && self.keep {
            // The sandbox lives on, but its code must not.
            attached::kill(&process, signals).await;
        }
        let end = ended?;
        signals.or(self.download(session)).await?;
        Ok(attached::status(&end))
    }

    /// The code and its arguments.
    fn code(&mut self) -> Result<(Code, Vec<String>), Failure> {
        let language = self.language.take();
        let mut words = std::mem::take(&mut self.words).into_iter();
        let code = match self.code.take() {
            Some(code) => Code::from_text(code, language),
            None => match words.next() {
                Some(dash) if dash == "-" => Code::from_stdin(language)?,
                Some(file) => Code::from_file(Path::new(&file), language)?,
                None => return Err("expected a file, `-` or `-c`".into()),
            },
        };
        let text = |word: OsString| {
            let text = word.into_string();
            text.map_err(|word| format!("the argument {word:?} is not valid UTF-8").into())
        };
        let arguments: Result<_, Failure> = words.map(text).collect();
        Ok((code, arguments?))
    }

    async fn spawn(
        &self,
        code: Code,
        arguments: Vec<String>,
        session: &Session,
    ) -> Result<Process, Failure> {
        let files = session.sandbox.files();
        for path in &self.upload {
            let is_directory = std::fs::metadata(path).is_ok_and(|meta| meta.is_dir());
            let name = path.file_name().filter(|_| !is_directory);
            let to = name.map_or_else(|| PathBuf::from("."), PathBuf::from);
            report_skipped(&files.upload(path, to).await?);
        }
        let mut command = code.command(&session.sandbox).await?;
        command = command.args(arguments);
        command = command.envs(self.env.iter().cloned());
        if let Some(timeout) = self.timeout {
            command = command.timeout(timeout);
        }
        attached::spawn(command, &session.sandbox).await
    }

    async fn download(&self, session: &Session) -> Result<(), Failure> {
        let files = session.sandbox.files();
        for path in &self.download {
            let name = Path::new(path).file_name();
            let to = name.map_or_else(|| PathBuf::from("."), PathBuf::from);
            report_skipped(&files.download(path.as_str(), to).await?);
        }
        Ok(())
    }
}
