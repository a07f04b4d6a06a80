//! [`Registry`]: the sandboxes of a server, and the limits on their number.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;
use tokio::sync::mpsc;

use super::handle::{COMMANDS_IN_FLIGHT, Command, SandboxHandle};
use crate::{
    protocol::SandboxId,
    server::{builder::Options, http::client_address::ClientAddress, identity::TokenHash},
};

/// The sandboxes of a server, by id.
pub(crate) struct Registry {
    options: Arc<Options>,
    entries: Mutex<Entries>,
}

struct Entries {
    sandboxes: HashMap<SandboxId, SandboxHandle>,
    /// Each sandbox holds a clone. `None` when the server is shutting down.
    alive: Option<mpsc::Sender<()>>,
    /// Closes when the last sender is dropped, so when all sandboxes have ended.
    all_ended: Option<mpsc::Receiver<()>>,
}

/// The entry of a sandbox in the registry. Dropping it removes the entry.
pub(crate) struct Registration {
    registry: Arc<Registry>,
    pub(super) id: SandboxId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().sandboxes.remove(&self.id);
    }
}

/// A place in the registry for a sandbox that is being created.
pub(crate) struct Reservation {
    pub(crate) handle: SandboxHandle,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(super) registration: Registration,
    /// Dropped when the sandbox has ended. The shutdown of the server waits for that.
    pub(super) alive: mpsc::Sender<()>,
}

impl Registry {
    pub(crate) fn new(options: Arc<Options>) -> Self {
        let (alive, all_ended) = mpsc::channel(1);
        Self {
            options,
            entries: Mutex::new(Entries {
                sandboxes: HashMap::new(),
                alive: Some(alive),
                all_ended: Some(all_ended),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server is shutting down and refuses new sandboxes.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().alive.is_none()
    }

    /// Returns the number of sandboxes, including those being created or deleted.
    pub(crate) fn count(&self) -> usize {
        self.lock().sandboxes.len()
    }

    /// Returns the sandbox of this id, if this server runs it.
    pub(crate) fn find(&self, id: &SandboxId) -> Option<SandboxHandle> {
        self.lock().sandboxes.get(id).cloned()
    }

    /// Reserves a place in the registry. The error is the reason for the client.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        id: &SandboxId,
        token: TokenHash,
        client: Option<ClientAddress>,
    ) -> Result<Reservation, String> {
        let (commands, receiver) = mpsc::channel(COMMANDS_IN_FLIGHT);
        let handle = SandboxHandle {
            commands,
            token,
            client,
        };
        let mut entries = self.lock();
        let Some(alive) = entries.alive.clone() else {
            return Err("The server is stopping.".to_owned());
        };
        let limit = self.options.max_sandboxes;
        if entries.sandboxes.len() >= limit {
            return Err(format!(
                "This server has reached its limit of {limit} sandboxes: kill one, or wait for one \
                 to be deleted."
            ));
        }
        if entries.sandboxes.contains_key(id) {
            return Err("The sandbox is already running on this server.".to_owned());
        }
        let all = entries.sandboxes.values();
        if let Some(limit) = self.options.max_sandboxes_per_client
            && client.is_some()
            && all.filter(|it| it.client == client).count() >= limit
        {
            return Err(format!(
                "The clients at this address have reached their limit of {limit} sandboxes: kill one, \
                 or wait for one to be deleted."
            ));
        }
        entries.sandboxes.insert(id.clone(), handle.clone());
        let registration = Registration {
            registry: self.clone(),
            id: id.clone(),
        };
        Ok(Reservation {
            handle,
            commands: receiver,
            registration,
            alive,
        })
    }

    /// Refuses new sandboxes, stops all sandboxes and waits until they have ended.
    pub(super) async fn close(&self) {
        let (handles, all_ended) = {
            let mut entries = self.lock();
            entries.alive = None;
            let handles: Vec<_> = entries.sandboxes.values().cloned().collect();
            (handles, entries.all_ended.take())
        };
        let stops = handles.iter().map(|it| it.commands.send(Command::Stop));
        join_all(stops).await;
        if let Some(mut all_ended) = all_ended {
            all_ended.recv().await;
        }
    }
}
