//! The state of a sandbox, from its actor to its handles, without a message.

use tokio::sync::watch;

use crate::{
    machine::{LinkError, SandboxEnd, SandboxState},
    protocol::Version,
};

/// The actor's half. If it is dropped before the end, it publishes that the actor is gone.
pub(super) struct StatePublisher(watch::Sender<(SandboxState, Version)>);

/// A handle's half.
#[derive(Clone, Debug)]
pub(crate) struct StateReader(watch::Receiver<(SandboxState, Version)>);

impl StatePublisher {
    pub(super) fn new(state: &SandboxState, version: Version) -> Self {
        Self(watch::Sender::new((state.clone(), version)))
    }

    pub(super) fn reader(&self) -> StateReader {
        StateReader(self.0.subscribe())
    }

    /// Publishes a change. The actor calls this before it answers, so that the caller reads the new
    /// state.
    pub(super) fn publish(&self, state: &SandboxState, version: Version) {
        let is_same = {
            let last = self.0.borrow();
            last.0 == *state && last.1 == version
        };
        if !is_same {
            self.0.send_replace((state.clone(), version));
        }
    }
}

impl Drop for StatePublisher {
    fn drop(&mut self) {
        self.0.send_if_modified(|(state, _)| {
            let is_over = matches!(state, SandboxState::Ended(_));
            if !is_over {
                let cause = LinkError::ActorGone;
                *state = SandboxState::Ended(SandboxEnd::LinkLost { cause, attempts: 0 });
            }
            !is_over
        });
    }
}

impl StateReader {
    pub(crate) fn state(&self) -> SandboxState {
        self.0.borrow().0.clone()
    }

    pub(crate) fn version(&self) -> Version {
        self.0.borrow().1
    }
}
