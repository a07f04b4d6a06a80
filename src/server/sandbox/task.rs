//! One sandbox, in a task of its own: the owner of its state, with or without an attached
//! client.
//!
//! The task never waits for a client. Commands come by a bounded channel, answers go to the
//! [`Link`] of the attached client, and output that no client takes is kept here up to a bound.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    handle::{Attached, Command, StdinSlot},
    leases::Lease,
    registry::Registration,
    state::State,
};
use crate::{
    protocol::{
        SandboxConfig, SandboxId, SandboxToken, ServerMessage, Status,
        names::{CLOSE_ERROR, CLOSE_NORMAL},
    },
    server::{
        backend::api::BackendSandbox,
        builder::Options,
        escaped::Escaped,
        identity::TokenHash,
        session::client_link::{ExecItem, Link},
        store::checkpoints::Store,
    },
};

/// Close code of the sessions of a server that stops (RFC 6455, 7.4.1: going away).
const CLOSE_GOING_AWAY: u16 = 1001;

/// Room for what the pipes of a killed exec still hold, in bytes: at most 1 MiB each, which may
/// become three times as much as text.
const ROOM_AFTER_KILL: usize = 8 * 1024 * 1024;

/// How long nobody is asked to be let go again, after the sandbox could not be stored for that.
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
    /// The input of the current exec, where the session can see how full it is.
    pub(super) stdin_slot: Arc<StdinSlot>,
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
        self.say(ServerMessage::identity(self.id.clone(), token));
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
                            // Whoever waits gets it when that succeeds, or gives up.
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
                if let Some(exec) = self.state.exec.take() {
                    exec.abandon().await;
                }
                self.state.named.end("The server was stopped.").await;
                self.store().await
            }
            End::Idle | End::ServerStops | End::Killed | End::Lost => Ok(()),
        }
    }

    async fn live(&mut self) -> End {
        loop {
            let now = Instant::now();
            let alive = self
                .state
                .exec
                .as_ref()
                .is_some_and(|exec| exec.control.is_alive());
            let is_busy = alive || self.state.named.is_alive();
            if std::mem::replace(&mut self.state.was_busy, is_busy) && !is_busy {
                self.state.idle_since = now;
            }
            // While output may still come, it is not idle.
            let exec = self.state.exec.as_ref();
            let exec = exec.and_then(|exec| exec.control.reads_until());
            let reads_until = exec.max(self.state.named.reads_until());
            let mut most = self.options.output_buffer_bytes;
            if self.state.kills > 0 && !alive {
                // What is left of it is in its pipes, and behind that is the answer to the kill.
                most = most.saturating_add(ROOM_AFTER_KILL);
            }
            let low_water = most / 2 + 1;
            let state = &mut self.state;
            // Looked at once, since the link drains meanwhile.
            let queued = state.link.as_ref().map_or(0, |link| link.queued_bytes());
            let room = state.held_bytes + queued < most;
            // What is held is taken over by a command alone: waiting for the link would be no waiting.
            let drains = queued >= low_water;
            let idle_at = state.idle_since + self.idle_timeout;
            let idle_at = Some(idle_at).max(reads_until).unwrap_or(idle_at);
            let link = state.link.clone();
            let snapshot = state.snapshot.as_mut();
            let is_idle = !is_busy && snapshot.is_none();
            let (events, gone) = match &mut state.exec {
                Some(exec) => (Some(&mut exec.events), Some(&mut exec.control.gone)),
                None => (None, None),
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => if let Some(end) = self.obey(command) {
                        return end;
                    },
                    None => return End::ServerStops,
                },
                () = or_pending(link.as_ref().map(|link| link.ends())) => self.detach(),
                () = or_pending(gone.map(|gone| async { drop(gone.wait_for(|&gone| gone).await) })), if alive => {}
                event = or_pending(events.map(|events| events.recv())), if room => self.on_event(event),
                () = or_pending(link.as_ref().map(|link| link.drained_below(low_water))), if !room && drains => {}
                result = or_pending(snapshot.map(|snapshot| snapshot.done())) => self.on_snapshot(result),
                event = state.named.event() => self.on_named(event),
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
                let keep = self
                    .state
                    .keep_until
                    .is_some_and(|until| Instant::now() < until);
                (!keep).then_some(End::HandedOver)
            }
            Command::Attach { link, answer } => {
                if self
                    .state
                    .link
                    .as_ref()
                    .is_some_and(|link| link.is_ending())
                {
                    self.detach();
                }
                if self.state.link.is_some() {
                    let _ = answer.send(Attached::InUse);
                    return None;
                }
                self.state.link = Some(link);
                self.state.idle_since = Instant::now();
                self.status(Status::SandboxRunning);
                tracing::debug!(sandbox = %self.id, "attached");
                let _ = answer.send(Attached::Yes);
                None
            }
            Command::Say {
                link,
                request,
                obeyed: _obeyed,
            } => {
                // Only the attached client is heard.
                let is_attached = |attached: &Arc<Link>| Arc::ptr_eq(attached, &link);
                if !self.state.link.as_ref().is_some_and(is_attached) {
                    return None;
                }
                self.state.idle_since = Instant::now();
                self.answer(request)
            }
        }
    }

    /// The link is lost or closing: what was not sent on it waits for the next.
    fn detach(&mut self) {
        let Some(link) = self.state.link.take() else {
            return;
        };
        let mut kept = link.take_back();
        kept.append(&mut self.state.held);
        self.state.held_bytes = kept.iter().map(ExecItem::cost).sum();
        self.state.held = kept;
        self.state.named.detach();
        self.state.resumed = false;
        self.state.kills = 0;
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
        let link = self.state.link.take();
        let status = |status| {
            if let Some(link) = &link {
                link.push(ServerMessage::status(status));
            }
        };
        if end == End::Lost {
            // Whatever is left here is not the sandbox any more.
            if let Some(link) = &link {
                let id = &self.id;
                link.refuse(
                    Status::SandboxLockRenewalError,
                    format!(
                        "This server has lost the lock of sandbox {id}: another one may have it."
                    ),
                );
            }
            self.lease = None;
        }
        let mut forgotten = Ok(());
        let auto = self.config.enable_idle_timeout_auto_checkpoint;
        if end == End::Idle
            && !auto
            && let Some(stamp) = self.state.restored_from.take()
        {
            // It does not come back as it was at some time before.
            let fence = self.fence();
            let removed = self
                .store
                .remove_old_checkpoint(&self.id, stamp, fence)
                .await;
            forgotten = removed;
        }
        if end == End::Killed {
            status(Status::SandboxKilling);
            // Nobody is to bring it back, and from now on nobody finds it.
            forgotten = self.store.remove_checkpoint(&self.id).await;
            self.registration = None;
            self.commands.close();
        }
        status(Status::SandboxDeleting);
        if let Some(exec) = self.state.exec.take() {
            exec.abandon().await;
        }
        self.state.named.end("The sandbox was deleted.").await;
        if let Some(snapshot) = self.state.snapshot.take() {
            snapshot.abandon().await;
        }
        self.stdin_slot.set(None);
        let deleted = self.backend.delete().await.and(
            forgotten.map_err(|error| format!("its checkpoint could not be removed: {error}")),
        );
        self.release(link.as_ref()).await;
        // Clients that tried to attach meanwhile look again: it may be restored.
        self.registration = None;
        self.commands.close();
        match &deleted {
            Ok(()) => tracing::info!(sandbox = %self.id, reason = ?end, "deleted"),
            Err(why) => {
                tracing::warn!(sandbox = %self.id, why = %Escaped(&why), "not everything could be deleted")
            }
        }
        let Some(link) = &link else {
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

    /// Something for the attached client alone.
    pub(super) fn say(&self, message: ServerMessage) {
        if let Some(link) = &self.state.link {
            link.push(message);
        }
    }

    pub(super) fn status(&self, status: Status) {
        self.say(ServerMessage::status(status));
    }

    pub(super) fn refuse(&self, status: Status, reason: String) {
        if let Some(link) = &self.state.link {
            link.refuse(status, reason);
        }
    }

    /// An error that ends the session, not the sandbox.
    pub(super) fn fail(&mut self, status: Status, reason: String) {
        self.refuse(status, reason);
        if let Some(link) = self.state.link.take() {
            link.close(CLOSE_ERROR);
        }
        self.state.named.detach();
        self.state.resumed = false;
    }
}

/// Never resolves if there is no future.
async fn or_pending<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
