//! The handles of an exec that an agent runs: its processes and its streams.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{oneshot, watch},
    time::timeout,
};

use super::{
    Shared,
    state::{ExecState, State},
};
use crate::{
    inside::{
        frames::{Stream, WINDOW, put_credit, put_data, put_end},
        messages::Request,
        process::{Exit, Process},
    },
    protocol::TerminalSize,
};

/// How long the agent may take to kill an exec.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// How long the agent may take to send a signal or to resize a terminal.
const STEERED_WITHIN: Duration = Duration::from_secs(10);

/// How many bytes the reader of a stream takes before the server grants the agent as many again.
const GRANT_BYTES: u32 = WINDOW / 4;

/// Keeps the state of an exec while a handle of it exists.
pub(super) struct ExecHandle {
    pub(super) exec: u32,
    pub(super) shared: Arc<Shared>,
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
pub(super) struct RemoteProcess {
    pub(super) handle: Arc<ExecHandle>,
    pub(super) exited: watch::Receiver<Option<Exit>>,
    pub(super) _needs: Box<dyn Send>,
}

impl RemoteProcess {
    /// Marks a process that never started as ended, so that the drop sends no kill.
    pub(super) fn forget(&mut self) {
        self.exited = watch::channel(Some(Exit::default())).1;
    }

    /// Asks the agent for a signal or a resize.
    async fn steer(&mut self, request: Request) -> io::Result<()> {
        let (sender, steered) = oneshot::channel();
        self.handle.with(|exec, _| exec.steered = Some(sender));
        self.handle.shared.send(&request);
        match timeout(STEERED_WITHIN, steered).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(number))) => Err(io::Error::from_raw_os_error(number)),
            Ok(Err(_)) => Err(io::Error::other(self.handle.shared.why())),
            Err(_) => {
                let reason = format!("the agent did not answer within {STEERED_WITHIN:?}");
                // A late answer would be taken for that to the next request.
                self.handle.shared.end(reason.clone());
                Err(io::Error::other(reason))
            }
        }
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

    fn signal(&mut self, signal: i32, group: bool) -> BoxFuture<'_, io::Result<()>> {
        let exec = self.handle.exec;
        Box::pin(self.steer(Request::Signal {
            exec,
            signal,
            group,
        }))
    }

    fn resize(&mut self, size: TerminalSize) -> BoxFuture<'_, io::Result<()>> {
        let exec = self.handle.exec;
        Box::pin(self.steer(Request::Resize { exec, size }))
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
pub(super) struct RemoteInput {
    pub(super) handle: Arc<ExecHandle>,
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
pub(super) struct RemoteOutput {
    pub(super) handle: Arc<ExecHandle>,
    pub(super) stream: Stream,
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
