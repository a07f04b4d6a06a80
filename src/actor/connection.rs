//! [`ConnectionActor`]: the supervisor of one link at a time.
//!
//! actix's own supervisor restarts an actor at once and forever; a link must be restarted under a
//! policy. So this actor lives as long as its sandbox and restarts its *link*. What a link delivers is
//! tagged with the link's epoch, and a late event of a dead link is ignored.

use std::{
    any::Any,
    fmt,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, WeakRecipient};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tracing::Span;

use super::{
    Settings,
    driver::{Driven, Driver, now},
};
use crate::{
    machine::{Connection, ConnectionAction, ConnectionState, Epoch, LinkError, Mode},
    protocol::{SandboxId, SandboxToken, Version},
    transport::{
        Cookies, Credit, DialConfig, Dialled, Link, LinkConfig, LinkEvent, RecordedDial, Recorder,
        Target, dial,
    },
};

/// What a connection is told to do.
#[derive(Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub(super) enum ConnectionCommand {
    /// Send a text frame on the current link. With a tag, [`ConnectionReport::Written`] follows.
    Send {
        /// The frame.
        text: String,
        /// Chosen by the sender.
        tag: Option<u64>,
    },
    /// From now on, dial this sandbox.
    Resume(SandboxId, SandboxToken),
    /// The sandbox runs on this link: a loss of it is mended, where that was asked for.
    Confirm(Epoch),
    /// A loss is final from now on.
    Disarm,
    /// The link is of no use yet: drop it and try again later.
    Refuse(Epoch, LinkError),
    /// Everything that came over this link is taken into account: the answer to
    /// [`ConnectionReport::Drained`].
    Heard(Epoch),
    /// Close the connection, with a handshake.
    Close,
}

/// What a connection lets its owner know.
#[derive(Message)]
#[rtype(result = "()")]
#[non_exhaustive]
pub(super) enum ConnectionReport {
    /// A link is open, and speaks this version of the protocol.
    Opened(Epoch, Version),
    /// Text frames, in order.
    Frames {
        /// The link they came over.
        epoch: Epoch,
        /// The frames.
        frames: Vec<Bytes>,
        /// Leave to read the next batch; given back by being dropped.
        credit: Credit,
    },
    /// The link took the frames with these tags.
    Written {
        /// The link that took them.
        epoch: Epoch,
        /// The tags.
        tags: Vec<u64>,
    },
    /// The link is lost, and this is behind the last that came over it. What follows from the loss
    /// waits for [`ConnectionCommand::Heard`]: the server may just have said why.
    Drained(Epoch),
    /// The link is lost, another attempt follows.
    Reconnecting {
        /// The number of the attempt, from 1.
        attempt: u32,
        /// How long until it.
        delay: Duration,
        /// What happened.
        cause: LinkError,
    },
    /// The link is lost for good.
    Lost {
        /// What happened last.
        cause: LinkError,
        /// Attempts that were made.
        attempts: u32,
    },
    /// The connection was closed as asked.
    Closed,
}

impl fmt::Debug for ConnectionCommand {
    /// Shows no frame: code and stdin may hold anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { text, tag } => f
                .debug_struct("Send")
                .field("bytes", &text.len())
                .field("tag", tag)
                .finish(),
            Self::Resume(id, token) => f.debug_tuple("Resume").field(id).field(token).finish(),
            Self::Confirm(epoch) => f.debug_tuple("Confirm").field(epoch).finish(),
            Self::Disarm => f.write_str("Disarm"),
            Self::Refuse(epoch, cause) => {
                f.debug_tuple("Refuse").field(epoch).field(cause).finish()
            }
            Self::Heard(epoch) => f.debug_tuple("Heard").field(epoch).finish(),
            Self::Close => f.write_str("Close"),
        }
    }
}

impl fmt::Debug for ConnectionReport {
    /// Shows no frame: one of them holds the sandbox's token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened(epoch, version) => {
                f.debug_tuple("Opened").field(epoch).field(version).finish()
            }
            Self::Frames { epoch, frames, .. } => f
                .debug_struct("Frames")
                .field("epoch", epoch)
                .field("frames", &frames.len())
                .finish_non_exhaustive(),
            Self::Written { epoch, tags } => f
                .debug_struct("Written")
                .field("epoch", epoch)
                .field("tags", tags)
                .finish(),
            Self::Drained(epoch) => f.debug_tuple("Drained").field(epoch).finish(),
            Self::Reconnecting {
                attempt,
                delay,
                cause,
            } => f
                .debug_struct("Reconnecting")
                .field("attempt", attempt)
                .field("delay", delay)
                .field("cause", cause)
                .finish(),
            Self::Lost { cause, attempts } => f
                .debug_struct("Lost")
                .field("cause", cause)
                .field("attempts", attempts)
                .finish(),
            Self::Closed => f.write_str("Closed"),
        }
    }
}

/// Tells the owner when the actor goes, however it goes.
struct Obituary {
    owner: WeakRecipient<ConnectionReport>,
    finished: bool,
}

impl Obituary {
    fn report(&self, report: ConnectionReport) {
        if let Some(owner) = self.owner.upgrade() {
            // The number of reports in flight is bounded by the link's credits.
            owner.do_send(report);
        }
    }
}

impl Drop for Obituary {
    fn drop(&mut self) {
        if !self.finished {
            self.report(ConnectionReport::Lost {
                cause: LinkError::ActorGone,
                attempts: 0,
            });
        }
    }
}

type Dialling = LocalBoxFuture<'static, Result<Dialled, LinkError>>;

