//! [`Upload`] and [`Download`]: move files and directories between this machine and a sandbox.

use std::{
    fmt,
    future::{Future, IntoFuture},
    path::PathBuf,
    pin::Pin,
};

use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;

use super::{Files, outcome};
use crate::{
    Error,
    archive::{ArchiveError, Limits, Progress, Skipped, Summary},
    client::{
        ignore::IgnoreRules,
        transfer::{PackStream, UnpackSink, is_file},
    },
    machine::Stdin,
    protocol::{Builtin, FileKind, FilePath, Transferred},
};

/// The default limit on the bytes of a download: 8 GiB.
const MAX_BYTES: u64 = 8 << 30;
/// The default limit on the files, directories and links of a download.
const MAX_ENTRIES: u64 = 1_000_000;

type OnProgress = Box<dyn FnMut(TransferProgress) + Send>;

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferProgress {
    /// The bytes of the archive that were read from or written to this machine so far. The archive
    /// is a little larger than its files.
    pub bytes: u64,
    /// The files, directories and links that were begun so far.
    pub entries: u64,
}

/// The result of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferSummary {
    /// The sum of the sizes of the files, in bytes.
    pub bytes: u64,
    /// The number of files, directories and links.
    pub entries: u64,
    /// What was not transferred, because it is a pipe, a socket or a device, or because the system
    /// of the destination can't represent its name: at most about 1,000 of each side.
    pub skipped: Vec<SkippedFile>,
    /// The number of all skipped files, including those that are not listed.
    pub skipped_count: u64,
}

/// A file that was not transferred.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SkippedFile {
    /// The path, relative to the directory that was transferred.
    pub path: FilePath,
    /// Why it was skipped.
    pub reason: String,
}

impl From<Skipped> for SkippedFile {
    fn from(skipped: Skipped) -> Self {
        Self {
            path: skipped.path.into(),
            reason: skipped.reason,
        }
    }
}

/// The result of the side in the sandbox.
#[derive(Deserialize)]
struct Remote {
    #[serde(flatten)]
    transferred: Transferred,
    #[serde(default)]
    skipped: Vec<SkippedFile>,
    #[serde(default)]
    skipped_count: u64,
}

impl TransferSummary {
    /// `entries` and `bytes` are those of the side that has written.
    fn new(bytes: u64, entries: u64, local: Summary, remote: Remote) -> Self {
        let local_skipped = local.skipped.into_iter().map(SkippedFile::from);
        Self {
            bytes,
            entries,
            skipped: local_skipped.chain(remote.skipped).collect(),
            skipped_count: local.skipped_count + remote.skipped_count,
        }
    }
}

impl Files {
    /// Uploads a file or directory of this machine. Await the builder to run the transfer.
    ///
    /// A directory is merged into the directory at `remote`, which is created if it doesn't exist:
    /// files that exist are replaced, and other files stay. A file becomes the file at `remote`,
    /// as a whole. Permissions (without set-user-id, set-group-id and sticky bits), modification
    /// times, symbolic links and holes are kept; each hard link becomes a file of its own. Links
    /// in the directory are not followed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LocalFile`](crate::ErrorKind::LocalFile) if a file of this machine can't be
    /// read, or changes its size meanwhile. Otherwise those of [`Files`]. The files that were
    /// uploaded before the error stay.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the transfer. The files that were uploaded stay.
    pub fn upload(&self, local: impl Into<PathBuf>, remote: impl Into<FilePath>) -> Upload {
        Upload {
            files: self.clone(),
            local: local.into(),
            remote: remote.into(),
            ignore: IgnoreRules::default(),
            on_progress: Box::new(|_| {}),
        }
    }

    /// Downloads a file or directory of the sandbox. Await the builder to run the transfer.
    ///
    /// A directory is merged into the directory at `local`, as with [`upload`](Self::upload). A
    /// file becomes the file at `local`, as a whole.
    ///
    /// **The sandbox is not trusted.** Whatever it sends, nothing is written outside of `local`,
    /// and no link in `local` is followed. The links that were downloaded may point anywhere:
    /// don't follow them with programs that trust the files.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LocalFile`](crate::ErrorKind::LocalFile) if a file of this machine can't be
    /// written, or if the archive of the sandbox is not valid or exceeds a limit. Otherwise those
    /// of [`Files`]. The files that were downloaded before the error stay, each as a whole.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the transfer. The files that were downloaded stay.
    pub fn download(&self, remote: impl Into<FilePath>, local: impl Into<PathBuf>) -> Download {
        Download {
            files: self.clone(),
            remote: remote.into(),
            local: local.into(),
            limits: Limits {
                bytes: MAX_BYTES,
                entries: MAX_ENTRIES,
            },
            on_progress: Box::new(|_| {}),
        }
    }
}

