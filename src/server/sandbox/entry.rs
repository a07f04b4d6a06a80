//! [`Entry`]: what the list of sandboxes says about a sandbox, and when the sandbox must end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use crate::protocol::{ListedState, MAX_SECONDS, SandboxId, SandboxInfo, listing::to_millis};

/// The wall clock. The end of a sandbox is a wall-clock time, because the sandbox may be
/// checkpointed and restored on another machine.
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// A sandbox in the list. The task of the sandbox changes it, and the list reads it.
pub(crate) struct Entry {
    labels: BTreeMap<String, String>,
    pub(crate) created: SystemTime,
    changing: Mutex<Changing>,
}

struct Changing {
    state: ListedState,
    ends_at: Option<SystemTime>,
}

impl Entry {
    /// A sandbox that is being created or restored. `ends_at` is the end of its lifetime.
    pub(crate) fn new(
        labels: BTreeMap<String, String>,
        created: SystemTime,
        ends_at: Option<SystemTime>,
    ) -> Self {
        let state = ListedState::Starting;
        Self {
            labels,
            created,
            changing: Mutex::new(Changing { state, ends_at }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_state(&self, state: ListedState) {
        self.lock().state = state;
    }

    /// The end of the lifetime. `None` if the sandbox has no maximum lifetime.
    pub(crate) fn ends_at(&self) -> Option<SystemTime> {
        self.lock().ends_at
    }

    /// Moves the end of the lifetime. The error is the reason for the client.
    pub(super) fn extend(&self, by: Duration) -> Result<SystemTime, String> {
        let mut changing = self.lock();
        let Some(ends_at) = changing.ends_at else {
            return Err("the sandbox has no maximum lifetime that could be extended".to_owned());
        };
        let latest = now() + Duration::from_secs(MAX_SECONDS);
        let extended = ends_at.checked_add(by).filter(|end| *end <= latest);
        let extended = extended.ok_or_else(|| {
            format!("the sandbox would live for more than {MAX_SECONDS} seconds from now; extend it by less")
        })?;
        changing.ends_at = Some(extended);
        Ok(extended)
    }

    /// How long the sandbox may still live. `None` if it has no maximum lifetime.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let ends_at = self.ends_at()?;
        Some(ends_at.duration_since(now()).unwrap_or_default())
    }

    /// Whether the lifetime has ended.
    pub(super) fn is_over(&self) -> bool {
        self.remaining().is_some_and(|it| it.is_zero())
    }

    /// Whether the sandbox has all of these labels.
    pub(super) fn has(&self, labels: &[(String, String)]) -> bool {
        let mut labels = labels.iter();
        labels.all(|(key, value)| self.labels.get(key) == Some(value))
    }

    pub(super) fn describe(&self, id: &SandboxId) -> SandboxInfo {
        let changing = self.lock();
        let mut info = SandboxInfo::new(id.as_str(), changing.state, to_millis(self.created));
        info.labels = self.labels.clone();
        info.ends_at_ms = changing.ends_at.map(to_millis);
        info
    }
}
