//! [`Manager`]: which sandboxes there are, who may have one, who may attach. Knows no HTTP.

use std::{
    collections::HashMap,
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
    backend::Backend,
    config::Options,
    link::Link,
    sandbox::{Attached, COMMANDS_IN_FLIGHT, Command, Request, Sandbox, State, StdinSlot},
};
use crate::protocol::{
    ConfigError, SandboxConfig, SandboxId, SandboxToken, ServerMessage, Status, excerpt,
    names::{CLOSE_ERROR, CLOSE_REFUSED, CONFIG_IDLE_TIMEOUT},
};

/// Longest time that the deletion of all sandboxes may take when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Longest sandbox id that is looked up, in bytes.
const MAX_ID_BYTES: usize = 128;

/// All sandboxes of a server.
pub(super) struct Manager {
    pub(super) options: Arc<Options>,
    backend: Arc<dyn Backend>,
    /// Sandboxes live here, not on the threads that serve connections.
    runtime: Handle,
    registry: Mutex<Registry>,
}

struct Registry {
    sandboxes: HashMap<SandboxId, SandboxHandle>,
    /// One clone is with every sandbox; gone once the server stops.
    alive: Option<mpsc::Sender<()>>,
    /// Ends when the last clone is dropped.
    all_ended: Option<mpsc::Receiver<()>>,
}

/// The place of a sandbox in the registry; it ends when this is dropped.
pub(super) struct Registration {
    manager: Arc<Manager>,
    id: SandboxId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.manager.lock().sandboxes.remove(&self.id);
    }
}

/// The way to a sandbox.
#[derive(Clone)]
pub(super) struct SandboxHandle {
    commands: mpsc::Sender<Command>,
    token: SandboxToken,
    pub(super) stdin: Arc<StdinSlot>,
}

impl SandboxHandle {
    /// Hands on what a client says, and waits until the sandbox has taken it: a client that sends
    /// faster has its socket read slower, and what waits is one message, not a queue of them.
    /// Nothing happens when the sandbox is gone.
    pub(super) async fn say(&self, link: &Arc<Link>, request: Request) {
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
    pub(super) fn new(options: Arc<Options>, backend: Arc<dyn Backend>) -> Self {
        let (alive, all_ended) = mpsc::channel(1);
        Self {
            options,
            backend,
            runtime: Handle::current(),
            registry: Mutex::new(Registry {
                sandboxes: HashMap::new(),
                alive: Some(alive),
                all_ended: Some(all_ended),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sandboxes there are, those being created or deleted included.
    pub(super) fn count(&self) -> usize {
        self.lock().sandboxes.len()
    }

    /// Answers a configuration: makes the sandbox, or says why not and closes the link.
    pub(super) fn create(
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
        if let Some(name) = &config.filesystem_snapshot_name {
            let name = excerpt(name.as_bytes());
            return Err(format!("Filesystem snapshot not found: '{name}'"));
        }
        let (id, token) = new_identity().map_err(|error| {
            format!("Failed to create the sandbox: no random numbers to be had ({error}).")
        })?;

        let (commands, receiver) = mpsc::channel(COMMANDS_IN_FLIGHT);
        let handle = SandboxHandle {
            commands,
            token: token.clone(),
            stdin: Arc::default(),
        };
        let alive = {
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
            registry.sandboxes.insert(id.clone(), handle.clone());
            alive
        };

        let (manager, link, stdin_slot) = (self.clone(), link.clone(), handle.stdin.clone());
        self.runtime.spawn(async move {
            let registration = Registration {
                manager: manager.clone(),
                id: id.clone(),
            };
            match manager.backend.create(&id).await {
                Ok(backend) => {
                    let sandbox = Sandbox {
                        id,
                        config,
                        idle_timeout,
                        options: manager.options.clone(),
                        backend: backend.into(),
                        commands: receiver,
                        stdin_slot,
                        registration: Some(registration),
                        state: State::new(link),
                    };
                    sandbox.run(token).await;
                }
                Err(error) => {
                    drop(registration);
                    tracing::warn!(%error, "a sandbox could not be created");
                    refuse_creation(&link, format!("Failed to create the sandbox: {error}"));
                }
            }
            drop(alive);
        });
        Ok(handle)
    }

    fn idle_timeout(&self, config: &SandboxConfig) -> Result<Duration, String> {
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

    /// Answers an attach: lets the client in, or says why not and closes the link.
    pub(super) async fn attach(
        &self,
        id: &str,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Option<SandboxHandle> {
        let known = if is_well_formed(id) {
            self.lock().sandboxes.get(&SandboxId::new(id)).cloned()
        } else {
            None
        };
        let Some(handle) = known else {
            not_found(link);
            return None;
        };
        if handle.token != *token {
            tracing::info!(sandbox = id, "attach refused: wrong token");
            link.push(ServerMessage::status(Status::SandboxPermissionDenialError));
            link.push(ServerMessage::error("Invalid sandbox token."));
            link.close(CLOSE_ERROR);
            return None;
        }
        let (answer, answered) = oneshot::channel();
        let attach = Command::Attach {
            link: link.clone(),
            answer,
        };
        let sent = handle.commands.send(attach).await;
        match (sent, answered.await) {
            (Ok(()), Ok(Attached::Yes)) => Some(handle),
            (Ok(()), Ok(Attached::InUse)) => {
                link.push(ServerMessage::status(Status::SandboxInUse));
                link.close(CLOSE_REFUSED);
                None
            }
            // It was deleted meanwhile.
            _ => {
                not_found(link);
                None
            }
        }
    }

    /// Deletes all sandboxes and ends the backend; bounded in time.
    pub(super) async fn stop(&self) {
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
        self.backend.shutdown().await;
    }
}

fn refuse_creation(link: &Link, reason: String) {
    link.push(ServerMessage::status(Status::SandboxCreationError));
    link.push(ServerMessage::error(reason));
    link.close(CLOSE_ERROR);
}

fn not_found(link: &Link) {
    link.push(ServerMessage::status(Status::SandboxRestoring));
    link.push(ServerMessage::status(Status::SandboxNotFound));
    link.close(CLOSE_REFUSED);
}

/// Whether an id could be one of ours. What could not is never looked for anywhere.
fn is_well_formed(id: &str) -> bool {
    id.len() <= MAX_ID_BYTES
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// A new id, and a token of 192 random bits.
fn new_identity() -> Result<(SandboxId, SandboxToken), getrandom::Error> {
    Ok((
        SandboxId::new(format!("sandbox-{}", random_hex::<8>()?)),
        SandboxToken::new(random_hex::<24>()?),
    ))
}

/// Random bytes, as hexadecimal digits.
pub(super) fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
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
        assert!(is_well_formed(id.as_str()));
        assert_eq!(token.expose_secret().len(), 48);
        assert_ne!(id, other_id);
        assert_ne!(token, other_token);
    }

    #[test]
    fn ids_that_look_like_paths_are_not_ids() {
        for id in ["../../etc/passwd", "a/b", "..", "a\0b", "a b", "é"] {
            assert!(!is_well_formed(id), "{id}");
        }
        assert!(!is_well_formed(&"a".repeat(MAX_ID_BYTES + 1)));
        assert!(is_well_formed("sandbox-9182"));
    }
}
