//! One sandbox, in a task of its own, which owns its state.
//!
//! The task never waits for a client. Commands come through a bounded channel, and answers go to
//! the [`Link`] of the attached client.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{handle::Command, leases::Lease, registry::Registration, state::State};
use crate::{
    protocol::{
        ClientMessage, SandboxConfig, SandboxId, SandboxToken, ServerMessage, Status,
        names::{CLOSE_ERROR, CLOSE_NORMAL},
    },
    server::{
        backend::api::BackendSandbox, builder::Options, escaped::Escaped, identity::TokenHash,
        session::client_link::Link, store::checkpoints::Store,
    },
};

/// Close code of the sessions of a server that stops (RFC 6455, 7.4.1: going away).
const CLOSE_GOING_AWAY: u16 = 1001;

/// After a checkpoint for a handoff has failed, how long requests for the sandbox are ignored.
const KEEP_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The task of a sandbox.
pub(crate) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) token: TokenHash,
    pub(super) config: SandboxConfig,
    pub(super) idle_timeout: Duration,
    pub(super) options: Arc<Options>,
    pub(super) backend: Arc<dyn BackendSandbox>,
    pub(super) store: Arc<Store>,
    /// The lock, of a sandbox that may be handed over.
    pub(super) lease: Option<Lease>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Dropped when the sandbox ends: clients no longer find it then.
    pub(super) registration: Option<Registration>,
    pub(super) state: State,
    /// Dropped last: the server waits for it when it stops.
    pub(super) _alive: mpsc::Sender<()>,
}

/// Why a sandbox ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Killed,
    Checkpointed,
    HandedOver,
    /// Another server may have it.
    Lost,
    Idle,
    ServerStops,
}

impl Sandbox {
    /// Tells the client that created the sandbox its id and token.
    pub(super) fn greet(&self, token: SandboxToken) {
        if let Some(link) = &self.state.link {
            link.push(ServerMessage::identity(self.id.clone(), token));
        }
        self.status(Status::SandboxRunning);
    }

    /// Lives until the sandbox is deleted.
    pub(super) async fn run(mut self) {
        loop {
            let end = self.live().await;
            match self.prepare(end).await {
                Ok(()) => return self.end(end).await,
                Err(why) => {
                    tracing::warn!(sandbox = %self.id, why = %Escaped(&why), "not checkpointed");
                    match end {
                        End::Checkpointed => self.checkpoint_failed(&why),
                        End::HandedOver => {
                            self.checkpoint_failed(&why);
                            // The server that waits tries again, or gives up.
                            self.state.keep_until = Some(Instant::now() + KEEP_AFTER_FAILURE);
                        }
                        End::ServerStops => return self.end(end).await,
                        // It is not deleted with what should have been kept; next time, then.
                        End::Idle | End::Killed | End::Lost => {}
                    }
                    self.state.idle_since = Instant::now();
                }
            }
        }
    }

    /// Stores what is to be kept. The error is the reason why the sandbox cannot end yet.
    async fn prepare(&mut self, end: End) -> Result<(), String> {
        let auto = self.config.enable_idle_timeout_auto_checkpoint;
        match end {
            End::Checkpointed => self.store().await,
            End::HandedOver => self.hand_over().await,
            End::Idle if auto => self.store().await,
            End::ServerStops if auto && self.store.is_lasting() => {
                self.abandon_exec();
                self.state.execs.end("The server was stopped.").await;
                self.store().await
            }
            End::Idle | End::ServerStops | End::Killed | End::Lost => Ok(()),
        }
    }

