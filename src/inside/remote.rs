//! [`Remote`]: the server's end of the connection to an agent.
//!
//! One task reads the frames of the agent and stores them for the handles of the execs. Another
//! task writes. The frames are hostile input: a frame that breaks the protocol ends the sandbox
//! with a reason. Credits limit how many bytes each end holds.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::{Notify, Semaphore, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};

use super::{
    frames::{
        Decoder, Frame, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Stream, WINDOW, put_control,
        put_credit, put_data, put_end,
    },
    messages::{Failure, PROTOCOL, Reply, Request, Setup, Start},
    process::{Exit, Process, Started},
};

/// How long the agent may take to confine itself.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the agent may take to start a program.
const STARTED_WITHIN: Duration = Duration::from_secs(30);
/// How long the agent may take to kill an exec.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// The most starts that wait for an answer at once. Others wait for their turn.
const MAX_STARTS: usize = 4;

/// The most bytes to hold for an agent that doesn't read.
const MAX_OUTGOING_BYTES: usize = (MAX_STARTS + 1) * MAX_REQUEST_BYTES;

/// The bytes to read at once.
const READ_BYTES: usize = 256 * 1024;

/// How many bytes the reader of a stream takes before the server grants the agent as many again.
const GRANT_BYTES: u32 = WINDOW / 4;

/// The server's end of the connection to an agent. Dropping it ends the agent's input.
pub(crate) struct Remote {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.shared.end("the sandbox was ended");
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Why a program was not started.
pub(crate) enum NotStarted {
    /// The working directory does not exist or is not a directory.
    NoDirectory,
    /// The code may not enter its working directory, for this reason.
    DirectoryDenied(String),
    /// Another reason, to report to the client.
    Failed(String),
}

impl Remote {
    /// Waits for the agent to greet and to confine itself. The error is the reason to report.
    pub(crate) async fn connect(
        output: impl AsyncRead + Send + Unpin + 'static,
        input: impl AsyncWrite + Send + Unpin + 'static,
        setup: Setup,
    ) -> Result<Self, String> {
        let (ready, is_ready) = oneshot::channel();
        let shared = Arc::new(Shared::new(setup, ready));
        let read = tokio::spawn(read(shared.clone(), output));
        let written = tokio::spawn(write(shared.clone(), input));
        let remote = Self {
            shared,
            tasks: [read.abort_handle(), written.abort_handle()],
        };
        match timeout(READY_WITHIN, is_ready).await {
            Ok(Ok(done)) => done.map(|()| remote),
            Ok(Err(_)) => Err(remote.shared.why()),
            Err(_) => Err(format!(
                "the agent of the sandbox was not ready within {READY_WITHIN:?}"
            )),
        }
    }

    /// Resolves when the agent has ended or broken the protocol.
    pub(crate) fn ended(&self) -> impl Future<Output = String> + Send + use<> {
        let mut ended = self.shared.ended.subscribe();
        async move {
            let reason = ended.wait_for(Option::is_some).await;
            let reason = reason.ok().and_then(|reason| reason.clone());
            reason.unwrap_or_default()
        }
    }

