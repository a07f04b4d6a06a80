//! Reads the output of a process from a pipe without delay. Writes that follow each other closely
//! become one message.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use tokio::{
    io::AsyncReadExt,
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::shared_exec::{Keeper, MAX_PIECE_BYTES, MAX_PIPE_BYTES};
use crate::inside::process::Pipe;

/// Maximum number of pipes that the [`Drains`] of one sandbox keep open.
const MAX_DRAINS: usize = 32;

/// Pieces that are written within this time of each other are joined into one message.
const JOIN_WITHIN: Duration = Duration::from_millis(1);

/// How long a piece waits at most for more pieces to join it.
const JOIN_AT_MOST: Duration = Duration::from_millis(10);

/// How long an incomplete UTF-8 code point waits for the rest of it.
const HOLD_BACK: Duration = Duration::from_millis(250);

/// Reads `pipe` to its end and passes the output to `keeper`.
///
/// The deadline is set when the main process has ended. It limits how long other processes may
/// hold the pipe open. The bytes that are in the pipe at the deadline are still read. Returns the
/// pipe if its output was cut off: other processes still hold it open, or the sandbox was lost.
pub(super) async fn pump(
    mut pipe: Pipe,
    deadline: Arc<Deadline>,
    mut keeper: Keeper,
) -> Option<Pipe> {
    let mut buffer = BytesMut::with_capacity(MAX_PIECE_BYTES);
    let mut changes = deadline.0.subscribe();
    let (mut open, mut has_ended, mut read_late) = (true, false, 0);

    // Another process may fill the pipe as fast as it is read. So after the deadline, read at most
    // as much as a pipe can hold.
    while open && read_late < MAX_PIPE_BYTES {
        let read = tokio::select! {
            biased;
            read = read_more(&mut pipe, &mut buffer) => match read {
                Ok(read) => read,
                // The sandbox was lost, and with it the rest of the output.
                Err(_) => break,
            },
            Ok(()) = changes.changed() => continue,
            () = deadline.over() => break,
            () = sleep(HOLD_BACK), if keeper.holds_back() => {
                keeper.handle_silence();
                continue;
            }
        };
        open = read && join_more(&mut pipe, &mut buffer).await;
        has_ended = !open;
        if deadline.at().is_some_and(|at| Instant::now() >= at) {
            read_late += buffer.len();
        }
        if buffer.is_empty() {
            continue;
        }
        deadline.stop();
        let is_kept = keeper.take(&buffer).await;
        deadline.resume();
        if !is_kept {
            // Without a deadline, the main process is still running. Close the pipe, so that its
            // writes fail instead of being dropped silently.
            open &= deadline.at().is_some();
            has_ended = false;
            break;
        }
        buffer.clear();
    }
    if has_ended {
        keeper.handle_ended();
    }
    open.then_some(pipe)
}

/// Until when the output of an exec is read after its main process has ended. While a stream waits
/// for room in the window, the deadline is suspended.
pub(crate) struct Deadline(watch::Sender<Clock>);

#[derive(Clone, Copy, Default)]
struct Clock {
    at: Option<Instant>,
    /// The number of streams that wait for room, and since when there is at least one.
    full: usize,
    full_since: Option<Instant>,
}

/// A wait for room moves the deadline only if it is at least this long, because then the client
/// isn't reading. Shorter waits don't count: a child that writes without end, to a client that
/// reads more slowly, must not delay the end of the exec.
const STANDS_STILL: Duration = Duration::from_millis(100);

/// Used instead of a grace that would overflow [`Instant`].
const LONGEST_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

