//! What an agent, or the program that starts it, prints to stderr.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use crate::{protocol::excerpt, server::escaped::Escaped};

/// The most bytes to report or to log.
const MAX_BYTES: u64 = 4_096;

/// How long to wait for the end of stderr.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Reads stderr to its end, at most [`MAX_BYTES`], and joins the lines with semicolons.
pub(super) async fn lines(errors: impl AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    let read = errors.take(MAX_BYTES);
    let _ = timeout(ENDS_WITHIN, { read }.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().map(str::trim).collect();
    excerpt(lines.join("; ").as_bytes())
}

/// Logs what the agent prints, such as a panic. Code can't write to this pipe.
pub(super) async fn log(mut errors: impl AsyncRead + Unpin) {
    let mut said = Vec::new();
    let _ = (&mut errors).take(MAX_BYTES).read_to_end(&mut said).await;
    if !said.is_empty() {
        let said = String::from_utf8_lossy(&said).into_owned();
        tracing::warn!(said = %Escaped(said), "the agent of a sandbox printed to stderr");
    }
    let _ = tokio::io::copy(&mut errors, &mut tokio::io::sink()).await;
}
