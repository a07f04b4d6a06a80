//! [`PackStream`] and [`UnpackSink`]: archives of local directories as asynchronous streams.
//!
//! Reading and writing files blocks, so each transfer has a thread of its own. It needs no runtime.
//! At most [`MAX_PIECES`] pieces of [`PIECE_BYTES`] are queued between the thread and the caller.
//! The thread ends when the caller drops the stream or the sink.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    thread,
};

use bytes::{Buf, Bytes};
use futures::{
    SinkExt, Stream, StreamExt,
    channel::{mpsc, oneshot},
    executor::block_on,
};

use super::ignore::IgnoreRules;
use crate::archive::{self, ArchiveError, Limits, Progress, Summary};

const PIECE_BYTES: usize = 64 * 1024;

const MAX_PIECES: usize = 16;

/// An archive of a local file or directory, as a stream of pieces. After an error, the archive is
/// incomplete.
pub(super) struct PackStream {
    pieces: mpsc::Receiver<Packed>,
    summary: Option<Summary>,
    has_ended: bool,
}

enum Packed {
    Piece(Bytes),
    End(Result<Summary, ArchiveError>),
}

impl PackStream {
    /// Starts a thread that packs `source`, without the files that the rules exclude. The thread
    /// calls `progress`. Fails if the thread can't be started.
    pub(super) fn new(
        source: PathBuf,
        ignore: IgnoreRules,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> io::Result<Self> {
        // Each sender adds room for one more piece.
        let (sender, pieces) = mpsc::channel(MAX_PIECES - 1);
        start("actix-sandbox-pack", move || {
            let mut out = Pieces(sender);
            let excludes = |path: &Path, is_directory| ignore.excludes(path, is_directory);
            let packed = archive::pack(&source, &excludes, &mut out, &mut progress);
            // Fails if the caller has dropped the stream.
            let _ = block_on(out.0.send(Packed::End(packed)));
        })?;
        Ok(Self {
            pieces,
            summary: None,
            has_ended: false,
        })
    }

    /// What was packed. `None` unless the stream has ended without an error.
    pub(super) fn summary(self) -> Option<Summary> {
        self.summary
    }
}

impl Stream for PackStream {
    type Item = Result<Bytes, ArchiveError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let end = match ready!(self.pieces.poll_next_unpin(context)) {
            Some(Packed::Piece(piece)) => return Poll::Ready(Some(Ok(piece))),
            Some(Packed::End(end)) => end,
            None => Err(ArchiveError::stream("pack", thread_ended())),
        };
        self.has_ended = true;
        Poll::Ready(match end {
            Ok(summary) => {
                self.summary = Some(summary);
                None
            }
            Err(error) => Some(Err(error)),
        })
    }
}

/// The writing end of a [`PackStream`].
struct Pieces(mpsc::Sender<Packed>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE_BYTES)]);
        let length = piece.len();
        let sent = block_on(self.0.send(Packed::Piece(piece)));
        sent.map(|()| length).map_err(|_| cancelled())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks an archive that arrives in pieces into a local directory.
pub(super) struct UnpackSink {
    /// `None` marks the end of the archive.
    pieces: mpsc::Sender<Option<Bytes>>,
    unpacked: oneshot::Receiver<Result<Summary, ArchiveError>>,
}

impl UnpackSink {
    /// Starts a thread that unpacks into the directory `destination`, or with `is_file`, one file
    /// to that path. The thread calls `progress`. Fails if the thread can't be started.
    pub(super) fn new(
        destination: PathBuf,
        is_file: bool,
        limits: Limits,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> io::Result<Self> {
        let unpack = match is_file {
            true => archive::unpack_file,
            false => archive::unpack,
        };
        let (sender, pieces) = mpsc::channel(MAX_PIECES - 1);
        let (end, unpacked) = oneshot::channel();
        start("actix-sandbox-unpack", move || {
            let mut input = Input {
                pieces,
                piece: Bytes::new(),
                has_ended: false,
            };
            let unpacked = unpack(&destination, &mut input, &limits, &mut progress);
            // Fails if the caller has dropped the sink.
            let _ = end.send(unpacked);
        })?;
        Ok(Self {
            pieces: sender,
            unpacked,
        })
    }

    /// Waits until there is room for a piece of the archive. Fails if unpacking has failed.
    pub(super) async fn write(&mut self, mut piece: Bytes) -> Result<(), ArchiveError> {
        while !piece.is_empty() {
            let next = piece.split_to(piece.len().min(PIECE_BYTES));
            if self.pieces.send(Some(next)).await.is_err() {
                // The thread has ended. If it succeeded, the archive has no more pieces.
                return self.end().await.map(drop);
            }
        }
        Ok(())
    }

    /// Ends the archive, and waits until all files are written.
    pub(super) async fn finish(mut self) -> Result<Summary, ArchiveError> {
        // Fails if the thread has ended. Its result contains the reason.
        let _ = self.pieces.send(None).await;
        self.end().await
    }

    async fn end(&mut self) -> Result<Summary, ArchiveError> {
        let ended = (&mut self.unpacked).await;
        ended.unwrap_or_else(|_| Err(ArchiveError::stream("unpack", thread_ended())))
    }
}

/// The reading end of an [`UnpackSink`].
struct Input {
    pieces: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    has_ended: bool,
}

impl Read for Input {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.has_ended {
            match block_on(self.pieces.next()) {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.has_ended = true,
                None => return Err(cancelled()),
            }
        }
        let length = self.piece.len().min(to.len());
        self.piece.copy_to_slice(&mut to[..length]);
        Ok(length)
    }
}

