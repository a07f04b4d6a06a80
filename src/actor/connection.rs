//! [`ConnectionActor`]: the supervisor of one link at a time.
//!
//! actix's own supervisor restarts an actor at once and forever, but a link must be restarted under
//! a policy. So this actor lives as long as its sandbox and restarts its *link*. Every event of a
//! link is tagged with the epoch of the link. Late events of a dead link are ignored.

use std::{
    any::Any,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tracing::Span;

use super::{
    Settings,
    driver::{Driven, Driver, now},
    owner::Owner,
};
use crate::{
    lift::{RequestedExecs, Tunnel, TunnelAction, TunnelConfig},
    machine::{
        Connection, ConnectionAction, ConnectionState, Epoch, LinkCommand, LinkError, LinkFact,
        Mode,
    },
    protocol::{Encoded, SandboxId, SandboxToken, Version},
    transport::{
        Cookies, Credit, DialConfig, Dialled, Link, LinkConfig, LinkEvent, RecordedDial, Recorder,
        Target, dial,
    },
};

/// A command to a connection.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum ConnectionCommand {
    /// Send a frame on the current link. With a tag, [`ConnectionReport::Written`] follows.
    Send { frame: Encoded, tag: Option<u64> },
    /// From now on, dial this sandbox.
    Resume(SandboxId, SandboxToken),
    /// A command for its machine.
    Link(LinkCommand),
    /// The answer to [`ConnectionReport::Drained`].
    Heard(Epoch),
}

/// A report of a connection to its owner.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum ConnectionReport {
    /// A fact from its machine.
    Link(LinkFact),
    /// The service can't be lifted, for this reason.
    NotLifted(String),
    /// Frames, in order. Dropping the credit lets the link read the next batch.
    Frames {
        epoch: Epoch,
        frames: Vec<Bytes>,
        credit: Option<Credit>,
    },
    /// The link has written the frames with these tags.
    Written(Vec<u64>),
    /// The link is lost. This report follows the last frame of the link, in which the server may
    /// have said why. So the connection acts on the loss only after [`ConnectionCommand::Heard`].
    Drained(Epoch),
}

type Dialling = LocalBoxFuture<'static, Result<Dialled, LinkError>>;

