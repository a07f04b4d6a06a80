//! [`Version`]: which of the two versions of the protocol a link speaks.

use super::names::SUBPROTOCOL_V2;

/// A version of the protocol, agreed on for each link. See [the specification of
/// v2](crate::protocol_v2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// What deployed services speak.
    #[default]
    V1,
    /// The additions of this crate: nothing lost, nothing twice, nothing unknown.
    V2,
}

impl Version {
    /// The version that a `Sec-WebSocket-Protocol` header of an answer selects; v1 for none, and
    /// for one that was not offered.
    pub(crate) fn selected(header: Option<&str>) -> Self {
        match header {
            Some(name) if name.trim() == SUBPROTOCOL_V2 => Self::V2,
            _ => Self::V1,
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}
