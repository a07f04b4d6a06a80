//! [`ProcessOutput`]: passes the output of a process from its actor to its readers.
//!
//! The buffer is shared memory, because a message to an actor on another thread costs more than a
//! piece of output. [`OutputBuffer`](crate::machine::OutputBuffer) holds the rules; this file adds
//! the lock and the wakers.

mod streams;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Instant,
};

use bytes::Bytes;

pub use self::streams::{MergedOutput, OutputStream};
use super::driver::now;
use crate::{
    machine::{Finish, OutputBuffer, OutputPolicy, ProcessEnd},
    protocol::StdStream,
    transport::Credit,
};

struct Shared {
    buffer: OutputBuffer<Credit>,
    budget: usize,
    /// Readers that wait for output, each at most once.
    wakers: [Vec<(u64, Waker)>; 2],
    next_reader: u64,
    /// Wakes the process's actor when readers have taken `wake_after` bytes (v2).
    actor: Option<Waker>,
    wake_after: u64,
    /// The number of handles and streams that can still read.
    holders: usize,
    /// How the process ended, for later callers of `wait`.
    end: Option<ProcessEnd>,
}

type SharedOutput = Arc<Mutex<Shared>>;

impl Shared {
    fn taken(&self, received: [u64; 2]) -> [u64; 2] {
        let untaken = self.buffer.untaken();
        [0, 1].map(|it| received[it].saturating_sub(untaken[it] as u64))
    }

    /// Removes the wakers of a reader that stopped waiting. Returns them, so that the caller drops
    /// them without the lock: dropping a waker may drop a future that holds another reader.
    fn stop_waiting(&mut self, reader: u64, streams: &[StdStream]) -> Vec<Waker> {
        let mut gone = Vec::new();
        for &stream in streams {
            let wakers = &mut self.wakers[stream as usize];
            if let Some(at) = wakers.iter().position(|(it, _)| *it == reader) {
                gone.push(wakers.swap_remove(at).1);
            }
            self.buffer.set_starved(stream, !wakers.is_empty());
        }
        self.buffer.update_pause(now());
        gone
    }

    /// Drops the output, because no reader can exist any more. Returns the actor's waker.
    fn abandon(&mut self) -> Option<Waker> {
        self.buffer.set_unreadable();
        self.count_taken(u64::MAX)
    }

    /// Counts bytes that readers took. Returns the actor's waker once an acknowledgement is due.
    fn count_taken(&mut self, bytes: u64) -> Option<Waker> {
        self.wake_after = self.wake_after.saturating_sub(bytes);
        match self.wake_after {
            0 => self.actor.take(),
            _ => None,
        }
    }
}

/// Ignores poisoning: a panic leaves the buffer consistent.
fn lock(shared: &SharedOutput) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(wakers: [Vec<(u64, Waker)>; 2]) {
    for (_, waker) in wakers.into_iter().flatten() {
        waker.wake();
    }
}

/// The writing half, owned by the process's actor.
pub(crate) struct OutputWriter(SharedOutput);

impl OutputWriter {
    /// Creates both halves. `window` is that of a named exec (v2).
    pub(crate) fn new(policy: OutputPolicy, window: Option<u64>) -> (Self, ProcessOutput) {
        let mut buffer = OutputBuffer::new(policy);
        if let Some(window) = window {
            buffer.set_window(window);
        }
        let shared = Arc::new(Mutex::new(Shared {
            buffer,
            budget: policy.budget,
            wakers: Default::default(),
            next_reader: 0,
            actor: None,
            wake_after: 0,
            holders: 1,
            end: None,
        }));
        (Self(Arc::clone(&shared)), ProcessOutput(shared))
    }

