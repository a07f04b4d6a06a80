//! How the manager answers an attach: lets a client in to a sandbox that lives here, or restores it first.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    handle::{Attached, Command, SandboxHandle},
    manager::{Manager, clean_up},
    registry::Reservation,
    state::State,
};
use crate::{
    protocol::{
        SandboxConfig, SandboxId, SandboxToken, ServerMessage, Status,
        names::{CLOSE_ERROR, CLOSE_REFUSED},
    },
    server::{
        backend::api::BackendSandbox,
        escaped::Escaped,
        http::client_address::ClientAddress,
        identity::{TokenHash, is_well_formed},
        session::client_link::Link,
        store::checkpoints::reason,
    },
};

/// What a checkpoint was made into.
type Revived = (
    Reservation,
    SandboxConfig,
    Duration,
    Box<dyn BackendSandbox>,
    State,
);

/// Why a client is not let in.
enum Refusal {
    NotFound,
    InUse,
    WrongToken,
    NotRestored(String),
}

impl Refusal {
    fn say(self, link: &Link) {
        let (status, reason, code) = match self {
            Self::NotFound => (Status::SandboxNotFound, None, CLOSE_REFUSED),
            Self::InUse => (Status::SandboxInUse, None, CLOSE_REFUSED),
            Self::WrongToken => (
                Status::SandboxPermissionDenialError,
                Some("Invalid sandbox token.".to_owned()),
                CLOSE_ERROR,
            ),
            Self::NotRestored(why) => (Status::SandboxRestoreError, Some(why), CLOSE_ERROR),
        };
        match reason {
            Some(reason) => link.refuse(status, reason),
            None => link.push(ServerMessage::status(status)),
        }
        link.close(code);
    }
}

