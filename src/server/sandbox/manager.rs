//! [`Manager`]: which sandboxes there are, who may have one, who may attach. Knows no HTTP.

use std::{io, sync::Arc, time::Duration};

use tokio::{runtime::Handle, time::timeout};

use super::{
    handle::SandboxHandle,
    leases::{Lease, Leases},
    registry::{Registry, Reservation},
    state::State,
    task::Sandbox,
};
use crate::{
    protocol::{
        ConfigError, SandboxConfig, SandboxId, ServerMessage, Status,
        names::{CLOSE_ERROR, CONFIG_IDLE_TIMEOUT},
    },
    server::{
        backend::api::{Backend, BackendSandbox},
        builder::Options,
        escaped::Escaped,
        identity::{TokenHash, new_identity},
        session::client_link::Link,
        store::checkpoints::{SnapshotName, Store, reason},
    },
};

/// Longest time that the deletion of all sandboxes may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// All sandboxes of a server.
pub(crate) struct Manager {
    pub(crate) options: Arc<Options>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) store: Arc<Store>,
    pub(crate) leases: Arc<Leases>,
    /// Sandboxes live here, not on the threads that serve connections.
    pub(crate) runtime: Handle,
    pub(crate) registry: Arc<Registry>,
}

impl Manager {
    /// Answers a configuration: makes the sandbox, or says why not and closes the link.
    pub(crate) fn create(
        self: &Arc<Self>,
        frame: &[u8],
        link: &Arc<Link>,
    ) -> Option<SandboxHandle> {
        let parsed = SandboxConfig::parse(frame);
        if let Err(ConfigError::Malformed(_)) = &parsed {
            tracing::info!("a malformed configuration; the session is dropped");
            link.die();
            return None;
        }
        link.push(ServerMessage::status(Status::SandboxCreating));
        let config = parsed.map_err(|error| error.to_string());
        let admitted = config.and_then(|config| self.admit(config, link));
        let refuse = |reason| refuse_creation(link, reason);
        admitted.map_err(refuse).ok()
    }

    /// Makes the sandbox, or gives the reason why not.
    fn admit(
        self: &Arc<Self>,
        config: SandboxConfig,
        link: &Arc<Link>,
    ) -> Result<SandboxHandle, String> {
        config.check().map_err(|error| error.to_string())?;
        let idle_timeout = self.idle_timeout(&config)?;
        let snapshot = config.filesystem_snapshot_name.as_deref();
        let snapshot = snapshot.map(SnapshotName::new).transpose()?;
        let (id, token) = new_identity().map_err(|error| {
            format!("Failed to create the sandbox: no random numbers to be had ({error}).")
        })?;
        let place = self
            .registry
            .reserve(&id, TokenHash::of(&token), link.client)?;
        let handle = place.handle.clone();

        let (manager, link) = (self.clone(), link.clone());
        self.runtime.spawn(async move {
            let made = manager.make(place, config, idle_timeout, snapshot, &link);
            match made.await {
                Ok(sandbox) => {
                    sandbox.greet(token);
                    sandbox.run().await;
                }
                Err(reason) => {
                    tracing::warn!(reason = %Escaped(&reason), "a sandbox could not be created");
                    refuse_creation(&link, reason);
                }
            }
        });
        Ok(handle)
    }

    /// Makes a sandbox in its place, attached to the link, or returns the reason why not.
    async fn make(
        &self,
        place: Reservation,
        config: SandboxConfig,
        idle_timeout: Duration,
        snapshot: Option<SnapshotName>,
        link: &Arc<Link>,
    ) -> Result<Sandbox, String> {
        let id = place.registration.id.clone();
        let lease = match config.enable_sandbox_handoff {
            true => Some(self.claim(&id, &place.handle.token, link).await?),
            false => None,
        };
        match self.fill(&id, snapshot).await {
            Ok(backend) => {
                let state = State::attached(link.clone());
                Ok(self.settle(place, config, idle_timeout, backend, lease, state))
            }
            Err(reason) => {
                if let Some(lease) = lease {
                    let _ = lease.release(true).await;
                }
                Err(reason)
            }
        }
    }

