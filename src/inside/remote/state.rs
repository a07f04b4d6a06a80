//! [`State`]: what the server knows of an agent and its execs, and the rules that the frames of the
//! agent must keep. No IO.

use std::{collections::HashMap, task::Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::{oneshot, watch};

use crate::inside::{
    frames::{Frame, Stream, WINDOW, put_control},
    messages::{Failure, PROTOCOL, Reply, Request, Setup},
    process::Exit,
};

/// Why a program was not started.
pub(crate) enum NotStarted {
    /// The working directory does not exist or is not a directory.
    NoDirectory,
    /// The code may not enter its working directory, for this reason.
    DirectoryDenied(String),
    /// Another reason, to report to the client.
    Failed(String),
}

pub(super) struct State {
    /// The state of the connection until the agent is ready, then `None`.
    pub(super) greeting: Option<Greeting>,
    /// The number of the next exec.
    pub(super) next: u32,
    /// The execs that have handles.
    pub(super) execs: HashMap<u32, ExecState>,
    pub(super) outgoing: BytesMut,
    /// Set by a request to suspend: how many bytes of `outgoing` may still be sent. Later frames
    /// are dropped, because a checkpoint must not contain a part of a frame.
    pub(super) sealed: Option<usize>,
    /// Receives whether the suspended sandbox has processes.
    pub(super) suspended: Option<oneshot::Sender<bool>>,
}

pub(super) struct Greeting {
    /// The setup to send after the greeting.
    pub(super) setup: Option<Setup>,
    pub(super) ready: oneshot::Sender<Result<(), String>>,
}

pub(super) struct ExecState {
    pub(super) started: Option<oneshot::Sender<Result<(), NotStarted>>>,
    pub(super) exit: Option<watch::Sender<Option<Exit>>>,
    pub(super) killed: Option<oneshot::Sender<()>>,
    /// Receives the answer to a signal or a resize: the error number if it failed.
    pub(super) steered: Option<oneshot::Sender<Option<i32>>>,
    pub(super) stdin: InputState,
    pub(super) stdout: OutputState,
    pub(super) stderr: OutputState,
}

pub(super) struct InputState {
    pub(super) is_open: bool,
    /// How many bytes the agent accepts.
    pub(super) credit: u32,
    pub(super) waker: Option<Waker>,
}

pub(super) struct OutputState {
    pub(super) is_open: bool,
    /// Whether the agent ended before the stream.
    pub(super) is_cut: bool,
    /// Bytes that have not been read. They are copied, because a slice of a received buffer would
    /// keep the whole buffer in memory.
    pub(super) queue: BytesMut,
    /// How many bytes the agent may still send.
    pub(super) credit: u32,
    /// How many bytes were read but not yet granted to the agent again.
    pub(super) taken: u32,
    pub(super) waker: Option<Waker>,
}

impl OutputState {
    pub(super) fn new() -> Self {
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
    pub(super) fn new(
        started: oneshot::Sender<Result<(), NotStarted>>,
        exit: watch::Sender<Option<Exit>>,
    ) -> Self {
        Self {
            started: Some(started),
            exit: Some(exit),
            killed: None,
            steered: None,
            stdin: InputState {
                is_open: true,
                credit: WINDOW,
                waker: None,
            },
            stdout: OutputState::new(),
            stderr: OutputState::new(),
        }
    }

    pub(super) fn output(&mut self, stream: Stream) -> &mut OutputState {
        match stream {
            Stream::Stderr => &mut self.stderr,
            Stream::Stdin | Stream::Stdout => &mut self.stdout,
        }
    }

    /// Settles all pending calls, because the agent has ended. Output that has arrived can still be
    /// read.
    pub(super) fn end(&mut self) {
        self.started = None;
        self.exit = None;
        self.killed = None;
        self.steered = None;
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

impl State {
    /// Handles a frame of the agent. Fails if the frame breaks the rules.
    pub(super) fn handle(&mut self, frame: Frame) -> Result<(), String> {
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
                            "it is of another release: it speaks version {protocol} of the protocol \
                             with the server, and this server speaks version {PROTOCOL}"
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
            Reply::Steered { exec, error } => {
                if let Some(exec) = self.exec(exec)? {
                    // The caller may have stopped waiting.
                    if let Some(steered) = exec.steered.take() {
                        let _ = steered.send(error);
                    }
                }
            }
            Reply::Suspended { has_processes } => {
                let suspended = self.suspended.take();
                let suspended =
                    suspended.ok_or("it answered a suspension that the server didn't request")?;
                let _ = suspended.send(has_processes);
            }
            Reply::Hello { .. } | Reply::Ready | Reply::Failed { exec: None, .. } => {
                return Err("it greeted twice".to_owned());
            }
        }
        Ok(())
    }

    /// Drops the frames after a request to suspend. Returns whether frames are left to send.
    pub(super) fn seal(&mut self) -> bool {
        if let Some(sealed) = self.sealed {
            self.outgoing.truncate(sealed);
        }
        !self.outgoing.is_empty()
    }

    /// The frames to write now.
    pub(super) fn take_outgoing(&mut self) -> BytesMut {
        self.seal();
        self.sealed = self.sealed.map(|_| 0);
        std::mem::take(&mut self.outgoing)
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
