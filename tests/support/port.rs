//! [`Port`]: a port that belongs to one test.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// Reserves a free port of `127.0.0.1` (on Linux). Connections are refused until a program of the
/// test listens on it, with `SO_REUSEADDR`.
pub(crate) struct Port(Socket);

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}
