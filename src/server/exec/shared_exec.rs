//! [`SharedExec`]: an exec, shared by its process, its sandbox and its client.
//!
//! The pipes of the process push output into the state machine, and the writer of the client's
//! session polls it. Only the pipes wait for a client: for room in the window. The exec without a
//! name (v1) has a [`V1Adapter`] as well.

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
    machine::ServedExec,
    protocol::{EndReason, ExecEnd, ExecId, ServerMessage, StdStream, Version},
    server::backend::api::{Exit, Input},
};

/// Maximum size of a piece of output in one message, in bytes.
pub(super) const MAX_PIECE_BYTES: usize = 64 * 1024;

/// The most that a pipe can hold, in bytes (`/proc/sys/fs/pipe-max-size`).
pub(super) const MAX_PIPE_BYTES: usize = 1024 * 1024;

/// Unread input of v1 above which the session reads slower, in bytes.
const SLOW_DOWN_AT: u64 = 1024 * 1024;

/// A process that has taken no input for this long counts as not reading.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// How the main process of an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself.
    Exited(Exit),
    /// A client or the server killed it, or the processes that held its output. An error is the
    /// reason why that failed.
    Killed(Result<Exit, String>),
    /// It reached its time limit.
    TimedOut(Exit),
}

/// An exec.
pub(crate) struct SharedExec {
    state: Mutex<State>,
    /// There is room for output, or the process has taken input.
    room: Notify,
    /// There is input, or no more input comes.
    input: Notify,
}