impl Deadline {
    /// Creates a deadline that is not set.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::default()))
    }

    /// Returns the deadline, if it is set. Suspensions may still move it.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.0.borrow().at
    }

    /// Sets the deadline to `grace` from now, unless it is already earlier.
    pub(crate) fn set(&self, grace: Duration) {
        let now = Instant::now();
        let at = now.checked_add(grace).unwrap_or(now + LONGEST_GRACE);
        self.0.send_modify(|clock| {
            clock.at = Some(clock.at.map_or(at, |earlier| earlier.min(at)));
            clock.full_since = clock.full_since.map(|_| now);
        });
    }

    fn stop(&self) {
        self.0.send_if_modified(|clock| {
            clock.full += 1;
            clock.full_since.get_or_insert_with(Instant::now);
            false
        });
    }

    fn resume(&self) {
        self.0.send_if_modified(|clock| {
            clock.full -= 1;
            if clock.full > 0 {
                return false;
            }
            let stood = clock.full_since.take().map(|since| since.elapsed());
            let stood = stood.filter(|&stood| stood >= STANDS_STILL);
            clock.at = clock.at.map(|at| at + stood.unwrap_or_default());
            clock.at.is_some()
        });
    }

    /// Resolves at the deadline, but not while it is suspended. After a change of the deadline,
    /// call this again.
    async fn over(&self) {
        if let Some(at) = self.at() {
            sleep_until(at).await;
            if self.0.borrow().full == 0 {
                return;
            }
        }
        std::future::pending().await
    }
}

