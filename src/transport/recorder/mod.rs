//! [`Recorder`]: writes the messages on the links of one sandbox to a file.
//!
//! Links send events to a writer thread, through a queue that is bounded in events and in bytes.
//! When the queue is half full, a link stops reading: backpressure slows the session down to the
//! pace of the disk. If a link waits for too long, or if the queue is full, the recording stops and
//! the session continues.

mod line;
mod redact;
mod writer;

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use futures::task::AtomicWaker;
use tokio::time::{Instant, Sleep, sleep};

#[cfg(not(feature = "test-util"))]
use self::line::RECORDED_TOKEN;
#[cfg(feature = "test-util")]
pub(crate) use self::line::{By, Dir, Line, RECORDED_TOKEN};
use self::redact::Secrets;
use super::Target;
use crate::{
    machine::LinkError,
    protocol::{SandboxToken, Version, names::SUBPROTOCOL_V2},
};

/// Maximum number of queued events.
const MAX_EVENTS: usize = 16 * 1024;
/// Maximum bytes of queued frames. A single frame may exceed it.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// How long a link waits for the writer thread before it stops the recording.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

const TOO_SLOW: &str = "the disk is slower than the session";

/// The recorder of a sandbox. The recording ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: SyncSender<Item>,
    shared: Arc<Shared>,
}

/// The state that the links and the writer thread share.
struct Shared {
    path: PathBuf,
    events: AtomicUsize,
    bytes: AtomicUsize,
    /// Wakes the link that waits for room in the queue.
    room: AtomicWaker,
    stopped: OnceLock<String>,
    began: OnceLock<Instant>,
    dials: AtomicUsize,
}

/// An event in the queue.
struct Item {
    /// Milliseconds since the first event.
    t: u64,
    conn: Arc<str>,
    what: What,
}

enum What {
    Connect {
        path: String,
        protocol: Option<&'static str>,
    },
    Refused(String),
    Send(Box<str>),
    Recv(Box<[u8]>),
    Close {
        code: u16,
        reason: String,
        by_client: bool,
    },
    Cut {
        by_client: bool,
    },
    Quiet,
}

impl What {
    fn bytes(&self) -> usize {
        match self {
            Self::Send(frame) => frame.len(),
            Self::Recv(frame) => frame.len(),
            _ => 0,
        }
    }
}

impl Shared {
    fn new(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            events: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            room: AtomicWaker::new(),
            stopped: OnceLock::new(),
            began: OnceLock::new(),
            dials: AtomicUsize::new(0),
        })
    }

    /// Whether a link may read more. Links stop reading when the queue is half full, so that sent
    /// messages still fit.
    fn has_room(&self) -> bool {
        self.is_stopped()
            || (self.events.load(Ordering::Relaxed) < MAX_EVENTS / 2
                && self.bytes.load(Ordering::Relaxed) < MAX_BYTES / 2)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.get().is_some()
    }

    fn why_stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    fn stop(&self, why: &str) {
        if self.stopped.set(why.to_owned()).is_ok() {
            let path = self.path.display();
            tracing::warn!(%path, why, "the recording of a sandbox stopped; the session continues");
            self.room.wake();
        }
    }

    /// Frees the space of an event that the writer thread has taken from the queue.
    fn taken(&self, bytes: usize) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if self.has_room() {
            self.room.wake();
        }
    }
}

impl Recorder {
    /// Starts a recording in `path`, and overwrites an existing file. `token` is the sandbox's
    /// token, if it is already known.
    pub(crate) fn create(path: &Path, token: Option<&SandboxToken>) -> io::Result<Self> {
        let file = create(path)?;
        let mut secrets = Secrets::default();
        if let Some(token) = token {
            secrets.learn(token);
        }
        let shared = Shared::new(path);
        let (queue, items) = sync_channel(MAX_EVENTS);
        let writer = shared.clone();
        thread::Builder::new()
            .name("actix-sandbox-recorder".to_owned())
            .spawn(move || writer::run(file, &items, secrets, &writer))?;
        Ok(Self { queue, shared })
    }

    /// Records a dial that starts now.
    pub(crate) fn dialling(&self, target: &Target) -> RecordedDial {
        let target = match target {
            Target::Create => Target::Create,
            Target::Attach(id, _) => Target::Attach(id.clone(), SandboxToken::new(RECORDED_TOKEN)),
        };
        RecordedDial {
            recorder: self.clone(),
            at: self.now(),
            path: Some(target.path()),
        }
    }

