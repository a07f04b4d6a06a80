//! [`Watchdog`]: a small child process that cleans up if the server dies without a shutdown.
//!
//! The watchdog reads a pipe from the server. The line `quit` ends it. If the pipe closes without
//! that line, the server is gone (SIGKILL, a crash, Ctrl-C). Then the watchdog kills the remaining
//! processes and removes the server's directory. The processes of confined sandboxes end without
//! it: each agent sees the end of its input. The watchdog has its own session, so that Ctrl-C at
//! the terminal does not reach it.

use std::{
    io::{self, Write},
    path::Path,
    process::{Child, ChildStdin, Stdio},
    sync::{Mutex, PoisonError},
};

use super::programs::search_path;
use crate::inside::spawn;

/// `$1` is the environment variable that marks the processes of this server, `$2` its value, and
/// `$3` the server's directory.
///
/// The processes of gVisor have an empty environment. The script finds them by the directory of
/// their records, which is on their command lines. On systems without `/proc`, it kills the process
/// groups that the server has named on the pipe.
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

    /// Reports a new process group. Only systems without `/proc` need this.
    pub(crate) fn group_began(&self, group: u32) {
        self.tell(&format!("+{group}\n"));
    }

    /// Reports the end of a process group.
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
            // Reap the process, so that it doesn't stay as a zombie.
            if let Some((mut child, _)) = child.take() {
                let _ = child.wait();
            }
        }
    }

    /// Ends the child process, because the server has cleaned up itself. Blocks for a moment.
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