/// Dials, watches, and restarts the link of one sandbox.
pub(super) struct ConnectionActor {
    machine: Connection,
    dial_config: DialConfig,
    link_config: LinkConfig,
    target: Target,
    cookies: Cookies,
    link: Option<Link>,
    /// What the link speaks.
    version: Version,
    /// Polled together with the link: a link is read in the same turn in which it is opened.
    dialling: Option<(Epoch, Dialling)>,
    recorder: Option<Recorder>,
    /// The dial that is under way, where it is recorded.
    recorded: Option<RecordedDial>,
    /// A link that is lost, while the owner hears the last of it.
    drained: Option<(Epoch, LinkError)>,
    obituary: Obituary,
    span: Span,
    /// The connection is the last of the sandbox's actors: it closes with a handshake.
    _kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl ConnectionActor {
    pub(crate) fn new(
        settings: &Settings,
        owner: WeakRecipient<ConnectionReport>,
        span: Span,
    ) -> Self {
        Self {
            machine: Connection::new(settings.connection.clone()),
            dial_config: settings.dial.clone(),
            link_config: LinkConfig {
                keepalive: settings.keepalive,
                max_message_bytes: settings.dial.max_message_bytes,
            },
            target: match &settings.mode {
                Mode::Create(_) => Target::Create,
                Mode::Attach(id, token) => Target::Attach(id.clone(), token.clone()),
            },
            cookies: Cookies::default(),
            link: None,
            version: Version::V1,
            dialling: None,
            recorder: settings.recorder.clone(),
            recorded: None,
            drained: None,
            obituary: Obituary {
                owner,
                finished: false,
            },
            span,
            _kept: settings.kept.clone(),
        }
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
                ConnectionAction::Opened(epoch) => {
                    self.span.record("epoch", epoch.0);
                    debug_in!(self.span, epoch = epoch.0, version = %self.version, "link open");
                    self.obituary
                        .report(ConnectionReport::Opened(epoch, self.version));
                }
                ConnectionAction::Reconnecting {
                    attempt,
                    delay,
                    cause,
                } => {
                    self.link = None;
                    debug_in!(self.span, attempt, ?delay, %cause, "link lost, reconnecting");
                    self.obituary.report(ConnectionReport::Reconnecting {
                        attempt,
                        delay,
                        cause,
                    });
                }
                ConnectionAction::Lost { cause, attempts } => {
                    debug_in!(self.span, attempts, %cause, "link lost");
                    self.finish(ConnectionReport::Lost { cause, attempts }, ctx);
                }
                ConnectionAction::Closed => {
                    debug_in!(self.span, "connection closed");
                    self.finish(ConnectionReport::Closed, ctx);
                }
            }
        }
    }

    fn finish(&mut self, report: ConnectionReport, ctx: &mut Context<Self>) {
        self.link = None;
        self.obituary.finished = true;
        self.obituary.report(report);
        ctx.stop();
    }

    fn dial(&mut self, epoch: Epoch) {
        self.link = None;
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
                self.version = version;
                if *self.machine.state() == ConnectionState::Dialling(epoch) {
                    let mut link = Link::new(socket, self.link_config);
                    link.record(recorded.map(|dial| dial.opened(version)));
                    self.link = Some(link);
                }
                self.machine.handle_opened(epoch);
            }
            Err(cause) => {
                if let Some(dial) = recorded {
                    dial.failed(&cause);
                }
                self.machine.handle_lost(epoch, cause, now());
            }
        }
    }

    fn drop_link(&mut self, epoch: Epoch) {
        if epoch == self.machine.epoch() {
            self.link = None;
            self.dialling = None;
            self.recorded = None;
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
        self.machine.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, ctx: &mut Context<Self>) {
        self.machine.handle_timeout(now);
        self.run_actions(ctx);
    }

    /// The sandbox's actor is gone, whether it said so or not.
    fn handle_orphaned(&mut self, ctx: &mut Context<Self>) {
        self.machine.close(now());
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
                LinkEvent::Frames(frames, credit) => {
                    self.obituary.report(ConnectionReport::Frames {
                        epoch,
                        frames,
                        credit,
                    });
                }
                LinkEvent::Written(tags) => self
                    .obituary
                    .report(ConnectionReport::Written { epoch, tags }),
                LinkEvent::Lost(cause) => {
                    let secrets = self.dial_config.secrets(&self.target);
                    let cause = secrets.iter().fold(cause, LinkError::redact);
                    self.link = None;
                    self.drained = Some((epoch, cause));
                    self.obituary.report(ConnectionReport::Drained(epoch));
                }
            }
        }
    }
}

impl Handler<ConnectionCommand> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, command: ConnectionCommand, ctx: &mut Context<Self>) {
        match command {
            ConnectionCommand::Send { text, tag } => {
                if let Some(link) = &mut self.link {
                    link.send(text, tag);
                }
            }
            ConnectionCommand::Resume(id, token) => self.target = Target::Attach(id, token),
            ConnectionCommand::Confirm(epoch) => self.machine.confirm(epoch, now()),
            ConnectionCommand::Disarm => self.machine.disarm(),
            ConnectionCommand::Refuse(epoch, cause) => {
                self.machine.handle_refused(epoch, cause, now())
            }
            ConnectionCommand::Heard(epoch) => {
                if let Some((_, cause)) = self.drained.take_if(|(drained, _)| *drained == epoch) {
                    self.machine.handle_lost(epoch, cause, now());
                }
            }
            ConnectionCommand::Close => self.machine.close(now()),
        }
        self.run_actions(ctx);
    }
}
