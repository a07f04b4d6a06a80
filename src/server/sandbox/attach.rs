//! How the manager answers an attach. If the sandbox isn't running on this server, the manager
//! restores it first.

use std::{io, sync::Arc};

use tokio::sync::oneshot;

use super::{
    entry::now,
    handle::{Command, SandboxHandle},
    leases::Lease,
    limits,
    manager::{Manager, clean_up},
    settings::Settings,
    state::State,
    task::Sandbox,
};
use crate::{
    protocol::{
        SandboxId, SandboxToken, ServerMessage, Status,
        names::{CLOSE_ERROR, CLOSE_REFUSED},
    },
    server::{
        escaped::Escaped,
        http::client_address::ClientAddress,
        identity::{TokenHash, is_well_formed},
        session::client_link::Link,
        store::checkpoints::reason,
    },
};

/// Why an attach is refused: the status, its reason and the close code.
struct Refusal(Status, Option<String>, u16);

const NOT_FOUND: Refusal = Refusal(Status::SandboxNotFound, None, CLOSE_REFUSED);

const IN_USE: Refusal = Refusal(Status::SandboxInUse, None, CLOSE_REFUSED);

/// The refusal of a sandbox whose lifetime has ended. Protocol v1 has no status for it.
fn outlived(link: &Link) -> Refusal {
    match link.version.is_v2() {
        false => NOT_FOUND,
        true => Refusal(Status::SandboxLifetimeEnded, None, CLOSE_REFUSED),
    }
}

/// Why a sandbox is not restored.
enum NotRestored {
    /// Its lifetime has ended.
    Outlived,
    /// It has no checkpoint, so no server can restore it. The reason for the client.
    Gone(&'static str),
    /// The reason for the client.
    Failed(String),
}

impl From<String> for NotRestored {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

fn wrong_token(id: &SandboxId) -> Refusal {
    tracing::info!(sandbox = %id, "attach refused: wrong token");
    let reason = "Invalid sandbox token.".to_owned();
    Refusal(
        Status::SandboxPermissionDenialError,
        Some(reason),
        CLOSE_ERROR,
    )
}

impl Manager {
    /// Attaches a client to a sandbox. If the attach is refused, sends the reason to the client,
    /// closes the link and returns `None`.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped. A restore then continues in another task, and the sandbox waits
    /// for the next client.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        id: &str,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Option<SandboxHandle> {
        let refused = |Refusal(status, reason, code)| {
            match reason {
                Some(reason) => link.refuse(status, reason),
                None => link.push(ServerMessage::status(status)),
            }
            link.close(code);
        };
        self.let_in(id, token, link).await.map_err(refused).ok()
    }

