//! [`ProcessOutput`] and [`OutputStream`]: the output of one process, from its actor to its readers.
//!
//! The buffer is shared rather than asked for piece by piece: a message to an actor on another thread
//! costs more than a piece of output. Its rules are those of
//! [`OutputBuffer`](crate::machine::OutputBuffer); this file adds the lock and the wakers.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use futures::Stream;

use crate::{
    Error,
    machine::{Finish, OutputBuffer, OutputPolicy, Piece},
    protocol::{OutputPiece, StdStream},
    transport::Credit,
};

struct Shared {
    buffer: OutputBuffer<Credit>,
    budget: usize,
    /// Readers that found nothing.
    wakers: [Vec<Waker>; 2],
    /// Handles and streams that could still read.
    holders: usize,
}

type SharedOutput = Arc<Mutex<Shared>>;

/// A poisoned lock is taken all the same: nothing in here is left half done by a panic.
fn lock(shared: &SharedOutput) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The writing half, owned by the process's actor.
pub(crate) struct OutputWriter(SharedOutput);

impl OutputWriter {
    pub(crate) fn new(policy: OutputPolicy) -> (Self, ProcessOutput) {
        let shared = Arc::new(Mutex::new(Shared {
            buffer: OutputBuffer::new(policy),
            budget: policy.budget,
            wakers: Default::default(),
            holders: 1,
        }));
        (Self(Arc::clone(&shared)), ProcessOutput(shared))
    }

    /// Takes a batch. `false`: the budget is exceeded and the process is to be killed.
    pub(crate) fn write(&self, pieces: Vec<OutputPiece>, credit: Option<Credit>) -> bool {
        let mut shared = lock(&self.0);
        let mut within = true;
        let mut wakers = [Vec::new(), Vec::new()];
        for piece in pieces {
            let stream = piece.stream as usize;
            within &= shared.buffer.handle_output(piece.stream, piece.data);
            if wakers[stream].is_empty() {
                wakers[stream] = std::mem::take(&mut shared.wakers[stream]);
            }
        }
        if let Some(credit) = credit {
            shared.buffer.handle_permit(credit, now());
        }
        drop(shared);
        wakers.into_iter().flatten().for_each(Waker::wake);
        within
    }

    pub(crate) fn finish(&self, finish: Finish) {
        let mut shared = lock(&self.0);
        shared.buffer.finish(finish);
        let wakers = std::mem::take(&mut shared.wakers);
        drop(shared);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    pub(crate) fn set_awaited(&self, awaited: bool) {
        lock(&self.0).buffer.set_awaited(awaited);
    }

    pub(crate) fn set_killed(&self) {
        lock(&self.0).buffer.set_killed();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        lock(&self.0).buffer.poll_timeout()
    }

    pub(crate) fn handle_timeout(&self, now: Instant) {
        lock(&self.0).buffer.handle_timeout(now);
    }
}

impl Drop for OutputWriter {
    /// The actor is gone; if it did not say how the process ended, nobody will.
    fn drop(&mut self) {
        self.finish(Finish::ActorGone);
    }
}

/// The output of one process. Clones share it: each piece goes to one reader.
pub struct ProcessOutput(SharedOutput);

impl ProcessOutput {
    /// A reader of stdout.
    pub fn stdout(&self) -> OutputStream {
        self.stream(StdStream::Stdout)
    }

    /// A reader of stderr.
    pub fn stderr(&self) -> OutputStream {
        self.stream(StdStream::Stderr)
    }

    /// A reader of one stream.
    pub fn stream(&self, stream: StdStream) -> OutputStream {
        lock(&self.0).buffer.add_reader(stream);
        OutputStream {
            output: self.clone(),
            stream,
            done: false,
        }
    }

    /// Bytes that are kept now, of both streams together.
    pub fn buffered(&self) -> usize {
        lock(&self.0).buffer.used()
    }
}

impl Clone for ProcessOutput {
    fn clone(&self) -> Self {
        lock(&self.0).holders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for ProcessOutput {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.holders -= 1;
        if shared.holders == 0 {
            shared.buffer.set_unreadable();
        }
    }
}

impl fmt::Debug for ProcessOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessOutput")
            .field("buffered", &self.buffered())
            .finish_non_exhaustive()
    }
}

/// One stream of a process's output, in bytes, as they come.
///
/// It ends (`None`) when the process has ended and everything was read. An item is an error
///
/// - with [`ErrorKind::OutputLost`](crate::ErrorKind::OutputLost) where output was dropped; the stream goes on after it;
/// - with another kind, once, at the end, when the sandbox was lost and there may have been more.
///
/// Cancellation safe: a read that is dropped loses nothing.
pub struct OutputStream {
    output: ProcessOutput,
    stream: StdStream,
    done: bool,
}

impl OutputStream {
    /// Which stream this is.
    pub fn name(&self) -> StdStream {
        self.stream
    }

    fn end(&mut self, shared: &Shared) -> Option<Option<Error>> {
        let error = match shared.buffer.finished()? {
            Finish::Complete => None,
            Finish::SandboxLost(end) => Some(Error::sandbox_lost(end.clone())),
            Finish::Overflowed => Some(Error::output_overflow(shared.budget)),
            Finish::ActorGone => Some(Error::actor_gone("read the output")),
        };
        self.done = true;
        Some(error)
    }
}

impl Stream for OutputStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        let output = Arc::clone(&self.output.0);
        let mut shared = lock(&output);
        let stream = self.stream;
        match shared.buffer.read(stream, now()) {
            Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(data))),
            Some(Piece::Gap(bytes)) => return Poll::Ready(Some(Err(Error::output_lost(bytes)))),
            None => {}
        }
        if let Some(error) = self.end(&shared) {
            return Poll::Ready(error.map(Err));
        }
        let wakers = &mut shared.wakers[stream as usize];
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        lock(&self.output.0).buffer.remove_reader(self.stream);
    }
}

impl fmt::Debug for OutputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputStream")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
