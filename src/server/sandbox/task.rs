//! [`Sandbox`]: the task of one sandbox, which owns its state.
//!
//! The task never waits for a client. It receives commands from a bounded channel, and pushes
//! answers to the [`Link`] of the attached client.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{
    handle::Command, leases::Lease, registry::Registration, settings::Settings, state::State,
};
use crate::{
    protocol::{
        ClientMessage, ListedState, SandboxId, SandboxToken, ServerMessage, Status,
        names::{CLOSE_ERROR, CLOSE_NORMAL},
    },
    server::{
        backend::api::BackendSandbox, builder::Options, escaped::Escaped, identity::TokenHash,
        session::client_link::Link, store::checkpoints::Store,
    },
};

/// The close code for clients when the server shuts down (RFC 6455, 7.4.1: going away).
const CLOSE_GOING_AWAY: u16 = 1001;

/// How long to ignore handoff requests after the checkpoint for a handoff has failed.
const KEEP_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How often to compare the end of a sandbox with the wall clock, which may be set meanwhile, and
/// runs on while the machine is suspended.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

/// The task of a sandbox.
pub(crate) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) token: TokenHash,
    pub(super) settings: Settings,
    pub(super) options: Arc<Options>,
    pub(super) backend: Arc<dyn BackendSandbox>,
    pub(super) store: Arc<Store>,
    /// The lock. `None` if handoff is not enabled for the sandbox.
    pub(super) lease: Option<Lease>,
    pub(super) commands: mpsc::Receiver<Command>,
    /// The entry in the registry, by which clients find the sandbox. Dropped when the sandbox ends.
    pub(super) registration: Option<Registration>,
    pub(super) state: State,
    /// Dropped last. When the server shuts down, it waits until all of these senders are dropped.
    pub(super) _alive: mpsc::Sender<()>,
}

/// Why a sandbox ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Killed,
    Checkpointed,
    HandedOver,
    /// The server lost the lock, so another server may have taken the sandbox.
    Lost,
    Idle,
    /// The lifetime of the sandbox has ended.
    Outlived,
    ServerStops,
}

impl End {
    /// The reason that clients get for the end of an exec.
    fn reason_for_execs(self) -> &'static str {
        match self {
            Self::Outlived => "The sandbox reached the end of its lifetime.",
            _ => "The sandbox was deleted.",
        }
    }
}

impl Sandbox {
    /// Sends the id and the token to the client that created the sandbox.
    pub(super) fn greet(&self, token: SandboxToken) {
        // Before the client learns that the sandbox runs.
        self.list_as_running();
        if let Some(link) = &self.state.link {
            link.push(ServerMessage::identity(self.id.clone(), token));
        }
        self.running();
    }

    /// Shows in the list whether a client is attached.
    fn list_as_running(&self) {
        self.settings.entry.set_state(match self.state.link {
            Some(_) => ListedState::Attached,
            None => ListedState::Detached,
        });
    }

    /// Runs the sandbox until it is deleted.
    pub(super) async fn run(mut self) {
        loop {
            self.list_as_running();
            let end = self.live().await;
            self.settings.entry.set_state(ListedState::Ending);
            match self.prepare(end).await {
                Ok(()) => {
                    // The lifetime may have ended while the sandbox was stored. After a handoff,
                    // the other server checks that.
                    let stays = matches!(end, End::Checkpointed | End::Idle | End::ServerStops);
                    let is_over = stays && self.settings.entry.is_over();
                    return self.end(if is_over { End::Outlived } else { end }).await;
                }
                Err(why) => {
                    tracing::warn!(
                        sandbox = %self.id,
                        why = %Escaped(&why),
                        "the sandbox could not be checkpointed"
                    );
                    match end {
                        End::Checkpointed => self.checkpoint_failed(&why),
                        End::HandedOver => {
                            self.checkpoint_failed(&why);
                            // The other server asks again later, until its timeout.
                            self.state.keep_until = Some(Instant::now() + KEEP_AFTER_FAILURE);
                        }
                        End::ServerStops => return self.end(end).await,
                        // If an idle sandbox can't be checkpointed, it isn't deleted. The next idle
                        // timeout tries again.
                        End::Idle | End::Killed | End::Lost | End::Outlived => {}
                    }
                    self.state.idle_since = Instant::now();
                }
            }
        }
    }

    /// Stores the sandbox if this end requires it. The error is the reason why it could not be
    /// stored.
    async fn prepare(&mut self, end: End) -> Result<(), String> {
        let auto = self.settings.config.enable_idle_timeout_auto_checkpoint;
        match end {
            End::Checkpointed => self.store().await,
            End::HandedOver => self.hand_over().await,
            End::Idle if auto => self.store().await,
            End::ServerStops if auto && self.store.is_lasting() => {
                self.abandon_exec();
                self.state.execs.end("The server was stopped.").await;
                self.store().await
            }
            End::Idle | End::ServerStops | End::Killed | End::Lost | End::Outlived => Ok(()),
        }
    }

