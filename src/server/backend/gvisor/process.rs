//! [`GvisorProcess`]: one exec. On this machine it is the process `runsc exec`, which ends with the
//! exit status of the process in the sandbox.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::timeout;

use super::{container::Container, scripts::KILL};
use crate::{
    inside::process::{Exit, Process},
    server::backend::sweep::EXEC_MARKER,
};

/// `runsc exec` reports a signal as this number plus the number of the signal, as shells do.
const SIGNALED: i32 = 128;

/// How often a kill is tried, and how long each try waits for the end of `runsc exec`.
const ROUNDS: u32 = 20;
const ENDS_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct GvisorProcess {
    /// `runsc exec`.
    pub(super) outer: Box<dyn Process>,
    pub(super) container: Arc<Container>,
    pub(super) exec: String,
    /// This file exists if a status of 128 or more was an exit code, not a signal.
    pub(super) exit: PathBuf,
}

impl GvisorProcess {
    fn seen(&self, outer: Exit) -> io::Result<Exit> {
        let was_exit = || fs::symlink_metadata(&self.exit).is_ok();
        match outer.code {
            Some(code) if code >= SIGNALED && !was_exit() => {
                if code == SIGNALED {
                    self.container.suspect();
                    return Err(io::Error::other("gVisor ended while the code ran"));
                }
                Ok(Exit {
                    code: None,
                    signal: Some(code - SIGNALED),
                })
            }
            Some(_) => Ok(outer),
            // `runsc exec` itself was killed. How the process in the sandbox ended is unknown.
            None => Ok(Exit::default()),
        }
    }
}

impl Process for GvisorProcess {
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>> {
        Box::pin(async move {
            let outer = self.outer.wait().await?;
            self.seen(outer)
        })
    }

    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mark = format!("{EXEC_MARKER}={}", self.exec);
            for _ in 0..ROUNDS {
                let killed = self.container.script(KILL, &[&mark]).await;
                // The process may not have started in the sandbox yet. Then the next try finds it.
                let ended = timeout(ENDS_WITHIN, self.outer.wait()).await;
                match (killed, ended) {
                    (Ok(0), Ok(_)) => return Ok(()),
                    // The sandbox is gone, with all its processes.
                    (Err(_), Ok(_)) if !self.container.is_there().await => return Ok(()),
                    _ => {}
                }
            }
            // End `runsc exec`, so that no caller waits for it forever.
            let _ = self.outer.kill().await;
            Err("its processes could not be killed".to_owned())
        })
    }
}

impl Drop for GvisorProcess {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.exit);
    }
}
