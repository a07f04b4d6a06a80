//! [`Store`]: what outlives a sandbox, as files below the state directory of the server.
//!
//! ```text
//! snapshots/NAME.tar.zst     the files of a sandbox
//! checkpoints/ID.tar.zst     the same, behind a record of its settings
//! locks/                     which server has a sandbox, see `lock`
//! ```
//!
//! A file is written beside its place under another name, synchronised, and renamed: it is whole or it
//! is not there, and an older one stays until then. Several servers may share the directory.

pub(super) mod archive;
mod execs;
pub(super) mod lock;
mod tree;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::spawn_blocking};

use self::{
    archive::{Head, Packer, Stop, Unpacker},
    lock::Locks,
};
use super::{backend::BackendSandbox, token::TokenHash};
use crate::{
    machine::StoredExec,
    protocol::{SandboxConfig, SandboxId, excerpt},
};

/// Archives that are written or read at the same time; each takes a thread.
const AT_ONCE: usize = 4;

/// Records that are read at the same time: whoever attaches does not wait behind archives.
const LOOKS_AT_ONCE: usize = 4;

/// Longest name of a snapshot, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The beginning of the names of files that are being written.
const UNFINISHED: &str = ".unfinished-";

/// Age at which an unfinished file was left behind by a server that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);

const EXTENSION: &str = "tar.zst";

/// Snapshots and checkpoints.
pub(super) struct Store {
    snapshots: PathBuf,
    checkpoints: PathBuf,
    /// The directory stays when the server stops.
    lasting: bool,
    turns: Semaphore,
    looks: Semaphore,
    closed: Stop,
}

/// The name of a filesystem snapshot: one that is safe as the name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SnapshotName(String);

impl SnapshotName {
    /// The name, or what is wrong with it.
    pub(super) fn new(name: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty()
            || name.len() > MAX_NAME_BYTES
            || name.starts_with('.')
            || !name.bytes().all(fits)
        {
            return Err(format!(
                "'{}' is no name for a filesystem snapshot: 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' and '.' are, not beginning with '.'.",
                excerpt(name.as_bytes())
            ));
        }
        Ok(Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells one checkpoint of a sandbox from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    fn of(file: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(file)?;
        Ok(Self {
            inode: meta.ino(),
            seconds: meta.mtime(),
            nanoseconds: meta.mtime_nsec(),
        })
    }
}

/// The settings of a checkpointed sandbox.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) token: TokenHash,
    pub(super) config: SandboxConfig,
}

/// A [`Record`] as it is written. A later version may add keys.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    sandbox_id: String,
    token_sha256: String,
    config: serde_json::Value,
}

const VERSION: u32 = 1;

impl Record {
    fn write(&self, id: &SandboxId) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(&Written {
            version: VERSION,
            sandbox_id: id.as_str().to_owned(),
            token_sha256: self.token.to_hex(),
            config: serde_json::from_str(&self.config.encode())?,
        })?)
    }

    fn read(text: &[u8], id: &SandboxId) -> io::Result<Self> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let written: Written = serde_json::from_slice(text)?;
        if written.version != VERSION {
            return Err(damaged("its record is of another version"));
        }
        if written.sandbox_id != id.as_str() {
            return Err(damaged("it belongs to another sandbox"));
        }
        let config = SandboxConfig::parse(written.config.to_string().as_bytes())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let token = TokenHash::from_hex(&written.token_sha256)
            .ok_or_else(|| damaged("its record holds no token"))?;
        Ok(Self { token, config })
    }
}

impl Store {
    /// The store in this directory, which is made if it is missing. `lasting`: it stays when the
    /// server stops.
    pub(super) fn open(directory: &Path, lasting: bool) -> io::Result<Self> {
        let store = Self {
            snapshots: directory.join("snapshots"),
            checkpoints: directory.join("checkpoints"),
            lasting,
            turns: Semaphore::new(AT_ONCE),
            looks: Semaphore::new(LOOKS_AT_ONCE),
            closed: Stop::default(),
        };
        // One that is there may be everybody's: only what is ours in it is closed to others.
        private().create(directory)?;
        for directory in [&store.snapshots, &store.checkpoints] {
            make_private(directory)?;
            remove_left_behind(directory, archive::remove_if_left_behind)?;
        }
        Ok(store)
    }

    /// The locks beside it, for the server of this name.
    pub(super) fn locks(directory: &Path, owner: String, lease: Duration) -> io::Result<Locks> {
        Locks::open(directory, owner, lease)
    }

    /// Whether what is stored is there after the server has stopped.
    pub(super) fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// Nothing is stored any more, and what is being stored is given up: the files of the sandboxes are
    /// about to go.
    pub(super) fn close(&self) {
        self.closed.stop();
    }

    /// Stores the files of a sandbox under a name.
    pub(super) async fn save_snapshot(
        &self,
        name: &SnapshotName,
        sandbox: &dyn BackendSandbox,
        stop: Stop,
    ) -> io::Result<()> {
        self.save(self.snapshot_file(name), None, sandbox, stop, || Ok(()))
            .await
    }