    async fn live(&mut self) -> End {
        loop {
            let is_busy = self.state.execs.is_busy(self.state.link.is_some());
            if std::mem::replace(&mut self.state.was_busy, is_busy) && !is_busy {
                self.state.idle_since = Instant::now();
            }
            if self.settings.entry.is_over() {
                return End::Outlived;
            }
            let remaining = self.settings.entry.remaining();
            let look = remaining.map(|it| sleep(it.min(LOOK_AT_CLOCK)));
            let state = &mut self.state;
            let idle_at = state.idle_since + self.settings.idle_timeout;
            // A sandbox is not idle while output of an exec may still arrive.
            let idle_at = state.execs.reads_until().unwrap_or(idle_at).max(idle_at);
            let link = state.link.clone();
            let snapshot = state.snapshot.as_mut();
            let is_idle = !is_busy && snapshot.is_none();
            tokio::select! {
                biased;
                // First, because a client may always have a command.
                () = or_pending(look) => {}
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

    /// Executes a command. Returns how the sandbox ends, if the command ends it.
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
                self.list_as_running();
                self.running();
                tracing::debug!(sandbox = %self.id, "attached");
                let _ = answer.send(true);
                None
            }
            Command::Say {
                link,
                request,
                obeyed,
            } => {
                // Ignore messages of clients that are no longer attached.
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

    /// Detaches the client, whose link is lost or closing. Unsent output and ends of execs wait for
    /// the next link.
    fn detach(&mut self) {
        if let Some(link) = self.state.link.take() {
            link.forget_execs();
        }
        self.state.execs.detach();
        self.list_as_running();
        // Give the client the whole idle timeout to reconnect.
        self.state.idle_since = Instant::now();
        tracing::debug!(sandbox = %self.id, "detached");
    }

    /// Deletes the sandbox. Stops the code before it changes the storage, which may take long to
    /// answer.
    async fn end(mut self, mut end: End) {
        if end == End::Killed && self.is_lost().await {
            // Another server has taken the sandbox, so this server must not delete it.
            end = End::Lost;
        }
        self.abandon_exec();
        match (end, &self.state.link) {
            (End::Lost, _) => {
                let id = &self.id;
                let why = format!(
                    "This server has lost the lock of sandbox {id}: another server may have taken the sandbox."
                );
                self.refuse(Status::SandboxLockRenewalError, why);
                self.lease = None;
            }
            (End::Killed, _) => self.status(Status::SandboxKilling),
            (End::Outlived, Some(link)) if link.version.is_v2() => {
                self.status(Status::SandboxLifetimeEnded);
            }
            _ => {}
        }
        self.status(Status::SandboxDeleting);
        self.state.execs.end(end.reason_for_execs()).await;
        let snapshot = self.state.snapshot.take();
        if let Some(snapshot) = &snapshot {
            snapshot.stop.stop();
        }
        let deleted = self.backend.delete().await;
        if let Some(snapshot) = snapshot {
            snapshot.abandon().await;
        }
        let forgotten = self.forget(end).await;
        let deleted = deleted.and(
            forgotten.map_err(|error| format!("its checkpoint could not be removed: {error}")),
        );
        self.release().await;
        // Clients that tried to attach in the meantime now try again, because the sandbox may have
        // a checkpoint.
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
                End::Idle | End::ServerStops | End::Lost | End::Outlived => Status::SandboxError,
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
            End::Outlived => link.close(CLOSE_NORMAL),
            End::ServerStops => link.close(CLOSE_GOING_AWAY),
            End::Lost => link.close(CLOSE_ERROR),
            // As in the recordings of the cloud-run-sandbox server: after an idle timeout, the
            // socket stays open, but no message follows.
            End::Idle => {}
        }
    }

    /// Removes the checkpoint of a sandbox that must not be restored.
    async fn forget(&mut self, end: End) -> io::Result<()> {
        match end {
            End::Idle if !self.settings.config.enable_idle_timeout_auto_checkpoint => {
                // Remove the checkpoint that the sandbox was restored from. Otherwise an attach
                // would restore this old state.
                let Some(stamp) = self.state.restored_from.take() else {
                    return Ok(());
                };
                let fence = self.fence();
                self.store
                    .remove_old_checkpoint(&self.id, stamp, fence)
                    .await
            }
            // The checkpoint may belong to another server, which has taken the sandbox.
            End::Killed | End::Outlived if self.is_lost().await => {
                self.lease = None;
                match end {
                    End::Killed => Err(io::Error::other("another server may have taken it")),
                    _ => Ok(()),
                }
            }
            End::Killed | End::Outlived => {
                let removed = self.store.remove_checkpoint(&self.id).await;
                if let (End::Outlived, Some(registration)) = (end, &self.registration) {
                    registration.remember_outlived(&self.token);
                }
                removed
            }
            _ => Ok(()),
        }
    }

    pub(super) fn status(&self, status: Status) {
        if let Some(link) = &self.state.link {
            link.push(ServerMessage::status(status));
        }
    }

    /// Reports to the client that the sandbox runs, and under v2 what the server supports.
    pub(super) fn running(&self) {
        match &self.state.link {
            Some(link) if link.version.is_v2() => link.push(ServerMessage::running()),
            _ => self.status(Status::SandboxRunning),
        }
    }

    pub(super) fn refuse(&self, status: Status, reason: String) {
        if let Some(link) = &self.state.link {
            link.refuse(status, reason);
        }
    }

    /// Reports an error and ends the session. The sandbox keeps running.
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
