//! [`Store`]: what outlives a sandbox, as files of a [`Storage`]: the state directory of the server, or a bucket.
//!
//! ```text
//! snapshots/NAME.tar.lz4     the files of a sandbox
//! checkpoints/ID.tar.lz4     the same, behind a record of its settings
//! locks/                     which server has a sandbox, see `lock`
//! ```
//!
//! A file is whole or it is not there, and an older one stays until then. Several servers may share the storage.

use std::{
    fs,
    io::{self, Seek},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use super::{
    archive::{
        layout::{Bounds, Head},
        pack::Packer,
        unpack::{read_execs, read_record, unpack},
    },
    exec_record,
    record::Record,
    storage::{CHECKPOINTS, SNAPSHOTS, Stamp, Storage, UNFINISHED},
    turns::{Stop, Turn, Turns},
};
use crate::{
    machine::StoredExec,
    protocol::{SandboxId, excerpt},
    server::{backend::api::BackendSandbox, blocking::blocking},
};

/// Small requests to the storage at the same time. They do not wait behind archives. Those that hang
/// keep a thread of the engine each, of which there must be some left.
const SMALL_AT_ONCE: usize = 4;

/// Longest name of a snapshot, in bytes.
const MAX_NAME_BYTES: usize = 128;

const EXTENSION: &str = "tar.lz4";

/// Snapshots and checkpoints.
pub(crate) struct Store {
    storage: Arc<dyn Storage>,
    /// The storage stays when the server stops.
    lasting: bool,
    bounds: Bounds,
    turns: Turns,
    small: Arc<Semaphore>,
}

/// The name of a filesystem snapshot: one that is safe as the name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotName(String);

impl SnapshotName {
    /// The name, or what is wrong with it.
    pub(crate) fn new(name: &str) -> Result<Self, String> {
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

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Store {
    /// What is stored in this storage. `lasting`: it stays when the server stops. `limit`: the longest
    /// time that an operation may take.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        lasting: bool,
        bounds: Bounds,
        limit: Duration,
    ) -> Self {
        Self {
            storage,
            lasting,
            bounds,
            turns: Turns::new(limit),
            small: Arc::new(Semaphore::new(SMALL_AT_ONCE)),
        }
    }

    /// Whether what is stored is there after the server has stopped.
    pub(crate) fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// Where everything is stored.
    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Nothing is stored any more, and what is being stored is given up: the files of the sandboxes are
    /// about to go.
    pub(crate) fn close(&self) {
        self.turns.close();
    }

    /// Stores the files of a sandbox under a name.
    pub(crate) async fn save_snapshot(
        &self,
        name: &SnapshotName,
        sandbox: &dyn BackendSandbox,
        stop: Stop,
    ) -> io::Result<()> {
        self.save(snapshot_file(name), None, sandbox, stop, || Ok(()))
            .await
    }

    /// Fills a new sandbox from a snapshot. `NotFound` when there is none of this name.
    pub(crate) async fn load_snapshot(
        &self,
        name: &SnapshotName,
        sandbox: &dyn BackendSandbox,
    ) -> io::Result<()> {
        self.load(snapshot_file(name), sandbox, |_, _| Ok(())).await
    }

    /// Stores a sandbox with its settings, and what is over in it and not acknowledged. `fence` is asked at the last moment
    /// whether that may be.
    pub(crate) async fn save_checkpoint(
        &self,
        id: &SandboxId,
        record: &Record,
        execs: &[StoredExec],
        sandbox: &dyn BackendSandbox,
        fence: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let head = Head {
            record: record.write(id)?,
            execs: exec_record::write(execs)?,
        };
        let file = checkpoint_file(id);
        self.save(file, Some(head), sandbox, Stop::default(), fence)
            .await
    }

    /// The settings of a checkpointed sandbox. `NotFound` when there is no checkpoint.
    pub(crate) async fn checkpoint(&self, id: &SandboxId) -> io::Result<Record> {
        let (storage, id) = (self.storage.clone(), id.clone());
        self.small(move || {
            let archive = storage.open(&checkpoint_file(&id))?;
            Record::read(&read_record(archive, &Turn::default())?, &id)
        })
        .await
    }

    /// Whether a sandbox has a checkpoint; also when that cannot be found out.
    pub(crate) async fn has_checkpoint(&self, id: &SandboxId) -> bool {
        match self.stamp(id).await {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Fills a new sandbox from a checkpoint; gives what was over in it and not acknowledged.
    pub(crate) async fn load_checkpoint(
        &self,
        id: &SandboxId,
        sandbox: &dyn BackendSandbox,
    ) -> io::Result<Vec<StoredExec>> {
        let read = |archive: &mut fs::File, turn: &Turn| {
            archive.rewind()?;
            match read_execs(archive, turn)? {
                Some(written) => exec_record::read(&written),
                None => Ok(Vec::new()),
            }
        };
        self.load(checkpoint_file(id), sandbox, read).await
    }

    /// Which checkpoint of a sandbox there is.
    pub(crate) async fn stamp(&self, id: &SandboxId) -> io::Result<Stamp> {
        let (storage, file) = (self.storage.clone(), checkpoint_file(id));
        self.small(move || storage.stamp(&file)).await
    }

    /// Removes this checkpoint of a sandbox; not another that a server beside this one has put in its
    /// place. `fence` is asked whether the sandbox is still this server's.
    pub(crate) async fn remove_old_checkpoint(
        &self,
        id: &SandboxId,
        stamp: Stamp,
        fence: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (storage, file) = (self.storage.clone(), checkpoint_file(id));
        self.small(move || {
            if fence().is_ok() && storage.stamp(&file).is_ok_and(|now| now == stamp) {
                return storage.remove(&file);
            }
            Ok(())
        })
        .await
    }

    /// Removes the checkpoint of a sandbox, if there is one.
    pub(crate) async fn remove_checkpoint(&self, id: &SandboxId) -> io::Result<()> {
        let (storage, file) = (self.storage.clone(), checkpoint_file(id));
        self.small(move || storage.remove(&file)).await
    }

    async fn save(
        &self,
        file: String,
        head: Option<Head>,
        sandbox: &dyn BackendSandbox,
        stop: Stop,
        fence: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let (storage, trees, bounds) = (self.storage.clone(), sandbox.trees(), self.bounds);
        let pack = move |turn: &Turn| {
            let directory = storage.workplace(&file);
            let mut packer = Packer::create(&directory, UNFINISHED, head.as_ref(), bounds, turn)?;
            packer.add_trees(&trees)?;
            storage.put(packer.finish()?, &file, Box::new(fence))
        };
        self.turns.run(stop, pack).await
    }

    /// Fills a new sandbox; gives what `then` reads of the archive.
    async fn load<T: Send + 'static>(
        &self,
        file: String,
        sandbox: &dyn BackendSandbox,
        then: impl FnOnce(&mut fs::File, &Turn) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (storage, trees, bounds) = (self.storage.clone(), sandbox.trees(), self.bounds);
        let unpack_all = move |turn: &Turn| {
            let mut archive = storage.fetch(&file, &bounds, turn)?;
            unpack(&mut archive, &trees, bounds, turn)?;
            then(&mut archive, turn)
        };
        let read = self.turns.run(Stop::default(), unpack_all).await?;
        sandbox.unpacked().await.map_err(io::Error::other)?;
        Ok(read)
    }

    /// Makes a small request to the storage.
    async fn small<T: Send + 'static>(
        &self,
        request: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let done = async {
            let permit = self.small.clone().acquire_owned().await;
            let permit = permit.map_err(io::Error::other)?;
            blocking(move || {
                let _permit = permit;
                request()
            })
            .await
        };
        let done = timeout(self.turns.limit(), done).await;
        done.unwrap_or_else(|_| Err(io::Error::other(self.turns.late())))
    }
}

fn snapshot_file(name: &SnapshotName) -> String {
    format!("{SNAPSHOTS}/{}.{EXTENSION}", name.as_str())
}

fn checkpoint_file(id: &SandboxId) -> String {
    format!("{CHECKPOINTS}/{id}.{EXTENSION}")
}

/// An error of the store as a client is told: not without end, whatever files are called.
pub(crate) fn reason(error: &io::Error) -> String {
    format!("{}.", excerpt(error.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::store::directory::Directory;
    use crate::{protocol::SandboxConfig, server::identity::TokenHash};

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

    /// A sandbox that is deleted does not wait for the archives of others.
    #[tokio::test]
    async fn a_closed_store_and_a_stopped_operation_store_nothing() {
        use crate::server::backend::{server_directory::Root, start::start};

        let directory = tempfile::tempdir().unwrap();
        let root = Root::make(directory.path(), "store-test").unwrap();
        let backend = start(
            Some(&crate::server::choice::Backend::Host),
            root,
            None,
            "store-test".to_owned(),
        )
        .await
        .unwrap();
        let sandbox = backend.create(&SandboxId::new("sandbox-1")).await.unwrap();
        let state = directory.path().join("state");
        let storage = Directory::open(&state).unwrap();
        let bounds = Bounds {
            bytes: 1 << 20,
            files: 10,
        };
        let store = Store::new(Arc::new(storage), true, bounds, Duration::from_secs(60));
        let name = SnapshotName::new("snap").unwrap();
        let stop = Stop::default();
        stop.stop();
        assert!(store.save_snapshot(&name, &*sandbox, stop).await.is_err());
        // An attach does not wait either.
        let none = store.checkpoint(&SandboxId::new("none")).await.err();
        assert_eq!(none.unwrap().kind(), io::ErrorKind::NotFound);

        store.close();
        let late = store.save_snapshot(&name, &*sandbox, Stop::default()).await;
        assert!(late.is_err());
        assert_eq!(fs::read_dir(state.join(SNAPSHOTS)).unwrap().count(), 0);
        backend.shutdown().await;
    }
}
