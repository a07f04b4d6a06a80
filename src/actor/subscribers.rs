//! [`Subscribers`]: the subscribers to the events of a sandbox. Their queues are bounded. A slow
//! subscriber delays neither the actor nor the others.

use actix::{Recipient, dev::SendError};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::SandboxEvent;

/// The maximum number of events that an event stream buffers for its reader.
pub(crate) const STREAM_CAPACITY: usize = 256;

/// Room that a stream reserves for its last two events, `Lagged` and `Ended`.
const RESERVED: usize = 2;

/// The subscribers of one sandbox.
#[derive(Default)]
pub(super) struct Subscribers(Vec<Subscriber>);

struct Subscriber {
    sink: Sink,
    missed: u64,
}

/// Where the events of a subscriber go.
pub(super) enum Sink {
    Actor(Recipient<SandboxEvent>),
    Stream(mpsc::Sender<SandboxEvent>),
}

/// A queue of events, from the actor to the reader of a stream.
pub(super) fn queue() -> (Sink, mpsc::Receiver<SandboxEvent>) {
    let (sender, receiver) = mpsc::channel(STREAM_CAPACITY + RESERVED);
    (Sink::Stream(sender), receiver)
}

impl Subscribers {
    pub(super) fn add(&mut self, sink: Sink) {
        self.0.push(Subscriber { sink, missed: 0 });
    }

    /// Whether no subscriber is left.
    pub(super) fn is_empty(&mut self) -> bool {
        self.0.retain(|subscriber| subscriber.sink.is_connected());
        self.0.is_empty()
    }

    /// Sends an event to every subscriber that has room. `Ended` is always delivered, and is the
    /// last.
    pub(super) fn send(&mut self, event: &SandboxEvent) {
        self.0.retain_mut(|subscriber| subscriber.send(event));
    }
}

impl Subscriber {
    /// Returns whether to keep the subscriber.
    fn send(&mut self, event: &SandboxEvent) -> bool {
        let is_last = matches!(event, SandboxEvent::Ended(_));
        let missed = self.missed;
        let lagged = (missed > 0).then_some(SandboxEvent::Lagged { missed });
        for event in lagged.into_iter().chain([event.clone()]) {
            match self.sink.send(event, is_last) {
                Ok(()) => self.missed = 0,
                Err(SendError::Full(())) => {
                    self.missed += 1;
                    break;
                }
                Err(SendError::Closed(())) => return false,
            }
        }
        !is_last
    }
}

impl Sink {
    fn is_connected(&self) -> bool {
        match self {
            Self::Actor(recipient) => recipient.connected(),
            Self::Stream(sender) => !sender.is_closed(),
        }
    }

    /// The last events always fit: there are at most two of them, and they have reserved room.
    fn send(&self, event: SandboxEvent, is_last: bool) -> Result<(), SendError<()>> {
        match self {
            Self::Actor(recipient) if is_last => {
                recipient.do_send(event);
                Ok(())
            }
            Self::Actor(recipient) => recipient.try_send(event).map_err(|error| match error {
                SendError::Full(_) => SendError::Full(()),
                SendError::Closed(_) => SendError::Closed(()),
            }),
            Self::Stream(sender) if !is_last && sender.capacity() <= RESERVED => {
                match sender.is_closed() {
                    true => Err(SendError::Closed(())),
                    false => Err(SendError::Full(())),
                }
            }
            Self::Stream(sender) => sender.try_send(event).map_err(|error| match error {
                TrySendError::Full(_) => SendError::Full(()),
                TrySendError::Closed(_) => SendError::Closed(()),
            }),
        }
    }
}
