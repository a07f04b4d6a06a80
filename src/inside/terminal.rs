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
/// When this is dropped, duplicates of its descriptor stay open. Their reads fail with EIO when no
/// process has the other end open any more.
pub(crate) struct Terminal {
    fd: OwnedFd,
    /// The end for the processes. The terminal would end if all processes closed it for a moment.
    inside: OwnedFd,
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Terminal {
    /// Opens a pseudoterminal.
    pub(crate) fn open(size: TerminalSize) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        #[cfg(not(target_os = "linux"))]
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let fd = openpt(flags)?;
        grantpt(&fd)?;
        unlockpt(&fd)?;
        let path = ptsname(&fd, Vec::new())?;
        let inside = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(OsStr::from_bytes(path.as_bytes()))?;
        let inside = inside.into();
        let terminal = Self { fd, inside };
        terminal.resize(size)?;
        rustix::io::ioctl_fionbio(&terminal.fd, true)?;
        Ok(terminal)
    }

    /// Another descriptor for this end.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// A descriptor for the end for the processes.
    pub(crate) fn inside(&self) -> io::Result<OwnedFd> {
        self.inside.try_clone()
    }

    /// Changes the size. The kernel tells the processes in the foreground with SIGWINCH.
    pub(crate) fn resize(&self, size: TerminalSize) -> Result<(), Errno> {
        let size = Winsize {
            ws_row: size.rows(),
            ws_col: size.columns(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.fd, size).map_err(|error| Errno::from_raw(error.raw_os_error()))
    }
}
