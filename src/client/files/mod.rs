//! [`Files`]: the files of a sandbox.
//!
//! Each operation is an exec whose program is a [`Builtin`]. So it happens exactly once, even if
//! the connection is lost while it runs.

mod entries;
mod reader;
mod transfers;
mod watch;
mod writer;

use bytes::Bytes;

pub use self::{
    entries::FileEntries,
    reader::FileReader,
    transfers::{Download, TransferProgress, TransferSummary, Upload},
    watch::FileEvents,
    writer::FileWriter,
};
use super::{Command, Sandbox, operation::outcome, streams::READ_LIMIT};
use crate::{
    Error, ErrorKind,
    actor::{Exec, ExecProgram},
    machine::Stdin,
    protocol::{
        Builtin, BuiltinError, BuiltinErrorKind, FileEntry, FileMetadata, FilePath, Transferred,
        WriteMode,
    },
};

/// The files of a sandbox. [`Sandbox::files`] returns this handle.
///
/// A relative path starts at the home directory of the sandbox. Operations run with the permissions
/// of the code in the sandbox: they can read and write only what code can.
///
/// Every operation happens exactly once, even if the connection is lost in between and the client
/// [reconnects](crate::SandboxBuilder::auto_reconnect). The local server runs at most 16 transfers
/// of content, 64 watches and 16 other operations of a sandbox concurrently. Further operations
/// wait for their turn.
///
/// # Errors
///
/// If the operation fails in the sandbox, the kind is
/// [`ErrorKind::Builtin`](crate::ErrorKind::Builtin), the message names the path, and
/// [`Error::builtin`] returns the details. The sandbox keeps running. The kind is
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if the server speaks protocol v1 or is
/// too old; in that case, the client has sent nothing. All other kinds are those of
/// [`Sandbox::exec`].
///
/// # Cancel safety
///
/// Dropping the future of an operation stops the operation in the background. A
/// [`write`](Self::write) or [`copy`](Self::copy) that is stopped has either replaced the whole
/// file or changed nothing.
///
/// ```
/// # #[cfg(all(unix, feature = "server"))]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # futures::executor::block_on(async {
/// # let server = actix_sandbox::LocalServer::start().await?;
/// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
/// let files = sandbox.files();
/// files.write("data/in.csv", "1\n2\n").await?;
/// assert_eq!(files.read_to_string("data/in.csv").await?, "1\n2\n");
/// assert!(files.exists("data").await?);
/// # sandbox.kill().await?;
/// # Ok(())
/// # })
/// # }
/// # #[cfg(not(all(unix, feature = "server")))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    sandbox: Sandbox,
}

impl Sandbox {
    /// Returns a handle to the files of the sandbox. Its operations need protocol v2.
    pub fn files(&self) -> Files {
        Files {
            sandbox: self.clone(),
        }
    }

    /// Returns a [`Command`] that runs a program of the sandbox without a shell. The program is a
    /// path, or a name that is looked up in `PATH`. Needs protocol v2.
    ///
    /// ```
    /// # #[cfg(all(unix, feature = "server"))]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # futures::executor::block_on(async {
    /// # let server = actix_sandbox::LocalServer::start().await?;
    /// # let sandbox = actix_sandbox::Sandbox::create(server.url()).await?;
    /// let output = sandbox.program("printf").args(["%s\n", "$HOME stays"]).output().await?;
    /// assert_eq!(output.stdout, "$HOME stays\n");
    /// # sandbox.kill().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// # #[cfg(not(all(unix, feature = "server")))]
    /// # fn main() {}
    /// ```
    pub fn program(&self, program: impl Into<String>) -> Command {
        let argv = ExecProgram::Argv(vec![program.into()]);
        Command::of(self.clone(), Exec::of(argv))
    }
}

impl Files {
    /// Reads a file of at most 64 MiB.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutputTooLarge`](crate::ErrorKind::OutputTooLarge) if the file is larger: use
    /// [`open`](Self::open).
    pub async fn read(&self, path: impl Into<FilePath>) -> Result<Bytes, Error> {
        self.read_range(path, 0, None).await
    }

