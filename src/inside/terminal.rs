//! [`Terminal`]: the server's end of the terminal of an exec.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
};

use nix::{errno::Errno, libc};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::protocol::TerminalSize;

/// The server's end of a pseudoterminal (its master). Reads and writes don't block.
///
/// When no process has the other end open any more, reads fail with EIO.
pub(crate) struct Terminal(OwnedFd);

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Terminal {
    /// Opens a pseudoterminal. Also returns the end for the processes.
    pub(crate) fn open(size: TerminalSize) -> io::Result<(Self, OwnedFd)> {
        #[cfg(target_os = "linux")]
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        #[cfg(not(target_os = "linux"))]
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let terminal = Self(openpt(flags)?);
        grantpt(&terminal.0)?;
        unlockpt(&terminal.0)?;
        let path = ptsname(&terminal.0, Vec::new())?;
        let inside = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(OsStr::from_bytes(path.as_bytes()))?;
        terminal.resize(size)?;
        rustix::io::ioctl_fionbio(&terminal.0, true)?;
        Ok((terminal, inside.into()))
    }

    /// Another descriptor for this end.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Changes the size. The kernel tells the processes in the foreground with SIGWINCH.
    pub(crate) fn resize(&self, size: TerminalSize) -> Result<(), Errno> {
        let size = Winsize {
            ws_row: size.rows(),
            ws_col: size.columns(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.0, size).map_err(|error| Errno::from_raw(error.raw_os_error()))
    }
}
