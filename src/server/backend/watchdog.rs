//! [`Watchdog`]: a small child process that cleans up when the server process dies without a word.
//!
//! It reads a pipe whose other end this process holds. `quit` ends it; the end of the pipe without
//! that means that this process is gone (SIGKILL, a crash, Ctrl-C), and the watchdog kills what is
//! left and removes the server's directory. It is in a session of its own, so that Ctrl-C at the
//! terminal does not reach it.

use std::{
    io::{self, Write},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::{Mutex, PoisonError},
};

use super::{programs::search_path, spawn};

/// `$1` is the variable that marks the processes of this server, `$2` its value, `$3` the directory.
///
/// The processes of gVisor have an empty environment; they are known by the place of their records.
///
/// Where there is no `/proc`, the process groups named on the pipe are killed instead.
const SCRIPT: &str = include_str!("watchdog.sh");

/// The child process.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Mutex<Option<(Child, ChildStdin)>>,
}

impl Watchdog {
    /// Starts the child process.
    pub(crate) fn start(marker: &str, value: &str, directory: &Path) -> io::Result<Self> {
        let mut child = spawn::blocking_command("sh")
            .args(["-c", SCRIPT, "actix-sandbox-watchdog", marker, value])
            .arg(directory)
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .spawn()?;
        let pipe = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("the child process has no pipe"))?;
        Ok(Self {
            child: Mutex::new(Some((child, pipe))),
        })
    }

    /// A process group began. Of use only where there is no `/proc`.
    pub(crate) fn group_began(&self, group: u32) {
        self.tell(&format!("+{group}\n"));
    }

    /// A process group ended.
    pub(crate) fn group_ended(&self, group: u32) {
        self.tell(&format!("-{group}\n"));
    }

    fn tell(&self, line: &str) {
        if cfg!(target_os = "linux") {
            return;
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pipe)) = child.as_mut()
            && let Err(error) = pipe.write_all(line.as_bytes())
        {
            tracing::warn!(%error, "the watchdog is gone; a crash would leave processes behind");
            // Its end was noticed here, and it is waited for, so no zombie stays.
            if let Some((mut child, _)) = child.take() {
                let _ = child.wait();
            }
        }
    }

    /// Ends the child process: everything is cleaned up. Blocks for a moment.
    pub(crate) fn quit(&self) {
        let child = self
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((mut child, mut pipe)) = child {
            if pipe.write_all(b"quit\n").is_err() {
                let _ = child.kill();
            }
            drop(pipe);
            let _ = child.wait();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.quit();
    }
}
