//! [`connect`]: joins stdin and stdout to a TCP connection to a port of the sandbox.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use nix::{errno::Errno, poll::PollTimeout};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Done, Streams, reason, relay::relay};
use crate::protocol::{BuiltinError, BuiltinErrorKind, ConnectEvent, invalid_port};

/// How long to wait for a connection, in milliseconds. The kernel accepts a connection at once,
/// unless too many wait for the program.
const DIAL_LIMIT_MS: u16 = 10_000;

/// Connects to the port and moves bytes in both directions until both have ended.
pub(super) fn connect(port: u16, streams: &mut Streams) -> Result<Done, BuiltinError> {
    if port == 0 {
        return Err(invalid_port("connect to", &port));
    }
    let socket = dial(port, streams).map_err(|error| not_connected(port, &error))?;
    announce(streams).map_err(|error| lost(port, &error))?;
    relay(&socket, streams).map_err(|error| {
        // A connection that doesn't end regularly is reset. Otherwise the program would take what
        // it has received for everything. If this fails, the connection is already gone.
        let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        lost(port, &error)
    })?;
    Ok(Done {})
}

/// Connects to the port on `127.0.0.1`. If that is refused, connects to it on `::1`.
fn dial(port: u16, streams: &Streams) -> io::Result<TcpStream> {
    let dial = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        dial_address(address, DIAL_LIMIT_MS.into(), streams)
    };
    match dial(Ipv4Addr::LOCALHOST.into()) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            // This fails for another reason if the sandbox has no IPv6.
            dial(Ipv6Addr::LOCALHOST.into()).map_err(|error| match streams.is_stopped() {
                true => error,
                false => refused,
            })
        }
        result => result,
    }
}

fn dial_address(
    address: SocketAddr,
    limit: PollTimeout,
    streams: &Streams,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
            if !streams.wait_to_write(socket.as_fd(), limit)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    let socket = TcpStream::from(socket);
    // If nothing listens on a port that the kernel also gives to clients, it may connect a socket
    // to itself.
    if socket.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Tells the client that the connection is open.
fn announce(streams: &mut Streams) -> io::Result<()> {
    let mut line = serde_json::to_vec(&ConnectEvent::Connected)?;
    line.push(b'\n');
    streams.write_all(&line)
}

fn not_connected(port: u16, error: &io::Error) -> BuiltinError {
    let (kind, reason) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            BuiltinErrorKind::ConnectionRefused,
            "nothing listens on it in the sandbox; start the program that listens, and wait for \
             the port with `wait_for_port`"
                .to_owned(),
        ),
        io::ErrorKind::ConnectionReset => (
            BuiltinErrorKind::ConnectionReset,
            "the program in the sandbox reset the connection".to_owned(),
        ),
        io::ErrorKind::TimedOut => (
            BuiltinErrorKind::TimedOut,
            format!(
                "the connection was not accepted within {} seconds; the program in the sandbox \
                 has too many connections that wait for it",
                DIAL_LIMIT_MS / 1_000
            ),
        ),
        _ => (BuiltinErrorKind::Other, reason(error)),
    };
    BuiltinError {
        kind,
        path: None,
        message: format!("cannot connect to port {port}: {reason}"),
    }
}

/// The error of a connection that was open.
fn lost(port: u16, error: &io::Error) -> BuiltinError {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::BrokenPipe => BuiltinError {
            kind: BuiltinErrorKind::ConnectionReset,
            path: None,
            message: format!(
                "the connection to port {port} was reset: the program in the sandbox ended, or \
                 closed the connection before it had read everything"
            ),
        },
        _ => {
            let reason = reason(error);
            BuiltinError::other(format!("the connection to port {port} failed: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests;
