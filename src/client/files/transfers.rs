//! [`Upload`] and [`Download`]: move files and directories between this machine and a sandbox.

use std::{
    fmt,
    future::{Future, IntoFuture},
    path::PathBuf,
    pin::Pin,
};

use futures::{StreamExt, TryStreamExt};

use super::Files;
use crate::{
    Error,
    archive::{ArchiveError, Limits, Progress, Summary},
    client::{
        ignore::IgnoreRules,
        operation::outcome,
        transfer::{PackStream, UnpackSink, is_file},
    },
    machine::Stdin,
    protocol::{ArchiveResult, Builtin, FileKind, FilePath, SkippedFile, Transferred},
};

/// The default limit on the bytes of a download: 8 GiB.
const MAX_BYTES: u64 = 8 << 30;
/// The default limit on the files, directories and links of a download.
const MAX_ENTRIES: u64 = 1_000_000;

type OnProgress = Box<dyn FnMut(TransferProgress) + Send>;

/// The progress of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferProgress {
    /// The number of bytes of the tar archive that this machine has packed or unpacked so far. The
    /// archive contains a header for each file, and no holes. So its size differs from that of the
    /// files.
    pub bytes: u64,
    /// The number of files, directories and links that this machine has started to transfer.
    pub entries: u64,
}

/// The result of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferSummary {
    /// The sum of the sizes of the files in bytes, including their holes.
    pub bytes: u64,
    /// The number of files, directories and links.
    pub entries: u64,
    /// The files that were not transferred: pipes, sockets and devices, files that were removed
    /// during the transfer, and names and links that the destination's operating system can't
    /// represent. The list is limited to about 1,000 files that the client skipped and 64 KiB of
    /// descriptions from the sandbox.
    pub skipped: Vec<SkippedFile>,
    /// The number of skipped files, including those that `skipped` doesn't list. A skipped
    /// directory counts once, whatever it contains.
    pub skipped_count: u64,
}

impl TransferSummary {
    /// `bytes` and `entries` are those of the side that unpacked the archive.
    fn new(bytes: u64, entries: u64, local: Summary, remote: ArchiveResult) -> Self {
        Self {
            bytes,
            entries,
            skipped: [local.skipped, remote.skipped].concat(),
            skipped_count: local.skipped_count + remote.skipped_count,
        }
    }
}

impl Files {
    /// Uploads a file or directory from this machine. Await the builder to run the transfer.
    ///
    /// A directory is merged into the directory at `remote`, which is created if it doesn't exist:
    /// uploaded files replace existing files of the same name, and all other files stay. A single
    /// file replaces the file at `remote` atomically. Missing parent directories are created.
    ///
    /// The upload preserves permissions (except the set-user-id, set-group-id and sticky bits),
    /// modification times, symbolic links and holes. Each hard link becomes a separate file. Links
    /// in the directory are not followed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LocalFile`](crate::ErrorKind::LocalFile) if a file of this machine can't be
    /// read, or becomes shorter while it is read. All other errors are those of [`Files`]. The
    /// files that were uploaded before the error stay.
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

    /// Downloads a file or directory from the sandbox. Await the builder to run the transfer.
    ///
    /// A directory is merged into the directory at `local`, as with [`upload`](Self::upload). A
    /// single file replaces the file at `local` atomically, by way of a hidden temporary file
    /// beside it. Missing parent directories are created.
    ///
    /// **The sandbox is not trusted.** Whatever it sends, a download of a directory writes nothing
    /// outside `local` and follows no link in it, and a download of a file writes no other file.
    /// A downloaded link may point anywhere: a program that later follows it can leave `local`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LocalFile`](crate::ErrorKind::LocalFile) if a file of this machine can't be
    /// written, or if the archive from the sandbox is not valid or exceeds a limit. All other
    /// errors are those of [`Files`]. The files that were downloaded before the error stay; each of
    /// them is complete.
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
    /// Leaves out the files that match these rules. Each item is one rule in the syntax of
    /// `.gitignore`. The last rule that matches a path wins. Default: no rules.
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

    /// Calls this function repeatedly during the transfer, on the thread that reads the files. A
    /// slow function slows the transfer. Default: no function.
    pub fn progress(mut self, call: impl FnMut(TransferProgress) + Send + 'static) -> Self {
        self.on_progress = Box::new(call);
        self
    }

    async fn run(self) -> Result<TransferSummary, Error> {
        let failed = |error, is_file| Error::local_file("upload", &self.local, is_file, error);
        let file = is_file(self.local.clone()).await;
        let file = file.map_err(|error| failed(error, true))?;
        let failed = |error| failed(error, file);
        let unpack = Builtin::Unpack {
            path: self.remote,
            file,
        };
        let process = self.files.sandbox.start(unpack, Stdin::Open).await?;
        let mut archive = PackStream::new(self.local.clone(), self.ignore, call(self.on_progress))
            .map_err(|error| failed(ArchiveError::stream("pack", error)))?;
        while let Some(piece) = archive.try_next().await.map_err(failed)? {
            if process.write_to_stdin(piece).await.is_err() {
                // The outcome contains the reason.
                break;
            }
        }
        let _ = process.close_stdin().await;
        let remote: ArchiveResult = outcome(&process).await?;
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
    /// Limits the size of the archive, and the size of each file including its holes, in bytes. The
    /// archive contains the files without their holes, and a header for each. Default: 8 GiB.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Limits the number of files, directories and links. Default: 1,000,000.
    pub fn max_entries(mut self, entries: u64) -> Self {
        self.limits.entries = entries;
        self
    }

    /// Calls this function repeatedly during the transfer, on the thread that writes the files. A
    /// slow function slows the transfer. Default: no function.
    pub fn progress(mut self, call: impl FnMut(TransferProgress) + Send + 'static) -> Self {
        self.on_progress = Box::new(call);
        self
    }

    async fn run(self) -> Result<TransferSummary, Error> {
        let remote = self.files.metadata(&self.remote).await?;
        let is_file = remote.kind == FileKind::File;
        let failed = |error| Error::local_file("download to", &self.local, is_file, error);
        let pack = Builtin::Pack { path: self.remote };
        let process = self.files.sandbox.start(pack, Stdin::Null).await?;
        let on_progress = call(self.on_progress);
        let mut sink = UnpackSink::new(self.local.clone(), is_file, self.limits, on_progress)
            .map_err(|error| failed(ArchiveError::stream("unpack", error)))?;
        let mut archive = process.stdout();
        while let Some(piece) = archive.next().await {
            sink.write(piece?).await.map_err(failed)?;
        }
        // If packing failed in the sandbox, report its reason rather than an incomplete archive.
        let remote: ArchiveResult = outcome(&process).await?;
        let local = sink.finish().await.map_err(failed)?;
        let (bytes, entries) = (local.bytes, local.entries);
        Ok(TransferSummary::new(bytes, entries, local, remote))
    }
}

/// Passes the progress on. After a panic of the function, it isn't called again: while the panic
/// unwinds, the end of the archive is written.
fn call(mut on_progress: OnProgress) -> impl FnMut(Progress) + Send + 'static {
    let mut is_usable = true;
    move |progress| {
        if !std::mem::replace(&mut is_usable, false) {
            return;
        }
        on_progress(TransferProgress {
            bytes: progress.bytes,
            entries: progress.entries,
        });
        is_usable = true;
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
