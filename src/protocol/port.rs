//! Ports: the events and results of the builtins that connect to ports and list them (v2).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{BuiltinError, BuiltinErrorKind};

/// A TCP port on which a program of the sandbox listens. [`Builtin::Ports`](super::Builtin::Ports)
/// reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListeningPort {
    /// The port.
    pub port: u16,
    /// The address that the program listens on: `0.0.0.0` or `::` for all addresses.
    pub address: IpAddr,
}

impl ListeningPort {
    /// Describes a port on which a program listens.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self { port, address }
    }

    /// Whether [`Builtin::Connect`](super::Builtin::Connect) can connect to the port: the program
    /// listens on `127.0.0.1`, on `::1` or on all addresses.
    pub fn is_reachable(&self) -> bool {
        let address = self.address.to_canonical();
        let is_loopback = match address {
            IpAddr::V4(address) => address == std::net::Ipv4Addr::LOCALHOST,
            IpAddr::V6(address) => address == std::net::Ipv6Addr::LOCALHOST,
        };
        is_loopback || address.is_unspecified()
    }
}

/// The first line that [`Builtin::Connect`](super::Builtin::Connect) writes to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConnectEvent {
    /// The connection is open. The bytes of the connection follow.
    Connected,
    /// An event that this version doesn't know.
    #[serde(other)]
    Other,
}

/// The error for a port number that is not from 1 to 65535. `what` is the operation, for example
/// `connect to`.
pub fn invalid_port(what: &str, port: &impl std::fmt::Display) -> BuiltinError {
    BuiltinError {
        kind: BuiltinErrorKind::InvalidInput,
        path: None,
        message: format!("cannot {what} port {port}: a port is a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_keep_their_form_on_the_wire() {
        let port = ListeningPort::new([127, 0, 0, 1].into(), 80);
        let json = serde_json::to_string(&port).unwrap();
        assert_eq!(json, r#"{"port":80,"address":"127.0.0.1"}"#);
        assert_eq!(serde_json::from_str::<ListeningPort>(&json).unwrap(), port);
        let line = serde_json::to_string(&ConnectEvent::Connected).unwrap();
        assert_eq!(line, r#"{"event":"connected"}"#);
    }

    #[test]
    fn ports_on_the_loopback_and_on_all_addresses_are_reachable() {
        for (address, is_reachable) in [
            ("127.0.0.1", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("127.0.0.2", false),
            ("10.0.0.1", false),
            ("fe80::1", false),
        ] {
            let port = ListeningPort::new(address.parse().unwrap(), 80);
            assert_eq!(port.is_reachable(), is_reachable, "{address}");
        }
    }
}