/// Dials, watches and restarts the link of one sandbox.
pub(super) struct ConnectionActor {
    machine: Connection,
    dial_config: DialConfig,
    link_config: LinkConfig,
    target: Target,
    cookies: Cookies,
    link: Option<Link>,
    /// Turns the link into one of v2, if the service is lifted.
    tunnel: Option<Tunnel>,
    /// The name of the links of the tunnels. `None` if v1 services aren't lifted.
    lift: Option<String>,
    /// What the tunnels of earlier links have requested.
    requested: RequestedExecs,
    /// The idle timeout of the sandbox, if this client created it.
    idle_timeout: Option<Duration>,
    /// The dial in progress. It is polled together with the link, so that a new link is read in the
    /// turn in which it opens.
    dialling: Option<(Epoch, Dialling)>,
    recorder: Option<Recorder>,
    /// The recording of the dial that is in progress.
    recorded: Option<RecordedDial>,
    /// A lost link whose last frames the owner has not read yet.
    drained: Option<(Epoch, LinkError)>,
    owner: Box<dyn Owner<ConnectionReport>>,
    /// Whether the actor has reported that the link is closed or lost for good.
    finished: bool,
    span: Span,
    /// Kept here because the connection is the last of the sandbox's actors to stop.
    _kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl ConnectionActor {
    pub(super) fn new(
        settings: Settings,
        owner: Box<dyn Owner<ConnectionReport>>,
        span: Span,
    ) -> Self {
        let idle_timeout = match &settings.mode {
            Mode::Create(options) => options.idle_timeout.map(Duration::from_secs),
            Mode::Attach(..) => None,
        };
        Self {
            machine: Connection::new(settings.connection),
            link_config: LinkConfig {
                keepalive: settings.keepalive,
                max_message_bytes: settings.dial.max_message_bytes,
            },
            dial_config: settings.dial,
            target: match settings.mode {
                Mode::Create(_) => Target::Create,
                Mode::Attach(id, token) => Target::Attach(id, token),
            },
            cookies: Cookies::default(),
            link: None,
            tunnel: None,
            lift: settings.lift,
            requested: RequestedExecs::default(),
            idle_timeout,
            dialling: None,
            recorder: settings.recorder,
            recorded: None,
            drained: None,
            owner,
            finished: false,
            span,
            _kept: settings.kept,
        }
    }

    fn report(&self, report: ConnectionReport) {
        // The number of reports in flight is bounded by the link's credits.
        self.owner.report(report);
    }

    fn run_actions(&mut self, ctx: &mut Context<Self>) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                ConnectionAction::Dial(epoch) => self.dial(epoch),
                ConnectionAction::Drop(epoch) => self.drop_link(epoch),
                ConnectionAction::Close(_) => {
                    if let Some(link) = &mut self.link {
                        link.close();
                    }
                }
                ConnectionAction::Tell(fact) => self.tell(fact, ctx),
            }
        }
    }

    fn tell(&mut self, fact: LinkFact, ctx: &mut Context<Self>) {
        match &fact {
            LinkFact::Opened(epoch, version) => {
                self.span.record("epoch", epoch.0);
                debug_in!(self.span, epoch = epoch.0, %version, "link open");
            }
            LinkFact::Reconnecting {
                attempt,
                delay,
                cause,
            } => {
                self.clear_link();
                debug_in!(self.span, attempt, ?delay, %cause, "link lost, reconnecting");
            }
            LinkFact::Lost { cause, attempts } => {
                debug_in!(self.span, attempts, %cause, "link lost");
                self.finish(ctx);
            }
            LinkFact::Closed => {
                debug_in!(self.span, "connection closed");
                self.finish(ctx);
            }
        }
        self.report(ConnectionReport::Link(fact));
    }

    fn clear_link(&mut self) {
        self.link = None;
        if let Some(tunnel) = self.tunnel.take() {
            self.requested = tunnel.into_requested();
        }
    }

    fn finish(&mut self, ctx: &mut Context<Self>) {
        self.clear_link();
        self.finished = true;
        ctx.stop();
    }

    fn dial(&mut self, epoch: Epoch) {
        self.clear_link();
        debug_in!(self.span, epoch = epoch.0, "dialling");
        let dialling = dial(
            self.dial_config.clone(),
            self.target.clone(),
            self.cookies.clone(),
        );
        self.dialling = Some((epoch, Box::pin(dialling)));
        let recorder = self.recorder.as_ref();
        self.recorded = recorder.map(|recorder| recorder.dialling(&self.target));
    }

    fn dialled(&mut self, epoch: Epoch, result: Result<Dialled, LinkError>) {
        let recorded = self.recorded.take();
        match result {
            Ok(Dialled {
                socket,
                cookies,
                version,
            }) => {
                self.cookies = cookies;
                if *self.machine.state() == ConnectionState::Dialling(epoch) {
                    let mut link = Link::new(socket, self.link_config);
                    link.record(recorded.map(|dial| dial.opened(version)));
                    self.link = Some(link);
                    self.tunnel = self.new_tunnel(epoch, version);
                }
                let version = match &self.tunnel {
                    Some(_) => Version::Lifted,
                    None => version,
                };
                self.machine.handle_opened(epoch, version);
            }
            Err(cause) => {
                if let Some(dial) = recorded {
                    dial.failed(&cause);
                }
                self.machine.handle_lost(epoch, cause, now());
            }
        }
    }

    fn new_tunnel(&mut self, epoch: Epoch, version: Version) -> Option<Tunnel> {
        let name = self.lift.as_ref().filter(|_| version == Version::V1)?;
        let config = TunnelConfig {
            link: format!("{name}x{}", epoch.0),
            idle_timeout: self.idle_timeout,
            is_new: matches!(self.target, Target::Create),
            link_silence: self.link_config.keepalive.interval + self.link_config.keepalive.timeout,
        };
        Some(Tunnel::new(
            config,
            std::mem::take(&mut self.requested),
            now(),
        ))
    }

    /// Performs the actions of the tunnel. The credit belongs to the frames that it has just read.
    fn run_tunnel(&mut self, credit: Option<Credit>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let epoch = self.machine.epoch();
        let mut frames = Vec::new();
        let mut failed = None;
        while let Some(action) = tunnel.poll_action() {
            match action {
                TunnelAction::Send(frame, tag) => {
                    if let Some(link) = &mut self.link {
                        link.send(frame, tag);
                    }
                }
                TunnelAction::Deliver(frame) => frames.push(frame),
                TunnelAction::Fail(reason) => failed = Some(reason),
                TunnelAction::Lose(cause) => {
                    if let Some(link) = &mut self.link {
                        link.abort(cause);
                    }
                }
            }
        }
        if !frames.is_empty() {
            self.report(ConnectionReport::Frames {
                epoch,
                frames,
                credit,
            });
        }
        if let Some(reason) = failed {
            self.report(ConnectionReport::NotLifted(reason));
        }
    }

    fn drop_link(&mut self, epoch: Epoch) {
        if epoch == self.machine.epoch() {
            self.clear_link();
            self.dialling = None;
            self.recorded = None;
        }
    }
}