    /// Fills a new sandbox from a snapshot. `NotFound` when there is none of this name.
    pub(super) async fn load_snapshot(
        &self,
        name: &SnapshotName,
        sandbox: &dyn BackendSandbox,
    ) -> io::Result<()> {
        self.load(self.snapshot_file(name), sandbox).await
    }

    /// Stores a sandbox with its settings, and what is over in it and not acknowledged. `fence` is asked at the last moment whether that may be.
    pub(super) async fn save_checkpoint(
        &self,
        id: &SandboxId,
        record: &Record,
        execs: &[StoredExec],
        sandbox: &dyn BackendSandbox,
        fence: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let head = Head {
            record: record.write(id)?,
            execs: execs::write(execs)?,
        };
        let file = self.checkpoint_file(id);
        self.save(file, Some(head), sandbox, Stop::default(), fence)
            .await
    }

    /// The settings of a checkpointed sandbox. `NotFound` when there is no checkpoint.
    pub(super) async fn checkpoint(&self, id: &SandboxId) -> io::Result<Record> {
        let (file, id) = (self.checkpoint_file(id), id.clone());
        let _look = self.looks.acquire().await.map_err(io::Error::other)?;
        blocking(move || Record::read(&archive::read_record(&file)?, &id)).await
    }

    /// Whether a sandbox has a checkpoint; also when that cannot be found out.
    pub(super) async fn has_checkpoint(&self, id: &SandboxId) -> bool {
        let file = self.checkpoint_file(id);
        blocking(move || file.try_exists()).await.unwrap_or(true)
    }

    /// Fills a new sandbox from a checkpoint; gives what was over in it and not acknowledged.
    pub(super) async fn load_checkpoint(
        &self,
        id: &SandboxId,
        sandbox: &dyn BackendSandbox,
    ) -> io::Result<Vec<StoredExec>> {
        let file = self.checkpoint_file(id);
        self.load(file.clone(), sandbox).await?;
        blocking(move || match archive::read_execs(&file)? {
            Some(written) => execs::read(&written),
            None => Ok(Vec::new()),
        })
        .await
    }

    /// Which checkpoint of a sandbox there is.
    pub(super) async fn stamp(&self, id: &SandboxId) -> io::Result<Stamp> {
        let file = self.checkpoint_file(id);
        blocking(move || Stamp::of(&file)).await
    }

    /// Removes this checkpoint of a sandbox; not another that a server beside this one has put in its
    /// place. `fence` is asked whether the sandbox is still this server's.
    pub(super) async fn remove_old_checkpoint(
        &self,
        id: &SandboxId,
        stamp: Stamp,
        fence: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let file = self.checkpoint_file(id);
        blocking(move || {
            if fence().is_ok() && Stamp::of(&file).is_ok_and(|now| now == stamp) {
                return fs::remove_file(file);
            }
            Ok(())
        })
        .await
    }

    /// Removes the checkpoint of a sandbox, if there is one.
    pub(super) async fn remove_checkpoint(&self, id: &SandboxId) -> io::Result<()> {
        let file = self.checkpoint_file(id);
        let removed = blocking(move || fs::remove_file(file)).await;
        removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }

    async fn save(
        &self,
        file: PathBuf,
        head: Option<Head>,
        sandbox: &dyn BackendSandbox,
        stop: Stop,
        fence: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let _turn = tokio::select! {
            biased;
            () = stop.stopped() => return stop.check(),
            () = self.closed.stopped() => return self.closed.check(),
            turn = self.turn() => turn?,
        };
        let packer = {
            let (file, stops) = (file.clone(), vec![stop, self.closed.clone()]);
            blocking(move || Packer::create(&file, UNFINISHED, head.as_ref(), stops)).await?
        };
        let packer = sandbox.pack(packer).await?;
        blocking(move || packer.finish(&file, fence)).await
    }

    async fn load(&self, file: PathBuf, sandbox: &dyn BackendSandbox) -> io::Result<()> {
        let _turn = self.turn().await?;
        let unpacker = blocking(move || Unpacker::open(&file)).await?;
        sandbox.unpack(unpacker).await
    }

    async fn turn(&self) -> io::Result<tokio::sync::SemaphorePermit<'_>> {
        self.turns.acquire().await.map_err(io::Error::other)
    }

    fn snapshot_file(&self, name: &SnapshotName) -> PathBuf {
        self.snapshots
            .join(format!("{}.{EXTENSION}", name.as_str()))
    }

    fn checkpoint_file(&self, id: &SandboxId) -> PathBuf {
        self.checkpoints.join(format!("{id}.{EXTENSION}"))
    }
}

/// Does what blocks on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Makes directories that no other user may enter, where there are none.
fn private() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).recursive(true);
    builder
}

