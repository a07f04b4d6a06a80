//! [`Remote`]: the server's end of the connection to an agent.
//!
//! One task reads the frames of the agent and stores them for the handles of the execs. Another
//! task writes. The frames are hostile input: a frame that breaks the protocol ends the sandbox
//! with a reason. Credits limit how many bytes each end holds.

mod handles;
mod state;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, Semaphore, oneshot, watch},
    task::AbortHandle,
    time::timeout,
};

pub(crate) use self::state::NotStarted;
use self::{
    handles::{ExecHandle, RemoteInput, RemoteOutput, RemoteProcess},
    state::{ExecState, Greeting, State},
};
use super::{
    frames::{Decoder, MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Stream, put_control},
    messages::{Request, Setup, Start},
    process::Started,
};

/// How long the agent may take to confine itself.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the agent may take to start a program.
const STARTED_WITHIN: Duration = Duration::from_secs(30);
/// How long the agent may take to suspend itself, which includes the kill of running execs.
const SUSPENDED_WITHIN: Duration = Duration::from_secs(20);

/// The most starts that wait for an answer at once. Others wait for their turn.
const MAX_STARTS: usize = 4;

/// The most bytes to hold for an agent that doesn't read.
const MAX_OUTGOING_BYTES: usize = (MAX_STARTS + 1) * MAX_REQUEST_BYTES;

/// The bytes to read at once.
const READ_BYTES: usize = 256 * 1024;

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

impl Remote {
    /// Waits for the agent to greet and to confine itself. The error is the reason to report.
    pub(crate) async fn connect(
        output: impl AsyncRead + Send + Unpin + 'static,
        input: impl AsyncWrite + Send + Unpin + 'static,
        setup: Setup,
    ) -> Result<Self, String> {
        Self::greet(output, input, setup, None).await
    }

    /// Connects to an agent that gVisor has restored with its memory. See
    /// [`connect`](Self::connect).
    pub(crate) async fn resume(
        output: impl AsyncRead + Send + Unpin + 'static,
        input: impl AsyncWrite + Send + Unpin + 'static,
        setup: Setup,
    ) -> Result<Self, String> {
        Self::greet(output, input, setup, Some(Request::Resume)).await
    }

    async fn greet(
        output: impl AsyncRead + Send + Unpin + 'static,
        input: impl AsyncWrite + Send + Unpin + 'static,
        setup: Setup,
        first: Option<Request>,
    ) -> Result<Self, String> {
        let (ready, is_ready) = oneshot::channel();
        let shared = Arc::new(Shared::new(setup, ready));
        if let Some(first) = first {
            shared.send(&first);
        }
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

    /// Whether the agent has ended or broken the protocol.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.borrow().is_some()
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

    /// Suspends the agent, so that the memory of the sandbox can be stored. Kills the execs that
    /// have not ended. Returns whether the sandbox has processes besides the agent. From then on,
    /// the agent serves only a [`resume`](Self::resume).
    pub(crate) async fn suspend(&self) -> Result<bool, String> {
        let (sender, suspended) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if self.shared.ended.borrow().is_some() {
                drop(state);
                return Err(self.shared.why());
            }
            let put = put_control(&mut state.outgoing, &Request::Suspend);
            put.map_err(|error| error.to_string())?;
            state.sealed = Some(state.outgoing.len());
            state.suspended = Some(sender);
            self.shared.notify_writer(state);
        }
        match timeout(SUSPENDED_WITHIN, suspended).await {
            Ok(Ok(has_processes)) => Ok(has_processes),
            Ok(Err(_)) => Err(self.shared.why()),
            Err(_) => Err(format!(
                "the processes of the sandbox did not end within {SUSPENDED_WITHIN:?}"
            )),
        }
    }

    /// Fails if no program can be started.
    fn check(&self) -> Result<(), NotStarted> {
        if self.has_ended() {
            let why = self.shared.why();
            return Err(NotStarted::Failed(format!("the sandbox is lost: {why}")));
        }
        if self.shared.lock().sealed.is_some() {
            let why = "the sandbox is being checkpointed".to_owned();
            return Err(NotStarted::Failed(why));
        }
        Ok(())
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
        self.check()?;
        let (sender, started) = oneshot::channel();
        let (exit, exited) = watch::channel(None);
        let exec = {
            let mut state = self.shared.lock();
            let exec = state.next;
            state.next = exec.checked_add(1).ok_or_else(|| {
                NotStarted::Failed("The sandbox has run too many execs.".to_owned())
            })?;
            let mut new = ExecState::new(sender, exit);
            // A terminal has no stderr.
            new.stderr.is_open = start.terminal.is_none();
            state.execs.insert(exec, new);
            exec
        };
        start.exec = exec;
        let handle = Arc::new(ExecHandle {
            exec,
            shared: self.shared.clone(),
        });
        let mut request = BytesMut::new();
        put_control(&mut request, &Request::Start(start))
            .map_err(|error| NotStarted::Failed(error.to_string()))?;
        if request.len() > MAX_REQUEST_BYTES {
            return Err(NotStarted::Failed(format!(
                "the code with its arguments and environment variables takes {} bytes \
                 as JSON; the maximum is {MAX_REQUEST_BYTES}; pass large data through \
                 stdin or a file",
                request.len()
            )));
        }
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
        self.shared.put(|outgoing| outgoing.unsplit(request));
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
                sealed: None,
                suspended: None,
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
            state.suspended = None;
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
    fn notify_writer(&self, mut state: MutexGuard<'_, State>) {
        let has_outgoing = state.seal();
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
        state.seal();
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
            let mut outgoing = shared.lock().take_outgoing();
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
    use super::frames::WINDOW;

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
mod tests;