/// Reads bytes that follow shortly after the first ones. Returns false at the end of the pipe.
async fn join_more(pipe: &mut Pipe, buffer: &mut BytesMut) -> bool {
    let last = Instant::now() + JOIN_AT_MOST;
    while buffer.len() < MAX_PIECE_BYTES && Instant::now() < last {
        match timeout(JOIN_WITHIN, read_more(pipe, buffer)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return false,
            // The next read fails again.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    true
}

/// Reads some bytes. Returns false at the end of the pipe.
async fn read_more(pipe: &mut Pipe, buffer: &mut BytesMut) -> io::Result<bool> {
    let room = MAX_PIECE_BYTES.saturating_sub(buffer.len());
    Ok(pipe.read_buf(&mut buffer.limit(room)).await? > 0)
}

/// Reads the pipes of ended execs that background processes still hold open. Otherwise these
/// processes would block on a full pipe. Each pipe takes a file descriptor of the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains(Arc<Mutex<VecDeque<AbortHandle>>>);

impl Drains {
    /// Reads a pipe to its end and drops the bytes. Closes the oldest pipe if there are more than
    /// [`MAX_DRAINS`]. A process that later writes to a closed pipe gets SIGPIPE or EPIPE.
    pub(crate) fn add(&self, mut pipe: Pipe) {
        let drain = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
        });
        let mut drains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drains.retain(|drain| !drain.is_finished());
        drains.push_back(drain.abort_handle());
        if drains.len() > MAX_DRAINS
            && let Some(oldest) = drains.pop_front()
        {
            oldest.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use futures::task::AtomicWaker;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::{
        super::{
            shared_exec::{Outlet, SharedExec},
            v1_adapter::V1Adapter,
        },
        *,
    };
    use crate::{
        machine::ServedExec,
        protocol::{ServerMessage, StdStream, Version},
    };

    /// The client of a v1 exec.
    struct Client {
        exec: Arc<SharedExec>,
        waker: Arc<AtomicWaker>,
    }

    impl Client {
        /// Returns the next piece of output, or `None` at the end.
        async fn recv(&mut self) -> Option<String> {
            poll_fn(|cx| {
                self.waker.register(cx.waker());
                loop {
                    match self.exec.poll_message() {
                        Some(ServerMessage::Output(piece)) => {
                            let text = String::from_utf8_lossy(&piece.data);
                            return Poll::Ready(Some(text.into_owned()));
                        }
                        Some(_) => {}
                        None if self.exec.look(|exec| exec.is_settled()) => {
                            return Poll::Ready(None);
                        }
                        None => return Poll::Pending,
                    }
                }
            })
            .await
        }
    }

    fn start() -> (
        DuplexStream,
        Arc<Deadline>,
        Client,
        tokio::task::JoinHandle<Option<Pipe>>,
    ) {
        let (writer, reader) = tokio::io::duplex(1 << 20);
        let deadline = Deadline::new();
        let adapter = V1Adapter::new(Version::V1, Duration::from_secs(60), 1_024);
        let exec = SharedExec::new(ServedExec::unnamed(64 * 1024), Some(adapter));
        let waker = Arc::<AtomicWaker>::default();
        exec.set_writer(waker.clone());
        let outlet = Outlet {
            id: None,
            exec: exec.clone(),
            events: tokio::sync::mpsc::channel(1).0,
        };
        let keeper = outlet.keeper(StdStream::Stdout);
        let pump = pump(Box::new(reader), deadline.clone(), keeper);
        let pump = tokio::spawn(async move {
            let pipe = pump.await;
            // Dropping the outlet ends the exec.
            drop(outlet);
            pipe
        });
        (writer, deadline, Client { exec, waker }, pump)
    }

    #[tokio::test]
    async fn of_too_many_abandoned_pipes_the_oldest_is_closed() {
        let drains = Drains::default();
        let mut writers = VecDeque::new();
        for _ in 0..MAX_DRAINS {
            let (writer, reader) = tokio::io::duplex(1);
            drains.add(Box::new(reader));
            writers.push_back(writer);
        }
        // This is more than the pipe holds, so the write completes only if the pipe is read.
        for writer in &mut writers {
            writer.write_all(b"read to the end").await.unwrap();
        }
        let (mut writer, reader) = tokio::io::duplex(1);
        drains.add(Box::new(reader));
        writer.write_all(b"read").await.unwrap();
        let mut oldest = writers.pop_front().unwrap();
        let refused = oldest.write_all(b"read to the end").await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
        for writer in &mut writers {
            writer.write_all(b"read to the end").await.unwrap();
        }
    }

    #[tokio::test]
    async fn abandoned_pipes_that_ended_make_no_other_close() {
        let drains = Drains::default();
        let (mut kept, reader) = tokio::io::duplex(1);
        drains.add(Box::new(reader));
        for _ in 0..2 * MAX_DRAINS {
            drains.add(Box::new(tokio::io::empty()));
            tokio::task::yield_now().await;
        }
        kept.write_all(b"read to the end").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn writes_close_together_are_sent_as_one_message() {
        let (mut writer, _end, mut pieces, _pump) = start();
        for word in ["one ", "two ", "three"] {
            writer.write_all(word.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(pieces.recv().await.as_deref(), Some("one two three"));
        writer.write_all(b"later").await.unwrap();
        assert_eq!(pieces.recv().await.as_deref(), Some("later"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_code_point_written_in_two_halves_is_one() {
        let (mut writer, _end, mut pieces, _pump) = start();
        writer.write_all(b"a\xc3").await.unwrap();
        assert_eq!(pieces.recv().await.as_deref(), Some("a"));
        writer.write_all(b"\xa9").await.unwrap();
        assert_eq!(pieces.recv().await.as_deref(), Some("é"));
        writer.write_all(b"\xff\xe2\x82").await.unwrap();
        drop(writer);
        assert_eq!(pieces.recv().await.as_deref(), Some("\u{FFFD}\u{FFFD}"));
        assert_eq!(pieces.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_that_a_child_holds_is_given_back_after_what_is_in_it() {
        let (mut writer, end, mut pieces, pump) = start();
        writer.write_all(b"last words").await.unwrap();
        end.set(Duration::ZERO);
        assert_eq!(pieces.recv().await.as_deref(), Some("last words"));
        assert!(pump.await.unwrap().is_some());
        assert_eq!(pieces.recv().await, None);
    }

    #[tokio::test]
    async fn a_pipe_that_a_child_keeps_filling_is_drained_and_closed() {
        let (mut writer, end, mut pieces, pump) = start();
        writer.write_all(&[b'a'; 300_000]).await.unwrap();
        end.set(Duration::ZERO);
        let child = tokio::spawn(async move {
            let chunk = [b'b'; 128 * 1024];
            while writer.write_all(&chunk).await.is_ok() {}
        });
        let mut heard = 0;
        while let Some(piece) = pieces.recv().await {
            heard += piece.bytes().filter(|&byte| byte == b'a').count();
        }
        assert_eq!(heard, 300_000);
        assert!(pump.await.unwrap().is_some());
        child.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_does_not_take_pieces_stops_the_writer() {
        let (mut writer, _end, mut pieces, _pump) = start();
        let written = tokio::spawn(async move {
            let mut written = 0;
            let chunk = [b'x'; 32 * 1024];
            while timeout(Duration::from_secs(1), writer.write_all(&chunk))
                .await
                .is_ok_and(|write| write.is_ok())
            {
                written += chunk.len();
            }
            written
        })
        .await
        .unwrap();
        assert!(written < 2 << 20, "{written}");
        assert!(pieces.recv().await.is_some());
    }
}
