//! [`NamedExec`]: an exec with a name (protocol v2), between its process, its sandbox and its
//! client.
//!
//! The state is a [`ServedExec`], shared: the process's pipes push into it, the writer of the
//! client's session pulls from it. Only the pipes wait for a client: for room in the window.

use std::sync::{Arc, Mutex, PoisonError};

use futures::task::AtomicWaker;

use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, mpsc},
};

use super::{
    execution::{Ending, ExecEvent, Outlet},
    output_pump::{MAX_PIECE_BYTES, MAX_PIPE_BYTES, Taker},
};
use crate::{
    machine::ServedExec,
    protocol::{EndReason, ExecEnd, ExecId, ServerMessage, StdStream},
    server::backend::api::{Exit, Input},
};

/// A named exec.
pub(crate) struct NamedExec {
    state: Mutex<State>,
    /// There is room for output.
    room: Notify,
    /// There is input, or none will come any more.
    input: Notify,
}

struct State {
    exec: ServedExec,
    /// The task that writes to the client.
    writer: Option<Arc<AtomicWaker>>,
    /// Why it ends with its sandbox, once it is to.
    lost: Option<String>,
    /// Its main process is gone: what its pipes held is taken whatever the window says.
    exited: bool,
    /// The same, and what exceeds that is dropped.
    dying: bool,
}

impl NamedExec {
    pub(crate) fn new(exec: ServedExec) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                exec,
                writer: None,
                lost: None,
                exited: false,
                dying: false,
            }),
            room: Notify::new(),
            input: Notify::new(),
        })
    }

    /// Looks at the exec, or makes a change that no task waits for.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut ServedExec) -> T) -> T {
        look(&mut self.lock().exec)
    }

    /// Changes the exec, and wakes the tasks that wait for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut ServedExec) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state.exec);
        let writer = state.writer.clone();
        drop(state);
        self.room.notify_waiters();
        self.input.notify_one();
        if let Some(writer) = writer {
            writer.wake();
        }
        changed
    }

    /// From now on, the writer that this waker belongs to sends what the exec has to say.
    pub(crate) fn set_writer(&self, writer: Arc<AtomicWaker>) {
        self.lock().writer = Some(writer);
    }

    /// It is about to be killed. With a reason: because its sandbox goes.
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
        self.lock().exec.poll_message()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exited(&self, ending: Ending) {
        let lost = self.lock().lost.take();
        let (reason, exit) = match ending {
            Ending::Exited(exit) => (EndReason::Exited, exit),
            Ending::TimedOut(exit) => (EndReason::TimedOut, exit),
            Ending::Killed(Ok(exit)) => (EndReason::Killed, exit),
            Ending::Killed(Err(why)) => {
                self.change(|exec| {
                    exec.handle_kill_failed(&format!("Failed to kill the process: {why}."))
                });
                (EndReason::Killed, Exit::default())
            }
        };
        let reason = match &lost {
            // One that ended by itself in the last moment did.
            Some(_) if reason != EndReason::Exited => EndReason::SandboxLost,
            _ => reason,
        };
        let end = ExecEnd {
            reason,
            exit_code: exit.code,
            signal: exit.signal,
            lengths: None,
            output_cut: false,
        };
        let why = lost.filter(|_| reason == EndReason::SandboxLost);
        self.change(|exec| exec.handle_exited(end, why));
    }
}

/// What becomes of a named exec, for its sandbox.
pub(crate) type NamedEvent = (ExecId, Became);

/// What became of a named exec.
pub(crate) enum Became {
    NotStarted(String),
    Exited,
    Ended,
}

/// The outlet of a named exec.
pub(crate) struct NamedOutlet {
    pub(crate) id: ExecId,
    pub(crate) exec: Arc<NamedExec>,
    pub(crate) events: mpsc::Sender<NamedEvent>,
}

impl Drop for NamedOutlet {
    /// The task of the exec is over; if it did not say how, it panicked.
    fn drop(&mut self) {
        if self.exec.look(|exec| !exec.is_done()) {
            self.exec.change(|exec| {
                let why = "The server lost the execution.".to_owned();
                exec.handle_exited(ExecEnd::lost(), Some(why));
                exec.handle_done(true);
            });
        }
    }
}

impl Outlet for NamedOutlet {
    fn taker(&self, stream: StdStream) -> impl Taker {
        Keeper {
            exec: self.exec.clone(),
            stream,
            after_exit: 0,
        }
    }

    async fn tell(&self, event: ExecEvent) {
        let became = match event {
            ExecEvent::Started => return self.exec.change(ServedExec::handle_started),
            ExecEvent::Output(..) => return,
            ExecEvent::NotStarted(reason) => {
                self.exec.change(ServedExec::handle_not_started);
                Became::NotStarted(reason)
            }
            ExecEvent::Exited(ending) => {
                self.exec.exited(ending);
                Became::Exited
            }
            ExecEvent::Ended { ending, cut } => {
                // Known already where its output went on. A kill after that may have failed.
                self.exec.exited(ending);
                self.exec.change(|exec| exec.handle_done(cut));
                Became::Ended
            }
        };
        let _ = self.events.send((self.id.clone(), became)).await;
    }

    async fn feed(&self, mut pipe: Input) {
        loop {
            let mut changed = std::pin::pin!(self.exec.input.notified());
            changed.as_mut().enable();
            let (next, over) = self
                .exec
                .look(|exec| (exec.poll_stdin(), exec.is_stdin_over()));
            let Some(mut data) = next else {
                if over {
                    return;
                }
                changed.await;
                continue;
            };
            while !data.is_empty() {
                match pipe.write(&data).await {
                    Ok(written) if written > 0 => {
                        bytes::Buf::advance(&mut data, written);
                        self.exec.change(|exec| exec.handle_stdin_taken(written));
                    }
                    _ => return self.exec.change(ServedExec::handle_stdin_closed),
                }
            }
        }
    }

    fn exited(&self) {
        self.exec.lock().exited = true;
        self.exec.room.notify_waiters();
    }

    fn dying(&self) {
        self.exec.will_die(None);
    }

    fn close_stdin(&self) {
        self.exec.change(ServedExec::handle_stdin_closed);
    }
}

/// Most bytes of a stream that are kept past the window after the end of its main process: what its
/// pipe can hold, and what was read of it and waits. Each stream has its own: one that a process
/// floods takes nothing from the other.
const MAX_AFTER_EXIT: usize = MAX_PIPE_BYTES + 2 * MAX_PIECE_BYTES;

/// Keeps the output of one stream.
struct Keeper {
    exec: Arc<NamedExec>,
    stream: StdStream,
    /// Bytes that were kept past the window.
    after_exit: usize,
}

impl Taker for Keeper {
    async fn take(&mut self, bytes: &[u8], _last: bool) -> bool {
        if bytes.is_empty() {
            return true;
        }
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

    fn holds_back(&self) -> bool {
        self.exec.look(|exec| exec.holds_back(self.stream))
    }

    fn handle_silence(&mut self) {
        self.exec.change(|exec| exec.handle_silence(self.stream));
    }
}