    /// Ends the sandbox with a reason, when the reason comes. Drops the future if the agent ends
    /// earlier.
    pub(crate) fn end_when(&self, reason: impl Future<Output = String> + Send + 'static) {
        let (ended, shared) = (self.ended(), self.shared.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = ended => {}
                reason = reason => shared.end(reason),
            }
        });
    }

    /// Starts a program, and sets the number of the exec in `start`. Keeps `needs` until the
    /// process is dropped.
    ///
    /// If the agent ends before it answers, it is unknown whether the program ran. Then this
    /// returns handles that report the loss. Cancel safe: kills the program if it was started.
    pub(crate) async fn start(
        &self,
        mut start: Start,
        needs: impl Send + 'static,
    ) -> Result<Started, NotStarted> {
        let _turn = self.shared.starts.acquire().await;
        if self.shared.ended.borrow().is_some() {
            let why = self.shared.why();
            return Err(NotStarted::Failed(format!("the sandbox is lost: {why}")));
        }
        let (sender, started) = oneshot::channel();
        let (exit, exited) = watch::channel(None);
        let exec = {
            let mut state = self.shared.lock();
            let exec = state.next;
            state.next = exec.checked_add(1).ok_or_else(|| {
                NotStarted::Failed("The sandbox has run too many execs.".to_owned())
            })?;
            state.execs.insert(exec, ExecState::new(sender, exit));
            exec
        };
        start.exec = exec;
        let handle = Arc::new(ExecHandle {
            exec,
            shared: self.shared.clone(),
        });
        let output = |stream| {
            Box::new(RemoteOutput {
                handle: handle.clone(),
                stream,
            })
        };
        let (stdout, stderr) = (output(Stream::Stdout), output(Stream::Stderr));
        let mut process = RemoteProcess {
            handle: handle.clone(),
            exited,
            _needs: Box::new(needs),
        };
        self.shared.send(&Request::Start(start));
        match timeout(STARTED_WITHIN, started).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(failed))) => {
                process.forget();
                return Err(failed);
            }
            Ok(Err(_)) => {}
            Err(_) => self.shared.end(format!(
                "the agent of the sandbox did not start the code within {STARTED_WITHIN:?}"
            )),
        }
        Ok(Started {
            stdin: Box::new(RemoteInput {
                handle: handle.clone(),
            }),
            stdout,
            stderr,
            process: Box::new(process),
        })
    }
}

struct Shared {
    state: Mutex<State>,
    /// Limits the pending starts, whose requests may be large.
    starts: Semaphore,
    /// Notified when there is something to write.
    has_outgoing: Notify,
    /// Why the agent can't be used any more.
    ended: watch::Sender<Option<String>>,
}

struct State {
    /// The state of the connection until the agent is ready, then `None`.
    greeting: Option<Greeting>,
    /// The number of the next exec.
    next: u32,
    /// The execs that have handles.
    execs: HashMap<u32, ExecState>,
    outgoing: BytesMut,
}

struct Greeting {
    /// The setup to send after the greeting.
    setup: Option<Setup>,
    ready: oneshot::Sender<Result<(), String>>,
}

struct ExecState {
    started: Option<oneshot::Sender<Result<(), NotStarted>>>,
    exit: Option<watch::Sender<Option<Exit>>>,
    killed: Option<oneshot::Sender<()>>,
    stdin: InputState,
    stdout: OutputState,
    stderr: OutputState,
}

struct InputState {
    is_open: bool,
    /// How many bytes the agent accepts.
    credit: u32,
    waker: Option<Waker>,
}

struct OutputState {
    is_open: bool,
    /// Whether the agent ended before the stream.
    is_cut: bool,
    /// Bytes that have not been read. They are copied, because a slice of a received buffer would
    /// keep the whole buffer in memory.
    queue: BytesMut,
    /// How many bytes the agent may still send.
    credit: u32,
    /// How many bytes were read but not yet granted to the agent again.
    taken: u32,
    waker: Option<Waker>,
}

impl OutputState {
    fn new() -> Self {
        Self {
            is_open: true,
            is_cut: false,
            queue: BytesMut::new(),
            credit: WINDOW,
            taken: 0,
            waker: None,
        }
    }
}

impl ExecState {
    fn new(
        started: oneshot::Sender<Result<(), NotStarted>>,
        exit: watch::Sender<Option<Exit>>,
    ) -> Self {
        Self {
            started: Some(started),
            exit: Some(exit),
            killed: None,
            stdin: InputState {
                is_open: true,
                credit: WINDOW,
                waker: None,
            },
            stdout: OutputState::new(),
            stderr: OutputState::new(),
        }
    }

