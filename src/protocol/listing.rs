//! [`SandboxInfo`]: what a server says about a sandbox in its list, and the pages of that list.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::SandboxId;

/// Maximum number of sandboxes on a page of the list.
pub const MAX_PAGE: usize = 1_000;

/// The size in bytes at which a page ends, even if more sandboxes would fit: 1 MiB. A page contains
/// at least one sandbox.
pub const PAGE_BYTES: usize = 1024 * 1024;

/// A sandbox in the list of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SandboxInfo {
    /// The id.
    pub id: SandboxId,
    /// The labels that the sandbox was created with.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The state on the server.
    pub state: ListedState,
    /// When the sandbox was created, in milliseconds since 1970-01-01 UTC.
    pub created_ms: u64,
    /// When the server will end the sandbox, in milliseconds since 1970-01-01 UTC. `None` if the
    /// sandbox has no maximum lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at_ms: Option<u64>,
}

impl SandboxInfo {
    /// Describes a sandbox that has no maximum lifetime.
    pub fn new(id: impl Into<SandboxId>, state: ListedState, created_ms: u64) -> Self {
        Self {
            id: id.into(),
            labels: BTreeMap::new(),
            state,
            created_ms,
            ends_at_ms: None,
        }
    }

    /// When the sandbox was created.
    pub fn created(&self) -> SystemTime {
        from_millis(self.created_ms)
    }

    /// When the server will end the sandbox. `None` if it has no maximum lifetime.
    pub fn ends_at(&self) -> Option<SystemTime> {
        self.ends_at_ms.map(from_millis)
    }
}

/// The state of a sandbox on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListedState {
    /// The sandbox is being created or restored.
    Starting,
    /// The sandbox runs, and a client is attached.
    Attached,
    /// The sandbox runs, and no client is attached.
    Detached,
    /// The sandbox is being checkpointed or deleted.
    Ending,
    /// A state that this version doesn't know.
    #[serde(other)]
    Other,
}

/// A page of the list of a server, in the order of the ids.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SandboxPage {
    /// The sandboxes.
    pub sandboxes: Vec<SandboxInfo>,
    /// The id after which the next page begins. `None` on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A time as milliseconds since 1970-01-01 UTC, rounded down. 0 for an earlier time.
pub fn to_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
}

/// The time of this many milliseconds since 1970-01-01 UTC.
pub fn from_millis(millis: u64) -> SystemTime {
    // A time beyond the range of the clock is a peer's nonsense.
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_its_form_and_accepts_newer_servers() {
        let mut info = SandboxInfo::new("sandbox-1", ListedState::Attached, 1_500);
        info.labels.insert("team".into(), "a".into());
        info.ends_at_ms = Some(2_500);
        let page = SandboxPage {
            sandboxes: vec![info.clone()],
            next: Some("sandbox-1".to_owned()),
        };
        let json = concat!(
            r#"{"sandboxes":[{"id":"sandbox-1","labels":{"team":"a"},"state":"attached","#,
            r#""created_ms":1500,"ends_at_ms":2500}],"next":"sandbox-1"}"#
        );
        assert_eq!(serde_json::to_string(&page).unwrap(), json);
        let newer = r#"{"sandboxes":[{"id":"a","state":"asleep","created_ms":18446744073709551615,
            "ends_at_ms":null,"mood":1}],"next":null}"#;
        let read: SandboxPage = serde_json::from_str(newer).unwrap();
        assert_eq!(read.sandboxes[0].state, ListedState::Other);
        assert_eq!(read.sandboxes[0].ends_at(), None);
        // A time that the clock can't express must not panic.
        let _ = read.sandboxes[0].created();
        let lived = info.ends_at().unwrap().duration_since(info.created());
        assert_eq!(lived.unwrap(), Duration::from_secs(1));
        assert_eq!(to_millis(info.created()), 1_500);
    }
}
