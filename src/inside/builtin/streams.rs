//! [`Streams`]: the input and output of a builtin, and the signal to stop.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{read, write},
};

/// The streams of a builtin. Every wait ends when the builtin is stopped.
pub(crate) struct Streams {
    stdin: OwnedFd,
    /// `None` after [`close_stdout`](Streams::close_stdout).
    stdout: Option<OwnedFd>,
    /// A pipe. The builtin is stopped when its other end is closed.
    stop: OwnedFd,
}

impl Streams {
    /// Sets `stdin` and `stdout` to non-blocking mode.
    pub(crate) fn new(stdin: OwnedFd, stdout: OwnedFd, stop: OwnedFd) -> io::Result<Self> {
        for end in [&stdin, &stdout] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            stdin,
            stdout: Some(stdout),
            stop,
        })
    }

    /// Whether the builtin was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.wait(None, PollTimeout::ZERO).is_err()
    }

    /// Fails if the builtin was stopped.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.is_stopped() {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    /// Waits until `other` is readable, until stdin has data or has ended, or until the timeout
    /// `limit`. Returns whether `other` and stdin are ready.
    pub(crate) fn wait_for(
        &self,
        other: BorrowedFd<'_>,
        limit: PollTimeout,
    ) -> io::Result<(bool, bool)> {
        let mut polled = [
            PollFd::new(self.stop.as_fd(), PollFlags::empty()),
            PollFd::new(other, PollFlags::POLLIN),
            PollFd::new(self.stdin.as_fd(), PollFlags::POLLIN),
        ];
        wait(&mut polled, limit)?;
        let [_, other, stdin] = polled.map(|it| it.revents().is_some_and(|it| !it.is_empty()));
        Ok((other, stdin))
    }

    /// Waits until `other` is ready for these events, or until any of the given streams is ready:
    /// stdin for a read, stdout for a write. Returns which of them are ready: `other`, stdin,
    /// stdout.
    pub(crate) fn wait_for_any(
        &self,
        other: Option<(BorrowedFd<'_>, PollFlags)>,
        stdin: bool,
        stdout: bool,
    ) -> io::Result<[bool; 3]> {
        let stop = (self.stop.as_fd(), PollFlags::empty());
        let stdin = stdin.then(|| (self.stdin.as_fd(), PollFlags::POLLIN));
        let stdout = self.stdout.as_ref().filter(|_| stdout);
        let stdout = stdout.map(|it| (it.as_fd(), PollFlags::POLLOUT));
        let wanted = [other, stdin, stdout];
        // The signal to stop takes the place of what isn't waited for.
        let [other, stdin, stdout] = wanted.map(|it| {
            let (fd, events) = it.unwrap_or(stop);
            PollFd::new(fd, events)
        });
        let mut polled = [PollFd::new(stop.0, stop.1), other, stdin, stdout];
        wait(&mut polled, PollTimeout::NONE)?;
        let [_, other, stdin, stdout] =
            polled.map(|it| it.revents().is_some_and(|it| !it.is_empty()));
        Ok([other, stdin, stdout])
    }

    /// Waits until `fd` takes bytes, or until the timeout `limit`. Returns whether it takes bytes.
    pub(crate) fn wait_to_write(&self, fd: BorrowedFd<'_>, limit: PollTimeout) -> io::Result<bool> {
        let mut polled = [
            PollFd::new(self.stop.as_fd(), PollFlags::empty()),
            PollFd::new(fd, PollFlags::POLLOUT),
        ];
        wait(&mut polled, limit)?;
        let [_, fd] = polled.map(|it| it.revents().is_some_and(|it| !it.is_empty()));
        Ok(fd)
    }

    /// Waits until `limit`. Fails if the builtin is stopped.
    pub(crate) fn pause(&self, limit: PollTimeout) -> io::Result<()> {
        self.wait(None, limit)
    }

    /// Reads stdin without waiting. Fails with [`io::ErrorKind::WouldBlock`] if there is nothing to
    /// read.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(&self.stdin, buffer)?)
    }

    /// Writes to stdout without waiting. Fails with [`io::ErrorKind::WouldBlock`] if there is no
    /// room.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.stdout {
            Some(stdout) => Ok(write(stdout, bytes)?),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends the output before the builtin ends.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Waits for the end of stdin, and drops what it contains.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    /// Waits until `fd` is ready, or until `limit`. Fails if the builtin is stopped.
    fn wait(&self, fd: Option<(BorrowedFd<'_>, PollFlags)>, limit: PollTimeout) -> io::Result<()> {
        let stop = PollFd::new(self.stop.as_fd(), PollFlags::empty());
        match fd {
            Some((fd, flags)) => wait(&mut [stop, PollFd::new(fd, flags)], limit),
            None => wait(&mut [stop], limit),
        }
    }
}

/// Fails if the first descriptor, the signal to stop, is ready.
fn wait(polled: &mut [PollFd<'_>], limit: PollTimeout) -> io::Result<()> {
    loop {
        match poll(polled, limit) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let is_stopped = polled.first().and_then(PollFd::revents);
    match is_stopped.is_some_and(|events| !events.is_empty()) {
        true => Err(stopped()),
        false => Ok(()),
    }
}

fn stopped() -> io::Error {
    io::Error::other("the operation was stopped")
}

impl io::Read for Streams {
    /// Reads stdin.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(
                Some((self.stdin.as_fd(), PollFlags::POLLIN)),
                PollTimeout::NONE,
            )?;
            match read(&self.stdin, buffer) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl io::Write for Streams {
    /// Writes to stdout.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stdout) = &self.stdout else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        loop {
            self.wait(
                Some((stdout.as_fd(), PollFlags::POLLOUT)),
                PollTimeout::NONE,
            )?;
            match write(stdout, bytes) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        thread,
    };

    use super::super::testing::ends;

    #[test]
    fn a_stop_ends_a_wait_for_input() {
        let (mut streams, mut ends) = ends();
        let reading = thread::spawn(move || streams.read(&mut [0; 10]));
        ends.stopper.take();
        assert!(reading.join().unwrap().is_err());
    }

    #[test]
    fn a_stop_ends_a_write_to_a_full_pipe() {
        let (mut streams, mut ends) = ends();
        let writing = thread::spawn(move || streams.write_all(&[0; 1 << 21]));
        ends.stopper.take();
        assert!(writing.join().unwrap().is_err());
    }

    #[test]
    fn streams_move_bytes_until_they_end() {
        let (mut streams, mut ends) = ends();
        ends.stdin.take().unwrap().write_all(b"in").unwrap();
        let mut read = String::new();
        streams.read_to_string(&mut read).unwrap();
        assert_eq!(read, "in");
        streams.write_all(b"out").unwrap();
        assert!(!streams.is_stopped());
        drop(streams);
        let mut written = String::new();
        ends.stdout.read_to_string(&mut written).unwrap();
        assert_eq!(written, "out");
    }
}
