//! [`ports`] lists the TCP ports on which programs listen. [`wait_for_port`] waits for one.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::{Done, Streams, reason};
use crate::protocol::{BuiltinError, BuiltinErrorKind, ListeningPort, invalid_port};

/// The sockets of the network of this process, and with it of the sandbox.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// The state of a socket that listens, as the tables show it.
const LISTENS: &str = "0A";

/// How long [`wait_for_port`] pauses before it looks again, at first and at most. The kernel has no
/// event for a new port.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Writes one line for each port and address, sorted.
pub(super) fn ports(streams: &mut Streams) -> Result<Done, BuiltinError> {
    let list = || -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        for port in listening()? {
            serde_json::to_writer(&mut lines, &port)?;
            lines.push(b'\n');
        }
        Ok(lines)
    };
    let listed = list().and_then(|lines| streams.write_all(&lines));
    listed.map_err(|error| failed("list the ports", &error))?;
    Ok(Done {})
}

/// Waits until a program listens on the port, at most for the timeout. Opens no connection, which
/// the program could notice.
pub(super) fn wait_for_port(
    port: u16,
    timeout_ms: Option<u64>,
    streams: &mut Streams,
) -> Result<Done, BuiltinError> {
    let what = "wait for";
    if port == 0 {
        return Err(invalid_port(what, &port));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "a builtin blocks and uses no runtime"
    )]
    let started = Instant::now();
    let timeout = timeout_ms.map(Duration::from_millis);
    let mut pause = FIRST_PAUSE;
    loop {
        let failed = |error| failed(&format!("{what} port {port}"), &error);
        let ports = listening().map_err(failed)?;
        if ports.iter().any(|it| it.port == port && it.is_reachable()) {
            return Ok(Done {});
        }
        let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
        if left == Some(Duration::ZERO) {
            return Err(timed_out(port, timeout.unwrap_or_default()));
        }
        let next = left.map_or(pause, |left| left.min(pause));
        // Rounded up, so that the last pause doesn't become many short ones.
        let millis = u16::try_from(next.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        streams.pause(millis.into()).map_err(failed)?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn timed_out(port: u16, timeout: Duration) -> BuiltinError {
    BuiltinError {
        kind: BuiltinErrorKind::TimedOut,
        path: None,
        message: format!(
            "nothing listened on port {port} in the sandbox within {timeout:?}; look at the output \
             of the program that should listen, or wait longer"
        ),
    }
}

fn failed(what: &str, error: &io::Error) -> BuiltinError {
    BuiltinError::other(format!("cannot {what}: {}", reason(error)))
}

/// The ports on which programs listen, without duplicates.
fn listening() -> io::Result<BTreeSet<ListeningPort>> {
    let mut ports = BTreeSet::new();
    for table in TABLES {
        let table = match File::open(table) {
            Ok(table) => table,
            // Without IPv6, there is no second table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in BufReader::new(table).lines() {
            ports.extend(parse(&line?));
        }
    }
    Ok(ports)
}

/// The port in a line of a table. `None` for the title, and for a socket that doesn't listen.
fn parse(line: &str) -> Option<ListeningPort> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, state) = (fields.next()?, fields.nth(1)?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTENS).then_some(())?;
    Some(ListeningPort::new(parse_address(address)?, port))
}

/// An address in a table is a row of 32-bit numbers in hexadecimal: the bytes of the address in the
/// order of memory, read in the byte order of the machine.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