    fn output(&mut self, stream: Stream) -> &mut OutputState {
        match stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdin | Stream::Stdout => &mut self.stdout,
        }
    }

    /// Settles all pending calls, because the agent has ended. Output that has arrived can still be
    /// read.
    fn end(&mut self) {
        self.started = None;
        self.exit = None;
        self.killed = None;
        self.stdin.is_open = false;
        wake(&mut self.stdin.waker);
        for output in [&mut self.stdout, &mut self.stderr] {
            output.is_cut |= output.is_open;
            output.is_open = false;
            wake(&mut output.waker);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Shared {
    fn new(setup: Setup, ready: oneshot::Sender<Result<(), String>>) -> Self {
        Self {
            state: Mutex::new(State {
                greeting: Some(Greeting {
                    setup: Some(setup),
                    ready,
                }),
                next: 0,
                execs: HashMap::new(),
                outgoing: BytesMut::new(),
            }),
            starts: Semaphore::new(MAX_STARTS),
            has_outgoing: Notify::new(),
            ended: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the agent can't be used any more.
    fn why(&self) -> String {
        let reason = self.ended.borrow().clone();
        reason.unwrap_or_else(|| "the agent of the sandbox was ended".to_owned())
    }

    fn end(&self, reason: impl Into<String>) {
        let is_first = self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert_with(|| reason.into());
            is_first
        });
        if is_first {
            let mut state = self.lock();
            state.greeting = None;
            state.execs.values_mut().for_each(ExecState::end);
            drop(state);
            self.has_outgoing.notify_one();
        }
    }

    fn send(&self, request: &Request) {
        self.put(|outgoing| {
            if let Err(error) = put_control(outgoing, request) {
                tracing::error!(%error, "a request to an agent could not be encoded");
            }
        });
    }

    /// Wakes the task that writes, if there is something to write.
    fn notify_writer(&self, state: MutexGuard<'_, State>) {
        let has_outgoing = !state.outgoing.is_empty();
        drop(state);
        if has_outgoing {
            self.has_outgoing.notify_one();
        }
    }

    /// Appends frames for the agent. If the agent has ended, this drops them and wakes every call
    /// that waits for an answer.
    fn put(&self, put: impl FnOnce(&mut BytesMut)) {
        let mut state = self.lock();
        put(&mut state.outgoing);
        let is_full = state.outgoing.len() > MAX_OUTGOING_BYTES;
        if self.ended.borrow().is_some() {
            state.outgoing.clear();
            state.execs.values_mut().for_each(ExecState::end);
        }
        drop(state);
        if is_full {
            self.end("the agent of the sandbox does not read its input");
        }
        self.has_outgoing.notify_one();
    }
}

/// Writes to the agent until it has ended.
async fn write(shared: Arc<Shared>, mut input: impl AsyncWrite + Unpin) {
    let mut ended = shared.ended.subscribe();
    let written = async {
        loop {
            let mut outgoing = std::mem::take(&mut shared.lock().outgoing);
            if outgoing.is_empty() {
                shared.has_outgoing.notified().await;
            }
            if let Err(error) = input.write_all_buf(&mut outgoing).await {
                return error;
            }
        }
    };
    tokio::select! {
        error = written => shared.end(format!("cannot write to the agent of the sandbox: {error}")),
        _ = ended.wait_for(Option::is_some) => {}
    }
}

/// Reads the frames of the agent until it ends or breaks the protocol.
async fn read(shared: Arc<Shared>, mut output: impl AsyncRead + Unpin) {
    let mut decoder = Decoder::new(MAX_REPLY_BYTES);
    let reason = loop {
        decoder.buffer().reserve(READ_BYTES);
        match output.read_buf(decoder.buffer()).await {
            Ok(0) => break "the agent of the sandbox has ended".to_owned(),
            Ok(_) => {}
            Err(error) => break format!("cannot read from the agent of the sandbox: {error}"),
        }
        if let Err(broken) = handle_frames(&shared, &mut decoder) {
            break format!("the agent of the sandbox broke the protocol: {broken}");
        }
    };
    shared.end(reason);
}

fn handle_frames(shared: &Shared, decoder: &mut Decoder) -> Result<(), String> {
    let mut state = shared.lock();
    while let Some(frame) = decoder.next_frame().map_err(|error| error.to_string())? {
        state.handle(frame)?;
    }
    shared.notify_writer(state);
    Ok(())
}

impl State {
    /// Handles a frame of the agent. Fails if the frame breaks the rules.
    fn handle(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Control(message) => {
                let reply = serde_json::from_slice(&message);
                self.handle_reply(
                    reply.map_err(|error| format!("it sent an invalid reply: {error}"))?,
                )
            }
            Frame::Data {
                exec,
                stream: Stream::Stdin,
                bytes,
            } => {
                if !bytes.is_empty() {
                    return Err("it sent bytes of stdin".to_owned());
                }
                if let Some(exec) = self.exec(exec)? {
                    exec.stdin.is_open = false;
                    wake(&mut exec.stdin.waker);
                }
                Ok(())
            }
            Frame::Data {
                exec,
                stream,
                bytes,
            } => match self.exec(exec)? {
                Some(exec) => exec.output(stream).handle_data(bytes),
                None => Ok(()),
            },
            Frame::Credit {
                exec,
                stream: Stream::Stdin,
                bytes,
            } => {
                if let Some(exec) = self.exec(exec)? {
                    let credit = exec.stdin.credit.checked_add(bytes);
                    exec.stdin.credit = credit
                        .filter(|&credit| credit <= WINDOW)
                        .ok_or("it granted credit for more input than it was sent")?;
                    wake(&mut exec.stdin.waker);
                }
                Ok(())
            }
            Frame::Credit { .. } => Err("it granted credit for output".to_owned()),
        }
    }

    fn handle_reply(&mut self, reply: Reply) -> Result<(), String> {
        if let Some(greeting) = &mut self.greeting {
            return match reply {
                Reply::Hello { protocol } => {
                    if protocol != PROTOCOL {
                        return Err(format!(
                            "it speaks version {protocol}, and this server speaks version \
                             {PROTOCOL}; use the agent of the same release"
                        ));
                    }
                    let setup = greeting.setup.take().ok_or("it greeted twice")?;
                    put_control(&mut self.outgoing, &Request::Setup(setup))
                        .map_err(|error| error.to_string())
                }
                Reply::Ready | Reply::Failed { exec: None, .. } if greeting.setup.is_none() => {
                    let done = match reply {
                        Reply::Failed { reason, .. } => Err(reason),
                        _ => Ok(()),
                    };
                    if let Some(greeting) = self.greeting.take() {
                        let _ = greeting.ready.send(done);
                    }
                    Ok(())
                }
                _ => Err("it sent a message that is not part of the greeting".to_owned()),
            };
        }
        match reply {
            Reply::Started { exec } => {
                if let Some(exec) = self.exec(exec)? {
                    let started = exec.started.take().ok_or("it answered a start twice")?;
                    let _ = started.send(Ok(()));
                }
            }
            Reply::Failed {
                exec: Some(exec),
                failure,
                reason,
            } => {
                if let Some(exec) = self.exec(exec)? {
                    let started = exec.started.take().ok_or("it answered a start twice")?;
                    let _ = started.send(Err(match failure {
                        Failure::Directory => NotStarted::NoDirectory,
                        Failure::DirectoryDenied => NotStarted::DirectoryDenied(reason),
                        Failure::Program | Failure::Setup => NotStarted::Failed(reason),
                    }));
                }
            }
            Reply::Exited { exec, code, signal } => {
                if let Some(exec) = self.exec(exec)? {
                    let exit = exec.exit.take().ok_or("an exec ended twice")?;
                    exit.send_replace(Some(Exit { code, signal }));
                }
            }
            Reply::Killed { exec } => {
                if let Some(exec) = self.exec(exec)? {
                    if exec.exit.is_some() && exec.started.is_none() {
                        return Err(
                            "it confirmed the kill of an exec that has not ended".to_owned()
                        );
                    }
                    // Without a sender, this answers an earlier kill for which no caller waits.
                    if let Some(killed) = exec.killed.take() {
                        let _ = killed.send(());
                    }
                }
            }
            Reply::Hello { .. } | Reply::Ready | Reply::Failed { exec: None, .. } => {
                return Err("it greeted twice".to_owned());
            }
        }
        Ok(())
    }

    /// Returns the state of an exec. `None` if the server has dropped all its handles. Fails if the
    /// server has started no such exec.
    fn exec(&mut self, exec: u32) -> Result<Option<&mut ExecState>, String> {
        if exec >= self.next {
            return Err(format!("there is no exec {exec}"));
        }
        Ok(self.execs.get_mut(&exec))
    }
}

impl OutputState {
    fn handle_data(&mut self, bytes: Bytes) -> Result<(), String> {
        if bytes.is_empty() {
            self.is_open = false;
        } else {
            let sent = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let credit = self.credit.checked_sub(sent);
            self.credit = credit.ok_or("it sent more output than it was granted")?;
            if !self.is_open {
                return Err("it sent output after the end".to_owned());
            }
            self.queue.extend_from_slice(&bytes);
        }
        wake(&mut self.waker);
        Ok(())
    }
}

/// Keeps the state of an exec while a handle of it exists.
struct ExecHandle {
    exec: u32,
    shared: Arc<Shared>,
}

impl ExecHandle {
    /// Calls `change` with the state of this exec and the frames for the agent.
    fn with<T>(&self, change: impl FnOnce(&mut ExecState, &mut BytesMut) -> T) -> Option<T> {
        let mut state = self.shared.lock();
        let State {
            execs, outgoing, ..
        } = &mut *state;
        let changed = change(execs.get_mut(&self.exec)?, outgoing);
        self.shared.notify_writer(state);
        Some(changed)
    }
}

impl Drop for ExecHandle {
    fn drop(&mut self) {
        self.shared.lock().execs.remove(&self.exec);
    }
}

/// The processes of an exec. Dropping this kills them, unless the main process has ended.
struct RemoteProcess {
    handle: Arc<ExecHandle>,
    exited: watch::Receiver<Option<Exit>>,
    _needs: Box<dyn Send>,
}

impl RemoteProcess {
    /// Marks a process that never started as ended, so that the drop sends no kill.
    fn forget(&mut self) {
        self.exited = watch::channel(Some(Exit::default())).1;
    }
}

impl Process for RemoteProcess {
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>> {
        Box::pin(async move {
            let ended = |_| io::Error::other(self.handle.shared.why());
            let exit = self.exited.wait_for(Option::is_some).await;
            let exit = exit.map_err(ended)?;
            Ok(exit.unwrap_or_default())
        })
    }

    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let (sender, killed) = oneshot::channel();
            self.handle.with(|exec, _| exec.killed = Some(sender));
            let exec = self.handle.exec;
            self.handle.shared.send(&Request::Kill { exec });
            match timeout(KILLED_WITHIN, killed).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(self.handle.shared.why()),
                Err(_) => {
                    let reason =
                        format!("the processes did not end within {KILLED_WITHIN:?} of the kill");
                    // Code may hinder the agent. The end of the sandbox ends the processes.
                    self.handle.shared.end(reason.clone());
                    Err(reason)
                }
            }
        })
    }
}

