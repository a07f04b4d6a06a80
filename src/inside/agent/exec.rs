//! [`Exec`]: a program that the agent started, with its streams.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
};

use bytes::{Buf, BytesMut};
use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use rustix::{event::PollFlags, io::Errno, process::Resource};

use super::put_reply;
use crate::inside::{
    frames::{MAX_DATA_BYTES, Stream, WINDOW, put_credit, put_data, put_end},
    messages::{Failure, Limits, Reply, Start},
    spawn,
};

/// What `poll` reports about an exec.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// The status of the main process.
    Status,
    Stdin,
    Stdout,
    Stderr,
}

pub(super) struct Exec {
    /// The parent of the main process. `None` once it has ended.
    reaper: Option<Pid>,
    main: Pid,
    /// The pipe on which the reaper reports the end of the main process. `None` once it has ended.
    status: Option<PipeReader>,
    /// Whether the end of the main process was reported to the server.
    has_exited: bool,
    /// Whether code killed the reaper. The agent is the parent of the main process then.
    has_lost_reaper: bool,
    is_being_killed: bool,
    stdin: Option<PipeWriter>,
    /// Bytes for stdin that the pipe has not accepted.
    input: BytesMut,
    /// Whether stdin ends after `input`.
    is_last_input: bool,
    stdout: Output,
    stderr: Output,
}

/// The agent's end of stdout or stderr.
struct Output {
    /// `None` once it has ended or the server has closed it.
    pipe: Option<PipeReader>,
    /// How many bytes the server accepts.
    credit: u32,
}

impl Exec {
    /// Starts a program.
    pub(super) fn start(start: &Start, limits: Limits) -> Result<Self, (Failure, String)> {
        let is_directory = fs::metadata(&start.cwd).is_ok_and(|meta| meta.is_dir());
        if !is_directory {
            return Err((Failure::Directory, start.cwd.clone()));
        }
        let spawned = || -> io::Result<Self> {
            let (status, reported) = io::pipe()?;
            let (stdin, input) = io::pipe()?;
            let (stdout, to_stdout) = io::pipe()?;
            let (stderr, to_stderr) = io::pipe()?;
            rustix::io::ioctl_fionbio(&input, true)?;
            rustix::io::ioctl_fionbio(&stdout, true)?;
            rustix::io::ioctl_fionbio(&stderr, true)?;
            let limits = [
                (Resource::Data, limits.data),
                (Resource::Nproc, limits.processes),
                (Resource::Fsize, limits.file_size),
                (Resource::Nofile, limits.open_files),
            ];
            let reaper = spawn::reaped_command(&start.program, reported.as_raw_fd(), limits)
                .args(&start.args)
                .envs(start.env.iter().map(|(name, value)| (name, value)))
                .current_dir(&start.cwd)
                .stdin(stdin)
                .stdout(to_stdout)
                .stderr(to_stderr)
                .spawn()?;
            drop(reported);
            let mut main = [0; 4];
            (&status).read_exact(&mut main)?;
            Ok(Self {
                reaper: Some(Pid::from_raw(reaper.id().cast_signed())),
                main: Pid::from_raw(i32::from_ne_bytes(main)),
                status: Some(status),
                has_exited: false,
                has_lost_reaper: false,
                is_being_killed: false,
                stdin: Some(input),
                input: BytesMut::new(),
                is_last_input: false,
                stdout: Output::new(stdout),
                stderr: Output::new(stderr),
            })
        };
        spawned().map_err(|error| (Failure::Program, error.to_string()))
    }

    /// The process whose descendants are the processes of this exec.
    pub(super) fn reaper(&self) -> Option<Pid> {
        self.reaper
    }

    /// The main process, if it is a child of the agent. Otherwise its PID may have been reused.
    pub(super) fn orphan(&self) -> Option<Pid> {
        (self.has_lost_reaper && !self.has_exited).then_some(self.main)
    }

    pub(super) fn is_being_killed(&self) -> bool {
        self.is_being_killed
    }

    pub(super) fn has_lost_reaper(&self) -> bool {
        self.has_lost_reaper
    }

    /// Whether nothing can happen to this exec any more.
    pub(super) fn is_over(&self) -> bool {
        self.reaper.is_none()
            && self.has_exited
            && !self.is_being_killed
            && self.stdout.pipe.is_none()
            && self.stderr.pipe.is_none()
    }

    pub(super) fn kill(&mut self) {
        self.is_being_killed = true;
    }

    /// Closes a stream that the server no longer reads.
    pub(super) fn close(&mut self, stream: Stream) {
        if let Some(output) = self.output(stream) {
            output.pipe = None;
        }
    }

    /// Takes bytes for stdin. No bytes mean the end of stdin.
    pub(super) fn handle_input(&mut self, bytes: &[u8]) {
        self.is_last_input |= bytes.is_empty();
        if self.stdin.is_some() {
            self.input.extend_from_slice(bytes);
        }
        self.end_input();
    }

    /// Lets the agent send more of a stream.
    pub(super) fn handle_credit(&mut self, stream: Stream, bytes: u32) {
        if let Some(output) = self.output(stream) {
            output.credit = output.credit.saturating_add(bytes);
        }
    }

    /// Notes that the reaper has ended by itself: it has no descendants left.
    pub(super) fn handle_reaper_ended(&mut self) {
        self.reaper = None;
    }