    /// Takes a batch of pieces, each with the number of bytes that were lost before it. Returns
    /// `false` if the batch exceeds the budget. The caller must then kill the process.
    pub(crate) fn write(&self, pieces: impl Iterator<Item = (u64, StdStream, Bytes)>) -> bool {
        let mut shared = lock(&self.0);
        let mut within = true;
        let mut wakers = [Vec::new(), Vec::new()];
        for (gap, stream, data) in pieces {
            shared.buffer.handle_gap(stream, gap);
            within &= shared.buffer.handle_output(stream, data);
            let stream = stream as usize;
            if wakers[stream].is_empty() {
                wakers[stream] = std::mem::take(&mut shared.wakers[stream]);
            }
        }
        if !within {
            // Both streams end here.
            wakers[0].append(&mut shared.wakers[0]);
            wakers[1].append(&mut shared.wakers[1]);
        }
        shared.buffer.update_pause(now());
        drop(shared);
        wake(wakers);
        within
    }

    /// Keeps the credit of a batch while the buffer is full.
    pub(crate) fn hold(&self, credit: Credit) {
        let mut shared = lock(&self.0);
        shared.buffer.handle_permit(credit, now());
        shared.buffer.update_pause(now());
    }

    /// Sets how many bytes the server sends before it needs an acknowledgement (v2).
    pub(crate) fn set_window(&self, window: u64) {
        lock(&self.0).buffer.set_window(window);
    }

    /// Keeps the unread output for another client. Returns the offsets up to which readers have
    /// taken the output, where the other client resumes. `received` holds the offsets up to which
    /// output was received. Returns `None` if the policy counts unread output as taken.
    pub(crate) fn hand_on(&self, received: [u64; 2]) -> Option<[u64; 2]> {
        let mut shared = lock(&self.0);
        shared.buffer.hand_on().then(|| shared.taken(received))
    }

    /// Returns the same offsets as [`hand_on`](Self::hand_on), but for this client. Wakes the task
    /// when readers have taken `after` more bytes.
    pub(crate) fn poll_taken(
        &self,
        received: [u64; 2],
        after: u64,
        task: &mut Context<'_>,
    ) -> [u64; 2] {
        let mut shared = lock(&self.0);
        match &mut shared.actor {
            Some(waker) => waker.clone_from(task.waker()),
            none => *none = Some(task.waker().clone()),
        }
        shared.wake_after = after;
        shared.taken(received)
    }

    /// Publishes how the process ended.
    pub(crate) fn set_end(&self, end: ProcessEnd) {
        lock(&self.0).end = Some(end);
    }

    /// Ends one stream, of which everything has arrived.
    pub(crate) fn end_stream(&self, stream: StdStream) {
        let mut shared = lock(&self.0);
        shared.buffer.end_stream(stream);
        let mut wakers = [Vec::new(), Vec::new()];
        wakers[stream as usize] = std::mem::take(&mut shared.wakers[stream as usize]);
        drop(shared);
        wake(wakers);
    }

    pub(crate) fn finish(&self, finish: Finish) {
        let mut shared = lock(&self.0);
        shared.buffer.finish(finish);
        let wakers = std::mem::take(&mut shared.wakers);
        drop(shared);
        wake(wakers);
    }

    pub(crate) fn set_awaited(&self, awaited: bool) {
        let mut shared = lock(&self.0);
        shared.buffer.set_awaited(awaited);
        shared.buffer.update_pause(now());
    }

    pub(crate) fn set_killed(&self, killed: bool) {
        lock(&self.0).buffer.set_killed(killed);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        lock(&self.0).buffer.poll_timeout()
    }

    pub(crate) fn handle_timeout(&self, now: Instant) {
        lock(&self.0).buffer.handle_timeout(now);
    }
}

impl Drop for OutputWriter {
    /// Ends the output, because the actor is gone.
    fn drop(&mut self) {
        self.finish(Finish::ActorGone);
    }
}

/// The output of one process. Clones share the output: each byte goes to one reader.
pub struct ProcessOutput(SharedOutput);

impl ProcessOutput {
    /// Returns a reader of stdout.
    pub fn stdout(&self) -> OutputStream {
        self.stream(StdStream::Stdout)
    }

    /// Returns a reader of stderr.
    pub fn stderr(&self) -> OutputStream {
        self.stream(StdStream::Stderr)
    }

    /// Returns a reader of one stream.
    pub fn stream(&self, stream: StdStream) -> OutputStream {
        OutputStream::new(self.clone(), stream)
    }