    async fn live(&mut self) -> End {
        loop {
            let is_busy = self.state.execs.is_alive();
            if std::mem::replace(&mut self.state.was_busy, is_busy) && !is_busy {
                self.state.idle_since = Instant::now();
            }
            let state = &mut self.state;
            let idle_at = state.idle_since + self.idle_timeout;
            // While output may still come, it is not idle.
            let idle_at = state.execs.reads_until().unwrap_or(idle_at).max(idle_at);
            let link = state.link.clone();
            let snapshot = state.snapshot.as_mut();
            let is_idle = !is_busy && snapshot.is_none();
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => if let Some(end) = self.obey(command) {
                        return end;
                    },
                    None => return End::ServerStops,
                },
                () = or_pending(link.as_ref().map(|link| link.ends())) => self.detach(),
                result = or_pending(snapshot.map(|snapshot| snapshot.done())) => self.on_snapshot(result),
                event = state.execs.event() => self.on_event(event),
                () = sleep_until(idle_at), if is_idle => return End::Idle,
            }
        }
    }

    /// Does what was asked; says so when the sandbox ends by it.
    fn obey(&mut self, command: Command) -> Option<End> {
        match command {
            Command::Stop => Some(End::ServerStops),
            Command::LockLost => Some(End::Lost),
            Command::HandOver => {
                let keeps = |until| Instant::now() < until;
                let keep = self.state.keep_until.is_some_and(keeps);
                (!keep).then_some(End::HandedOver)
            }
            Command::Attach { link, answer } => {
                let attached = self.state.link.as_ref();
                if attached.is_some_and(|link| link.is_ending()) {
                    self.detach();
                }
                if self.state.link.is_some() {
                    let _ = answer.send(false);
                    return None;
                }
                self.state.link = Some(link);
                self.state.idle_since = Instant::now();
                self.status(Status::SandboxRunning);
                tracing::debug!(sandbox = %self.id, "attached");
                let _ = answer.send(true);
                None
            }
            Command::Say {
                link,
                request,
                obeyed,
            } => {
                // Only the attached client is heard.
                let is_attached = |attached: &Arc<Link>| Arc::ptr_eq(attached, &link);
                if !self.state.link.as_ref().is_some_and(is_attached) {
                    return None;
                }
                self.state.idle_since = Instant::now();
                let is_stdin = matches!(request, ClientMessage::Stdin { .. });
                let end = self.answer(request);
                if is_stdin && let Some(v1) = &self.state.execs.v1 {
                    let _ = obeyed.send(v1.exec.clone());
                }
                end
            }
        }
    }

    /// The link is lost or closing: what was not sent on it waits for the next.
    fn detach(&mut self) {
        if let Some(link) = self.state.link.take() {
            link.forget_execs();
        }
        self.state.execs.detach();
        // Time to come back.
        self.state.idle_since = Instant::now();
        tracing::debug!(sandbox = %self.id, "detached");
    }

    /// Deletes the sandbox.
    async fn end(mut self, mut end: End) {
        if end == End::Killed && self.is_lost().await {
            // Another server has it: it is not this one's to kill.
            end = End::Lost;
        }
        if end == End::Lost {
            let id = &self.id;
            let why =
                format!("This server has lost the lock of sandbox {id}: another one may have it.");
            self.refuse(Status::SandboxLockRenewalError, why);
            self.lease = None;
        }
        let mut forgotten = Ok(());
        let auto = self.config.enable_idle_timeout_auto_checkpoint;
        if end == End::Idle
            && !auto
            && let Some(stamp) = self.state.restored_from.take()
        {
            // It must not come back in an older state.
            let fence = self.fence();
            let removed = self.store.remove_old_checkpoint(&self.id, stamp, fence);
            forgotten = removed.await;
        }
        if end == End::Killed {
            self.status(Status::SandboxKilling);
            // It must not come back, and from now on no client finds it.
            forgotten = self.store.remove_checkpoint(&self.id).await;
            self.registration = None;
            self.commands.close();
        }
        self.status(Status::SandboxDeleting);
        self.abandon_exec();
        self.state.execs.end("The sandbox was deleted.").await;
        if let Some(snapshot) = self.state.snapshot.take() {
            snapshot.abandon().await;
        }
        let deleted = self.backend.delete().await.and(
            forgotten.map_err(|error| format!("its checkpoint could not be removed: {error}")),
        );
        self.release().await;
        // Clients that tried to attach meanwhile look again: it may be restored.
        self.registration = None;
        self.commands.close();
        match &deleted {
            Ok(()) => tracing::info!(sandbox = %self.id, reason = ?end, "deleted"),
            Err(why) => {
                tracing::warn!(sandbox = %self.id, why = %Escaped(&why), "not everything could be deleted")
            }
        }
        let Some(link) = self.state.link.take() else {
            return;
        };
        if let Err(why) = deleted {
            let status = match end {
                End::Killed => Status::SandboxKillError,
                End::Checkpointed | End::HandedOver => Status::SandboxCheckpointError,
                End::Idle | End::ServerStops | End::Lost => Status::SandboxError,
            };
            let id = &self.id;
            link.refuse(status, format!("Failed to delete sandbox {id}: {why}."));
            return link.close(CLOSE_ERROR);
        }
        let status = |status| link.push(ServerMessage::status(status));
        status(Status::SandboxDeleted);
        match end {
            End::Killed => {
                status(Status::SandboxKilled);
                link.close(CLOSE_NORMAL);
            }
            End::Checkpointed | End::HandedOver => {
                status(Status::SandboxCheckpointed);
                link.close(CLOSE_NORMAL);
            }
            End::ServerStops => link.close(CLOSE_GOING_AWAY),
            End::Lost => link.close(CLOSE_ERROR),
            // As recorded: the socket stays open and silent.
            End::Idle => {}
        }
    }

    pub(super) fn status(&self, status: Status) {
        if let Some(link) = &self.state.link {
            link.push(ServerMessage::status(status));
        }
    }

    pub(super) fn refuse(&self, status: Status, reason: String) {
        if let Some(link) = &self.state.link {
            link.refuse(status, reason);
        }
    }

    /// An error that ends the session, not the sandbox.
    pub(super) fn fail(&mut self, status: Status, reason: String) {
        self.refuse(status, reason);
        if let Some(link) = self.state.link.clone() {
            link.close(CLOSE_ERROR);
        }
        self.detach();
    }
}

/// Never resolves if there is no future.
async fn or_pending<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
