//! [`OutputStream`] and [`MergedOutput`]: the readers of a process's output.

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::Stream;
use tokio::io::{AsyncRead, ReadBuf};

use super::{ProcessOutput, lock};
use crate::{
    Error,
    actor::driver::now,
    machine::{Finish, OutputBuffer, Piece},
    protocol::StdStream,
    transport::Credit,
};

const BOTH: [StdStream; 2] = [StdStream::Stdout, StdStream::Stderr];

/// One reader of one or both streams.
struct Reader {
    output: ProcessOutput,
    streams: &'static [StdStream],
    /// The number of this reader, which identifies its wakers.
    id: u64,
    /// Whether the reader has returned the end.
    done: bool,
    /// The process's handle, which is dropped with the reader.
    kept: Option<Box<dyn Any + Send + Sync>>,
}

impl Reader {
    fn new(output: ProcessOutput, streams: &'static [StdStream]) -> Self {
        let mut shared = lock(&output.0);
        let id = shared.next_reader;
        shared.next_reader += 1;
        for &stream in streams {
            shared.buffer.add_reader(stream);
        }
        drop(shared);
        Self {
            output,
            streams,
            id,
            done: false,
            kept: None,
        }
    }

    /// Reads, or registers the task to be woken. Returns the error that ended the output, once.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut OutputBuffer<Credit>) -> Option<T>,
    ) -> Poll<Option<Result<T, Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        // Wakers to drop after the lock is released: see `stop_waiting`.
        let mut replaced = Vec::new();
        let mut shared = lock(&self.output.0);
        let before = shared.buffer.used();
        let read = read(&mut shared.buffer);
        // Counts bytes that were read here, or dropped from the other stream to make room.
        let taken = before - shared.buffer.used();
        if let Some(actor) = shared.count_taken(taken as u64) {
            actor.wake();
        }
        if let Some(read) = read {
            replaced = shared.stop_waiting(self.id, self.streams);
            drop(shared);
            drop(replaced);
            return Poll::Ready(Some(Ok(read)));
        }
        let mut streams = self.streams.iter();
        if streams.all(|&stream| shared.buffer.is_at_end(stream)) {
            self.done = true;
            return Poll::Ready(None);
        }
        if let Some(finish) = shared.buffer.finished() {
            self.done = true;
            let error = match finish {
                Finish::Complete | Finish::Cut => return Poll::Ready(None),
                Finish::SandboxLost(end) => Error::sandbox_lost(end.clone()),
                Finish::Overflowed => Error::output_overflow(shared.budget),
                Finish::ActorGone => Error::actor_gone("read the output"),
            };
            return Poll::Ready(Some(Err(error)));
        }
        for &stream in self.streams {
            let wakers = &mut shared.wakers[stream as usize];
            match wakers.iter_mut().find(|(reader, _)| *reader == self.id) {
                Some((_, waker)) => replaced.push(std::mem::replace(waker, cx.waker().clone())),
                None => wakers.push((self.id, cx.waker().clone())),
            }
        }
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut shared = lock(&self.output.0);
        for &stream in self.streams {
            shared.buffer.remove_reader(stream);
        }
        let wakers = shared.stop_waiting(self.id, self.streams);
        // Without a reader, the buffer may have dropped output, so an acknowledgement may be due.
        let actor = shared.count_taken(u64::MAX);
        drop(shared);
        drop(wakers);
        if let Some(actor) = actor {
            actor.wake();
        }
    }
}

fn data(stream: StdStream, piece: Piece) -> Result<Bytes, Error> {
    match piece {
        Piece::Data(data) => Ok(data),
        Piece::Gap(bytes) => Err(Error::output_lost(stream, bytes)),
    }
}

