//! [`GvisorProcess`]: one exec. What is seen of it on this machine is `runsc exec`, which ends as the process inside does.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::timeout;

use super::{container::Container, scripts::KILL};
use crate::server::backend::{
    api::{Exit, Process},
    sweep::EXEC_MARKER,
};

/// What `runsc exec` adds to the number of a signal, as shells do.
const SIGNALED: i32 = 128;

/// How often the processes of an exec are looked for, and how long its end is waited for each time.
const ROUNDS: u32 = 20;
const ENDS_WITHIN: Duration = Duration::from_millis(500);

pub(super) struct GvisorProcess {
    /// `runsc exec`.
    pub(super) outer: Box<dyn Process>,
    pub(super) container: Arc<Container>,
    pub(super) exec: String,
    /// Is there when a high exit code was one.
    pub(super) exit: PathBuf,
}

impl GvisorProcess {
    fn seen(&self, outer: Exit) -> io::Result<Exit> {
        let was_exit = || fs::symlink_metadata(&self.exit).is_ok();
        match outer.code {
            Some(code) if code >= SIGNALED && !was_exit() => {
                if code == SIGNALED {
                    self.container.suspect();
                    return Err(io::Error::other(
                        "the sandbox ended under it: gVisor is gone",
                    ));
                }
                Ok(Exit {
                    code: None,
                    signal: Some(code - SIGNALED),
                })
            }
            Some(_) => Ok(outer),
            // That was no process of the sandbox.
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
                // It may just be about to begin inside.
                let ended = timeout(ENDS_WITHIN, self.outer.wait()).await;
                match (killed, ended) {
                    (Ok(0), Ok(_)) => return Ok(()),
                    // The sandbox is gone, and with it all that ran there.
                    (Err(_), Ok(_)) if !self.container.is_there().await => return Ok(()),
                    _ => {}
                }
            }
            // Nobody is to be left waiting for it.
            let _ = self.outer.kill().await;
            Err("its processes could not be ended".to_owned())
        })
    }
}

impl Drop for GvisorProcess {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.exit);
    }
}
