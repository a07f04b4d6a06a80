//! [`StdinQueue`]: input on its way to a process, bounded and in order. A full queue blocks no
//! other exec.
//!
//! A process that never reads must hold up neither a kill nor the socket it comes by, so the queue
//! takes or refuses, and never waits. Its fullness is visible from outside ([`StdinQueue::make_way`]),
//! so that the session reads slower while the process is reading at all.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::Notify,
    time::timeout,
};

/// Input that may wait before the session reads slower, in bytes.
const SLOW_DOWN_AT: usize = 1024 * 1024;

/// A process that takes nothing for this long is taken not to be reading.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// What a queued message costs beside its bytes.
const MESSAGE_OVERHEAD: usize = 64;

/// Why input was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StdinRefused {
    #[error(
        "The input was not accepted: the process has not read the {waiting} bytes before it, and at most {limit} may wait."
    )]
    Full { waiting: usize, limit: usize },
    #[error("The input was not accepted: the process has closed its standard input.")]
    Closed,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct StdinQueue {
    state: Mutex<State>,
    limit: usize,
    filled: Notify,
    progress: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<String>,
    bytes: usize,
    closed: bool,
    /// Nothing was taken since the session last waited in vain.
    stalled: bool,
}

impl StdinQueue {
    /// A queue for at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            limit,
            filled: Notify::new(),
            progress: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes input, or says why not. A single message fits an empty queue whatever its size.
    pub(crate) fn push(&self, data: String) -> Result<(), StdinRefused> {
        let mut state = self.lock();
        if state.closed {
            return Err(StdinRefused::Closed);
        }
        let cost = data.len() + MESSAGE_OVERHEAD;
        if state.bytes > 0 && state.bytes + cost > self.limit {
            return Err(StdinRefused::Full {
                waiting: state.bytes,
                limit: self.limit,
            });
        }
        state.bytes += cost;
        state.messages.push_back(data);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Waits while much input waits and the process is reading; at once when it is not.
    pub(crate) async fn make_way(&self) {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            {
                let state = self.lock();
                if state.bytes < SLOW_DOWN_AT.min(self.limit) || state.stalled || state.closed {
                    return;
                }
            }
            if timeout(STALLED_AFTER, progress).await.is_err() {
                self.lock().stalled = true;
                return;
            }
        }
    }

    /// Writes what is queued to `pipe`, until it breaks, or the queue is closed and empty, or the future
    /// is dropped.
    pub(crate) async fn feed(&self, mut pipe: impl AsyncWrite + Unpin) {
        loop {
            let (next, closed) = {
                let mut state = self.lock();
                (state.messages.pop_front(), state.closed)
            };
            let Some(data) = next else {
                if closed {
                    return;
                }
                self.filled.notified().await;
                continue;
            };
            let mut rest = data.as_bytes();
            while !rest.is_empty() {
                match pipe.write(rest).await {
                    Ok(written) if written > 0 => {
                        rest = &rest[written..];
                        self.took(written);
                    }
                    _ => return self.close(),
                }
            }
            if pipe.flush().await.is_err() {
                return self.close();
            }
            self.took(MESSAGE_OVERHEAD);
        }
    }

    fn took(&self, bytes: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        state.stalled = false;
        drop(state);
        self.progress.notify_waiters();
    }

    /// Takes no more input and forgets what waits.
    pub(crate) fn close(&self) {
        *self.lock() = State {
            closed: true,
            ..State::default()
        };
        self.filled.notify_one();
        self.progress.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn input_arrives_in_order() {
        let queue = Arc::new(StdinQueue::new(1 << 20));
        let (writer, mut reader) = tokio::io::duplex(16);
        let feeding = tokio::spawn({
            let queue = queue.clone();
            async move { queue.feed(writer).await }
        });
        let mut sent = String::new();
        for i in 0..100 {
            sent += &format!("line {i}\n");
            queue.push(format!("line {i}\n")).unwrap();
        }
        let mut received = vec![0; sent.len()];
        reader.read_exact(&mut received).await.unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), sent);
        drop(reader);
        queue.push("nobody".to_owned()).unwrap();
        feeding.await.unwrap();
        assert_eq!(queue.push("x".to_owned()), Err(StdinRefused::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_ignores_stdin_slows_the_session_once() {
        let queue = StdinQueue::new(4 << 20);
        let chunk = "x".repeat(1 << 19);
        let started = tokio::time::Instant::now();
        for _ in 0..7 {
            queue.push(chunk.clone()).unwrap();
            queue.make_way().await;
        }
        assert!(started.elapsed() < 2 * STALLED_AFTER);
        queue.push(chunk.clone()).unwrap_err();
        queue.make_way().await;
    }
}
