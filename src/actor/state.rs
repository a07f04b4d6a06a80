//! Shares the state of a sandbox between its actor and its handles, without messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    machine::{LinkError, SandboxEnd, SandboxState},
    protocol::Version,
};

type Shared = Arc<Mutex<(SandboxState, Version)>>;

/// The half of the actor. If it is dropped before the end, it publishes that the actor is gone.
pub(super) struct StatePublisher(Shared);

/// The half of a handle.
#[derive(Clone, Debug)]
pub(crate) struct StateReader(Shared);

/// Ignores poisoning: no panic can happen while the state is changed.
fn lock(shared: &Shared) -> MutexGuard<'_, (SandboxState, Version)> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StatePublisher {
    pub(super) fn new(state: &SandboxState, version: Version) -> Self {
        Self(Arc::new(Mutex::new((state.clone(), version))))
    }

    pub(super) fn reader(&self) -> StateReader {
        StateReader(Arc::clone(&self.0))
    }

    /// Publishes the state. Must be called before an answer is sent, so that the receiver reads the
    /// new state.
    pub(super) fn publish(&self, state: &SandboxState, version: Version) {
        let mut last = lock(&self.0);
        if last.0 != *state {
            last.0 = state.clone();
        }
        last.1 = version;
    }
}

impl Drop for StatePublisher {
    fn drop(&mut self) {
        let (state, _) = &mut *lock(&self.0);
        if !matches!(state, SandboxState::Ended(_)) {
            let cause = LinkError::ActorGone;
            *state = SandboxState::Ended(SandboxEnd::LinkLost { cause, attempts: 0 });
        }
    }
}

impl StateReader {
    pub(crate) fn state(&self) -> SandboxState {
        lock(&self.0).0.clone()
    }

    pub(crate) fn version(&self) -> Version {
        lock(&self.0).1
    }
}
