//! How the manager answers an attach: lets a client in to a sandbox that lives here, or restores it first.

use std::{io, sync::Arc};

use tokio::sync::oneshot;

use super::{
    link::Link,
    manager::{Manager, SandboxHandle, clean_up},
    sandbox::{Attached, Command, State, reason},
    store::Record,
};
use crate::protocol::{
    SandboxId, SandboxToken, ServerMessage, Status,
    names::{CLOSE_ERROR, CLOSE_REFUSED},
};

/// Longest sandbox id that is looked up, in bytes.
const MAX_ID_BYTES: usize = 128;

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
        link.push(ServerMessage::status(status));
        if let Some(reason) = reason {
            link.push(ServerMessage::error(reason));
        }
        link.close(code);
    }
}

impl Manager {
    /// Answers an attach: lets the client in, or says why not and closes the link. The future may be
    /// dropped: what was begun for the client is then there for the next.
    pub(super) async fn attach(
        self: &Arc<Self>,
        id: &str,
        token: &SandboxToken,
        link: &Arc<Link>,
    ) -> Option<SandboxHandle> {
        match self.let_in(id, token, link).await {
            Ok(handle) => Some(handle),
            Err(refusal) => {
                if let Refusal::WrongToken = refusal {
                    tracing::info!(sandbox = id, "attach refused: wrong token");
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
            let live = known.as_ref().and_then(|id| self.find(id));
            let handle = match live {
                Some(handle) => handle,
                None => {
                    if !restoring {
                        restoring = true;
                        link.push(ServerMessage::status(Status::SandboxRestoring));
                    }
                    match known {
                        Some(id) => self.restore(&id, token).await?,
                        None => return Err(Refusal::NotFound),
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

    /// Makes a checkpointed sandbox live here again; nobody is attached to it yet. One that somebody
    /// else restores meanwhile is as good.
    async fn restore(
        self: &Arc<Self>,
        id: &SandboxId,
        token: &SandboxToken,
    ) -> Result<SandboxHandle, Refusal> {
        let failed =
            |why: &str| Refusal::NotRestored(format!("Failed to restore sandbox {id}: {why}"));
        let record = match self.store.checkpoint(id).await {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refusal::NotFound),
            Err(error) => return Err(failed(&reason(&error))),
        };
        if !record.token.matches(token) {
            return Err(Refusal::WrongToken);
        }
        if let Some(handle) = self.find(id) {
            return Ok(handle);
        }
        let Record { token, config } = record;
        let idle_timeout = self.idle_timeout(&config).map_err(|why| failed(&why))?;
        let place = match (self.reserve(id, token), self.find(id)) {
            (Ok(place), _) => place,
            // Somebody else was quicker by a moment.
            (Err(_), Some(handle)) => return Ok(handle),
            (Err(why), None) => return Err(failed(&why)),
        };
        let handle = place.handle.clone();
        let (done, is_done) = oneshot::channel();
        let manager = self.clone();
        let id = id.clone();
        self.runtime.spawn(async move {
            let backend = match manager.backend.create(&id).await {
                Ok(backend) => backend,
                Err(error) => {
                    drop(place);
                    return drop(done.send(Err(reason(&error))));
                }
            };
            if let Err(error) = manager.store.load_checkpoint(&id, &*backend).await {
                tracing::warn!(sandbox = %id, %error, "not restored");
                clean_up(&*backend).await;
                drop(place);
                return drop(done.send(Err(reason(&error))));
            }
            tracing::info!(sandbox = %id, "restored");
            let state = State::unattached();
            let (sandbox, _alive) =
                manager.settle(id, config, idle_timeout, backend.into(), state, place);
            // Whoever asked may be gone: it waits for the next one, for its idle time.
            let _ = done.send(Ok(()));
            sandbox.run().await;
        });
        match is_done.await {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(why)) => Err(failed(&why)),
            Err(_panicked) => Err(failed("the server lost it.")),
        }
    }
}

/// Whether an id could be one of ours. What could not is never looked for anywhere.
pub(super) fn is_well_formed(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_BYTES
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_look_like_paths_are_not_ids() {
        for id in ["../../etc/passwd", "a/b", "..", "a\0b", "a b", "é"] {
            assert!(!is_well_formed(id), "{id}");
        }
        assert!(!is_well_formed(&"a".repeat(MAX_ID_BYTES + 1)));
        assert!(is_well_formed("sandbox-9182"));
    }
}