    /// Reads at most `length` bytes of a file, starting at `offset`. `None` reads up to the end of
    /// the file. Fails like [`read`](Self::read) if the range has more than 64 MiB.
    pub async fn read_range(
        &self,
        path: impl Into<FilePath>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Bytes, Error> {
        let path = path.into();
        let read = Builtin::Read {
            path: path.clone(),
            offset,
            length,
        };
        let process = self.sandbox.start(read, Stdin::Null).await?;
        let content = process.stdout().read_to_limit(READ_LIMIT).await;
        let content = content.map_err(|error| match error.kind() {
            ErrorKind::OutputTooLarge => {
                let message = format!(
                    "cannot read '{path}': it is larger than 64 MiB; read it with `files.open`, or \
                     a part of it with `files.read_range`"
                );
                BuiltinError::new(BuiltinErrorKind::TooLarge, path, message).into()
            }
            _ => error,
        })?;
        outcome::<Transferred>(&process).await?;
        Ok(content)
    }

    /// Reads a file of at most 64 MiB, which must be UTF-8.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read), and [`BuiltinErrorKind::InvalidInput`] if the content is not
    /// UTF-8.
    pub async fn read_to_string(&self, path: impl Into<FilePath>) -> Result<String, Error> {
        let path = path.into();
        let content = self.read(path.clone()).await?;
        String::from_utf8(content.into()).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let message = format!("cannot read '{path}' as text: byte {at} is not UTF-8");
            BuiltinError::new(BuiltinErrorKind::InvalidInput, path, message).into()
        })
    }

    /// Opens a file for reading. If the file can't be opened, the first read fails.
    ///
    /// While the reader exists, it takes one of the 16 places of transfers. Transfers beyond them
    /// wait, so don't keep many of them open.
    pub async fn open(&self, path: impl Into<FilePath>) -> Result<FileReader, Error> {
        self.open_range(path, 0, None).await
    }

    /// Opens a part of a file for reading: at most `length` bytes, starting at `offset`. `None`
    /// reads up to the end of the file. If the file can't be opened, the first read fails.
    pub async fn open_range(
        &self,
        path: impl Into<FilePath>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileReader, Error> {
        let path = path.into();
        let read = Builtin::Read {
            path,
            offset,
            length,
        };
        let process = self.sandbox.start(read, Stdin::Null).await?;
        Ok(FileReader::new(process))
    }

    /// Writes a file atomically: until all content has arrived, readers see the old file. Creates
    /// missing parent directories. A new file gets the permissions 0644. A file that is replaced
    /// keeps its permissions.
    pub async fn write(
        &self,
        path: impl Into<FilePath>,
        content: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let write = write(path.into(), WriteMode::Replace);
        self.put(write, content.into()).await
    }

    /// Like [`write`](Self::write), but fails with [`BuiltinErrorKind::AlreadyExists`] if the file
    /// exists.
    pub async fn write_new(
        &self,
        path: impl Into<FilePath>,
        content: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let write = write(path.into(), WriteMode::Create);
        self.put(write, content.into()).await
    }

    /// Appends to a file. Creates the file if it doesn't exist.
    ///
    /// The content is written as it arrives, so the call is not atomic. If it fails, a part of the
    /// content may have been written. If the operation failed in the sandbox, the message says how
    /// many bytes were written.
    pub async fn append(
        &self,
        path: impl Into<FilePath>,
        content: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let write = write(path.into(), WriteMode::Append);
        self.put(write, content.into()).await
    }

    /// Overwrites a file, starting at `offset`, and keeps all other bytes. Like
    /// [`append`](Self::append), creates the file if it doesn't exist, and is not atomic.
    pub async fn write_at(
        &self,
        path: impl Into<FilePath>,
        offset: u64,
        content: impl Into<Bytes>,
    ) -> Result<(), Error> {
        let write = write(path.into(), WriteMode::At(offset));
        self.put(write, content.into()).await
    }

    /// Opens a file for writing. [Shutting down](tokio::io::AsyncWriteExt::shutdown) the writer
    /// replaces the file atomically, like [`write`](Self::write). If the writer is dropped before
    /// that, the old file stays.
    ///
    /// While the writer exists, it takes one of the 16 places of transfers. Transfers beyond them
    /// wait, so don't keep many of them open.
    pub async fn create(&self, path: impl Into<FilePath>) -> Result<FileWriter, Error> {
        self.writer(path, WriteMode::Replace).await
    }

    /// Opens a file for writing in the given mode. [`create`](Self::create) uses
    /// [`WriteMode::Replace`].
    pub async fn writer(
        &self,
        path: impl Into<FilePath>,
        mode: WriteMode,
    ) -> Result<FileWriter, Error> {
        let process = self
            .sandbox
            .start(write(path.into(), mode), Stdin::Open)
            .await?;
        Ok(FileWriter::new(process))
    }

    /// Lists the entries of a directory, sorted by name.
    pub async fn list(&self, path: impl Into<FilePath>) -> Result<Vec<FileEntry>, Error> {
        self.entries(path, 1, None).await?.collect_all().await
    }

    /// Lists the entries of a directory as a stream. `depth` is the number of levels to list: 1
    /// lists only the direct entries of the directory. With a `pattern`, lists only the entries
    /// whose name matches it: `*` matches any number of characters, `?` exactly one.
    pub async fn entries(
        &self,
        path: impl Into<FilePath>,
        depth: u32,
        pattern: Option<&str>,
    ) -> Result<FileEntries, Error> {
        let list = Builtin::List {
            path: path.into(),
            depth,
            pattern: pattern.map(str::to_owned),
        };
        let process = self.sandbox.start(list, Stdin::Null).await?;
        Ok(FileEntries::new(process))
    }

    /// Returns the metadata of a file or directory. Follows symbolic links.
    #[doc(alias = "get_info")]
    #[doc(alias = "stat")]
    pub async fn metadata(&self, path: impl Into<FilePath>) -> Result<FileMetadata, Error> {
        let path = path.into();
        self.sandbox
            .perform(Builtin::Metadata { path, follow: true })
            .await
    }

    /// Returns the metadata of a file or directory. If the path is a symbolic link, describes the
    /// link itself.
    pub async fn symlink_metadata(&self, path: impl Into<FilePath>) -> Result<FileMetadata, Error> {
        let path = path.into();
        let follow = false;
        self.sandbox
            .perform(Builtin::Metadata { path, follow })
            .await
    }

    /// Whether a file or directory exists. `false` for a symbolic link whose target doesn't exist.
    pub async fn exists(&self, path: impl Into<FilePath>) -> Result<bool, Error> {
        match self.metadata(path).await {
            Ok(_) => Ok(true),
            Err(error) => match error.builtin().map(|error| error.kind) {
                Some(BuiltinErrorKind::NotFound | BuiltinErrorKind::NotADirectory) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Creates a directory and its missing parents. Succeeds if the directory already exists.
    #[doc(alias = "make_dir")]
    #[doc(alias = "mkdir")]
    pub async fn create_dir(&self, path: impl Into<FilePath>) -> Result<(), Error> {
        self.sandbox
            .apply(Builtin::CreateDir { path: path.into() })
            .await
    }

    /// Removes a file, a link or an empty directory.
    pub async fn remove(&self, path: impl Into<FilePath>) -> Result<(), Error> {
        let path = path.into();
        let recursive = false;
        self.sandbox
            .apply(Builtin::Remove { path, recursive })
            .await
    }

    /// Removes a directory with everything in it, or a file. Doesn't follow links.
    pub async fn remove_all(&self, path: impl Into<FilePath>) -> Result<(), Error> {
        let path = path.into();
        let recursive = true;
        self.sandbox
            .apply(Builtin::Remove { path, recursive })
            .await
    }

    /// Renames a file or directory. Replaces a file at the new path.
    pub async fn rename(
        &self,
        path: impl Into<FilePath>,
        to: impl Into<FilePath>,
    ) -> Result<(), Error> {
        let (path, to) = (path.into(), to.into());
        self.sandbox.apply(Builtin::Rename { path, to }).await
    }

    /// Copies a regular file with its permissions, atomically like [`write`](Self::write). Returns
    /// the number of bytes copied.
    pub async fn copy(
        &self,
        path: impl Into<FilePath>,
        to: impl Into<FilePath>,
    ) -> Result<u64, Error> {
        let (path, to) = (path.into(), to.into());
        let copied: Transferred = self.sandbox.perform(Builtin::Copy { path, to }).await?;
        Ok(copied.bytes)
    }

    /// Sets the permission bits of a file, at most 0o7777. Follows symbolic links.
    pub async fn set_permissions(
        &self,
        path: impl Into<FilePath>,
        permissions: u32,
    ) -> Result<(), Error> {
        let path = path.into();
        self.sandbox
            .apply(Builtin::SetPermissions { path, permissions })
            .await
    }

    /// Creates a symbolic link at `path` that points to `target`, which need not exist.
    pub async fn symlink(
        &self,
        target: impl Into<FilePath>,
        path: impl Into<FilePath>,
    ) -> Result<(), Error> {
        self.link(path.into(), target.into(), true).await
    }

    /// Creates a hard link at `path` to the file `target`.
    pub async fn hard_link(
        &self,
        target: impl Into<FilePath>,
        path: impl Into<FilePath>,
    ) -> Result<(), Error> {
        self.link(path.into(), target.into(), false).await
    }

    /// Watches a file, or a directory with its direct entries. With `recursive`, also watches all
    /// directories below. Resolves when the watch is ready: it reports every later change.
    #[doc(alias = "watch_dir")]
    pub async fn watch(
        &self,
        path: impl Into<FilePath>,
        recursive: bool,
    ) -> Result<FileEvents, Error> {
        let path = path.into();
        let process = self
            .sandbox
            .start(Builtin::Watch { path, recursive }, Stdin::Open)
            .await?;
        FileEvents::ready(process).await
    }

    async fn link(&self, path: FilePath, target: FilePath, symbolic: bool) -> Result<(), Error> {
        self.sandbox
            .apply(Builtin::Link {
                path,
                target,
                symbolic,
            })
            .await
    }

    async fn put(&self, write: Builtin, content: Bytes) -> Result<(), Error> {
        let process = self.sandbox.start(write, Stdin::Bytes(content)).await?;
        outcome::<Transferred>(&process).await.map(drop)
    }
}

fn write(path: FilePath, mode: WriteMode) -> Builtin {
    Builtin::Write {
        path,
        mode,
        permissions: None,
    }
}
