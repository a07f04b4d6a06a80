//! [`Version`]: the version of the protocol that a link speaks.

use super::names::SUBPROTOCOL_V2;

/// A version of the protocol. Client and server negotiate it for each connection. See [the
/// specification of v2](crate::protocol_v2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The protocol of deployed services.
    #[default]
    V1,
    /// Adds exactly-once output and stdin, idempotent execs, exit statuses and concurrent
    /// processes.
    V2,
    /// v1, lifted: the connection speaks v1, and a program that the client runs in the sandbox
    /// provides what v2 adds. The client reports this version if
    /// [`SandboxBuilder::lift`](crate::SandboxBuilder::lift) is on and the server selects v1. In
    /// `max_protocol_version`, it means v2.
    Lifted,
}

impl Version {
    /// Whether execs have the messages of v2.
    pub(crate) fn is_v2(self) -> bool {
        self != Self::V1
    }

    /// Returns the version that the `Sec-WebSocket-Protocol` header of an upgrade response selects.
    /// v1 if there is no header, or if it names another subprotocol.
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
            Self::Lifted => "v1, lifted",
        })
    }
}
