//! The sandboxes of this user: their ids, tokens and services, in a file in the user's state
//! directory. So a later command can use or kill a sandbox, even if the command that created it was
//! killed.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use actix_sandbox::{ProcessRef, Sandbox};
use etcetera::BaseStrategy;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::cli::{config, service::Service, usage::now_ms};

/// Maximum number of sandboxes in the file.
const MAX_KEPT: usize = 10_000;
/// Maximum number of detached processes of a sandbox. A server remembers as many ended processes.
const MAX_PROCESSES: usize = 64;
/// Maximum size of the file, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// How long to wait for another command that changes the file.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// How often to try to lock the file.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// A sandbox of this user.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) id: String,
    /// The token of the sandbox: a secret.
    pub(crate) token: String,
    pub(crate) service: Service,
    /// When it was recorded, in milliseconds since 1970-01-01 UTC.
    pub(crate) created_ms: u64,
    /// Whether it was created with `--checkpoint`. `None` if another program has created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<bool>,
    /// The processes that run detached, the oldest first. They may have ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) processes: Vec<ProcessRef>,
}

impl Kept {
    pub(crate) fn new(sandbox: &Sandbox, service: &Service, checkpoint: Option<bool>) -> Self {
        Self {
            id: sandbox.sandbox_id().as_str().to_owned(),
            token: sandbox.sandbox_token().expose_secret().to_owned(),
            service: service.clone(),
            created_ms: now_ms(),
            checkpoint,
            processes: Vec::new(),
        }
    }

    /// Whether this is the sandbox with this id on this service.
    fn is(&self, id: &str, service: &Service) -> bool {
        self.id == id && self.service.is_same(service)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    sandboxes: Vec<Kept>,
}

/// The file with the sandboxes of this user.
pub(crate) struct KeptSandboxes(PathBuf);

impl KeptSandboxes {
    /// By default `~/.local/state/actix-sandbox/sandboxes.json`.
    pub(crate) fn open() -> Result<Self, String> {
        let directories = etcetera::choose_base_strategy()
            .map_err(|error| format!("cannot find the user's state directory: {error}"))?;
        let state = directories.state_dir().unwrap_or(directories.data_dir());
        let directory = state.join(config::DIRECTORY);
        Ok(Self(directory.join("sandboxes.json")))
    }

    /// All of them, the oldest first.
    pub(crate) fn all(&self) -> Result<Vec<Kept>, String> {
        Ok(self.read()?.sandboxes)
    }

    /// Adds a sandbox, or replaces the one with its id.
    pub(crate) async fn add(&self, kept: Kept) -> Result<(), String> {
        self.change(|all| {
            all.retain(|other| !other.is(&kept.id, &kept.service));
            if all.len() >= MAX_KEPT {
                return Err(format!(
                    "it already has {MAX_KEPT} sandboxes: kill some of them with `actix-sandbox kill \
                     ID`"
                ));
            }
            all.push(kept);
            Ok(())
        })
        .await
    }

    /// Adds a detached process of a sandbox.
    pub(crate) async fn add_process(&self, of: &Kept, process: ProcessRef) -> Result<(), String> {
        self.change_processes(of, |all| {
            all.push(process);
            all.drain(..all.len().saturating_sub(MAX_PROCESSES));
        })
        .await
    }

    /// Removes a process of a sandbox that has ended.
    pub(crate) async fn remove_process(&self, of: &Kept, id: &str) -> Result<(), String> {
        self.change_processes(of, |all| all.retain(|it| it.exec_id() != id))
            .await
    }

    async fn change_processes(
        &self,
        of: &Kept,
        edit: impl FnOnce(&mut Vec<ProcessRef>),
    ) -> Result<(), String> {
        self.change(|all| {
            if let Some(kept) = all.iter_mut().find(|kept| kept.is(&of.id, &of.service)) {
                edit(&mut kept.processes);
            }
            Ok(())
        })
        .await
    }

    /// Removes a sandbox, if it is there.
    pub(crate) async fn remove(&self, id: &str, service: &Service) -> Result<(), String> {
        self.change(|all| {
            all.retain(|kept| !kept.is(id, service));
            Ok(())
        })
        .await
    }

    fn read(&self) -> Result<Content, String> {
        let cannot = |reason: String| format!("cannot read {}: {reason}", self.0.display());
        let mut options = OpenOptions::new();
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let file = match options.read(true).custom_flags(flags).open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
            Err(error) => return Err(cannot(error.to_string())),
        };
        let meta = file.metadata().map_err(|error| cannot(error.to_string()))?;
        if !meta.is_file() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            return Err(cannot(format!(
                "it must be a regular file that you own and that no other user can access: check it, \
                 and run `chmod 600` (its mode is {:04o})",
                meta.mode() & 0o7777
            )));
        }
        let mut text = String::new();
        let read = file.take(MAX_BYTES).read_to_string(&mut text);
        read.map_err(|error| cannot(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| {
            cannot(format!(
                "{error}; remove the file to forget the sandboxes in it"
            ))
        })
    }

    /// Changes the file atomically, one command at a time.
    async fn change(
        &self,
        edit: impl FnOnce(&mut Vec<Kept>) -> Result<(), String>,
    ) -> Result<(), String> {
        let cannot = |error: io::Error| format!("cannot write to {}: {error}", self.0.display());
        let directory = self.0.parent().unwrap_or(Path::new("/"));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).map_err(cannot)?;
        let _lock = lock(&directory.join("lock")).await.map_err(cannot)?;
        let mut content = self.read()?;
        let before = content.sandboxes.len();
        edit(&mut content.sandboxes)
            .map_err(|reason| format!("cannot write to {}: {reason}", self.0.display()))?;
        if before == 0 && content.sandboxes.is_empty() {
            return Ok(());
        }
        // A temporary file has the mode 0600. Without a name in place, a full disk leaves the old
        // file as it is.
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(cannot)?;
        let json = serde_json::to_vec_pretty(&content).map_err(|error| cannot(error.into()))?;
        if json.len() as u64 > MAX_BYTES {
            return Err(format!(
                "cannot write to {}: it would exceed {MAX_BYTES} bytes",
                self.0.display()
            ));
        }
        file.write_all(&json).map_err(cannot)?;
        file.as_file().sync_all().map_err(cannot)?;
        file.persist(&self.0).map_err(|error| cannot(error.error))?;
        Ok(())
    }
}

/// Adds a sandbox to the user's sandboxes.
pub(crate) async fn record(kept: Kept) -> Result<(), String> {
    KeptSandboxes::open()?.add(kept).await
}

/// Removes a sandbox from the user's sandboxes, if it is there.
pub(crate) async fn forget(id: &str, service: &Service) -> Result<(), String> {
    KeptSandboxes::open()?.remove(id, service).await
}

/// Locks this file until the returned one is dropped.
async fn lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    let deadline = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                sleep(TRY_EVERY).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another actix-sandbox command held the lock for 10 seconds: try again",
                ));
            }
        }
    }
}