    /// Returns a reader of stdout and stderr together, in order of arrival.
    pub fn merged(&self) -> MergedOutput {
        MergedOutput::new(self.clone())
    }

    /// How the process ended. `None` if the client doesn't know of its end.
    pub fn process_end(&self) -> Option<ProcessEnd> {
        lock(&self.0).end.clone()
    }

    /// Whether the output was cut off: see [`OutputStream::is_cut`].
    pub fn is_cut(&self) -> bool {
        matches!(lock(&self.0).buffer.finished(), Some(Finish::Cut))
    }

    /// Drops the buffered output and all later output, so that the process never pauses.
    pub(crate) fn discard(&self) {
        let actor = lock(&self.0).abandon();
        actor.into_iter().for_each(Waker::wake);
    }

    /// The number of unread bytes of stdout and stderr together that are buffered now.
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
        if shared.holders == 0 && !shared.buffer.is_handed_on() {
            let actor = shared.abandon();
            drop(shared);
            actor.into_iter().for_each(Waker::wake);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;

    use super::*;
    use crate::machine::Overflow;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(stream: &mut OutputStream) -> Arc<Count> {
        let count = Arc::new(Count::default());
        let waker = Arc::clone(&count).into();
        let polled = stream.poll_next_unpin(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        count
    }

    fn piece(data: &'static str) -> impl Iterator<Item = (u64, StdStream, Bytes)> {
        std::iter::once((0, StdStream::Stdout, data.into()))
    }

    #[test]
    fn a_reader_is_woken_by_its_last_waker_and_leaks_nothing() {
        let (writer, output) = OutputWriter::new(OutputPolicy::default(), None);
        let (mut one, mut two) = (output.stdout(), output.stdout());
        // Each read uses a new task, as with a timeout.
        let old = poll(&mut one);
        for _ in 0..100 {
            poll(&mut one);
        }
        let (last, other) = (poll(&mut one), poll(&mut two));
        assert_eq!(lock(&output.0).wakers[0].len(), 2);
        assert!(writer.write(piece("x")));
        let counts = [&old, &last, &other].map(|count| count.0.load(Ordering::SeqCst));
        assert_eq!(counts, [0, 1, 1]);
        poll(&mut output.stderr());
        assert_eq!(lock(&output.0).wakers[1].len(), 0);
    }

    #[test]
    fn a_reader_that_read_or_is_gone_does_not_wait() {
        let (writer, output) = OutputWriter::new(OutputPolicy::default(), Some(1024));
        let is_waited_for = || lock(&output.0).buffer.poll_timeout().is_some();
        let mut merged = output.merged();
        let waker = Waker::noop();
        let mut read = || merged.poll_next_unpin(&mut Context::from_waker(waker));
        assert!(read().is_pending());
        let full = || (0, StdStream::Stdout, vec![b'x'; 2000].into());
        let both = [full(), full()].into_iter();
        assert!(writer.write(both));
        assert!(is_waited_for(), "for stderr");
        assert!(read().is_ready());
        assert!(!is_waited_for());
        // Another reader still waits.
        let mut stderr = output.stderr();
        poll(&mut stderr);
        assert!(writer.write([full(), full()].into_iter()));
        assert!(is_waited_for());
        assert!(read().is_ready());
        assert!(is_waited_for());
        drop(stderr);
        assert!(!is_waited_for());
    }

    #[test]
    fn discarded_output_is_not_buffered() {
        let policy = OutputPolicy {
            budget: 2,
            overflow: Overflow::Fail,
        };
        let (writer, output) = OutputWriter::new(policy, None);
        assert!(writer.write(piece("x")));
        output.discard();
        assert!(writer.write(piece("xyz")));
        assert_eq!(output.buffered(), 0);
    }

    #[test]
    fn an_overflow_on_one_stream_wakes_the_reader_of_the_other() {
        let policy = OutputPolicy {
            budget: 2,
            overflow: Overflow::Fail,
        };
        let (writer, output) = OutputWriter::new(policy, None);
        let mut stderr = output.stderr();
        let count = poll(&mut stderr);
        assert!(!writer.write(piece("xyz")));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
