//! [`Manager`]: which sandboxes there are, who may have one, who may attach. Knows no HTTP.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    handle::{COMMANDS_IN_FLIGHT, Command, Request, StdinSlot},
    leases::{Lease, Leases},
    state::State,
    storing::reason,
    task::Sandbox,
};
use crate::{
    protocol::{
        ConfigError, SandboxConfig, SandboxId, SandboxToken, ServerMessage, Status,
        names::{CLOSE_ERROR, CONFIG_IDLE_TIMEOUT},
    },
    server::{
        backend::api::{Backend, BackendSandbox},
        builder::Options,
        escaped::Escaped,
        http::client_address::ClientAddress,
        identity::TokenHash,
        session::client_link::Link,
        store::checkpoints::{SnapshotName, Store},
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
    registry: Mutex<Registry>,
}

struct Registry {
    sandboxes: HashMap<SandboxId, SandboxHandle>,
    /// How many of them each client has.
    of_clients: HashMap<ClientAddress, usize>,
    /// One clone is with every sandbox; gone once the server stops.
    alive: Option<mpsc::Sender<()>>,
    /// Ends when the last clone is dropped.
    all_ended: Option<mpsc::Receiver<()>>,
}

/// The place of a sandbox in the registry; it ends when this is dropped.
pub(crate) struct Registration {
    manager: Arc<Manager>,
    id: SandboxId,
    client: Option<ClientAddress>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registry = self.manager.lock();
        registry.sandboxes.remove(&self.id);
        if let Some(client) = self.client
            && let Entry::Occupied(mut entry) = registry.of_clients.entry(client)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// A place in the registry for a sandbox that is being made. Dropped, it is free again.
pub(crate) struct Place {
    pub(crate) handle: SandboxHandle,
    pub(crate) commands: mpsc::Receiver<Command>,
    registration: Registration,
    alive: mpsc::Sender<()>,
}

/// The way to a sandbox.
#[derive(Clone)]
pub(crate) struct SandboxHandle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) token: TokenHash,
    pub(crate) stdin: Arc<StdinSlot>,
}

impl SandboxHandle {
    /// Hands on what a client says, and waits until the sandbox has taken it: a client that sends
    /// faster has its socket read slower, and what waits is one message, not a queue of them.
    /// Nothing happens when the sandbox is gone.
    pub(crate) async fn say(&self, link: &Arc<Link>, request: Request) {
        let link = link.clone();
        let (obeyed, is_obeyed) = oneshot::channel();
        let command = Command::Say {
            link,
            request,
            obeyed,
        };
        if self.commands.send(command).await.is_ok() {
            // It is never sent, only dropped.
            let _ = is_obeyed.await;
        }
    }
}