/// A reader of stdout or stderr of a process, in bytes.
///
/// It is a [`Stream`] of byte pieces, as they arrive, and implements tokio's [`AsyncRead`]. It
/// needs no tokio runtime. [`lines`](Self::lines), [`text`](Self::text) and
/// [`read_all`](Self::read_all) convert it.
///
/// The stream ends when everything was read and no process holds it open. If a background process
/// holds it open after the end of the main process, it ends after a [grace
/// period](crate::Command::output_grace), and [`is_cut`](Self::is_cut) returns `true`.
///
/// # Errors
///
/// - [`ErrorKind::OutputLost`](crate::ErrorKind::OutputLost) marks a place where output was
///   dropped. The stream continues after it.
/// - An error of any other kind is the last item: the sandbox was lost, an actor is gone, or the
///   output exceeded its budget. The output may be incomplete.
///
/// As `AsyncRead`, it returns the same error inside an [`io::Error`]. `tokio::io::copy` and
/// `read_to_end` stop at the first error, even at `OutputLost`.
///
/// A stream counts as a handle of its [`Process`](crate::Process).
///
/// # Cancel safety
///
/// Cancel safe: dropping a read or the stream loses no output. Another stream of the same process
/// continues from there.
#[must_use = "streams do nothing unless they are polled"]
pub struct OutputStream {
    reader: Reader,
    stream: StdStream,
}

impl OutputStream {
    pub(super) fn new(output: ProcessOutput, stream: StdStream) -> Self {
        let streams = match stream {
            StdStream::Stdout => &BOTH[..1],
            StdStream::Stderr => &BOTH[1..],
        };
        Self {
            reader: Reader::new(output, streams),
            stream,
        }
    }

    /// Whether this is stdout or stderr.
    pub fn name(&self) -> StdStream {
        self.stream
    }

    /// Whether the output was cut off, because a background process still held stdout or stderr
    /// open when the [grace period](crate::Command::output_grace) was over. Later output of that
    /// process is dropped. `false` until the stream ends. Always `false` under protocol v1, which
    /// can't report it.
    pub fn is_cut(&self) -> bool {
        self.reader.output.is_cut()
    }

    /// Keeps something for as long as the stream lives.
    pub(crate) fn keeping(mut self, kept: impl Any + Send + Sync) -> Self {
        self.reader.kept = Some(Box::new(kept));
        self
    }
}

impl Stream for OutputStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = self.stream;
        let piece = ready!(self.reader.poll(cx, |buffer| buffer.read(stream, now())));
        Poll::Ready(piece.map(|piece| data(stream, piece?)))
    }
}

impl AsyncRead for OutputStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (stream, most) = (self.stream, buf.remaining());
        if most == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = |buffer: &mut OutputBuffer<_>| buffer.read_at_most(stream, most, now());
        if let Some(piece) = ready!(self.reader.poll(cx, read)) {
            buf.put_slice(&data(stream, piece?)?);
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for OutputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputStream")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// A reader of stdout and stderr together, in the order in which the output arrived at the client.
/// Each piece comes with the name of its stream.
///
/// A process may have other readers at the same time. Each byte goes to one of them; the rest keeps
/// its order.
///
/// # Errors
///
/// The errors of [`OutputStream`]. An [`OutputLost`](crate::ErrorKind::OutputLost) comes before the
/// next piece of the stream that lost output, and its text names the stream.
///
/// # Cancel safety
///
/// Cancel safe: dropping a read or the stream loses no output.
#[must_use = "streams do nothing unless they are polled"]
pub struct MergedOutput {
    reader: Reader,
}

impl MergedOutput {
    pub(super) fn new(output: ProcessOutput) -> Self {
        Self {
            reader: Reader::new(output, &BOTH),
        }
    }

    /// Whether the output was cut off: see [`OutputStream::is_cut`].
    pub fn is_cut(&self) -> bool {
        self.reader.output.is_cut()
    }

    /// Keeps something for as long as the stream lives.
    pub(crate) fn keeping(mut self, kept: impl Any + Send + Sync) -> Self {
        self.reader.kept = Some(Box::new(kept));
        self
    }
}

impl Stream for MergedOutput {
    type Item = Result<(StdStream, Bytes), Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = ready!(self.reader.poll(cx, |buffer| buffer.read_either(now())));
        Poll::Ready(piece.map(|piece| {
            let (stream, piece) = piece?;
            Ok((stream, data(stream, piece)?))
        }))
    }
}

impl fmt::Debug for MergedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergedOutput").finish_non_exhaustive()
    }
}