    /// Notes that code killed the reaper. If the main process lives, it is now a child of the
    /// agent.
    pub(super) fn handle_reaper_killed(&mut self, exec: u32, outgoing: &mut BytesMut) {
        self.reaper = None;
        self.has_lost_reaper = true;
        self.read_status(exec, outgoing);
        self.status = None;
        match waitpid(self.main, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(status) => self.handle_main_ended(exec, status, outgoing),
            // The reaper took the status, but could not report it.
            Err(_) => self.handle_exit(exec, None, None, outgoing),
        }
    }

    /// Notes the end of the main process, which had lost its reaper.
    pub(super) fn handle_main_ended(
        &mut self,
        exec: u32,
        status: WaitStatus,
        outgoing: &mut BytesMut,
    ) {
        match status {
            WaitStatus::Exited(_, code) => self.handle_exit(exec, Some(code), None, outgoing),
            WaitStatus::Signaled(_, signal, _) => {
                self.handle_exit(exec, None, Some(signal as i32), outgoing);
            }
            _ => {}
        }
    }

    /// Whether the kill of this exec is complete. `has_strays` tells whether processes without a
    /// reaper may be left. Returns true once.
    pub(super) fn has_been_killed(&mut self, has_strays: bool) -> bool {
        let is_gone = self.reaper.is_none() && !(self.has_lost_reaper && has_strays);
        let is_killed = self.is_being_killed && self.has_exited && is_gone;
        self.is_being_killed &= !is_killed;
        is_killed
    }

    /// Passes each source that is to be polled to `add`. Outputs are polled only if there is room
    /// for their bytes.
    pub(super) fn sources<'a>(
        &'a self,
        has_room: bool,
        mut add: impl FnMut(Source, BorrowedFd<'a>, PollFlags),
    ) {
        if let Some(status) = &self.status {
            add(Source::Status, status.as_fd(), PollFlags::IN);
        }
        if let Some(stdin) = &self.stdin {
            let flags = match self.input.is_empty() {
                // Reports only that no process can read it any more.
                true => PollFlags::empty(),
                false => PollFlags::OUT,
            };
            add(Source::Stdin, stdin.as_fd(), flags);
        }
        for (source, output) in [
            (Source::Stdout, &self.stdout),
            (Source::Stderr, &self.stderr),
        ] {
            if let Some(pipe) = &output.pipe
                && output.credit > 0
                && has_room
            {
                add(source, pipe.as_fd(), PollFlags::IN);
            }
        }
    }

    /// Handles a source that is ready, and appends the frames for the server.
    pub(super) fn handle_ready(
        &mut self,
        exec: u32,
        source: Source,
        scratch: &mut [u8],
        outgoing: &mut BytesMut,
    ) {
        match source {
            Source::Status => self.read_status(exec, outgoing),
            Source::Stdin => self.write_input(exec, outgoing),
            Source::Stdout => self.stdout.read(exec, Stream::Stdout, scratch, outgoing),
            Source::Stderr => self.stderr.read(exec, Stream::Stderr, scratch, outgoing),
        }
    }

    /// Reads the end of the main process.
    fn read_status(&mut self, exec: u32, outgoing: &mut BytesMut) {
        let mut status = [0; 4];
        let Some(pipe) = &self.status else { return };
        match rustix::io::read(pipe, &mut status) {
            Ok(4) => {
                let status = ExitStatus::from_raw(i32::from_ne_bytes(status));
                self.status = None;
                self.handle_exit(exec, status.code(), status.signal(), outgoing);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The reaper was killed before that.
            Ok(_) | Err(_) => self.status = None,
        }
    }

    /// Reports the end of the main process, unless it was reported.
    fn handle_exit(
        &mut self,
        exec: u32,
        code: Option<i32>,
        signal: Option<i32>,
        outgoing: &mut BytesMut,
    ) {
        if !std::mem::replace(&mut self.has_exited, true) {
            put_reply(outgoing, &Reply::Exited { exec, code, signal });
        }
    }

    /// Writes to stdin what the pipe accepts.
    fn write_input(&mut self, exec: u32, outgoing: &mut BytesMut) {
        let Some(stdin) = &self.stdin else { return };
        if self.input.is_empty() {
            return self.refuse_input(exec, outgoing);
        }
        match rustix::io::write(stdin, &self.input) {
            Ok(written) => {
                self.input.advance(written);
                put_credit(outgoing, exec, Stream::Stdin, written as u32);
                self.end_input();
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.refuse_input(exec, outgoing),
        }
    }

    /// Closes stdin after its last byte.
    fn end_input(&mut self) {
        if self.is_last_input && self.input.is_empty() {
            self.stdin = None;
        }
    }

    /// Closes stdin, which no process can read any more, and tells the server.
    fn refuse_input(&mut self, exec: u32, outgoing: &mut BytesMut) {
        self.stdin = None;
        self.input.clear();
        put_end(outgoing, exec, Stream::Stdin);
    }

    fn output(&mut self, stream: Stream) -> Option<&mut Output> {
        match stream {
            Stream::Stdin => None,
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
        }
    }
}

impl Output {
    fn new(pipe: PipeReader) -> Self {
        Self {
            pipe: Some(pipe),
            credit: WINDOW,
        }
    }

    /// Moves bytes from the pipe to the server.
    fn read(&mut self, exec: u32, stream: Stream, scratch: &mut [u8], outgoing: &mut BytesMut) {
        let Some(pipe) = &self.pipe else { return };
        let room = MAX_DATA_BYTES.min(self.credit as usize).min(scratch.len());
        match rustix::io::read(pipe, &mut scratch[..room]) {
            Ok(read) if read > 0 => {
                self.credit -= read as u32;
                put_data(outgoing, exec, stream, &scratch[..read]);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) | Err(_) => {
                self.pipe = None;
                put_end(outgoing, exec, stream);
            }
        }
    }
}