impl Manager {
    /// A manager whose sandboxes live on the current runtime.
    pub(crate) fn new(
        options: Arc<Options>,
        backend: Arc<dyn Backend>,
        store: Store,
        leases: Leases,
    ) -> Self {
        let (alive, all_ended) = mpsc::channel(1);
        Self {
            options,
            backend,
            store: Arc::new(store),
            leases: Arc::new(leases),
            runtime: Handle::current(),
            registry: Mutex::new(Registry {
                sandboxes: HashMap::new(),
                of_clients: HashMap::new(),
                alive: Some(alive),
                all_ended: Some(all_ended),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no more sandboxes are made.
    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().alive.is_none()
    }

    /// How many sandboxes there are, those being created or deleted included.
    pub(crate) fn count(&self) -> usize {
        self.lock().sandboxes.len()
    }

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
        match parsed
            .map_err(|error| error.to_string())
            .and_then(|config| self.admit(config, link))
        {
            Ok(handle) => Some(handle),
            Err(reason) => {
                refuse_creation(link, reason);
                None
            }
        }
    }

    /// Makes the sandbox, or gives the reason why not.
    fn admit(
        self: &Arc<Self>,
        config: SandboxConfig,
        link: &Arc<Link>,
    ) -> Result<SandboxHandle, String> {
        config.check().map_err(|error| error.to_string())?;
        let idle_timeout = self.idle_timeout(&config)?;
        let snapshot = match &config.filesystem_snapshot_name {
            Some(name) => Some(SnapshotName::new(name)?),
            None => None,
        };
        let (id, token) = new_identity().map_err(|error| {
            format!("Failed to create the sandbox: no random numbers to be had ({error}).")
        })?;
        let place = self.reserve(&id, TokenHash::of(&token), link.client())?;
        let handle = place.handle.clone();

        let (manager, link) = (self.clone(), link.clone());
        self.runtime.spawn(async move {
            let made = async {
                let lease = match config.enable_sandbox_handoff {
                    true => Some(manager.claim(&id, &place.handle.token, &link).await?),
                    false => None,
                };
                match manager.make(&id, snapshot.as_ref()).await {
                    Ok(backend) => Ok((lease, backend)),
                    Err(reason) => {
                        if let Some(lease) = lease {
                            let _ = lease.release(true).await;
                        }
                        Err(reason)
                    }
                }
            };
            match made.await {
                Ok((lease, backend)) => {
                    let state = State::attached(link);
                    let (sandbox, _alive) =
                        manager.settle(place, config, idle_timeout, backend, lease, state);
                    sandbox.greet(token);
                    sandbox.run().await;
                }
                Err(reason) => {
                    drop(place);
                    tracing::warn!(reason = %Escaped(&reason), "a sandbox could not be created");
                    refuse_creation(&link, reason);
                }
            }
        });
        Ok(handle)
    }

    /// Takes a place in the registry, or gives the reason why there is none.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        id: &SandboxId,
        token: TokenHash,
        client: Option<ClientAddress>,
    ) -> Result<Place, String> {
        let (commands, receiver) = mpsc::channel(COMMANDS_IN_FLIGHT);
        let handle = SandboxHandle {
            commands,
            token,
            stdin: Arc::default(),
        };
        let mut registry = self.lock();
        let Some(alive) = registry.alive.clone() else {
            return Err("The server is stopping.".to_owned());
        };
        let limit = self.options.max_sandboxes;
        if registry.sandboxes.len() >= limit {
            return Err(format!(
                "This server has its limit of {limit} sandboxes: kill one, or wait for one to be deleted."
            ));
        }
        if registry.sandboxes.contains_key(id) {
            return Err("It is here already.".to_owned());
        }
        if let Some(client) = client {
            let count = registry.of_clients.get(&client).copied().unwrap_or(0);
            if let Some(limit) = self.options.max_sandboxes_per_client
                && count >= limit
            {
                return Err(format!(
                    "The clients of this address have their limit of {limit} sandboxes: kill one, or wait for one to be deleted."
                ));
            }
            registry.of_clients.insert(client, count + 1);
        }
        registry.sandboxes.insert(id.clone(), handle.clone());
        let registration = Registration {
            manager: self.clone(),
            id: id.clone(),
            client,
        };
        Ok(Place {
            handle,
            commands: receiver,
            registration,
            alive,
        })
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

    /// A sandbox of the backend, filled from a snapshot where there is to be one; or the reason why not.
    async fn make(
        &self,
        id: &SandboxId,
        snapshot: Option<&SnapshotName>,
    ) -> Result<Arc<dyn BackendSandbox>, String> {
        let backend = self
            .backend
            .create(id)
            .await
            .map_err(|error| format!("Failed to create the sandbox: {error}"))?;
        let Some(name) = snapshot else {
            return Ok(backend.into());
        };
        let loaded = self.store.load_snapshot(name, &*backend).await;
        let name = name.as_str();
        match loaded {
            Ok(()) => Ok(backend.into()),
            Err(error) => {
                clean_up(&*backend).await;
                Err(match error.kind() {
                    io::ErrorKind::NotFound => format!("Filesystem snapshot not found: '{name}'"),
                    _ => {
                        format!(
                            "Failed to load the filesystem snapshot '{name}': {}",
                            reason(&error)
                        )
                    }
                })
            }
        }
    }

    /// A sandbox in its place, and what keeps the server from being done before it.
    pub(crate) fn settle(
        &self,
        place: Place,
        config: SandboxConfig,
        idle_timeout: Duration,
        backend: Arc<dyn BackendSandbox>,
        lease: Option<Lease>,
        state: State,
    ) -> (Sandbox, mpsc::Sender<()>) {
        let Place {
            handle,
            commands,
            registration,
            alive,
        } = place;
        let sandbox = Sandbox {
            id: registration.id.clone(),
            token: handle.token,
            config,
            idle_timeout,
            options: self.options.clone(),
            backend,
            store: self.store.clone(),
            lease,
            commands,
            stdin_slot: handle.stdin,
            registration: Some(registration),
            state,
        };
        (sandbox, alive)
    }

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

    /// The sandbox of this id, if it lives here.
    pub(crate) fn find(&self, id: &SandboxId) -> Option<SandboxHandle> {
        self.lock().sandboxes.get(id).cloned()
    }

    /// Deletes all sandboxes and ends the backend; bounded in time.
    pub(crate) async fn stop(&self) {
        let (handles, all_ended) = {
            let mut registry = self.lock();
            registry.alive = None;
            let handles: Vec<_> = registry.sandboxes.values().cloned().collect();
            (handles, registry.all_ended.take())
        };
        let everything = async {
            join_all(
                handles
                    .iter()
                    .map(|handle| handle.commands.send(Command::Stop)),
            )
            .await;
            if let Some(mut all_ended) = all_ended {
                all_ended.recv().await;
            }
        };
        if timeout(STOP_WITHIN, everything).await.is_err() {
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

/// A new id, and a token of 192 random bits.
pub(crate) fn new_identity() -> Result<(SandboxId, SandboxToken), getrandom::Error> {
    Ok((
        SandboxId::new(format!("sandbox-{}", random_hex::<8>()?)),
        SandboxToken::new(random_hex::<24>()?),
    ))
}

/// Random bytes, as hexadecimal digits.
pub(crate) fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_long_and_never_the_same() {
        let (id, token) = new_identity().unwrap();
        let (other_id, other_token) = new_identity().unwrap();
        assert!(super::super::attach::is_well_formed(id.as_str()));
        assert_eq!(token.expose_secret().len(), 48);
        assert_ne!(id, other_id);
        assert_ne!(token, other_token);
    }
}
