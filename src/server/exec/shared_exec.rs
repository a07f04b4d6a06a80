//! [`SharedExec`]: the state of an exec, shared by its task, its sandbox and the client's session.
//!
//! The tasks that read the pipes push output into the state machine, and the writer of the session
//! polls it. Only the readers of the pipes wait for the client: for room in the window. A v1 exec
//! also has a [`V1Adapter`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Buf;
use futures::task::AtomicWaker;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

use super::v1_adapter::{STDIN_CLOSED, V1Adapter};
use crate::{
    inside::process::{Exit, Input},
    machine::ServedExec,
    protocol::{EndReason, ExecEnd, ExecId, Outcome, ServerMessage, StdStream, Version},
};

/// Maximum size of a piece of output in one message, in bytes.
pub(super) const MAX_PIECE_BYTES: usize = 64 * 1024;

/// Maximum capacity of a pipe, in bytes (`/proc/sys/fs/pipe-max-size`).
pub(super) const MAX_PIPE_BYTES: usize = 1024 * 1024;

/// How many bytes of v1 stdin may wait for the process before the session pauses reading.
const SLOW_DOWN_AT: u64 = 1024 * 1024;

/// A process that takes no stdin for this long counts as not reading.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// The most bytes of stdin to write before the process has taken them.
const MAX_STDIN_BYTES: usize = 64 * 1024;

/// How the main process of an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It exited by itself.
    Exited(Exit),
    /// A client or the server killed it, or killed the processes that held its output open. The
    /// error is the reason why the kill failed.
    Killed(Result<Exit, String>),
    /// It reached its time limit.
    TimedOut(Exit),
    /// A builtin ended with this outcome.
    Completed(Outcome),
    /// The sandbox was lost, for this reason. Whether it ended is unknown.
    Lost(String),
}

/// The shared state of an exec.
pub(crate) struct SharedExec {
    state: Mutex<State>,
    /// Notified when there may be room for output, or the process has taken stdin.
    room: Notify,
    /// Notified when there may be stdin for the process, or stdin has ended.
    input: Notify,
}

struct State {
    exec: ServedExec,
    /// Only for a v1 exec.
    v1: Option<V1Adapter>,
    /// Wakes the task that writes to the client.
    writer: Option<Arc<AtomicWaker>>,
    /// The reason, if the exec ends because its sandbox ends.
    lost: Option<String>,
    /// The main process has exited, so the output in its pipes is kept even past the window.
    exited: bool,
    /// The exec is about to be killed. Output is kept past the window, but dropped above
    /// [`MAX_AFTER_EXIT`].
    dying: bool,
    /// The end of the exec follows, and with it the ends of its streams. So the end of a stream
    /// alone is reported no more: it would look as if the program had ended the stream.
    ending: bool,
    /// How many bytes of stdin the process had taken when a session last gave up waiting for it to
    /// take more.
    stalled: Option<u64>,
}

