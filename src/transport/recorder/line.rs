//! [`Line`]: one line of a recording, as JSON. The writer and the reader of `test_util` share it.

use serde::{Deserialize, Serialize};

/// What stands in a recording where the sandbox's token was.
pub(crate) const RECORDED_TOKEN: &str = "recorded-token";

/// One line. Keys that an event does not have are left out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Milliseconds since the first line.
    pub(crate) t: u64,
    /// The connection: `A`, `B` and on, one for each dial.
    #[serde(default)]
    pub(crate) conn: String,
    /// What happened.
    pub(crate) dir: Dir,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<String>,
    /// The subprotocol that the server selected; none for v1.
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
    /// Who ended the connection; the server, unless it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<By>,
}

/// The kind of a line.
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
    /// The last line of a recorder; with an error, where it had to stop before the session ended.
    End,
}

/// One of the two sides.
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
