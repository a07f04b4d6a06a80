//! `actix-sandbox cp`: copies files and directories between this machine and a sandbox.

use std::{
    fs,
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use actix_sandbox::{Error, Files, Sandbox, TransferProgress, TransferSummary};
use bytesize::ByteSize;
use clap::Args;
use tokio::{io::AsyncWriteExt, sync::oneshot, time::timeout};

use super::{
    bar::Bar,
    list::is_missing,
    place::{Place, RemotePath, ends_with_slash, target},
};
use crate::cli::{
    escape::escaped_bytes,
    failure::{FAILED, Failure, WRONG_ARGUMENTS},
    input, known, operation, output, runtime,
    service::ServiceArguments,
    shared::{positive_u64, say, size},
    signals::Signals,
};

/// How long to wait for the thread of a transfer, which removes its unfinished file.
const CLEANED_WITHIN: Duration = Duration::from_secs(5);

const DETAILS: &str = "SRC and DST: one of them is ID:PATH, where ID is the id of one of your \
    sandboxes or an unambiguous prefix of it. A relative PATH starts at the home directory of the \
    sandbox. The other one is a path of this machine, or - for standard input or output (one \
    file). Write ./ before a local path that contains a colon.\n\n\
    If DST is an existing directory or ends with /, SRC goes into it under its own name, and is \
    merged with a directory of that name. DIRECTORY/. stands for the contents of a directory. \
    Otherwise, the copy gets the path DST. An existing file is replaced atomically.\n\n\
    Exit status: 0; 1 if the copy failed, or if files were skipped, for example pipes and sockets; \
    2 for wrong arguments. The command reports each skipped file on standard error.";

#[derive(Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Copy {
    /// Source: ID:PATH, a path of this machine, or - for standard input.
    #[arg(value_name = "SRC", value_parser = Place::parser())]
    from: Place,

    /// Destination: ID:PATH, a path of this machine, or - for standard output.
    #[arg(value_name = "DST", value_parser = Place::parser())]
    to: Place,

    /// Leaves out the files that match a rule in the syntax of .gitignore, for example `target/`.
    /// May be given more than once; the last rule that matches wins. Only for copies to a sandbox.
    #[arg(long, value_name = "RULE", allow_hyphen_values = true)]
    ignore: Vec<String>,

    /// Fails if the files from the sandbox are larger than this [default: 8GiB].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<ByteSize>,

    /// Fails if there are more files, directories and links in the sandbox than this [default:
    /// 1000000].
    #[arg(long, value_name = "NUMBER", value_parser = positive_u64)]
    max_entries: Option<u64>,

    /// Hides the progress bar.
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    service: ServiceArguments,
}

/// The end of a copy on this machine.
#[derive(Clone, Copy)]
enum Local<'a> {
    Stream,
    Path(&'a Path),
}

