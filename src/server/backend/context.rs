//! [`ServerContext`]: what all sandboxes of a server share, and how its processes and files are
//! removed.

use std::{fs, io, path::PathBuf, sync::Arc};

#[cfg(target_os = "linux")]
use super::gvisor::runsc;
use super::{
    remove::remove_tree,
    server_directory::{Abandoned, Root, roots},
    sweep::{SERVER_MARKER, Sweeper, Target},
    watchdog::Watchdog,
};
use crate::server::{blocking::blocking, escaped::Escaped};

/// State that all sandboxes of a server share.
pub(crate) struct ServerContext {
    /// The directory of this server, with one directory for each sandbox.
    pub(super) root: PathBuf,
    /// The state directory, if the server has one.
    pub(super) state: Option<PathBuf>,
    /// The program of the agents, if the builder names one.
    pub(super) agent: Option<PathBuf>,
    /// Marks the processes of this server.
    pub(super) server: String,
    pub(super) watchdog: Watchdog,
    pub(super) sweeper: Sweeper,
    /// A lock on the directory, held until this is dropped.
    _owner: Option<fs::File>,
}

impl ServerContext {
    /// Starts the watchdog and the sweeper for sandboxes in `root`. Must be called on a tokio
    /// runtime.
    pub(super) fn start(
        root: Root,
        state: Option<PathBuf>,
        agent: Option<PathBuf>,
        server: String,
    ) -> io::Result<Arc<Self>> {
        let watchdog = Watchdog::start(SERVER_MARKER, &server, &root.path)?;
        Ok(Arc::new(Self {
            root: root.path,
            _owner: root.owner,
            state,
            agent,
            server,
            watchdog,
            sweeper: Sweeper::start(),
        }))
    }

    /// Removes, in the background, the processes and files of servers that were killed together
    /// with their watchdogs. If this hangs, it doesn't affect the server. It is cancelled with the
    /// runtime.
    pub(super) fn begin_to_clear_abandoned(self: &Arc<Self>) {
        let context = Arc::downgrade(self);
        let parent = self.root.parent().unwrap_or(&self.root).to_owned();
        tokio::spawn(async move {
            let found = blocking(move || roots(&parent)).await;
            for path in found.unwrap_or_default() {
                let Some(context) = context.upgrade() else {
                    return;
                };
                let directory = Escaped(path.display().to_string());
                let found = blocking(move || Ok(Abandoned::find(path))).await;
                let Ok(Some(left)) = found else { continue };
                match context.remove_abandoned(left).await {
                    Ok(()) => tracing::info!(%directory, "removed the files of a killed server"),
                    Err(reason) => {
                        tracing::warn!(
                            %directory,
                            reason = %Escaped(reason),
                            "cannot remove the files of a killed server"
                        );
                    }
                }
            }
        });
    }

    async fn remove_abandoned(&self, left: Abandoned) -> Result<(), String> {
        let target = Target::Server(left.server.clone());
        self.sweeper.sweep(target).await?;
        #[cfg(target_os = "linux")]
        runsc::end_all(&left.path)
            .await
            .map_err(|error| error.to_string())?;
        // The directory stays locked until it is removed, even if this future is dropped.
        blocking(move || left.remove())
            .await
            .map_err(|error| format!("the files could not be removed: {error}"))
    }

    /// Kills the remaining processes of this server and removes its directory.
    pub(super) async fn clear(self: &Arc<Self>) {
        // Retries the kill for sandboxes that could not be deleted.
        let target = Target::Server(self.server.clone());
        if let Err(reason) = self.sweeper.sweep(target).await {
            tracing::warn!(reason = %Escaped(reason), "cannot kill all processes at shutdown");
        }
        let context = self.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let removed = remove_tree(&context.root);
            context.watchdog.quit();
            removed
        })
        .await;
        if let Ok(Err(error)) = removed {
            let directory = self.root.display();
            tracing::warn!(%error, %directory, "cannot remove a directory");
        }
    }
}
