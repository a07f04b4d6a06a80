//! [`ServerThread`]: a thread of the server whose end can be awaited.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::watch;

use super::error::ServerError;

/// A running thread. It can be waited for, but not stopped, through this handle.
pub(crate) struct ServerThread {
    ended: watch::Receiver<bool>,
    /// Signals the end of the thread to callers that block instead of awaiting.
    is_done: Mutex<mpsc::Receiver<()>>,
}

impl ServerThread {
    /// Starts the thread.
    pub(crate) fn start(
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<Self, ServerError> {
        let (end, ended) = watch::channel(false);
        let (done, is_done) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                work();
                end.send_replace(true);
                let _ = done.send(());
            })
            .map_err(|source| ServerError::Runtime { source })?;
        Ok(Self {
            ended,
            is_done: Mutex::new(is_done),
        })
    }

    /// Waits until the thread has ended.
    pub(crate) async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|&ended| ended).await;
    }

    /// Blocks until the thread has ended, for at most `within`.
    pub(crate) fn wait(&self, within: Duration) {
        let is_done = self.is_done.lock().unwrap_or_else(PoisonError::into_inner);
        // If the sender was dropped, the thread has ended, too.
        let _ = is_done.recv_timeout(within);
    }
}