impl Drop for RemoteProcess {
    fn drop(&mut self) {
        if self.exited.borrow().is_none() {
            let exec = self.handle.exec;
            self.handle.shared.send(&Request::Kill { exec });
        }
    }
}

/// The server's end of stdin.
struct RemoteInput {
    handle: Arc<ExecHandle>,
}

impl AsyncWrite for RemoteInput {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let exec = self.handle.exec;
        let written = self.handle.with(|state, outgoing| {
            let stdin = &mut state.stdin;
            if !stdin.is_open {
                return Poll::Ready(None);
            }
            let most = usize::try_from(stdin.credit).unwrap_or(usize::MAX);
            let written = bytes.len().min(most);
            if written == 0 && !bytes.is_empty() {
                stdin.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            stdin.credit -= written as u32;
            put_data(outgoing, exec, Stream::Stdin, &bytes[..written]);
            Poll::Ready(Some(written))
        });
        let written = ready!(written.unwrap_or(Poll::Ready(None)));
        Poll::Ready(written.ok_or_else(|| io::ErrorKind::BrokenPipe.into()))
    }

    /// Waits until the pipe of the process has taken all bytes.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.handle.with(|state, _| {
            let stdin = &mut state.stdin;
            if stdin.credit == WINDOW {
                return Poll::Ready(Ok(()));
            }
            if !stdin.is_open {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            stdin.waker = Some(cx.waker().clone());
            Poll::Pending
        });
        flushed.unwrap_or_else(|| Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl RemoteInput {
    fn end(&self) {
        let exec = self.handle.exec;
        self.handle.with(|state, outgoing| {
            if std::mem::replace(&mut state.stdin.is_open, false) {
                put_end(outgoing, exec, Stream::Stdin);
            }
        });
    }
}

impl Drop for RemoteInput {
    fn drop(&mut self) {
        self.end();
    }
}

/// The server's end of stdout or stderr.
struct RemoteOutput {
    handle: Arc<ExecHandle>,
    stream: Stream,
}

impl AsyncRead for RemoteOutput {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (exec, stream) = (self.handle.exec, self.stream);
        let read = self.handle.with(|state, outgoing| {
            let output = state.output(stream);
            if output.queue.is_empty() && output.is_open {
                output.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if output.queue.is_empty() && output.is_cut {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let read = output.queue.len().min(buffer.remaining());
            buffer.put_slice(&output.queue[..read]);
            output.queue.advance(read);
            output.taken += read as u32;
            if output.taken >= GRANT_BYTES && output.is_open {
                put_credit(outgoing, exec, stream, output.taken);
                output.credit += std::mem::take(&mut output.taken);
            }
            Poll::Ready(Ok(()))
        });
        read.unwrap_or(Poll::Ready(Ok(())))
    }
}

impl Drop for RemoteOutput {
    fn drop(&mut self) {
        let (exec, stream) = (self.handle.exec, self.stream);
        let was_open = self.handle.with(|state, _| {
            let output = state.output(stream);
            output.queue.clear();
            output.is_open
        });
        if was_open == Some(true) {
            let stderr = stream == Stream::Stderr;
            self.handle.shared.send(&Request::Close { exec, stderr });
        }
    }
}

/// Feeds bytes to the server as the frames of an agent, before and after the greeting, and checks
/// how many bytes it holds. For fuzzing.
///
/// # Panics
///
/// Panics if the server holds more bytes than the credits allow.
#[cfg(feature = "unstable-internals")]
pub fn check_frames(bytes: &[u8]) {
    check_frames_of(bytes, false);
    check_frames_of(bytes, true);
}

#[cfg(feature = "unstable-internals")]
fn check_frames_of(bytes: &[u8], has_greeted: bool) {
    let (ready, _is_ready) = oneshot::channel();
    let shared = Shared::new(Setup::default(), ready);
    for exec in 0..3 {
        let (started, _) = oneshot::channel();
        let (exit, _) = watch::channel(None);
        let mut state = shared.lock();
        state.next = exec + 1;
        state.execs.insert(exec, ExecState::new(started, exit));
    }
    if has_greeted {
        shared.lock().greeting = None;
    }
    let mut decoder = Decoder::new(MAX_REPLY_BYTES);
    for piece in bytes.chunks(100) {
        decoder.buffer().extend_from_slice(piece);
        if handle_frames(&shared, &mut decoder).is_err() {
            break;
        }
    }
    for exec in shared.lock().execs.values() {
        assert!(exec.stdout.queue.len() + exec.stderr.queue.len() <= 2 * WINDOW as usize);
        assert!(exec.stdin.credit <= WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    /// An agent that sends what a test wants.
    struct Forger {
        output: DuplexStream,
        input: DuplexStream,
    }

    impl Forger {
        async fn send(&mut self, put: impl FnOnce(&mut BytesMut)) {
            let mut buffer = BytesMut::new();
            put(&mut buffer);
            self.output.write_all(&buffer).await.unwrap();
        }

        async fn reply(&mut self, reply: Reply) {
            self.send(|buffer| put_control(buffer, &reply).unwrap())
                .await;
        }

        /// Waits for a request of the server.
        async fn request(&mut self) -> Request {
            let mut decoder = Decoder::new(MAX_REQUEST_BYTES);
            loop {
                if let Some(Frame::Control(message)) = decoder.next_frame().unwrap() {
                    return serde_json::from_slice(&message).unwrap();
                }
                let byte = self.input.read_u8().await.unwrap();
                decoder.buffer().extend_from_slice(&[byte]);
            }
        }
    }

    /// A connection to an agent that does not greet.
    fn strange() -> (impl Future<Output = Result<Remote, String>>, Forger) {
        let (output, reader) = tokio::io::duplex(1 << 20);
        let (writer, input) = tokio::io::duplex(1 << 20);
        let connect = Remote::connect(reader, writer, Setup::default());
        (connect, Forger { output, input })
    }

    async fn connected() -> (Remote, Forger) {
        let (connect, mut agent) = strange();
        agent.reply(Reply::Hello { protocol: PROTOCOL }).await;
        agent.reply(Reply::Ready).await;
        let remote = connect.await.unwrap();
        assert!(matches!(agent.request().await, Request::Setup(_)));
        (remote, agent)
    }

    /// An exec that has started.
    async fn started(remote: &Remote, agent: &mut Forger) -> Started {
        let start = Start {
            exec: 0,
            program: "program".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
        };
        let started = async {
            let Request::Start(start) = agent.request().await else {
                panic!("not a start")
            };
            agent.reply(Reply::Started { exec: start.exec }).await;
        };
        let (done, ()) = tokio::join!(remote.start(start, ()), started);
        done.unwrap_or_else(|_| panic!("not started"))
    }

    fn data(exec: u32, stream: Stream, bytes: usize) -> impl FnOnce(&mut BytesMut) {
        move |buffer| put_data(buffer, exec, stream, &vec![b'x'; bytes])
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_of_another_version_is_refused() {
        let (connect, mut agent) = strange();
        agent.reply(Reply::Hello { protocol: 99 }).await;
        let error = connect.await.err().unwrap();
        assert!(error.contains("version 99"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_says_nothing_is_given_up() {
        let (connect, _agent) = strange();
        let error = connect.await.err().unwrap();
        assert!(error.contains("not ready within"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn forged_frames_end_the_sandbox_with_a_reason() {
        type Put = Box<dyn FnOnce(&mut BytesMut)>;
        let reply =
            |reply: Reply| -> Put { Box::new(move |buffer| put_control(buffer, &reply).unwrap()) };
        let (code, signal) = (Some(0), None);
        let forged: Vec<(&str, Put)> = vec![
            (
                "a frame",
                Box::new(|buffer| buffer.extend_from_slice(&[255; 10])),
            ),
            (
                "it sent an invalid reply",
                Box::new(|buffer| put_control(buffer, &"text").unwrap()),
            ),
            ("there is no exec 7", Box::new(data(7, Stream::Stdout, 1))),
            (
                "it sent bytes of stdin",
                Box::new(data(0, Stream::Stdin, 1)),
            ),
            (
                "more output than",
                Box::new(data(0, Stream::Stdout, WINDOW as usize + 1)),
            ),
            (
                "more input than",
                Box::new(|buffer| put_credit(buffer, 0, Stream::Stdin, 1)),
            ),
            (
                "it granted credit for output",
                Box::new(|buffer| put_credit(buffer, 0, Stream::Stderr, 1)),
            ),
            (
                "it greeted twice",
                reply(Reply::Hello { protocol: PROTOCOL }),
            ),
            ("it greeted twice", reply(Reply::Ready)),
            (
                "it answered a start twice",
                reply(Reply::Started { exec: 0 }),
            ),
            (
                "an exec that has not ended",
                reply(Reply::Killed { exec: 0 }),
            ),
            (
                "an exec ended twice",
                Box::new(move |buffer| {
                    for _ in 0..2 {
                        let exited = Reply::Exited {
                            exec: 0,
                            code,
                            signal,
                        };
                        put_control(buffer, &exited).unwrap();
                    }
                }),
            ),
            (
                "output after the end",
                Box::new(|buffer| {
                    put_end(buffer, 0, Stream::Stdout);
                    put_data(buffer, 0, Stream::Stdout, b"x");
                }),
            ),
        ];
        for (reason, put) in forged {
            let (remote, mut agent) = connected().await;
            let mut exec = started(&remote, &mut agent).await;
            agent.send(put).await;
            let ended = remote.ended().await;
            assert!(
                ended.contains("broke the protocol") && ended.contains(reason),
                "{ended}"
            );
            if reason != "an exec ended twice" {
                exec.process.wait().await.unwrap_err();
            }
            exec.process.kill().await.unwrap_err();
            let mut rest = Vec::new();
            let cut = exec.stdout.read_to_end(&mut rest).await;
            assert_eq!(cut.is_err(), reason != "output after the end", "{reason}");
            let error = exec.stdin.write_all(b"x").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_arrived_before_the_end_is_read() {
        let (remote, mut agent) = connected().await;
        let mut exec = started(&remote, &mut agent).await;
        agent.send(data(0, Stream::Stdout, 1_000)).await;
        drop(agent);
        let ended = remote.ended().await;
        assert!(ended.contains("has ended"), "{ended}");
        let mut read = Vec::new();
        let error = exec.stdout.read_to_end(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(read.len(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn input_waits_for_credit_and_output_grants_it() {
        let (remote, mut agent) = connected().await;
        let mut exec = started(&remote, &mut agent).await;
        let input = vec![b'x'; WINDOW as usize + 1];
        let mut written = 0;
        let write = async {
            while written < input.len() {
                written += exec.stdin.write(&input[written..]).await.unwrap();
            }
        };
        timeout(Duration::from_secs(1), write).await.unwrap_err();
        assert_eq!(written, WINDOW as usize);
        agent
            .send(|buffer| put_credit(buffer, 0, Stream::Stdin, 1))
            .await;
        exec.stdin.write_all(b"y").await.unwrap();

        agent.send(data(0, Stream::Stderr, WINDOW as usize)).await;
        let mut read = vec![0; WINDOW as usize];
        exec.stderr.read_exact(&mut read).await.unwrap();
        let mut granted = 0;
        let mut decoder = Decoder::new(MAX_REPLY_BYTES);
        while granted < WINDOW {
            let read = agent.input.read_buf(decoder.buffer()).await.unwrap();
            assert!(read > 0);
            while let Some(frame) = decoder.next_frame().unwrap() {
                if let Frame::Credit { bytes, .. } = frame {
                    granted += bytes;
                }
            }
        }
        assert_eq!(granted, WINDOW);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_read_is_ended() {
        let (remote, mut agent) = connected().await;
        let exec = started(&remote, &mut agent).await;
        let kill = Request::Start(Start {
            exec: 1,
            program: "x".repeat(1 << 20),
            args: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
        });
        for _ in 0..100 {
            remote.shared.send(&kill);
        }
        let ended = remote.ended().await;
        assert!(ended.contains("does not read"), "{ended}");
        drop(exec);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_handles_kill_and_close() {
        let (remote, mut agent) = connected().await;
        let Started {
            stdin,
            stdout,
            stderr,
            process,
        } = started(&remote, &mut agent).await;
        drop(process);
        assert_eq!(agent.request().await, Request::Kill { exec: 0 });
        drop(stderr);
        assert_eq!(
            agent.request().await,
            Request::Close {
                exec: 0,
                stderr: true
            }
        );
        drop((stdin, stdout));
        let close = Request::Close {
            exec: 0,
            stderr: false,
        };
        assert_eq!(agent.request().await, close);
        assert!(remote.shared.lock().execs.is_empty());
        // The server ignores later frames about this exec.
        agent.send(data(0, Stream::Stdout, 10)).await;
        agent.reply(Reply::Killed { exec: 0 }).await;
        started(&remote, &mut agent).await;
        assert!(remote.shared.ended.borrow().is_none());
    }
}