/// Makes a directory that no other user may enter. One that is there is closed to others.
fn make_private(directory: &Path) -> io::Result<()> {
    private().create(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// Removes what a server that was killed has not finished. Another server may be writing to the
/// directory just now: `remove` knows, or else only what is old goes.
fn remove_left_behind(directory: &Path, remove: impl Fn(&Path) -> Option<bool>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let unfinished = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(UNFINISHED));
        if !unfinished || remove(&entry.path()).is_some() {
            continue;
        }
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
        if age.is_ok_and(|age| age > LEFT_BEHIND) {
            // Somebody else may have been quicker.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_no_names() {
        for name in [
            "",
            ".",
            "..",
            ".hidden",
            "a/b",
            "../a",
            "/etc/passwd",
            "a\0b",
            "a b",
            "é",
            "a\n",
            "..\\a",
            &"a".repeat(MAX_NAME_BYTES + 1),
        ] {
            let why = SnapshotName::new(name).unwrap_err();
            assert!(why.contains("letters, digits"), "{why}");
        }
        for name in ["snap", "a.b-c_D", "7", "a..b", &"a".repeat(MAX_NAME_BYTES)] {
            assert_eq!(SnapshotName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_for_its_sandbox_alone() {
        let id = SandboxId::new("sandbox-1");
        let token = crate::protocol::SandboxToken::new("secret-of-it");
        let record = Record {
            token: TokenHash::of(&token),
            config: SandboxConfig {
                idle_timeout: Some(7),
                enable_checkpoint: true,
                ..SandboxConfig::default()
            },
        };
        let text = record.write(&id).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("secret-of-it"));
        let read = Record::read(&text, &id).unwrap();
        assert_eq!(read.config, record.config);
        assert!(read.token.matches(&token));
        for (text, id) in [
            (text.as_slice(), "sandbox-2"),
            (&text[..text.len() - 1], "sandbox-1"),
            (b"{}", "sandbox-1"),
            (b"", "sandbox-1"),
        ] {
            assert!(Record::read(text, &SandboxId::new(id)).is_err());
        }
    }

    fn set_age(file: &Path, age: Duration) {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn what_a_killed_server_left_unfinished_is_removed_and_what_is_being_written_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), true).unwrap();
        // What a process that was killed leaves: the file, without its lock.
        let left = store.snapshots.join(format!("{UNFINISHED}left"));
        fs::write(&left, "half").unwrap();
        let kept = store.snapshots.join("kept.tar.zst");
        fs::write(&kept, "whole").unwrap();
        let file = store.snapshots.join("written.tar.zst");
        let packer = Packer::create(&file, UNFINISHED, None, Vec::new()).unwrap();
        for entry in fs::read_dir(&store.snapshots).unwrap() {
            set_age(&entry.unwrap().path(), 2 * LEFT_BEHIND);
        }

        Store::open(directory.path(), true).unwrap();
        assert!(!left.exists() && kept.exists());
        packer.finish(&file, || Ok(())).unwrap();
        assert!(file.exists());
    }

    #[test]
    fn where_there_are_no_locks_only_what_is_old_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let unfinished = |name: &str| directory.path().join(format!("{UNFINISHED}{name}"));
        let (old, young) = (unfinished("old"), unfinished("young"));
        for file in [&old, &young] {
            fs::write(file, "half").unwrap();
        }
        set_age(&old, 2 * LEFT_BEHIND);
        remove_left_behind(directory.path(), |_| None).unwrap();
        assert!(!old.exists() && young.exists());
    }

    #[test]
    fn what_is_stored_is_closed_to_others_and_a_directory_that_was_there_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let store = Store::open(directory.path(), true).unwrap();
        assert_eq!(mode(directory.path()), 0o1777);
        assert_eq!(mode(&store.snapshots), 0o700);
        assert_eq!(mode(&store.checkpoints), 0o700);

        let made = directory.path().join("made");
        Store::open(&made, true).unwrap();
        assert_eq!(mode(&made), 0o700);
    }

    /// A sandbox that is deleted does not wait behind the archives of others.
    #[tokio::test]
    async fn whoever_waits_for_a_turn_can_be_stopped_and_so_can_all() {
        use crate::server::backend;

        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let backend = backend::start(
            Some(&crate::server::Backend::Host),
            root,
            "store-test".to_owned(),
        )
        .await
        .unwrap();
        let sandbox = backend.create(&SandboxId::new("sandbox-1")).await.unwrap();
        let store = Store::open(&directory.path().join("state"), true).unwrap();
        let name = SnapshotName::new("snap").unwrap();
        let all = store.turns.acquire_many(AT_ONCE as u32).await.unwrap();

        let stop = Stop::default();
        let mut waits = std::pin::pin!(store.save_snapshot(&name, &*sandbox, stop.clone()));
        assert!(futures::poll!(&mut waits).is_pending());
        stop.stop();
        assert!(waits.await.is_err());

        // Nor does an attach.
        let none = store.checkpoint(&SandboxId::new("none")).await.err();
        assert_eq!(none.unwrap().kind(), io::ErrorKind::NotFound);

        let mut waits = std::pin::pin!(store.save_snapshot(&name, &*sandbox, Stop::default()));
        assert!(futures::poll!(&mut waits).is_pending());
        store.close();
        assert!(waits.await.is_err());
        drop(all);
        let late = store.save_snapshot(&name, &*sandbox, Stop::default()).await;
        assert!(late.is_err());
        assert_eq!(fs::read_dir(&store.snapshots).unwrap().count(), 0);
        backend.shutdown().await;
    }
}