impl Drop for ConnectionActor {
    /// Reports to the owner if the actor stops early, for example by a panic.
    fn drop(&mut self) {
        if !self.finished {
            self.report(ConnectionReport::Link(LinkFact::Lost {
                cause: LinkError::ActorGone,
                attempts: 0,
            }));
        }
    }
}

impl Actor for ConnectionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.spawn(Driver::default());
        self.machine.start();
        self.run_actions(ctx);
    }
}

impl Driven for ConnectionActor {
    const HAS_IO: bool = true;

    fn poll_timeout(&self) -> Option<Instant> {
        let tunnel = self.tunnel.as_ref().and_then(Tunnel::poll_timeout);
        self.machine.poll_timeout().into_iter().chain(tunnel).min()
    }

    fn handle_timeout(&mut self, now: Instant, ctx: &mut Context<Self>) {
        self.machine.handle_timeout(now);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.handle_timeout(now);
            self.run_tunnel(None);
        }
        self.run_actions(ctx);
    }

    /// The sandbox's actor is gone.
    fn handle_orphaned(&mut self, ctx: &mut Context<Self>) {
        self.machine.handle_command(LinkCommand::Close, now());
        self.run_actions(ctx);
    }

    fn poll_io(&mut self, ctx: &mut Context<Self>, task: &mut TaskContext<'_>) {
        loop {
            if let Some((epoch, dialling)) = &mut self.dialling {
                let epoch = *epoch;
                let Poll::Ready(result) = dialling.as_mut().poll(task) else {
                    return;
                };
                self.dialling = None;
                self.dialled(epoch, result);
                self.run_actions(ctx);
                continue;
            }
            let Some(link) = &mut self.link else { return };
            let Poll::Ready(event) = link.poll(task) else {
                return;
            };
            let epoch = self.machine.epoch();
            match event {
                LinkEvent::Frames(frames, credit) => match &mut self.tunnel {
                    Some(tunnel) => {
                        for frame in &frames {
                            tunnel.handle_frame(frame, now());
                        }
                        self.run_tunnel(Some(credit));
                    }
                    None => self.report(ConnectionReport::Frames {
                        epoch,
                        frames,
                        credit: Some(credit),
                    }),
                },
                LinkEvent::Written(tags) => self.report(ConnectionReport::Written(tags)),
                LinkEvent::Lost(cause) => {
                    let secrets = self.dial_config.secrets(&self.target);
                    let cause = secrets.iter().fold(cause, LinkError::redact);
                    self.clear_link();
                    self.drained = Some((epoch, cause));
                    self.report(ConnectionReport::Drained(epoch));
                }
            }
        }
    }
}

impl Handler<ConnectionCommand> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, command: ConnectionCommand, ctx: &mut Context<Self>) {
        match command {
            ConnectionCommand::Send { frame, tag } => {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.handle_request(frame, tag, now());
                    self.run_tunnel(None);
                } else if let Some(link) = &mut self.link {
                    link.send(frame, tag);
                }
            }
            ConnectionCommand::Resume(id, token) => self.target = Target::Attach(id, token),
            ConnectionCommand::Link(command) => self.machine.handle_command(command, now()),
            ConnectionCommand::Heard(epoch) => {
                if let Some((_, cause)) = self.drained.take_if(|(drained, _)| *drained == epoch) {
                    self.machine.handle_lost(epoch, cause, now());
                }
            }
        }
        self.run_actions(ctx);
    }
}
