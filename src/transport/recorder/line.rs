//! [`Line`]: one line of a recording, as JSON. Shared by the recorder and the reader in
//! `test_util`.

use serde::{Deserialize, Serialize};

/// Replaces the sandbox's token in a recording.
pub(crate) const RECORDED_TOKEN: &str = "recorded-token";

/// One line of a recording. A line omits the keys that its event does not have.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Milliseconds since the first line.
    pub(crate) t: u64,
    /// The connection: `A`, `B` and so on, one for each dial.
    #[serde(default)]
    pub(crate) conn: String,
    /// The kind of event.
    pub(crate) dir: Dir,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// The subprotocol that the server selected. `None` for v1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frame: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The side that ended the connection. `None` stands for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<By>,
}

/// The kind of event of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dir {
    Connect,
    Refused,
    Send,
    Recv,
    Close,
    Cut,
    Quiet,
    /// The last line of a recording. It has an error if the recording stopped before the session
    /// ended.
    End,
}

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    Client,
    Server,
}

impl Line {
    pub(crate) fn new(t: u64, conn: &str, dir: Dir) -> Self {
        Self {
            t,
            conn: conn.to_owned(),
            dir,
            path: None,
            protocol: None,
            frame: None,
            code: None,
            reason: None,
            error: None,
            by: None,
        }
    }
}