impl SharedExec {
    pub(crate) fn new(exec: ServedExec, v1: Option<V1Adapter>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                exec,
                v1,
                writer: None,
                lost: None,
                exited: false,
                dying: false,
                ending: false,
                stalled: None,
            }),
            room: Notify::new(),
            input: Notify::new(),
        })
    }

    /// Reads the state, or makes a change that needs to wake no task.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut ServedExec) -> T) -> T {
        look(&mut self.lock().exec)
    }

    /// Changes the state, and wakes the tasks that may wait for the change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut ServedExec) -> T) -> T {
        self.change_state(|state| change(&mut state.exec))
    }

    fn change_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        let writer = state.writer.clone();
        drop(state);
        self.room.notify_waiters();
        self.input.notify_one();
        if let Some(writer) = writer {
            writer.wake();
        }
        changed
    }

    /// Sets the waker of the task that sends the messages of the exec from now on.
    pub(crate) fn set_writer(&self, writer: Arc<AtomicWaker>) {
        self.lock().writer = Some(writer);
    }

    /// Prepares for a kill of the exec. `lost` is the reason if the sandbox ends.
    pub(crate) fn will_die(&self, lost: Option<String>) {
        let mut state = self.lock();
        state.dying = true;
        state.ending = true;
        if state.lost.is_none() {
            state.lost = lost;
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Prepares for the end of a builtin, which has reported its outcome.
    pub(super) fn will_end(&self) {
        self.lock().ending = true;
    }

    /// Returns the next message to the client.
    pub(crate) fn poll_message(&self) -> Option<ServerMessage> {
        let mut state = self.lock();
        let State { exec, v1, .. } = &mut *state;
        match v1 {
            None => exec.poll_message(),
            Some(v1) => {
                let message = v1.poll_message(exec);
                drop(state);
                // The adapter acknowledges output when it is taken, which makes room.
                self.room.notify_waiters();
                message
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the exec as lost, without an exit of its main process.
    pub(super) fn lose(&self, why: String) {
        self.change(|exec| {
            exec.handle_exited(ExecEnd::lost(), Some(why));
            exec.handle_done(true);
        });
    }

    /// Handles the end of the main process.
    pub(super) fn handle_exited(&self, ending: Ending) {
        self.change_state(|state| {
            let mut outcome = None;
            let (reason, exit) = match ending {
                Ending::Completed(completed) => {
                    outcome = Some(Box::new(completed));
                    (EndReason::Exited, Exit::default())
                }
                Ending::Lost(why) => {
                    state.lost.get_or_insert(why);
                    (EndReason::SandboxLost, Exit::default())
                }
                Ending::Exited(exit) => (EndReason::Exited, exit),
                Ending::TimedOut(exit) => (EndReason::TimedOut, exit),
                Ending::Killed(Ok(exit)) => (EndReason::Killed, exit),
                Ending::Killed(Err(why)) => {
                    let why = format!("Failed to kill the process: {why}.");
                    state.exec.handle_kill_failed(&why);
                    if let Some(v1) = &mut state.v1 {
                        v1.kill_failed = Some(why);
                    }
                    (EndReason::Killed, Exit::default())
                }
            };
            // If the exec exited by itself just before the sandbox ended, it is not lost.
            let lost = state.lost.take().filter(|_| reason != EndReason::Exited);
            let end = ExecEnd {
                reason: lost.as_ref().map_or(reason, |_| EndReason::SandboxLost),
                exit_code: exit.code,
                signal: exit.signal,
                lengths: None,
                output_cut: false,
                outcome,
            };
            state.exec.handle_exited(end, lost);
        });
    }
}

/// Methods for v1 execs.
impl SharedExec {
    /// Whether the client must wait for the end of this exec before it may start another one.
    pub(crate) fn is_in_progress(&self) -> bool {
        let State { exec, v1, .. } = &*self.lock();
        let is_heard = exec.is_settled() && !v1.as_ref().is_some_and(V1Adapter::has_last_words);
        !exec.is_done() || exec.is_attached() && !is_heard
    }

    /// Whether the messages about the end are sent in part.
    pub(crate) fn has_last_words(&self) -> bool {
        let v1 = &self.lock().v1;
        v1.as_ref().is_some_and(V1Adapter::has_last_words)
    }

    /// Sends the client the output, but not the end, because the sandbox reports its own end.
    pub(crate) fn silence_end(&self) {
        if let Some(v1) = &mut self.lock().v1 {
            v1.silent = true;
        }
    }

    /// Attaches a client that sent `reconnect`. `version` is that of its link.
    pub(crate) fn reconnect(&self, version: Version) {
        self.change_state(|State { exec, v1, .. }| {
            if let Some(v1) = v1 {
                v1.attach(exec, version);
            }
        });
    }

    /// Detaches the client, because its link is lost.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        state.exec.detach();
        if let Some(v1) = &mut state.v1 {
            v1.kills = 0;
        }
    }

    /// Records a kill request. Returns true if the exec answers it when it ends.
    pub(crate) fn expect_kill(&self) -> bool {
        let State { exec, v1, .. } = &mut *self.lock();
        match v1 {
            Some(v1) if !exec.is_done() => {
                v1.kills = (v1.kills + 1).min(V1Adapter::MAX_KILLS);
                true
            }
            _ => false,
        }
    }

    /// Queues stdin for the process. The error is the reason why it is refused. Never waits.
    pub(crate) fn push_stdin(&self, data: &str) -> Result<(), String> {
        self.change_state(|State { exec, v1, .. }| match v1 {
            Some(v1) => v1.push_stdin(exec, data.as_bytes()),
            None => Err(STDIN_CLOSED.to_owned()),
        })
    }

    /// Waits while much stdin is queued and the process is reading. If the process doesn't read,
    /// returns after [`STALLED_AFTER`], and at once in later calls, so that a kill isn't delayed.
    pub(crate) async fn make_way(&self) {
        let mut last = None;
        let mut until = Instant::now();
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut state = self.lock();
                let waiting = state.exec.stdin_waiting();
                let taken = Some(state.exec.stdin_received() - waiting);
                let limit = state.v1.as_ref().map_or(0, |v1| v1.stdin_limit);
                let is_over = state.exec.is_stdin_over();
                if waiting < SLOW_DOWN_AT.min(limit) || is_over || state.stalled == taken {
                    return;
                }
                if taken != last {
                    last = taken;
                    until = Instant::now() + STALLED_AFTER;
                } else if Instant::now() >= until {
                    state.stalled = taken;
                    return;
                }
            }
            let _ = timeout_at(until, room).await;
        }
    }
}

/// An event of an exec, for its sandbox. A v1 exec has no id.
pub(crate) type ExecEvent = (Option<ExecId>, Became);

/// A change in the life of an exec.
pub(crate) enum Became {
    NotStarted(String),
    /// The main process exited. The output has not ended yet.
    Exited,
    Ended,
}

/// What the task of an exec uses to report output and events.
pub(crate) struct Outlet {
    pub(crate) id: Option<ExecId>,
    pub(crate) exec: Arc<SharedExec>,
    pub(crate) events: mpsc::Sender<ExecEvent>,
}

impl Drop for Outlet {
    /// The task of the exec has ended. If it has not reported an end, it panicked.
    fn drop(&mut self) {
        if self.exec.look(|exec| !exec.is_done()) {
            self.exec.lose("The server lost the execution.".to_owned());
            // If the channel is full, its events wake the sandbox.
            let _ = self.events.try_send((self.id.clone(), Became::Ended));
        }
    }
}

impl Outlet {
    /// Reports that the code could not be started.
    pub(crate) async fn not_started(&self, reason: String) {
        match self.id {
            Some(_) => self.exec.change(ServedExec::handle_not_started),
            // The client of a v1 exec waits for an end.
            None => self.exec.lose(reason.clone()),
        }
        self.send(Became::NotStarted(reason)).await;
    }

    /// Reports that the main process exited before its output ended.
    pub(super) async fn exited(&self, ending: Ending) {
        self.exec.handle_exited(ending);
        self.send(Became::Exited).await;
    }

    /// Reports that both the main process and the output have ended. `cut` is whether other
    /// processes still held the output open.
    pub(super) async fn ended(&self, ending: Ending, cut: bool) {
        // If `exited` was called before, this has an effect only if a later kill has failed.
        self.exec.handle_exited(ending);
        self.exec.change(|exec| exec.handle_done(cut));
        self.send(Became::Ended).await;
    }

    async fn send(&self, became: Became) {
        let _ = self.events.send((self.id.clone(), became)).await;
    }

    /// Writes stdin to the pipe of the process. Returns when stdin ends; the caller must then close
    /// the pipe. The caller may drop the future when the process has ended.
    pub(super) async fn feed(&self, pipe: &mut Input) {
        loop {
            let poll = |exec: &mut ServedExec| (exec.poll_stdin(), exec.is_stdin_over());
            let mut data = match self.exec.look(poll) {
                (Some(data), _) => data,
                (None, true) => return,
                (None, false) => {
                    self.exec.input.notified().await;
                    continue;
                }
            };
            while !data.is_empty() {
                let piece = &data[..data.len().min(MAX_STDIN_BYTES)];
                let written = match pipe.write(piece).await {
                    // Waits until the pipe of the process has taken the bytes, if they pass
                    // through an agent.
                    Ok(written) => pipe.flush().await.map(|()| written),
                    Err(error) => Err(error),
                };
                match written {
                    Ok(written) if written > 0 => {
                        data.advance(written);
                        self.exec.change(|exec| exec.handle_stdin_taken(written));
                    }
                    _ => return self.exec.change(ServedExec::handle_stdin_closed),
                }
            }
        }
    }

    /// Keeps the output that is still in the pipes even if the window has no room for it, because
    /// the main process has ended.
    pub(super) fn keep_rest(&self) {
        self.exec.lock().exited = true;
        self.exec.room.notify_waiters();
    }

    /// Returns the [`Keeper`] of a stream.
    pub(super) fn keeper(&self, stream: StdStream) -> Keeper {
        Keeper {
            exec: self.exec.clone(),
            stream,
            after_exit: 0,
        }
    }
}

/// Maximum number of bytes of a stream that are kept past the window after the exit: the capacity
/// of its pipe, and the pieces that were already read from it. Each stream has its own limit, so
/// one stream can't use up the room of the other.
const MAX_AFTER_EXIT: usize = MAX_PIPE_BYTES + 2 * MAX_PIECE_BYTES;

/// Adds the output of one stream to the exec.
pub(super) struct Keeper {
    exec: Arc<SharedExec>,
    stream: StdStream,
    /// How many bytes were kept past the window.
    after_exit: usize,
}

impl Keeper {
    /// Adds a piece as soon as there is room for it. Returns false if the piece was dropped.
    pub(super) async fn take(&mut self, bytes: &[u8]) -> bool {
        loop {
            let mut room = std::pin::pin!(self.exec.room.notified());
            room.as_mut().enable();
            {
                let state = self.exec.lock();
                if state.exec.room() > 0 {
                    break;
                }
                let after_exit = self.after_exit + bytes.len();
                if (state.exited || state.dying) && after_exit <= MAX_AFTER_EXIT {
                    self.after_exit = after_exit;
                    break;
                }
                if state.dying {
                    return false;
                }
            }
            room.await;
        }
        let stream = self.stream;
        self.exec.change(|exec| exec.handle_output(stream, bytes));
        true
    }

    /// The stream has ended, and all of it was taken.
    pub(super) fn handle_ended(&self) {
        self.exec.change_state(|state| {
            if !state.ending {
                state.exec.handle_output_ended(self.stream);
            }
        });
    }

    /// Whether an incomplete code point is held back and must be sent after a pause. Always false
    /// under v1, whose messages carry only whole code points.
    pub(super) fn holds_back(&self) -> bool {
        let state = self.exec.lock();
        state.v1.is_none() && state.exec.holds_back(self.stream)
    }

    /// Sends the incomplete code point, because the process has printed nothing for a while.
    pub(super) fn handle_silence(&self) {
        self.exec.change(|exec| exec.handle_silence(self.stream));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn exec(stdin_limit: usize) -> (Arc<SharedExec>, Outlet) {
        let adapter = V1Adapter::new(Version::V1, Duration::from_secs(60), stdin_limit);
        let exec = SharedExec::new(ServedExec::unnamed(1_024), Some(adapter));
        let outlet = Outlet {
            id: None,
            exec: exec.clone(),
            events: mpsc::channel(1).0,
        };
        (exec, outlet)
    }

    #[tokio::test]
    async fn input_arrives_in_order() {
        let (exec, outlet) = exec(1 << 20);
        let (writer, mut reader) = tokio::io::duplex(16);
        let feeding = tokio::spawn(async move {
            let mut pipe: Input = Box::new(writer);
            outlet.feed(&mut pipe).await;
        });
        let mut sent = String::new();
        for i in 0..100 {
            sent += &format!("line {i}\n");
            exec.push_stdin(&format!("line {i}\n")).unwrap();
        }
        let mut received = vec![0; sent.len()];
        reader.read_exact(&mut received).await.unwrap();
        assert_eq!(String::from_utf8(received).unwrap(), sent);
        drop(reader);
        exec.push_stdin("not read").unwrap();
        feeding.await.unwrap();
        assert_eq!(exec.push_stdin("x").unwrap_err(), STDIN_CLOSED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_ignores_stdin_slows_the_session_once() {
        let (exec, _outlet) = exec(4 << 20);
        let chunk = "x".repeat(1 << 19);
        let started = Instant::now();
        for _ in 0..8 {
            exec.push_stdin(&chunk).unwrap();
            // Output doesn't count as reading stdin.
            exec.change(|exec| exec.handle_output(StdStream::Stdout, b"x"));
            exec.make_way().await;
        }
        assert!(started.elapsed() < 2 * STALLED_AFTER);
        let refused = exec.push_stdin("x").unwrap_err();
        let says = "has not read the 4194304 bytes before it, and at most 4194304 may wait";
        assert!(refused.contains(says), "{refused}");
        exec.make_way().await;
    }

    #[tokio::test]
    async fn a_lost_exec_tells_its_sandbox() {
        let (sender, mut events) = mpsc::channel(1);
        let (exec, outlet) = exec(1_024);
        drop(Outlet {
            events: sender,
            id: None,
            exec: outlet.exec.clone(),
        });
        assert!(exec.look(|exec| exec.is_done()));
        assert!(matches!(events.recv().await, Some((None, Became::Ended))));
    }
}