    fn now(&self) -> u64 {
        let began = self.shared.began.get_or_init(Instant::now);
        began.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Queues an event without blocking. Stops the recording if the queue is full.
    fn push(&self, t: u64, conn: &Arc<str>, what: What) {
        if self.shared.is_stopped() {
            return;
        }
        let bytes = what.bytes();
        self.shared.events.fetch_add(1, Ordering::Relaxed);
        let waiting = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        let conn = conn.clone();
        let is_too_much = waiting > 0 && waiting + bytes > MAX_BYTES;
        if is_too_much
            || matches!(
                self.queue.try_send(Item { t, conn, what }),
                Err(TrySendError::Full(_))
            )
        {
            self.shared.stop(TOO_SLOW);
        }
    }
}

/// A dial in progress. Dropping it records that the client gave up.
pub(crate) struct RecordedDial {
    recorder: Recorder,
    at: u64,
    path: Option<String>,
}

impl RecordedDial {
    pub(crate) fn opened(mut self, version: Version) -> RecordedLink {
        self.connected((version == Version::V2).then_some(SUBPROTOCOL_V2))
    }

    pub(crate) fn failed(mut self, error: &LinkError) {
        let why = match error {
            // The reader of recordings parses the status from this text.
            LinkError::UpgradeRefused(refusal) => {
                format!(
                    "server rejected WebSocket connection: HTTP {}",
                    refusal.status
                )
            }
            LinkError::NoToken { .. } => {
                // The client did not dial, so there is nothing to record.
                self.path = None;
                return;
            }
            // These texts omit details such as host names. The session's own error contains them.
            LinkError::Resolve { .. } => "the host name does not resolve".to_owned(),
            LinkError::Connect { kind, .. } => format!("no connection: {kind}"),
            LinkError::Tls { .. } | LinkError::TlsUnavailable { .. } => "TLS failed".to_owned(),
            LinkError::ConnectTimeout { .. } => "the connect timeout expired".to_owned(),
            LinkError::NotWebSocket { .. } => "the server does not speak WebSocket".to_owned(),
            _ => "the connection ended before the upgrade response".to_owned(),
        };
        let mut link = self.connected(None);
        link.is_over = true;
        link.push(What::Refused(why));
    }

    fn connected(&mut self, protocol: Option<&'static str>) -> RecordedLink {
        let dials = self.recorder.shared.dials.fetch_add(1, Ordering::Relaxed);
        let link = RecordedLink {
            recorder: self.recorder.clone(),
            conn: letters(dials).into(),
            by_client: false,
            is_over: false,
            waits: None,
        };
        let path = self.path.take().unwrap_or_default();
        let what = What::Connect { path, protocol };
        self.recorder.push(self.at, &link.conn, what);
        link
    }
}

impl Drop for RecordedDial {
    fn drop(&mut self) {
        if self.path.is_some() {
            // Dropping the link records that the client ended the connection.
            drop(self.connected(None));
        }
    }
}

/// A recorder of one open link. Dropping it before [`lost`](Self::lost) records that the client
/// ended the connection without a close frame.
pub(crate) struct RecordedLink {
    recorder: Recorder,
    conn: Arc<str>,
    /// Whether the client started the close handshake.
    by_client: bool,
    is_over: bool,
    /// Limits the current wait for room.
    waits: Option<Pin<Box<Sleep>>>,
}

impl RecordedLink {
    /// Ready when the link may read more. Waits at most [`LONGEST_WAIT`] for room in the queue,
    /// then stops the recording.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.recorder.shared;
        if !shared.has_room() {
            shared.room.register(cx.waker());
            // The writer thread may have made room before the waker was registered.
            if !shared.has_room() {
                let waits = &mut self.waits;
                let waits = waits.get_or_insert_with(|| Box::pin(sleep(LONGEST_WAIT)));
                if waits.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                shared.stop(TOO_SLOW);
            }
        }
        self.waits = None;
        Poll::Ready(())
    }

    pub(crate) fn sent(&self, frame: &str) {
        if !self.recorder.shared.is_stopped() {
            self.push(What::Send(frame.into()));
        }
    }

    pub(crate) fn received(&self, frame: &[u8]) {
        // Copy the frame, because a slice would keep the whole read buffer alive.
        if !self.recorder.shared.is_stopped() {
            self.push(What::Recv(frame.into()));
        }
    }

