//! [`Exec`]: a program that the agent started, with its streams.

use std::{
    fs,
    io::{self, PipeReader, PipeWriter, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    },
    process::ExitStatus,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{event::PollFlags, io::Errno};

use super::{
    builtin,
    ends::Ends,
    failed,
    keeper::{self, Keeper, find_signal},
    main_process::{self, Identity, Report},
    processes::continue_if_stopped,
    put_reply, reaper, timer,
};
use crate::{
    inside::{
        frames::{MAX_DATA_BYTES, Stream, WINDOW, put_credit, put_data, put_end},
        messages::{File, Limits, Program, Reply, Start},
        spawn,
        terminal::Terminal,
    },
    protocol::TerminalSize,
};

/// How long a builtin may take to stop. After that, its process is killed. The server waits longer.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// How many passes look for a reported stop. It may end by itself, and gVisor reports it early: see
/// [`continue_if_stopped`].
const LOOKS_FOR_STOP: u8 = 250;

/// What `poll` reports about an exec.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Reports,
    Stdin,
    Stdout,
    Stderr,
}

pub(super) struct Exec {
    number: u32,
    /// The child of the agent: the reaper, or the main process if there is no reaper. `None` once
    /// it has ended.
    child: Option<Pid>,
    /// The main process. `None` before the agent knows that it was started, and once the agent
    /// knows that it has ended.
    main: Option<Pid>,
    /// The supplementary group of the processes. `None` if a reaper holds them together.
    group: Option<u32>,
    /// Carries reports about the main process. `None` after the last report.
    reports: Option<PipeReader>,
    /// The file with the code, if the agent wrote it. Removed when the main process has ended.
    file: Option<WrittenFile>,
    /// Closing this stops the builtin. `None` if the exec isn't a builtin, or is being killed.
    stop: Option<PipeWriter>,
    /// When the process of a builtin that is being killed gets SIGKILL: see [`timer::now`].
    stops_by: Option<Duration>,
    /// How many more passes look whether the child, which was reported as stopped, is stopped.
    looks_for_stop: u8,
    /// What was told to the server.
    told: Told,
    /// Whether code killed the reaper. Then all processes of the exec are killed.
    has_lost_reaper: bool,
    /// Whether the server asked for a kill and waits for the answer.
    is_kill_asked: bool,
    stdin: Option<PipeWriter>,
    /// Bytes for stdin that the pipe has not accepted.
    input: BytesMut,
    /// Whether stdin ends after `input`.
    is_last_input: bool,
    stdout: Output,
    stderr: Output,
    /// `None` without a terminal, and once the main process has ended.
    terminal: Option<Terminal>,
    /// Sends signals to the foreground of the terminal, in gVisor.
    keeper: Option<Keeper>,
    /// Whether the keeper is sending a signal that was typed. Later input waits, because the signal
    /// discards earlier input.
    is_signaling: bool,
}

/// What the server knows of the main process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Started,
    /// The main process has ended, or was not started.
    End,
}

/// The agent's end of stdout or stderr.
struct Output {
    /// `None` once it has ended or the server has closed it.
    pipe: Option<PipeReader>,
    /// How many bytes the server accepts.
    credit: u32,
    /// Whether the output ends with the last byte that can be read now.
    drains: bool,
}

/// A file that was written for an exec. Dropping this removes it.
struct WrittenFile(String);

impl Drop for WrittenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl WrittenFile {
    fn new(file: &File) -> io::Result<Self> {
        let mut opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&file.path)?;
        let written = Self(file.path.clone());
        opened.write_all(file.text.as_bytes())?;
        Ok(written)
    }
}