impl Manager {
    /// Answers an attach: lets the client in, or says why not and closes the link. The future may be
    /// dropped: what was begun for the client is then there for the next.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        id: &str,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Option<SandboxHandle> {
        match self.let_in(id, token, link).await {
            Ok(handle) => Some(handle),
            Err(refusal) => {
                if let Refusal::WrongToken = refusal {
                    tracing::info!(sandbox = %Escaped(id), "attach refused: wrong token");
                }
                refusal.say(link);
                None
            }
        }
    }

    async fn let_in(
        self: &Arc<Self>,
        id: &str,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Result<SandboxHandle, Refusal> {
        let mut restoring = false;
        loop {
            let known = is_well_formed(id).then(|| SandboxId::new(id));
            let live = known.as_ref().and_then(|id| self.registry.find(id));
            let handle = match live {
                Some(handle) => handle,
                None => {
                    if !restoring {
                        restoring = true;
                        link.push(ServerMessage::status(Status::SandboxRestoring));
                    }
                    let id = known.ok_or(Refusal::NotFound)?;
                    match self.restore(&id, token, link).await? {
                        Some(handle) => handle,
                        None => continue,
                    }
                }
            };
            if !handle.token.matches(token) {
                return Err(Refusal::WrongToken);
            }
            let (answer, answered) = oneshot::channel();
            let attach = Command::Attach {
                link: link.clone(),
                answer,
            };
            let sent = handle.commands.send(attach).await;
            match (sent, answered.await) {
                (Ok(()), Ok(Attached::Yes)) => return Ok(handle),
                (Ok(()), Ok(Attached::InUse)) => return Err(Refusal::InUse),
                // It ended meanwhile: it may have been checkpointed.
                _ => {}
            }
        }
    }

    /// Makes a sandbox live here that was checkpointed, or that another server hands over; nobody is
    /// attached to it yet. `None` when somebody else does that just now.
    async fn restore(
        self: &Arc<Self>,
        id: &SandboxId,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Result<Option<SandboxHandle>, Refusal> {
        let failed =
            |why: &str| Refusal::NotRestored(format!("Failed to restore sandbox {id}: {why}"));
        let elsewhere = self.leases.held_elsewhere(id).await;
        let (hash, handoff) = match elsewhere.map_err(|error| failed(&reason(&error)))? {
            Some(hash) => (hash, true),
            None => match self.store.checkpoint(id).await {
                Ok(record) => (record.token, record.config.enable_sandbox_handoff),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Refusal::NotFound);
                }
                Err(error) => return Err(failed(&reason(&error))),
            },
        };
        // Before anybody is disturbed.
        if !hash.matches(token) {
            return Err(Refusal::WrongToken);
        }
        let mut lease = None;
        if handoff {
            link.push(ServerMessage::status(Status::SandboxLockAcquiring));
            let patience = self.options.handoff_timeout;
            let here = || self.registry.find(id).is_some();
            let acquired = self.leases.acquire(id, &hash, patience, here).await;
            lease = acquired.map_err(|error| failed(&reason(&error)))?;
            if lease.is_none() {
                return match here() {
                    true => Ok(None),
                    false => Err(failed(&format!(
                        "the server that has it did not hand it over within {} seconds.",
                        patience.as_secs_f64()
                    ))),
                };
            }
            link.push(ServerMessage::status(Status::SandboxLockAcquired));
        }
        if self.registry.find(id).is_some() {
            return Ok(None);
        }
        // On the thread of the sandboxes, so that it is there for the next client when this one goes.
        let (done, is_done) = oneshot::channel();
        let (manager, link, its_id) = (self.clone(), link.clone(), id.clone());
        self.runtime.spawn(async move {
            let revived = manager.revive(&its_id, hash, lease.is_some(), link.client());
            match revived.await {
                Ok((place, config, idle_timeout, backend, state)) => {
                    tracing::info!(sandbox = %its_id, "restored");
                    let handle = place.handle.clone();
                    let sandbox =
                        manager.settle(place, config, idle_timeout, backend.into(), lease, state);
                    let _ = done.send(Ok(handle));
                    sandbox.run().await;
                }
                Err(why) => {
                    tracing::warn!(sandbox = %its_id, why = %Escaped(&why), "not restored");
                    if let Some(lease) = lease {
                        link.push(ServerMessage::status(Status::SandboxLockReleasing));
                        let _ = lease.release(false).await;
                        link.push(ServerMessage::status(Status::SandboxLockReleased));
                    }
                    let _ = done.send(Err(why));
                }
            }
        });
        match is_done.await {
            Ok(Ok(handle)) => Ok(Some(handle)),
            // Somebody else was quicker by a moment.
            Ok(Err(_)) if self.registry.find(id).is_some() => Ok(None),
            Ok(Err(why)) => Err(failed(&why)),
            Err(_panicked) => Err(failed("the server lost it.")),
        }
    }

    /// The sandbox of a checkpoint, in its place; or the reason why not.
    async fn revive(
        self: &Arc<Self>,
        id: &SandboxId,
        token: TokenHash,
        has_lock: bool,
        client: Option<ClientAddress>,
    ) -> Result<Revived, String> {
        // Before it is read: should another take its place meanwhile, that one is not taken for it.
        let stamp = self.store.stamp(id).await;
        // Another server may have written it since it was looked at.
        let config = match self.store.checkpoint(id).await {
            Ok(record) => record.config,
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_lock => {
                return Err("the server that had it is gone and has left no checkpoint.".to_owned());
            }
            Err(error) => return Err(reason(&error)),
        };
        let stamp = stamp.map_err(|error| reason(&error))?;
        let idle_timeout = self.idle_timeout(&config)?;
        let place = self.registry.reserve(id, token, client)?;
        let backend = self
            .backend
            .create(id)
            .await
            .map_err(|error| reason(&error))?;
        match self.store.load_checkpoint(id, &*backend).await {
            Ok(execs) => {
                let state = State::restored(stamp, execs);
                Ok((place, config, idle_timeout, backend, state))
            }
            Err(error) => {
                clean_up(&*backend).await;
                Err(reason(&error))
            }
        }
    }
}