    pub(crate) fn closing(&mut self) {
        self.by_client = true;
    }

    pub(crate) fn lost(&mut self, cause: &LinkError) {
        self.is_over = true;
        match cause {
            LinkError::Closed { code, reason } => self.push(What::Close {
                // 1005: a close frame without a code (RFC 6455, 7.4.1).
                code: code.unwrap_or(1005),
                reason: reason.clone(),
                by_client: self.by_client,
            }),
            LinkError::Silent { .. } => {
                self.push(What::Quiet);
                self.push(What::Cut { by_client: false });
            }
            _ => self.push(What::Cut {
                by_client: self.by_client,
            }),
        }
    }

    fn push(&self, what: What) {
        self.recorder.push(self.recorder.now(), &self.conn, what);
    }
}

impl Drop for RecordedLink {
    fn drop(&mut self) {
        if !self.is_over {
            self.push(What::Cut { by_client: true });
        }
    }
}

/// Opens a file for writing and truncates it. On Unix, only its owner can read it.
fn create(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|found| is_pipe(&found)) {
        // Opening a pipe would block until it has a reader.
        return Err(io::Error::other("it is a pipe, not a file"));
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    // Leave devices as they are.
    if file.metadata()?.is_file() {
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.set_len(0)?;
    }
    Ok(file)
}

#[cfg(unix)]
fn is_pipe(found: &fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&found.file_type())
}

#[cfg(not(unix))]
fn is_pipe(_: &fs::Metadata) -> bool {
    false
}

/// Returns `A` to `Z`, then `AA` and so on.
fn letters(number: usize) -> String {
    let last = char::from(b'A' + (number % 26) as u8);
    match number / 26 {
        0 => last.into(),
        more => letters(more - 1) + last.encode_utf8(&mut [0; 4]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_have_letters() {
        let named = [0, 1, 25, 26, 27, 701, 702].map(letters);
        assert_eq!(named, ["A", "B", "Z", "AA", "AB", "ZZ", "AAA"]);
    }

    /// A recorder whose writer never takes an event, as if the disk hung.
    fn stuck() -> (Recorder, std::sync::mpsc::Receiver<Item>) {
        let (queue, items) = sync_channel(MAX_EVENTS);
        let shared = Shared::new(Path::new(""));
        (Recorder { queue, shared }, items)
    }

    #[test]
    fn a_hanging_disk_bounds_and_stops_the_recording() {
        for frame in ["x".repeat(1 << 20), "x".to_owned()] {
            let (recorder, items) = stuck();
            let link = recorder.dialling(&Target::Create).opened(Version::V1);
            for _ in 0..20_000 {
                link.received(frame.as_bytes());
            }
            assert!(recorder.shared.is_stopped());
            drop((link, recorder.clone()));
            let file = tempfile::NamedTempFile::new().unwrap();
            let Recorder { queue, shared } = recorder;
            drop(queue);
            writer::run(file.reopen().unwrap(), &items, Secrets::default(), &shared);
            let text = fs::read_to_string(file.path()).unwrap();
            assert!(text.len() < MAX_BYTES + 4 * 1024 * 1024);
            let last = text.lines().next_back().unwrap();
            assert!(
                last.contains(r#""dir":"end","error":"the disk is slower"#),
                "{last}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_waits_for_a_slow_disk_but_not_for_one_that_hangs() {
        let (recorder, items) = stuck();
        let mut link = recorder.dialling(&Target::Create).opened(Version::V1);
        let is_full = |link: &mut RecordedLink| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            link.poll_room(&mut cx).is_pending()
        };
        while !is_full(&mut link) {
            link.received(&[b'x'; 1 << 20]);
        }
        // The writer is slow.
        tokio::time::advance(LONGEST_WAIT / 2).await;
        let mut taken = 0;
        while is_full(&mut link) {
            recorder
                .shared
                .taken(items.try_recv().unwrap().what.bytes());
            taken += 1;
        }
        assert!(taken < 5 && !recorder.shared.is_stopped());
        // The writer hangs.
        link.received(&[b'x'; 1 << 20]);
        let began = Instant::now();
        std::future::poll_fn(|cx| link.poll_room(cx)).await;
        assert!(recorder.shared.is_stopped() && began.elapsed() <= 2 * LONGEST_WAIT);
    }
}