/// An upload. [`Files::upload`] returns this builder.
#[must_use = "nothing is uploaded until the builder is awaited"]
pub struct Upload {
    files: Files,
    local: PathBuf,
    remote: FilePath,
    ignore: IgnoreRules,
    on_progress: OnProgress,
}

impl Upload {
    /// Leaves out the files that match rules in the syntax of `.gitignore`, one on each line. The
    /// last rule that matches a path wins. Default: none.
    ///
    /// ```no_run
    /// # async fn upload(files: actix_sandbox::Files) -> Result<(), actix_sandbox::Error> {
    /// files.upload("project", "project").ignore(["target/", "*.log"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn ignore<S: AsRef<str>>(mut self, rules: impl IntoIterator<Item = S>) -> Self {
        self.ignore = IgnoreRules::new(rules);
        self
    }

    /// Calls this function as the transfer goes on, on the thread that reads the files. Keep it
    /// short. Default: none.
    pub fn progress(mut self, call: impl FnMut(TransferProgress) + Send + 'static) -> Self {
        self.on_progress = Box::new(call);
        self
    }

    async fn run(self) -> Result<TransferSummary, Error> {
        let file = is_file(self.local.clone()).await?;
        let unpack = Builtin::Unpack {
            path: self.remote,
            file,
        };
        let process = self.files.start(unpack, Stdin::Open).await?;
        let mut archive = PackStream::new(self.local, self.ignore, call(self.on_progress))
            .map_err(|error| ArchiveError::stream("pack", error))?;
        while let Some(piece) = archive.try_next().await? {
            if process.write_to_stdin(piece).await.is_err() {
                // The outcome says why.
                break;
            }
        }
        let _ = process.close_stdin().await;
        let remote: Remote = outcome(&process).await?;
        let Transferred { bytes, entries, .. } = remote.transferred;
        let local = archive.summary().unwrap_or_default();
        Ok(TransferSummary::new(bytes, entries, local, remote))
    }
}

/// A download. [`Files::download`] returns this builder.
#[must_use = "nothing is downloaded until the builder is awaited"]
pub struct Download {
    files: Files,
    remote: FilePath,
    local: PathBuf,
    limits: Limits,
    on_progress: OnProgress,
}

impl Download {
    /// The most bytes of the archive, which is a little larger than its files, and of each file
    /// with its holes. Default: 8 GiB.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// The most files, directories and links. Default: 1,000,000.
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.limits.entries = entries;
        self
    }

    /// Calls this function as the transfer goes on, on the thread that writes the files. Keep it
    /// short. Default: none.
    pub fn progress(mut self, call: impl FnMut(TransferProgress) + Send + 'static) -> Self {
        self.on_progress = Box::new(call);
        self
    }

    async fn run(self) -> Result<TransferSummary, Error> {
        let remote = self.files.metadata(&self.remote).await?;
        let is_file = remote.kind == FileKind::File;
        let pack = Builtin::Pack { path: self.remote };
        let process = self.files.start(pack, Stdin::Null).await?;
        let on_progress = call(self.on_progress);
        let mut sink = UnpackSink::new(self.local, is_file, self.limits, on_progress)
            .map_err(|error| ArchiveError::stream("unpack", error))?;
        let mut archive = process.stdout();
        while let Some(piece) = archive.next().await {
            sink.write(piece?).await?;
        }
        // If the sandbox has failed, the archive is incomplete. Then its reason comes first.
        let remote: Remote = outcome(&process).await?;
        let local = sink.finish().await?;
        let (bytes, entries) = (local.bytes, local.entries);
        Ok(TransferSummary::new(bytes, entries, local, remote))
    }
}

fn call(mut on_progress: OnProgress) -> impl FnMut(Progress) + Send + 'static {
    move |progress| {
        on_progress(TransferProgress {
            bytes: progress.bytes,
            entries: progress.entries,
        });
    }
}

type Transfer = Pin<Box<dyn Future<Output = Result<TransferSummary, Error>> + Send>>;

impl IntoFuture for Upload {
    type Output = Result<TransferSummary, Error>;
    type IntoFuture = Transfer;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl IntoFuture for Download {
    type Output = Result<TransferSummary, Error>;
    type IntoFuture = Transfer;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("remote", &self.remote)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}