impl Exec {
    /// Begins to start a program. A later reply tells the server whether the program started.
    /// Without an `identity`, the program runs as the user of the agent, with a reaper.
    pub(super) fn start(
        start: &Start,
        limits: Limits,
        identity: Option<Identity<'_>>,
    ) -> io::Result<Self> {
        let file = start.file.as_ref().map(WrittenFile::new).transpose()?;
        let (reports, reported) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reports, true)?;
        let Ends {
            stdio,
            stdin,
            stdout,
            stderr,
            terminal,
        } = Ends::new(start.terminal, identity)?;
        let (mut stop, mut keeper) = (None, None);
        let child = match (&start.program, identity) {
            (Program::File { path, args }, Some(identity)) if terminal.is_some() => {
                let program = (path.as_str(), args.as_slice());
                let (child, started) =
                    keeper::start(start, program, limits, identity, stdio, reported)?;
                keeper = Some(started);
                child
            }
            (Program::File { path, args }, Some(identity)) => {
                main_process::start(start, (path, args), limits, identity, stdio, reported)?
            }
            (Program::File { path, args }, None) => {
                reaper::start(start, (path, args), limits, stdio, reported)?
            }
            (Program::Builtin(builtin), identity) => {
                let (stopped, stopper) = io::pipe()?;
                stop = Some(stopper);
                let home = &start.cwd;
                builtin::start(builtin, home, limits, identity, stdio, stopped, reported)?
            }
        };
        Ok(Self {
            child: Some(child),
            reports: Some(reports),
            file,
            stop,
            told: Told::Nothing,
            stdin: Some(stdin),
            stdout: Output::new(Some(stdout)),
            stderr: Output::new(stderr),
            terminal,
            keeper,
            ..Self::ended(start.exec, identity.map(|identity| identity.group))
        })
    }

    /// An exec whose main process has ended. Processes of its group may be left.
    pub(super) fn ended(number: u32, group: Option<u32>) -> Self {
        Self {
            number,
            child: None,
            main: None,
            group,
            reports: None,
            file: None,
            stop: None,
            stops_by: None,
            looks_for_stop: 0,
            told: Told::End,
            has_lost_reaper: false,
            is_kill_asked: false,
            stdin: None,
            input: BytesMut::new(),
            is_last_input: false,
            stdout: Output::new(None),
            stderr: Output::new(None),
            terminal: None,
            keeper: None,
            is_signaling: false,
        }
    }

    /// The reaper, or the main process of an exec without a reaper.
    pub(super) fn child(&self) -> Option<Pid> {
        self.child
    }

    pub(super) fn group(&self) -> Option<u32> {
        self.group
    }

    /// The ends of stdout and stderr, if they are open.
    pub(super) fn into_outputs(self) -> impl Iterator<Item = PipeReader> {
        self.stdout.pipe.into_iter().chain(self.stderr.pipe)
    }

    /// Whether the processes of this exec are to be killed.
    pub(super) fn is_being_killed(&self) -> bool {
        self.is_kill_asked || self.has_lost_reaper
    }

    /// Whether the main process has not been started yet.
    pub(super) fn is_starting(&self) -> bool {
        self.told == Told::Nothing
    }

    /// Whether processes of this exec may have no reaper.
    pub(super) fn has_lost_reaper(&self) -> bool {
        self.has_lost_reaper
    }

    /// Whether nothing can happen to this exec any more.
    pub(super) fn is_over(&self) -> bool {
        self.child.is_none()
            && self.told == Told::End
            && !self.is_being_killed()
            && self.stdout.pipe.is_none()
            && self.stderr.pipe.is_none()
    }

    /// Handles the server's request to kill this exec.
    pub(super) fn handle_kill(&mut self) {
        self.is_kill_asked = true;
        // The builtin must see the kill before the end of its input, which would commit a write.
        if self.stop.take().is_some() {
            self.stops_by = Some(timer::now() + STOPS_WITHIN);
        }
    }

    /// Sends a signal to the main process, or to its process group.
    pub(super) fn signal(&self, signal: i32, group: bool) -> nix::Result<()> {
        // If a reaper has just reaped the main process, no process has its PID: the kernel gives
        // other PIDs first. In any case, the signal stays in the sandbox.
        let main = self.main.ok_or(nix::errno::Errno::ESRCH)?.as_raw();
        spawn::send_signal(if group { -main } else { main }, signal)
    }

    /// Changes the size of the terminal.
    pub(super) fn resize(&self, size: TerminalSize) -> nix::Result<()> {
        self.main.ok_or(nix::errno::Errno::ESRCH)?;
        let terminal = self.terminal.as_ref().ok_or(nix::errno::Errno::ENOTTY)?;
        terminal.resize(size)?;
        if let Some(keeper) = &self.keeper {
            keeper.signal(Signal::SIGWINCH, 0);
        }
        Ok(())
    }

    /// Whether this is a builtin.
    pub(super) fn is_builtin(&self) -> bool {
        self.stop.is_some() || self.stops_by.is_some()
    }

    /// Notes that the child has stopped. Passes must continue it if it is a reaper, a keeper or
    /// a builtin, because only code stops those. Code may stop its own main process.
    pub(super) fn handle_child_stopped(&mut self) {
        if self.group.is_none() || self.is_builtin() || self.keeper.is_some() {
            self.looks_for_stop = LOOKS_FOR_STOP;
        }
    }

    /// Whether passes must continue the child.
    pub(super) fn has_stopped(&self) -> bool {
        self.looks_for_stop > 0
    }

    /// Continues a child that was reported as stopped, or a builtin that is being killed. Kills a
    /// builtin that has not ended in time after a kill.
    pub(super) fn hurry_child(&mut self) {
        let Some(child) = self.child else {
            self.looks_for_stop = 0;
            return;
        };
        let was_stopped = self.has_stopped();
        self.looks_for_stop = self.looks_for_stop.saturating_sub(1);
        if self.stops_by.is_some_and(|by| timer::now() >= by) {
            let _ = kill(child, Signal::SIGKILL);
        } else if (was_stopped || self.stops_by.is_some()) && continue_if_stopped(child) {
            self.looks_for_stop = 0;
        }
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

    /// Whether the main process has ended or was not started, and the server knows.
    pub(super) fn has_ended(&self) -> bool {
        self.told == Told::End
    }

    /// Handles the end of the child. A reaper that was not killed has no descendants left. A keeper
    /// that was not killed has reported the end of the main process.
    pub(super) fn handle_child_ended(&mut self, status: ExitStatus, outgoing: &mut BytesMut) {
        self.child = None;
        // The child may have written reports before it ended.
        while self.read_report(outgoing) {}
        self.reports = None;
        if self.group.is_none() || self.keeper.is_some() {
            self.has_lost_reaper = status.code().is_none() || self.told != Told::End;
        } else if self.told == Told::Started {
            self.tell_exit(status, outgoing);
        }
    }

    /// If no process of this exec is left, tells the server how it ended, and confirms a kill.
    /// `has_strays` is whether processes of this exec, other than the child, may be left.
    pub(super) fn handle_pass(&mut self, has_strays: bool, outgoing: &mut BytesMut) {
        let depends_on_strays = self.has_lost_reaper || self.group.is_some();
        if self.child.is_some() || (depends_on_strays && has_strays) {
            return;
        }
        self.has_lost_reaper = false;
        match self.told {
            // Killed while it started. Its code may have run.
            Told::Nothing => {
                self.tell_start(outgoing);
                self.tell_exit(ExitStatus::from_raw(9), outgoing);
            }
            // Killed together with its reaper, or after it.
            Told::Started => self.tell_exit(ExitStatus::from_raw(9), outgoing),
            Told::End => {}
        }
        self.told = Told::End;
        if std::mem::take(&mut self.is_kill_asked) {
            put_reply(outgoing, &Reply::Killed { exec: self.number });
        }
    }

    /// Calls `add` with each source to poll. Leaves out an output without credit, and all outputs
    /// unless `has_room`.
    pub(super) fn sources<'a>(
        &'a self,
        has_room: bool,
        mut add: impl FnMut(Source, BorrowedFd<'a>, PollFlags),
    ) {
        if let Some(reports) = &self.reports {
            add(Source::Reports, reports.as_fd(), PollFlags::IN);
        }
        if let Some(stdin) = &self.stdin {
            let flags = match self.input.is_empty() || self.is_signaling {
                // Without flags, `poll` only reports that no process can read stdin any more.
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
                let flags = match output.drains {
                    // A terminal takes input at any time, so this is ready at once.
                    true => PollFlags::IN | PollFlags::OUT,
                    false => PollFlags::IN,
                };
                add(source, pipe.as_fd(), flags);
            }
        }
    }

    /// Handles a source that is ready, and appends the frames for the server.
    pub(super) fn handle_ready(
        &mut self,
        source: Source,
        scratch: &mut [u8],
        outgoing: &mut BytesMut,
    ) {
        let exec = self.number;
        match source {
            Source::Reports => {
                self.read_report(outgoing);
            }
            Source::Stdin => self.write_input(outgoing),
            Source::Stdout => self.stdout.read(exec, Stream::Stdout, scratch, outgoing),
            Source::Stderr => self.stderr.read(exec, Stream::Stderr, scratch, outgoing),
        }
    }

    /// Reads one report and passes it to the server. Returns whether there was one.
    fn read_report(&mut self, outgoing: &mut BytesMut) -> bool {
        let mut report = [0; Report::BYTES];
        let Some(pipe) = &self.reports else {
            return false;
        };
        match rustix::io::read(pipe, &mut report) {
            Ok(Report::BYTES) => {}
            Err(Errno::INTR | Errno::AGAIN) => return false,
            // The pipe has ended. If there is a reaper, it has ended: see `handle_child_ended`. If
            // there is none, the main process has executed its program, or was killed before that.
            Ok(_) | Err(_) => {
                self.reports = None;
                if self.group.is_some() && self.told == Told::Nothing {
                    self.main = self.child;
                    self.tell_start(outgoing);
                }
                return false;
            }
        }
        match Report::from_bytes(report) {
            Report::Started(pid) if self.told == Told::Nothing && pid > 1 => {
                self.main = Some(Pid::from_raw(pid));
                self.tell_start(outgoing);
            }
            // Only a forged report can say so.
            Report::Started(_) => {}
            Report::Signaled => self.is_signaling = false,
            Report::NotStarted(failure, error) => {
                self.told = Told::End;
                let reason = io::Error::from_raw_os_error(error).to_string();
                put_reply(outgoing, &failed(Some(self.number), failure, &reason));
            }
            Report::Ended(status) => self.tell_exit(ExitStatus::from_raw(status), outgoing),
        }
        true
    }

    fn tell_start(&mut self, outgoing: &mut BytesMut) {
        self.told = Told::Started;
        put_reply(outgoing, &Reply::Started { exec: self.number });
    }

    /// Tells the server the end of the main process.
    fn tell_exit(&mut self, status: ExitStatus, outgoing: &mut BytesMut) {
        self.told = Told::End;
        self.main = None;
        // In gVisor, a terminal never ends by itself.
        self.stdout.drains = self.keeper.is_some();
        self.terminal = None;
        self.file = None;
        let reply = Reply::Exited {
            exec: self.number,
            code: status.code(),
            signal: status.signal(),
        };
        put_reply(outgoing, &reply);
    }

    /// Writes to stdin what the pipe accepts.
    fn write_input(&mut self, outgoing: &mut BytesMut) {
        let Some(stdin) = &self.stdin else { return };
        if self.input.is_empty() {
            return self.refuse_input(outgoing);
        }
        // The part of the input that does not make the terminal send a signal.
        let mut plain = self.input.len();
        if let (Some(keeper), Some(terminal)) = (&self.keeper, &self.terminal)
            && let Some((at, signal)) = find_signal(terminal, &self.input)
        {
            if at == 0 {
                self.is_signaling = keeper.signal(signal, self.input[0]);
                return self.input_taken(1, outgoing);
            }
            plain = at;
        }
        match rustix::io::write(stdin, &self.input[..plain]) {
            Ok(written) => self.input_taken(written, outgoing),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.refuse_input(outgoing),
        }
    }

    fn input_taken(&mut self, bytes: usize, outgoing: &mut BytesMut) {
        self.input.advance(bytes);
        put_credit(outgoing, self.number, Stream::Stdin, bytes as u32);
        self.end_input();
    }

    /// Closes stdin after its last byte.
    fn end_input(&mut self) {
        if self.is_last_input && self.input.is_empty() {
            self.stdin = None;
        }
    }

    /// Closes stdin, which no process can read any more, and tells the server.
    fn refuse_input(&mut self, outgoing: &mut BytesMut) {
        self.stdin = None;
        self.input.clear();
        put_end(outgoing, self.number, Stream::Stdin);
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
    fn new(pipe: Option<PipeReader>) -> Self {
        Self {
            pipe,
            credit: WINDOW,
            drains: false,
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
            Err(Errno::AGAIN) if !self.drains => {}
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => {
                self.pipe = None;
                put_end(outgoing, exec, stream);
            }
        }
    }
}