    /// Takes the lock of a new sandbox.
    async fn claim(&self, id: &SandboxId, token: &TokenHash, link: &Link) -> Result<Lease, String> {
        link.push(ServerMessage::status(Status::SandboxLockAcquiring));
        let failed =
            |why: &str| format!("Failed to create the sandbox: its lock is not to be had: {why}");
        match self.leases.try_acquire(id, token).await {
            Ok(Some(lease)) => {
                link.push(ServerMessage::status(Status::SandboxLockAcquired));
                Ok(lease)
            }
            Ok(None) => Err(failed("another sandbox has the same id.")),
            Err(error) => Err(failed(&reason(&error))),
        }
    }

    /// A sandbox of the backend, filled from a snapshot if there is one; or the reason why not.
    async fn fill(
        &self,
        id: &SandboxId,
        snapshot: Option<SnapshotName>,
    ) -> Result<Arc<dyn BackendSandbox>, String> {
        let backend = self.backend.create(id).await;
        let backend = backend.map_err(|error| format!("Failed to create the sandbox: {error}"))?;
        if let Some(name) = &snapshot
            && let Err(error) = self.store.load_snapshot(name, &*backend).await
        {
            clean_up(&*backend).await;
            let name = name.as_str();
            return Err(match error.kind() {
                io::ErrorKind::NotFound => format!("Filesystem snapshot not found: '{name}'"),
                _ => {
                    let why = reason(&error);
                    format!("Failed to load the filesystem snapshot '{name}': {why}")
                }
            });
        }
        Ok(backend.into())
    }

    /// A sandbox in the place that is reserved for it.
    pub(crate) fn settle(
        &self,
        place: Reservation,
        config: SandboxConfig,
        idle_timeout: Duration,
        backend: Arc<dyn BackendSandbox>,
        lease: Option<Lease>,
        state: State,
    ) -> Sandbox {
        let Reservation {
            handle,
            commands,
            registration,
            alive,
        } = place;
        Sandbox {
            id: registration.id.clone(),
            token: handle.token,
            config,
            idle_timeout,
            options: self.options.clone(),
            backend,
            store: self.store.clone(),
            lease,
            commands,
            registration: Some(registration),
            state,
            _alive: alive,
        }
    }

    /// The idle timeout of a sandbox: what its client asks for, within the limit of the server.
    pub(crate) fn idle_timeout(&self, config: &SandboxConfig) -> Result<Duration, String> {
        // Some 136 years, which every clock can still add.
        const MOST: u64 = u32::MAX as u64;
        let limit = self.options.max_idle_timeout.min(Duration::from_secs(MOST));
        let Some(seconds) = config.idle_timeout else {
            return Ok(self.options.default_idle_timeout.min(limit));
        };
        if seconds > MOST {
            return Err(ConfigError::WrongValue {
                key: CONFIG_IDLE_TIMEOUT,
                expected: "at most 4294967295 seconds",
                found: seconds.to_string(),
            }
            .to_string());
        }
        Ok(Duration::from_secs(seconds).min(limit))
    }

    /// Deletes all sandboxes and ends the backend; bounded in time.
    pub(crate) async fn stop(&self) {
        if timeout(STOP_WITHIN, self.registry.close()).await.is_err() {
            tracing::warn!("not every sandbox was deleted within {STOP_WITHIN:?}");
        }
        // Whatever is still being stored would miss the files that go now.
        self.store.close();
        self.backend.shutdown().await;
    }
}

fn refuse_creation(link: &Link, reason: String) {
    link.refuse(Status::SandboxCreationError, reason);
    link.close(CLOSE_ERROR);
}

/// Removes what was made of a sandbox that is not to be.
pub(crate) async fn clean_up(backend: &dyn BackendSandbox) {
    if let Err(why) = backend.delete().await {
        tracing::warn!(why = %Escaped(why), "what was made of a sandbox could not be removed");
    }
}