impl Copy {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|signals| async move { self.start(signals).await })
    }

    async fn start(&self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let wrong = |reason: &str| Err(Failure::new(WRONG_ARGUMENTS, reason));
        let (local, remote, is_upload) = match (&self.from, &self.to) {
            (Place::Local(path), Place::Remote(to)) => (Local::Path(path), to, true),
            (Place::Stream, Place::Remote(to)) => (Local::Stream, to, true),
            (Place::Remote(from), Place::Local(path)) => (Local::Path(path), from, false),
            (Place::Remote(from), Place::Stream) => (Local::Stream, from, false),
            (Place::Remote(_), Place::Remote(_)) => {
                return wrong(
                    "cannot copy from a sandbox to a sandbox: copy to this machine first",
                );
            }
            _ => {
                return wrong(
                    "neither SRC nor DST is in a sandbox: write ID:PATH for one of them, where ID is \
                     the id of a sandbox",
                );
            }
        };
        if is_upload && (self.max_size.is_some() || self.max_entries.is_some()) {
            return wrong("`--max-size` and `--max-entries` only limit copies from a sandbox");
        }
        if !self.ignore.is_empty() && (!is_upload || matches!(local, Local::Stream)) {
            return wrong("`--ignore` needs a directory of this machine as SRC");
        }
        if let (true, Local::Path(path)) = (is_upload, local) {
            fs::metadata(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        }
        let kept = remote.find(&self.service)?;
        let sandbox = signals.or(known::attach(&kept)).await?;
        let summary = match (is_upload, local) {
            (true, Local::Path(path)) => self.upload(&sandbox, path, remote, &mut signals).await?,
            (false, Local::Path(path)) => {
                self.download(&sandbox, remote, path, &mut signals).await?
            }
            (true, Local::Stream) => self.write(&sandbox, remote, &mut signals).await?,
            (false, Local::Stream) => self.read(&sandbox, remote, &mut signals).await?,
        };
        Ok(report(&summary))
    }

    async fn upload(
        &self,
        sandbox: &Sandbox,
        from: &Path,
        to: &RemotePath,
        signals: &mut Signals,
    ) -> Result<TransferSummary, Failure> {
        let meta = fs::metadata(from).ok().filter(fs::Metadata::is_file);
        let name = from.as_os_str().as_bytes();
        let bar = Bar::new(escaped_bytes(name), meta.map(|it| it.len()), self.quiet);
        let set = bar.setter();
        let uploaded = async {
            let files = sandbox.files();
            let is_directory = is_directory(&files, to).await?;
            let to = target(to.path().as_bytes(), is_directory, name);
            let upload = files.upload(from, to).ignore(&self.ignore);
            Ok(upload.progress(move |it| set(it.bytes)).await?)
        };
        operation::run(sandbox, signals, uploaded).await
    }

    async fn download(
        &self,
        sandbox: &Sandbox,
        from: &RemotePath,
        to: &Path,
        signals: &mut Signals,
    ) -> Result<TransferSummary, Failure> {
        let to = target(to.as_os_str().as_bytes(), to.is_dir(), from.as_bytes());
        // The thread that writes the files drops the sender when it ends.
        let (alive, ended) = oneshot::channel::<()>();
        let downloaded = async {
            let files = sandbox.files();
            let meta = files.metadata(from.path()).await?;
            let total = meta.is_file().then_some(meta.size);
            let bar = Bar::new(escaped_bytes(from.path().as_bytes()), total, self.quiet);
            let set = bar.setter();
            let mut download = files.download(from.path(), to);
            if let Some(size) = self.max_size {
                download = download.max_bytes(size.as_u64());
            }
            if let Some(number) = self.max_entries {
                download = download.max_entries(number);
            }
            let progress = move |it: TransferProgress| {
                let _ = &alive;
                set(it.bytes);
            };
            Ok(download.progress(progress).await?)
        };
        let downloaded = operation::run(sandbox, signals, downloaded).await;
        let _ = timeout(CLEANED_WITHIN, ended).await;
        downloaded
    }

    /// Copies stdin to a file.
    async fn write(
        &self,
        sandbox: &Sandbox,
        to: &RemotePath,
        signals: &mut Signals,
    ) -> Result<TransferSummary, Failure> {
        let bar = Bar::new("standard input".to_owned(), None, self.quiet);
        let set = bar.setter();
        let written = async {
            let files = sandbox.files();
            if ends_with_slash(to.as_bytes()) || is_directory(&files, to).await? {
                return Err(format!(
                    "cannot write standard input to the directory {}: name a file in it",
                    escaped_bytes(to.path().as_bytes())
                )
                .into());
            }
            let mut file = files.create(to.path()).await?;
            let mut pieces = input::pieces();
            let mut bytes = 0;
            while let Some(piece) = pieces.recv().await {
                let piece =
                    piece.map_err(|error| format!("cannot read standard input: {error}"))?;
                file.write_all(&piece).await.map_err(Failure::stream)?;
                bytes += piece.len() as u64;
                set(bytes);
            }
            file.shutdown().await.map_err(Failure::stream)?;
            Ok(TransferSummary::default())
        };
        operation::run(sandbox, signals, written).await
    }

    /// Copies a file to stdout.
    async fn read(
        &self,
        sandbox: &Sandbox,
        from: &RemotePath,
        signals: &mut Signals,
    ) -> Result<TransferSummary, Failure> {
        let is_quiet = self.quiet || io::stdout().is_terminal();
        let read = async {
            let files = sandbox.files();
            let meta = files.metadata(from.path()).await?;
            if meta.is_dir() {
                return Err(format!(
                    "cannot copy the directory {} to standard output: name a file, or copy it to a \
                     local directory",
                    escaped_bytes(from.path().as_bytes())
                )
                .into());
            }
            let name = escaped_bytes(from.path().as_bytes());
            let bar = Bar::new(name, Some(meta.size), is_quiet);
            let content = files.open(from.path()).await?;
            let set = bar.setter();
            let limit = self.max_size;
            output::copy_to_stdout(content, |bytes| match limit {
                Some(limit) if bytes > limit.as_u64() => Err(format!(
                    "{} is larger than `--max-size` ({limit})",
                    escaped_bytes(from.path().as_bytes())
                )
                .into()),
                _ => {
                    set(bytes);
                    Ok(())
                }
            })
            .await?;
            Ok(TransferSummary::default())
        };
        operation::run(sandbox, signals, read).await
    }
}

/// Whether a path in a sandbox is an existing directory.
async fn is_directory(files: &Files, path: &RemotePath) -> Result<bool, Error> {
    match files.metadata(path.path()).await {
        Ok(meta) => Ok(meta.is_dir()),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the exit status of a transfer.
fn report(summary: &TransferSummary) -> ExitCode {
    report_skipped(summary);
    match summary.skipped_count {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    }
}

/// Reports the files that a transfer has skipped.
pub(crate) fn report_skipped(summary: &TransferSummary) {
    for it in &summary.skipped {
        let path = escaped_bytes(it.path.as_bytes());
        say(format_args!("skipped {path}: {}", it.reason));
    }
    let listed = summary.skipped.len() as u64;
    match summary.skipped_count.saturating_sub(listed) {
        0 => {}
        more => say(format_args!("skipped {more} more files")),
    }
}
