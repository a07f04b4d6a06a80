//! [`Manager`]: creates sandboxes, attaches clients to them and shuts them down. Independent of
//! HTTP.

use std::{io, sync::Arc, time::Duration};

use futures::future::join;
use tokio::{runtime::Handle, time::timeout};

use super::{
    entry::now,
    handle::SandboxHandle,
    leases::{Lease, Leases},
    limits,
    registry::{Registry, Reservation},
    settings::Settings,
    state::State,
    task::Sandbox,
};
use crate::{
    protocol::{
        ConfigError, SandboxConfig, SandboxId, SandboxLimits, ServerMessage, Status,
        names::CLOSE_ERROR,
    },
    server::{
        backend::{
            api::{Backend, BackendSandbox},
            warm::WarmPool,
        },
        builder::Options,
        escaped::Escaped,
        identity::{TokenHash, new_identity},
        session::client_link::Link,
        store::checkpoints::{SnapshotName, Store, reason},
    },
};

/// All sandboxes of a server.
pub(crate) struct Manager {
    pub(crate) options: Arc<Options>,
    pub(crate) backend: Arc<dyn Backend>,
    /// `None` if the server has no warm pool.
    pub(crate) warm: Option<WarmPool>,
    pub(crate) store: Arc<Store>,
    pub(crate) leases: Arc<Leases>,
    /// The runtime for the tasks of the sandboxes. The threads that serve connections don't run
    /// them.
    pub(crate) runtime: Handle,
    pub(crate) registry: Arc<Registry>,
}

impl Manager {
    /// Creates the sandbox that the configuration in `frame` describes. If it is refused, tells the
    /// client the reason, closes the link and returns `None`.
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

    /// Reserves a place for the sandbox and starts a task that creates and runs it. The error is
    /// the reason for the client.
    fn admit(
        self: &Arc<Self>,
        config: SandboxConfig,
        link: &Arc<Link>,
    ) -> Result<SandboxHandle, String> {
        config.check().map_err(|error| error.to_string())?;
        limits::check(config.limits, self.backend.limits(), self.backend.name())?;
        let created = now();
        let lifetime = config.max_lifetime.map(Duration::from_secs);
        let ends_at = lifetime.map(|it| created + it);
        let settings = Settings::new(config, created, ends_at, &self.options)?;
        let snapshot = settings.config.filesystem_snapshot_name.as_deref();
        let snapshot = snapshot.map(SnapshotName::new).transpose()?;
        let (id, token) = new_identity().map_err(|error| {
            format!("Failed to create the sandbox: no random numbers available ({error}).")
        })?;
        let entry = Some(settings.entry.clone());
        let place = self
            .registry
            .reserve(&id, TokenHash::of(&token), link.client, entry)?;
        let handle = place.handle.clone();

        let (manager, link) = (self.clone(), link.clone());
        self.runtime.spawn(async move {
            let made = manager.make(place, settings, snapshot, &link);
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

    /// Creates a sandbox in its reserved place and attaches the link. The error is the reason for
    /// the client.
    async fn make(
        &self,
        place: Reservation,
        settings: Settings,
        snapshot: Option<SnapshotName>,
        link: &Arc<Link>,
    ) -> Result<Sandbox, String> {
        let id = place.registration.id.clone();
        let lease = match settings.config.enable_sandbox_handoff {
            true => Some(self.claim(&id, &place.handle.token, link).await?),
            false => None,
        };
        match self.fill(&id, settings.config.limits, snapshot).await {
            Ok(backend) => {
                let state = State::attached(link.clone());
                Ok(self.settle(place, settings, backend, lease, state))
            }
            Err(reason) => {
                if let Some(lease) = lease {
                    let _ = lease.release(true).await;
                }
                Err(reason)
            }
        }
    }

    /// Acquires the lock of a new sandbox.
    async fn claim(&self, id: &SandboxId, token: &TokenHash, link: &Link) -> Result<Lease, String> {
        link.push(ServerMessage::status(Status::SandboxLockAcquiring));
        let failed =
            |why: &str| format!("Failed to create the sandbox: could not acquire its lock: {why}");
        match self.leases.try_acquire(id, token).await {
            Ok(Some(lease)) => {
                link.push(ServerMessage::status(Status::SandboxLockAcquired));
                Ok(lease)
            }
            Ok(None) => Err(failed("another sandbox has the same id.")),
            Err(error) => Err(failed(&reason(&error))),
        }
    }

    /// Creates a sandbox in the backend, and loads the snapshot into it if the client named one.
    /// The error is the reason for the client.
    async fn fill(
        &self,
        id: &SandboxId,
        limits: SandboxLimits,
        snapshot: Option<SnapshotName>,
    ) -> Result<Arc<dyn BackendSandbox>, String> {
        let Some(name) = snapshot else {
            // A warm sandbox has the limits of the server.
            return match limits.is_empty() {
                true => self.create_empty(id).await,
                false => self.create_cold(id, limits).await,
            };
        };
        let backend = self.create_cold(id, limits).await?;
        if let Err(error) = self.store.load_snapshot(&name, &*backend).await {
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
        Ok(backend)
    }

    /// Takes a sandbox from the warm pool, or creates one in the backend. The error is the reason
    /// for the client.
    pub(crate) async fn create_empty(
        &self,
        id: &SandboxId,
    ) -> Result<Arc<dyn BackendSandbox>, String> {
        match self.warm.as_ref().and_then(|pool| pool.take(id)) {
            Some(warm) => Ok(warm),
            None => self.create_cold(id, SandboxLimits::default()).await,
        }
    }

    async fn create_cold(
        &self,
        id: &SandboxId,
        limits: SandboxLimits,
    ) -> Result<Arc<dyn BackendSandbox>, String> {
        let created = self.backend.create(id, limits).await;
        let created = created.map_err(|error| format!("Failed to create the sandbox: {error}"))?;
        Ok(created.into())
    }

    /// Builds the [`Sandbox`] for a reserved place.
    pub(crate) fn settle(
        &self,
        place: Reservation,
        settings: Settings,
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
            settings,
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

    /// Deletes all sandboxes, including the warm ones, and shuts the backend down. Waits at most
    /// `shutdown_timeout` for the deletion.
    pub(crate) async fn stop(&self) {
        let no_warm_left = async {
            if let Some(pool) = &self.warm {
                pool.close().await;
            }
        };
        let none_left = join(self.registry.close(), no_warm_left);
        let limit = self.options.shutdown_timeout;
        if timeout(limit, none_left).await.is_err() {
            tracing::warn!("not every sandbox was deleted within {limit:?}");
        }
        // Stop the store operations that still run, because the backend removes their files next.
        self.store.close();
        self.backend.shutdown().await;
    }
}

fn refuse_creation(link: &Link, reason: String) {
    link.refuse(Status::SandboxCreationError, reason);
    link.close(CLOSE_ERROR);
}

/// Removes the backend's part of a sandbox whose creation failed.
pub(crate) async fn clean_up(backend: &dyn BackendSandbox) {
    if let Err(why) = backend.delete().await {
        tracing::warn!(why = %Escaped(why), "could not clean up after a sandbox that was not created");
    }
}
