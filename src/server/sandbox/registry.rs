//! [`Registry`]: the sandboxes of a server, and the limits on their number.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::join_all;
use tokio::sync::mpsc;

use super::{
    entry::Entry,
    handle::{COMMANDS_IN_FLIGHT, Command, SandboxHandle},
};
use crate::{
    protocol::{
        SandboxId, SandboxToken,
        listing::{PAGE_BYTES, SandboxPage},
    },
    server::{builder::Options, http::client_address::ClientAddress, identity::TokenHash},
};

/// How many sandboxes the registry remembers after the end of their lifetime, so that it can tell
/// clients that were disconnected.
const REMEMBERED: usize = 1_024;

/// The sandboxes of a server, by id.
pub(crate) struct Registry {
    options: Arc<Options>,
    entries: Mutex<Entries>,
}

struct Entries {
    sandboxes: HashMap<SandboxId, SandboxHandle>,
    /// The last sandboxes whose lifetime has ended.
    outlived: VecDeque<(SandboxId, TokenHash)>,
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

impl Registration {
    /// Remembers that the lifetime of the sandbox has ended. `token` is the hash of its token.
    pub(super) fn remember_outlived(&self, token: &TokenHash) {
        self.registry.remember_outlived(&self.id, token);
    }
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
                outlived: VecDeque::new(),
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

    /// Returns a page of the list: the sandboxes with all of these labels, in the order of their
    /// ids, at most `most` of them.
    pub(crate) fn list(
        &self,
        labels: &[(String, String)],
        after: &str,
        most: usize,
    ) -> SandboxPage {
        let mut matching: Vec<(SandboxId, Arc<Entry>)> = {
            let entries = self.lock();
            let all = entries.sandboxes.iter();
            let all = all.filter(|(id, _)| id.as_str() > after);
            let all = all.filter_map(|(id, handle)| Some((id, handle.entry.as_ref()?)));
            all.filter(|(_, entry)| entry.has(labels))
                .map(|(id, entry)| (id.clone(), entry.clone()))
                .collect()
        };
        matching.sort_unstable_by(|(id, _), (other, _)| id.cmp(other));
        let mut page = SandboxPage::default();
        let mut bytes = 0;
        for (id, entry) in matching {
            if page.sandboxes.len() == most || bytes >= PAGE_BYTES {
                page.next = page
                    .sandboxes
                    .last()
                    .map(|last| last.id.as_str().to_owned());
                break;
            }
            let info = entry.describe(&id);
            bytes += serde_json::to_vec(&info).map_or(0, |json| json.len());
            page.sandboxes.push(info);
        }
        page
    }

    /// Remembers that the lifetime of a sandbox has ended.
    pub(super) fn remember_outlived(&self, id: &SandboxId, token: &TokenHash) {
        let outlived = &mut self.lock().outlived;
        if outlived.len() == REMEMBERED {
            outlived.pop_front();
        }
        outlived.push_back((id.clone(), token.clone()));
    }

    /// Whether the lifetime of this sandbox has ended, as far as the registry remembers. Only a
    /// client that has the token may know.
    pub(super) fn has_outlived(&self, id: &SandboxId, token: &SandboxToken) -> bool {
        let entries = self.lock();
        let mut outlived = entries.outlived.iter();
        outlived.any(|(ended, hash)| ended == id && hash.matches(token))
    }

    /// Reserves a place in the registry. `entry` is the sandbox in the list. The error is the
    /// reason for the client.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        id: &SandboxId,
        token: TokenHash,
        client: Option<ClientAddress>,
        entry: Option<Arc<Entry>>,
    ) -> Result<Reservation, String> {
        let (commands, receiver) = mpsc::channel(COMMANDS_IN_FLIGHT);
        let handle = SandboxHandle {
            commands,
            token,
            client,
            entry,
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
