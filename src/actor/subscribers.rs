//! [`Subscribers`]: events to whoever asked for them, without waiting for a slow one and without a queue that grows.

use actix::{Recipient, dev::SendError};

use crate::SandboxEvent;

/// Who gets events, and how many each of them missed.
#[derive(Default)]
pub(crate) struct Subscribers(Vec<Subscriber>);

struct Subscriber {
    recipient: Recipient<SandboxEvent>,
    missed: u64,
}

impl Subscribers {
    pub(crate) fn add(&mut self, recipient: Recipient<SandboxEvent>) {
        self.0.push(Subscriber {
            recipient,
            missed: 0,
        });
    }

    /// Whether nobody listens. One that is gone does not.
    pub(crate) fn is_empty(&mut self) -> bool {
        self.0.retain(|subscriber| subscriber.recipient.connected());
        self.0.is_empty()
    }

    /// Sends an event to everybody whose mailbox has room. The last event always goes out.
    pub(crate) fn send(&mut self, event: &SandboxEvent) {
        self.0.retain_mut(|subscriber| subscriber.send(event));
    }
}

impl Subscriber {
    /// `false`: the recipient is gone.
    fn send(&mut self, event: &SandboxEvent) -> bool {
        if self.missed > 0 {
            match self.recipient.try_send(SandboxEvent::Lagged {
                missed: self.missed,
            }) {
                Ok(()) => self.missed = 0,
                Err(SendError::Closed(_)) => return false,
                Err(SendError::Full(_)) => {}
            }
        }
        if matches!(event, SandboxEvent::Ended(_)) {
            // One message, once: no bound is at stake, and nobody must wait for it in vain.
            self.recipient.do_send(event.clone());
            return true;
        }
        if self.missed > 0 {
            self.missed += 1;
            return true;
        }
        match self.recipient.try_send(event.clone()) {
            Ok(()) => true,
            Err(SendError::Closed(_)) => false,
            Err(SendError::Full(_)) => {
                self.missed += 1;
                true
            }
        }
    }
}