    async fn let_in(
        self: &Arc<Self>,
        id: &str,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Result<SandboxHandle, Refusal> {
        let known = is_well_formed(id);
        let id = SandboxId::new(id);
        let mut restoring = false;
        loop {
            let live = self.registry.find(&id).filter(|_| known);
            if live.is_none() && !std::mem::replace(&mut restoring, true) {
                link.push(ServerMessage::status(Status::SandboxRestoring));
            }
            let handle = match live {
                Some(handle) => handle,
                None if !known => return Err(NOT_FOUND),
                None => match self.restore(&id, token, link).await? {
                    Some(handle) => handle,
                    None => continue,
                },
            };
            if !handle.token.matches(token) {
                return Err(wrong_token(&id));
            }
            let (answer, answered) = oneshot::channel();
            let attach = Command::Attach {
                link: link.clone(),
                answer,
            };
            let sent = handle.commands.send(attach).await;
            match (sent, answered.await) {
                (Ok(()), Ok(true)) => return Ok(handle),
                (Ok(()), Ok(false)) => return Err(IN_USE),
                // The sandbox has ended in the meantime. It may have been checkpointed, so try to
                // restore it.
                _ => {}
            }
        }
    }

    /// Restores a sandbox from its checkpoint, after a handoff if another server has it. No client
    /// is attached to the restored sandbox yet. Returns `None` if another client restores it at the
    /// same time.
    async fn restore(
        self: &Arc<Self>,
        id: &SandboxId,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Result<Option<SandboxHandle>, Refusal> {
        let failed = |why: &str| {
            let reason = format!("Failed to restore sandbox {id}: {why}");
            Refusal(Status::SandboxRestoreError, Some(reason), CLOSE_ERROR)
        };
        let elsewhere = self.leases.held_elsewhere(id).await;
        let (hash, handoff) = match elsewhere.map_err(|error| failed(&reason(&error)))? {
            Some(hash) => (hash, true),
            None => match self.store.checkpoint(id).await {
                Ok(record) => (record.token, record.config.enable_sandbox_handoff),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(match self.registry.has_outlived(id, token) {
                        true => outlived(link),
                        false => NOT_FOUND,
                    });
                }
                Err(error) => return Err(failed(&reason(&error))),
            },
        };
        // Check the token before this server asks another one for a handoff.
        if !hash.matches(token) {
            return Err(wrong_token(id));
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
        // A separate task finishes the restore even if this client disconnects. The sandbox then
        // waits for the next client.
        let (manager, to, its_id) = (self.clone(), link.clone(), id.clone());
        let restoring = self.runtime.spawn(async move {
            let revived = manager.revive(&its_id, hash, lease.as_ref(), to.client);
            match revived.await {
                Ok((handle, mut sandbox)) => {
                    tracing::info!(sandbox = %its_id, "restored");
                    sandbox.lease = lease;
                    tokio::spawn(sandbox.run());
                    Ok(handle)
                }
                Err(why) => {
                    let is_over = matches!(why, NotRestored::Outlived | NotRestored::Gone(_));
                    let reason = match &why {
                        NotRestored::Outlived => None,
                        NotRestored::Gone(why) => Some(*why),
                        NotRestored::Failed(why) => Some(why.as_str()),
                    };
                    if let Some(why) = reason {
                        tracing::warn!(sandbox = %its_id, why = %Escaped(why), "not restored");
                    }
                    if let Some(lease) = lease {
                        to.push(ServerMessage::status(Status::SandboxLockReleasing));
                        let _ = lease.release(is_over).await;
                        to.push(ServerMessage::status(Status::SandboxLockReleased));
                    }
                    Err(why)
                }
            }
        });
        match restoring.await {
            Ok(Ok(handle)) => Ok(Some(handle)),
            // Another client has restored the sandbox first.
            Ok(Err(_)) if self.registry.find(id).is_some() => Ok(None),
            Ok(Err(NotRestored::Outlived)) => Err(outlived(link)),
            Ok(Err(NotRestored::Gone(why))) => Err(failed(why)),
            Ok(Err(NotRestored::Failed(why))) => Err(failed(&why)),
            Err(_panicked) => Err(failed("the server lost it.")),
        }
    }

    /// Creates a sandbox from its checkpoint. If its lifetime has ended, removes the checkpoint
    /// instead.
    async fn revive(
        self: &Arc<Self>,
        id: &SandboxId,
        token: TokenHash,
        lease: Option<&Lease>,
        client: Option<ClientAddress>,
    ) -> Result<(SandboxHandle, Sandbox), NotRestored> {
        // Read the stamp before the checkpoint. If another checkpoint replaces it in between, the
        // stamps differ.
        let stamp = self.store.stamp(id).await;
        // Read the checkpoint again: another server may have written it since `restore` read it.
        let record = match self.store.checkpoint(id).await {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound && lease.is_some() => {
                return Err(NotRestored::Gone(
                    "the server that had it has stopped and left no checkpoint, or its lifetime \
                     has ended.",
                ));
            }
            Err(error) => return Err(reason(&error).into()),
        };
        let stamp = stamp.map_err(|error| reason(&error))?;
        if record.ends_at.is_some_and(|ends_at| ends_at <= now()) {
            let fence = lease.map(Lease::fence);
            let fence = move || fence.map_or(Ok(()), |fence| fence());
            let removed = self.store.remove_old_checkpoint(id, stamp, fence).await;
            if let Err(error) = removed {
                tracing::warn!(sandbox = %id, error = %Escaped(error), "a checkpoint could not be removed");
            }
            tracing::info!(sandbox = %id, "not restored: its lifetime has ended");
            self.registry.remember_outlived(id, &token);
            return Err(NotRestored::Outlived);
        }
        let limits = limits::restored(
            record.config.limits,
            self.backend.limits(),
            self.backend.name(),
        )?;
        let (created, ends_at) = (record.created, record.ends_at);
        let settings = Settings::new(record.config, created, ends_at, &self.options)?;
        let entry = Some(settings.entry.clone());
        let place = self.registry.reserve(id, token, client, entry)?;
        let handle = place.handle.clone();
        let backend = self
            .backend
            .create(id, limits)
            .await
            .map_err(|error| reason(&error))?;
        match self.store.load_checkpoint(id, &*backend).await {
            Ok(execs) => {
                let state = State::restored(stamp, execs);
                let backend = backend.into();
                let sandbox = self.settle(place, settings, backend, None, state);
                Ok((handle, sandbox))
            }
            Err(error) => {
                clean_up(&*backend).await;
                Err(reason(&error).into())
            }
        }
    }
}
