//! [`blocking`]: runs file operations on the threads for blocking work.

use std::io;

use tokio::task::spawn_blocking;

/// Runs blocking work on a thread of the runtime's blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}
