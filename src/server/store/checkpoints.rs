//! [`Store`]: snapshots and checkpoints, as files of a [`Storage`]: the state directory of the
//! server or a bucket.
//!
//! ```text
//! snapshots/NAME.tar.lz4     the files of a sandbox
//! checkpoints/ID.tar.lz4     a record of the settings of a sandbox, then its files
//! locks/                     which server owns a sandbox, see `lock`
//! ```
//!
//! A file is whole or absent, and an older file stays until a new one replaces it. Several servers
//! may share the storage.

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

/// Maximum number of concurrent small requests to the storage, which don't wait for archives. A
/// request that hangs occupies a thread of the blocking pool, and the limit leaves threads for
/// others.
const SMALL_AT_ONCE: usize = 4;

/// Longest name of a snapshot, in bytes.
const MAX_NAME_BYTES: usize = 128;

const EXTENSION: &str = "tar.lz4";

/// Snapshots and checkpoints.
pub(crate) struct Store {
    storage: Arc<dyn Storage>,
    /// Whether the storage remains when the server stops.
    lasting: bool,
    bounds: Bounds,
    turns: Turns,
    small: Arc<Semaphore>,
}

/// The name of a filesystem snapshot. It is safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotName(String);

impl SnapshotName {
    /// Checks a name. The error is the reason to report to the client.
    pub(crate) fn new(name: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty()
            || name.len() > MAX_NAME_BYTES
            || name.starts_with('.')
            || !name.bytes().all(fits)
        {
            return Err(format!(
                "'{}' is not a valid name for a filesystem snapshot: use 1 to {MAX_NAME_BYTES} \
                 letters, digits, '-', '_' and '.', and don't start with '.'.",
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
    /// Snapshots and checkpoints in this storage. `lasting` says whether the storage remains when
    /// the server stops. `limit` is the time limit of an operation.
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

    /// Whether snapshots and checkpoints remain when the server stops.
    pub(crate) fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// The underlying storage, which also holds the locks.
    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Stops all pending and later operations. The server calls this before it removes the files of
    /// its sandboxes.
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

    /// Fills a new sandbox from a snapshot. Fails with `NotFound` if no snapshot has this name.
    pub(crate) async fn load_snapshot(
        &self,
        name: &SnapshotName,
        sandbox: &dyn BackendSandbox,
    ) -> io::Result<()> {
        self.load(snapshot_file(name), sandbox, |_, _| Ok(())).await
    }

    /// Stores the files and settings of a sandbox, and its ended execs that were not acknowledged.
    /// `fence` checks at the last moment that this server may still write the checkpoint.
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

    /// The settings of a checkpointed sandbox. Fails with `NotFound` if there is no checkpoint.
    pub(crate) async fn checkpoint(&self, id: &SandboxId) -> io::Result<Record> {
        let (storage, id) = (self.storage.clone(), id.clone());
        self.small(move || {
            let archive = storage.open(&checkpoint_file(&id))?;
            Record::read(&read_record(archive, &Turn::default())?, &id)
        })
        .await
    }

    /// Whether a sandbox has a checkpoint. True if the storage can't tell.
    pub(crate) async fn has_checkpoint(&self, id: &SandboxId) -> bool {
        match self.stamp(id).await {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Fills a new sandbox from a checkpoint. Returns the ended execs that were not acknowledged.
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

    /// The stamp of the current checkpoint of a sandbox.
    pub(crate) async fn stamp(&self, id: &SandboxId) -> io::Result<Stamp> {
        let (storage, file) = (self.storage.clone(), checkpoint_file(id));
        self.small(move || storage.stamp(&file)).await
    }

    /// Removes the checkpoint with this stamp, but not one with which another server has replaced
    /// it. `fence` checks that this server still owns the sandbox.
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

    /// Fills a new sandbox from an archive. Returns what `then` reads from the archive.
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

    /// Makes a small request to the storage, with the time limit of the store.
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

/// The text of an error for the client. Limits its length, because it may hold long file names.
pub(crate) fn reason(error: &io::Error) -> String {
    format!("{}.", excerpt(error.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::store::directory::Directory;
    use crate::{
        protocol::{SandboxConfig, SandboxLimits, listing::from_millis},
        server::identity::TokenHash,
    };

    #[test]
    fn snapshot_names_that_could_be_paths_are_refused() {
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
    fn a_record_is_read_only_for_its_own_sandbox() {
        let id = SandboxId::new("sandbox-1");
        let token = crate::protocol::SandboxToken::new("secret-of-it");
        let record = Record {
            token: TokenHash::of(&token),
            config: SandboxConfig {
                idle_timeout: Some(7),
                enable_checkpoint: true,
                ..SandboxConfig::default()
            },
            created: from_millis(1_000),
            ends_at: Some(from_millis(2_000)),
        };
        let text = record.write(&id).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains("secret-of-it"));
        let read = Record::read(&text, &id).unwrap();
        assert_eq!(read.config, record.config);
        assert_eq!(
            (read.created, read.ends_at),
            (record.created, record.ends_at)
        );
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

    #[test]
    fn a_record_without_a_time_of_creation_gets_one() {
        let id = SandboxId::new("sandbox-1");
        let record = Record {
            token: TokenHash::of(&crate::protocol::SandboxToken::new("secret")),
            config: SandboxConfig::default(),
            created: from_millis(1_000),
            ends_at: None,
        };
        let mut written: serde_json::Value =
            serde_json::from_slice(&record.write(&id).unwrap()).unwrap();
        written.as_object_mut().unwrap().remove("created_ms");
        let before = std::time::SystemTime::now();
        let text = serde_json::to_vec(&written).unwrap();
        assert!(Record::read(&text, &id).unwrap().created >= before);
    }

    /// An older server can't keep the options, so it must not restore the sandbox.
    #[test]
    fn only_a_record_with_options_has_a_new_version() {
        let id = SandboxId::new("sandbox-1");
        let mut record = Record {
            token: TokenHash::of(&crate::protocol::SandboxToken::new("secret")),
            config: SandboxConfig::default(),
            created: from_millis(1_000),
            ends_at: None,
        };
        let version = |record: &Record| {
            let mut text = record.write(&id).unwrap();
            Record::read(&text, &id).unwrap();
            let mut written: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let version = written["version"].take();
            written["version"] = 3.into();
            text = serde_json::to_vec(&written).unwrap();
            let error = Record::read(&text, &id).err().unwrap();
            assert!(error.to_string().contains("another version"), "{error}");
            version
        };
        assert_eq!(version(&record), 1);
        record.config.labels.insert("k".into(), "v".into());
        assert_eq!(version(&record), 2);
    }

    /// Another program may have written the checkpoint.
    #[test]
    fn a_record_with_options_that_no_client_may_set_is_refused() {
        let id = SandboxId::new("sandbox-1");
        let config = SandboxConfig {
            enable_checkpoint: true,
            ..SandboxConfig::default()
        };
        let record = Record {
            token: TokenHash::of(&crate::protocol::SandboxToken::new("secret")),
            config,
            created: from_millis(1_000),
            ends_at: None,
        };
        let mut written: serde_json::Value =
            serde_json::from_slice(&record.write(&id).unwrap()).unwrap();
        for (key, value, part) in [
            ("env", serde_json::json!({"A=B": "secret"}), "contains '='"),
            ("env", serde_json::json!({"A": "secret\0"}), "a zero byte"),
            (
                "labels",
                serde_json::json!({"a\n": ""}),
                "control character",
            ),
            ("limits", serde_json::json!({"processes": 0}), "contains 0"),
            ("max_lifetime", (1_u64 << 32).into(), "is longer"),
        ] {
            let good = written["config"].clone();
            written["config"][key] = value;
            let text = serde_json::to_vec(&written).unwrap();
            let error = Record::read(&text, &id).err().unwrap().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
            written["config"] = good;
        }
        Record::read(&serde_json::to_vec(&written).unwrap(), &id).unwrap();
    }

    /// Neither a deleted sandbox nor an attach waits for the archives of other sandboxes.
    #[tokio::test]
    async fn a_closed_store_and_a_stopped_operation_store_nothing() {
        use crate::server::backend::{server_directory::Root, start::start};

        let directory = tempfile::tempdir().unwrap();
        let root = Root::make(directory.path(), "store-test").unwrap();
        let backend = start(
            Some(&crate::server::choice::Backend::Host),
            root,
            None,
            None,
            "store-test".to_owned(),
            0,
        )
        .await
        .unwrap();
        let (id, limits) = (SandboxId::new("sandbox-1"), SandboxLimits::default());
        let sandbox = backend.create(&id, limits).await.unwrap();
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
        // An attach looks up its checkpoint.
        let none = store.checkpoint(&SandboxId::new("none")).await.err();
        assert_eq!(none.unwrap().kind(), io::ErrorKind::NotFound);

        store.close();
        let late = store.save_snapshot(&name, &*sandbox, Stop::default()).await;
        assert!(late.is_err());
        assert_eq!(fs::read_dir(state.join(SNAPSHOTS)).unwrap().count(), 0);
        backend.shutdown().await;
    }
}
