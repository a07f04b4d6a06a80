//! [`relay`]: moves bytes between a socket and the streams of a builtin, in both directions.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
};

use nix::poll::PollFlags;

use super::Streams;

/// How many bytes of each direction wait here at most.
const BUFFER: usize = 64 * 1024;

/// Moves bytes until both directions have ended. The end of stdin ends the direction to the peer,
/// and the end of the direction from the peer closes stdout. Neither direction waits for the other.
///
/// If the peer takes no more bytes, what it has sent is moved before this fails.
pub(super) fn relay(mut socket: &TcpStream, streams: &mut Streams) -> io::Result<()> {
    let (mut to_peer, mut from_peer) = (Direction::new(), Direction::new());
    // Why the peer takes no more bytes.
    let mut refusal = None;
    loop {
        if to_peer.ends() {
            refusal = socket.shutdown(Shutdown::Write).err();
        }
        if from_peer.is_drained()
            && let Some(error) = refusal
        {
            return Err(error);
        }
        if from_peer.ends() {
            streams.close_stdout();
        }
        if to_peer.has_ended && from_peer.has_ended {
            return Ok(());
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, from_peer.has_room());
        events.set(PollFlags::POLLOUT, to_peer.has_bytes());
        let peer = (!events.is_empty()).then_some((socket.as_fd(), events));
        let [peer, stdin, stdout] =
            streams.wait_for_any(peer, to_peer.has_room(), from_peer.has_bytes())?;
        if stdin {
            to_peer.fill(|buffer| streams.read_now(buffer))?;
        }
        if peer && from_peer.has_room() {
            from_peer.fill(|buffer| socket.read(buffer))?;
        }
        // What was just read can usually be written at once.
        if (peer || stdin) && to_peer.has_bytes() {
            let written = to_peer.empty(|bytes| socket.write(bytes));
            if let Err(error) = written {
                refusal = Some(error);
                to_peer.abandon();
            }
        }
        if (peer || stdout) && from_peer.has_bytes() {
            from_peer.empty(|bytes| streams.write_now(bytes))?;
        }
    }
}

/// One direction of a connection, with the bytes that were read and not yet written.
struct Direction {
    buffer: Vec<u8>,
    written: usize,
    read: usize,
    /// Whether the source has no more bytes.
    is_complete: bool,
    /// Whether the destination knows that.
    has_ended: bool,
}

impl Direction {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER],
            written: 0,
            read: 0,
            is_complete: false,
            has_ended: false,
        }
    }

    fn has_bytes(&self) -> bool {
        self.written < self.read
    }

    /// Whether to read from the source.
    fn has_room(&self) -> bool {
        !self.has_bytes() && !self.is_complete
    }

    /// Whether everything was moved.
    fn is_drained(&self) -> bool {
        self.is_complete && !self.has_bytes()
    }

    /// Whether the destination is to be closed now. Returns true once.
    fn ends(&mut self) -> bool {
        let ends = self.is_drained() && !self.has_ended;
        self.has_ended |= ends;
        ends
    }

    /// Moves no more bytes, because the destination takes none.
    fn abandon(&mut self) {
        self.written = self.read;
        self.is_complete = true;
        self.has_ended = true;
    }

    /// Reads from the source.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        if let Some(bytes) = now(read(&mut self.buffer))? {
            (self.written, self.read) = (0, bytes);
            self.is_complete = bytes == 0;
        }
        Ok(())
    }

    /// Writes to the destination.
    fn empty(&mut self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        let bytes = self.buffer.get(self.written..self.read);
        if let Some(bytes) = now(write(bytes.unwrap_or_default()))? {
            self.written += bytes;
        }
        Ok(())
    }
}

/// The number of bytes that were moved. `None` if the call must be repeated later.
fn now(moved: io::Result<usize>) -> io::Result<Option<usize>> {
    match moved {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}