struct State {
    exec: ServedExec,
    /// Of the exec without a name.
    v1: Option<V1Adapter>,
    /// The task that writes to the client.
    writer: Option<Arc<AtomicWaker>>,
    /// Why the exec ends with its sandbox.
    lost: Option<String>,
    /// The main process has exited: the output in its pipes is kept, whatever the window.
    exited: bool,
    /// As `exited`, and further output is dropped.
    dying: bool,
    /// How much input the process had received when a session last waited for it in vain.
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
                stalled: None,
            }),
            room: Notify::new(),
            input: Notify::new(),
        })
    }

    /// Reads the state, or makes a change that no task waits for.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut ServedExec) -> T) -> T {
        look(&mut self.lock().exec)
    }

    /// Changes the state, and wakes the tasks that wait for that.
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

    /// From now on, the task of this waker sends the messages of the exec.
    pub(crate) fn set_writer(&self, writer: Arc<AtomicWaker>) {
        self.lock().writer = Some(writer);
    }

    /// The exec is about to be killed. With a reason: because its sandbox ends.
    pub(crate) fn will_die(&self, lost: Option<String>) {
        let mut state = self.lock();
        state.dying = true;
        if state.lost.is_none() {
            state.lost = lost;
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// The next message to the client.
    pub(crate) fn poll_message(&self) -> Option<ServerMessage> {
        let mut state = self.lock();
        let State { exec, v1, .. } = &mut *state;
        match v1 {
            None => exec.poll_message(),
            Some(v1) => {
                let message = v1.poll_message(exec);
                drop(state);
                // Output that was taken makes room.
                self.room.notify_waiters();
                message
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It ends without an exit of its main process.
    pub(super) fn lose(&self, why: String) {
        self.change(|exec| {
            exec.handle_exited(ExecEnd::lost(), Some(why));
            exec.handle_done(true);
        });
    }

    /// Its main process ended.
    pub(super) fn handle_exited(&self, ending: Ending) {
        self.change_state(|state| {
            let (reason, exit) = match ending {
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
            // An exec that exited by itself in the last moment is not lost.
            let lost = state.lost.take().filter(|_| reason != EndReason::Exited);
            let end = ExecEnd {
                reason: lost.as_ref().map_or(reason, |_| EndReason::SandboxLost),
                exit_code: exit.code,
                signal: exit.signal,
                lengths: None,
                output_cut: false,
            };
            state.exec.handle_exited(end, lost);
        });
    }
}

/// The exec without a name.
impl SharedExec {
    /// Whether its client must wait for its end before it may start another.
    pub(crate) fn is_in_progress(&self) -> bool {
        self.look(|exec| !exec.is_done() || exec.is_attached() && !exec.is_settled())
    }

    /// A client takes over the exec, on a link of this version.
    pub(crate) fn reconnect(&self, version: Version) {
        self.change_state(|State { exec, v1, .. }| {
            if let Some(v1) = v1 {
                v1.attach(exec, version);
            }
        });
    }

    /// The link is lost.
    pub(crate) fn detach(&self) {
        let mut state = self.lock();
        state.exec.detach();
        if let Some(v1) = &mut state.v1 {
            v1.kills = 0;
        }
    }

    /// A client asks for a kill. Returns whether the answer comes with the end.
    pub(crate) fn expect_kill(&self) -> bool {
        let State { exec, v1, .. } = &mut *self.lock();
        match v1 {
            Some(v1) if !exec.is_done() => {
                v1.kills += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes input, or returns the reason why not. Never waits.
    pub(crate) fn push_stdin(&self, data: &str) -> Result<(), String> {
        self.change_state(|State { exec, v1, .. }| match v1 {
            Some(v1) => v1.push_stdin(exec, data.as_bytes()),
            None => Err(STDIN_CLOSED.to_owned()),
        })
    }

    /// Waits while much input waits and the process reads. Returns at once if the process doesn't
    /// read, so that it delays no kill.
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

/// An event of an exec, for its sandbox. The exec of v1 has no id.
pub(crate) type ExecEvent = (Option<ExecId>, Became);

/// What became of an exec.
pub(crate) enum Became {
    NotStarted(String),
    /// The main process exited, and the output has not ended.
    Exited,
    Ended,
}

/// The exec as its task sees it.
pub(crate) struct Outlet {
    pub(crate) id: Option<ExecId>,
    pub(crate) exec: Arc<SharedExec>,
    pub(crate) events: mpsc::Sender<ExecEvent>,
}

impl Drop for Outlet {
    /// The task of the exec is over. If it did not report an end, it panicked.
    fn drop(&mut self) {
        if self.exec.look(|exec| !exec.is_done()) {
            self.exec.lose("The server lost the execution.".to_owned());
        }
    }
}

impl Outlet {
    /// The code could not be started.
    pub(crate) async fn not_started(&self, reason: String) {
        match self.id {
            Some(_) => self.exec.change(ServedExec::handle_not_started),
            // Its client waits for an end.
            None => self.exec.lose(reason.clone()),
        }
        self.send(Became::NotStarted(reason)).await;
    }

    /// The main process exited, and the output has not ended.
    pub(super) async fn exited(&self, ending: Ending) {
        self.exec.handle_exited(ending);
        self.send(Became::Exited).await;
    }

    /// The output ended, after the main process.
    pub(super) async fn ended(&self, ending: Ending, cut: bool) {
        // Known already if the output went on. A kill after that may have failed.
        self.exec.handle_exited(ending);
        self.exec.change(|exec| exec.handle_done(cut));
        self.send(Became::Ended).await;
    }

    async fn send(&self, became: Became) {
        let _ = self.events.send((self.id.clone(), became)).await;
    }

    /// Moves input to the pipe of the process, until no more comes. May be dropped.
    pub(super) async fn feed(&self, mut pipe: Input) {
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
                match pipe.write(&data).await {
                    Ok(written) if written > 0 => {
                        data.advance(written);
                        self.exec.change(|exec| exec.handle_stdin_taken(written));
                    }
                    _ => return self.exec.change(ServedExec::handle_stdin_closed),
                }
            }
        }
    }

    /// The main process is gone: the output in its pipes is kept, even if there is no room for it.
    pub(super) fn keep_rest(&self) {
        self.exec.lock().exited = true;
        self.exec.room.notify_waiters();
    }

    /// Where the output of a stream goes.
    pub(super) fn keeper(&self, stream: StdStream) -> Keeper {
        Keeper {
            exec: self.exec.clone(),
            stream,
            after_exit: 0,
        }
    }
}

/// Maximum size of the output of a stream that is kept past the window after the exit: what its
/// pipe can hold, and what was read from it before. Each stream has its own limit, so a flooded one
/// takes nothing from the other.
const MAX_AFTER_EXIT: usize = MAX_PIPE_BYTES + 2 * MAX_PIECE_BYTES;

/// Keeps the output of one stream.
pub(super) struct Keeper {
    exec: Arc<SharedExec>,
    stream: StdStream,
    /// Bytes that were kept past the window.
    after_exit: usize,
}

impl Keeper {
    /// Keeps a piece as soon as there is room for it. Returns false if it was dropped.
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

    /// Whether the beginning of a code point is to be sent after a pause. Under v1 it can't be.
    pub(super) fn holds_back(&self) -> bool {
        let state = self.exec.lock();
        state.v1.is_none() && state.exec.holds_back(self.stream)
    }

    /// The process printed nothing for a while.
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
        let feeding = tokio::spawn(async move { outlet.feed(Box::new(writer)).await });
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
            // Output is no progress of the input.
            exec.change(|exec| exec.handle_output(StdStream::Stdout, b"x"));
            exec.make_way().await;
        }
        assert!(started.elapsed() < 2 * STALLED_AFTER);
        let refused = exec.push_stdin("x").unwrap_err();
        let says = "has not read the 4194304 bytes before it, and at most 4194304 may wait";
        assert!(refused.contains(says), "{refused}");
        exec.make_way().await;
    }
}