/// Whether a path of this machine is anything other than a directory. Follows links.
pub(super) async fn is_file(path: PathBuf) -> Result<bool, ArchiveError> {
    let (sender, answer) = oneshot::channel();
    let looked_at = path.clone();
    let look = move || {
        // Fails if the caller has dropped the future.
        let _ = sender.send(std::fs::metadata(looked_at));
    };
    let look = start("actix-sandbox-look", look);
    let meta = match look {
        Ok(()) => answer.await.unwrap_or_else(|_| Err(thread_ended())),
        Err(error) => Err(error),
    };
    match meta {
        Ok(meta) => Ok(!meta.is_dir()),
        Err(error) => Err(ArchiveError::file("pack", &path, error)),
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(work).map(drop)
}

fn cancelled() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the transfer was cancelled")
}

fn thread_ended() -> io::Error {
    io::Error::other("its thread ended unexpectedly")
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc::sync_channel};

    use futures::TryStreamExt;
    use tempfile::tempdir;

    use super::*;
    use crate::archive::ArchiveErrorKind;

    fn pack(source: &Path) -> PackStream {
        PackStream::new(source.to_owned(), IgnoreRules::default(), |_| {}).unwrap()
    }

    fn unpack(destination: &Path) -> UnpackSink {
        UnpackSink::new(destination.to_owned(), false, Limits::NONE, |_| {}).unwrap()
    }

    #[test]
    fn a_directory_moves_from_a_stream_into_a_sink() {
        let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
        fs::create_dir(source.path().join("d")).unwrap();
        fs::write(source.path().join("d/large"), vec![7; 5_000_000]).unwrap();
        fs::write(source.path().join("d/left.out"), "").unwrap();
        let rules = IgnoreRules::new(["*.out"]);
        let mut stream = PackStream::new(source.path().to_owned(), rules, |_| {}).unwrap();
        let mut sink = unpack(destination.path());
        let summary = block_on(async {
            while let Some(piece) = stream.try_next().await.unwrap() {
                assert!(piece.len() <= PIECE_BYTES);
                sink.write(piece).await.unwrap();
            }
            sink.finish().await.unwrap()
        });
        assert_eq!(stream.summary(), Some(summary));
        let large = fs::read(destination.path().join("d/large")).unwrap();
        assert!(large == vec![7; 5_000_000]);
        assert!(!destination.path().join("d/left.out").exists());
    }

    #[test]
    fn a_dropped_stream_ends_its_thread() {
        let source = tempdir().unwrap();
        fs::write(source.path().join("large"), vec![7; 5_000_000]).unwrap();
        // The thread drops the sender when it ends.
        let (alive, ended) = sync_channel::<()>(1);
        let progress = move |_| drop(alive.clone());
        let rules = IgnoreRules::default();
        let mut stream = PackStream::new(source.path().to_owned(), rules, progress).unwrap();
        block_on(stream.try_next()).unwrap();
        drop(stream);
        assert!(ended.recv().is_err());
    }

    #[test]
    fn a_dropped_sink_ends_its_thread_and_leaves_no_partial_file() {
        let (source, destination) = (tempdir().unwrap(), tempdir().unwrap());
        fs::write(source.path().join("large"), vec![7; 5_000_000]).unwrap();
        let (alive, ended) = sync_channel::<()>(1);
        let progress = move |_| drop(alive.clone());
        let path = destination.path().to_owned();
        let mut sink = UnpackSink::new(path, false, Limits::NONE, progress).unwrap();
        let mut stream = pack(source.path());
        block_on(async {
            for _ in 0..3 {
                let piece = stream.try_next().await.unwrap().unwrap();
                sink.write(piece).await.unwrap();
            }
        });
        drop(sink);
        assert!(ended.recv().is_err());
        assert!(!destination.path().join("large").exists());
    }

    #[test]
    fn an_unread_stream_reads_a_limited_part_of_a_file() {
        let source = tempdir().unwrap();
        fs::write(source.path().join("large"), vec![7; 5_000_000]).unwrap();
        let (progress, steps) = sync_channel(1_000);
        let watch = move |it: Progress| progress.send(it.bytes).unwrap();
        let rules = IgnoreRules::default();
        let mut stream = PackStream::new(source.path().to_owned(), rules, watch).unwrap();
        // The pieces in the channel, in the buffer and in the current write.
        let most = (MAX_PIECES + 3) * PIECE_BYTES;
        let first = block_on(stream.try_next()).unwrap().unwrap();
        let mut taken = first.len();
        while let Some(piece) = block_on(stream.try_next()).unwrap() {
            for bytes in steps.try_iter() {
                assert!(
                    bytes as usize <= taken + piece.len() + most,
                    "{bytes} of {taken}"
                );
            }
            taken += piece.len();
        }
        assert!(taken > 5_000_000);
    }

    #[test]
    fn errors_arrive_at_both_ends() {
        let directory = tempdir().unwrap();
        let mut stream = pack(&directory.path().join("missing"));
        let error = block_on(stream.try_next()).unwrap_err();
        assert_eq!(error.io().kind(), io::ErrorKind::NotFound);
        assert!(block_on(stream.try_next()).unwrap().is_none());
        assert_eq!(stream.summary(), None);

        let sink = unpack(directory.path());
        let error = block_on(sink.finish()).unwrap_err();
        assert_eq!(error.kind(), ArchiveErrorKind::Truncated);

        let mut sink = unpack(directory.path());
        let error = block_on(async {
            loop {
                if let Err(error) = sink.write(Bytes::from(vec![b'x'; 100_000])).await {
                    break error;
                }
            }
        });
        assert_eq!(error.kind(), ArchiveErrorKind::InvalidArchive);
    }
}
