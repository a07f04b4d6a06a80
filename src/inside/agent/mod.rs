//! [`run`]: the agent, the first process of a confined sandbox. It starts programs and moves their
//! streams.
//!
//! The agent has one thread and no runtime. It waits in `poll` for the server, for its children and
//! for their pipes. It reads the output of a process only while that stream has credit, so it holds
//! a bounded amount of memory, and a process whose output isn't read pauses. When its input ends,
//! the server is gone: the agent exits, and the kernel kills every other process of the sandbox.
//!
//! Code is hostile. In gVisor, the agent runs as root, and code as another user. In namespaces,
//! code runs as the same user as the agent. The rest of this paragraph is about namespaces. The
//! agent is the first process (PID 1) of a PID namespace. The kernel discards a signal that code
//! sends to PID 1 if PID 1 has no handler for it, and also SIGKILL and SIGSTOP. The agent is not
//! dumpable, so code can't attach to it or open its files in `/proc`. The [filter](super::filter)
//! keeps code from changing the limits of the agent.
//!
//! gVisor can store and restore the memory of a sandbox, and with it the agent. After a restore,
//! another server is at the other ends of the agent's stdin and stdout.

mod builtin;
mod ends;
mod exec;
mod keeper;
mod main_process;
mod memory;
mod processes;
mod reaper;
mod setup;
mod sweep;
mod timer;

use std::{
    collections::BTreeMap,
    io::{self, PipeReader},
    os::{fd::BorrowedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use nix::{
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{WaitOptions, wait},
    stdio::{stdin, stdout},
};

use self::{exec::Exec, main_process::Identity, sweep::Sweep, timer::Timer};
use super::{
    filter,
    frames::{Decoder, Frame, MAX_DATA_BYTES, MAX_REQUEST_BYTES, Stream, put_control},
    messages::{Failure, Limits, PROTOCOL, Place, Reply, Request, Setup, Start},
};
use crate::protocol::excerpt;

/// The most bytes to hold for the server. Beyond that, output stays in the pipes.
const MAX_OUTGOING_BYTES: usize = 256 * 1024;

/// The most bytes to read at once from the server.
const READ_BYTES: usize = 64 * 1024;

/// How long after the start of an exec, or after a failed measurement, to measure memory.
const MEASURED_AFTER: Duration = Duration::from_millis(50);

/// The supplementary group of the first exec. Each exec gets the next one.
const FIRST_GROUP: u32 = 0x4000_0000;

/// Runs the agent until its input ends. Returns the exit code of this process.
pub(crate) fn run() -> i32 {
    match Agent::start().and_then(|mut agent| agent.serve()) {
        Ok(()) => 0,
        Err(reason) => {
            eprintln!("actix-sandbox agent: {reason}");
            1
        }
    }
}

/// What `poll` reports.
#[derive(Clone, Copy)]
enum Source {
    Input,
    Output,
    Children,
    NextPass,
    NextMeasurement,
    Exec(u32, exec::Source),
    /// The pipe at this index of `Agent::dropped`.
    Dropped(usize),
}

/// What the agent does with requests.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The server asked for a suspension, and processes are being killed.
    Suspending,
    /// The agent has confirmed the suspension, and waits for [`Request::Resume`].
    Suspended,
}

struct Agent {
    input: Decoder,
    /// Frames for the server.
    outgoing: BytesMut,
    /// Tells when a child has ended or stopped.
    children: SignalFd,
    limits: Limits,
    /// In gVisor, the user ID that code runs as, and the filter that keeps code in its groups.
    user: Option<(u32, filter::Program)>,
    /// In gVisor, the supplementary group of the exec that the current server numbers 0.
    first_group: u32,
    /// The current server has used only exec numbers below this.
    next: u32,
    phase: Phase,
    /// Output of execs of earlier servers. The agent reads and drops it, so that the processes that
    /// write to it go on.
    dropped: Vec<PipeReader>,
    execs: BTreeMap<u32, Exec>,
    /// Expires when the next pass over the processes is due.
    next_pass: Timer,
    /// In gVisor, expires when the next measurement of memory is due.
    next_measurement: Timer,
    sweep: Sweep,
    /// Holds bytes between two pipes.
    scratch: Vec<u8>,
}

impl Agent {
    /// Greets the server, and confines this process as the server asks.
    fn start() -> Result<Self, String> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        // If the sandbox has no memory left, gVisor sends SIGXFSZ to its first process, the agent.
        // The signal would end it, so block it.
        let mut blocked = signals;
        blocked.add(Signal::SIGXFSZ);
        let children = blocked
            .thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map_err(|error| format!("cannot wait for children: {error}"))?;
        let timer = || Timer::new().map_err(|error| format!("cannot create a timer: {error}"));
        let mut agent = Self {
            input: Decoder::new(MAX_REQUEST_BYTES),
            outgoing: BytesMut::new(),
            children,
            limits: Limits::default(),
            user: None,
            first_group: FIRST_GROUP,
            next: 0,
            phase: Phase::Serving,
            dropped: Vec::new(),
            execs: BTreeMap::new(),
            next_pass: timer()?,
            next_measurement: timer()?,
            sweep: Sweep::default(),
            scratch: vec![0; READ_BYTES.max(MAX_DATA_BYTES)],
        };
        agent.greet()?;
        let setup = agent.read_setup()?;
        let confined = setup::confine(&setup.place).and_then(|()| agent.take_setup(setup));
        agent.reply(&match &confined {
            Ok(()) => Reply::Ready,
            Err(reason) => failed(None, Failure::Setup, reason),
        });
        agent.write_all()?;
        confined?;
        Ok(agent)
    }

    fn greet(&mut self) -> Result<(), String> {
        self.reply(&Reply::Hello { protocol: PROTOCOL });
        self.write_all()
    }

    fn take_setup(&mut self, setup: Setup) -> Result<(), String> {
        self.limits = setup.limits;
        self.user = match setup.place {
            Place::Namespace { .. } => None,
            Place::Gvisor { user } => Some((user, filter::keep_groups()?)),
        };
        Ok(())
    }

    fn read_setup(&mut self) -> Result<Setup, String> {
        loop {
            match self.next_frame()? {
                Some(Frame::Control(message)) => match parse(&message)? {
                    Request::Setup(setup) => return Ok(setup),
                    _ => return Err("the first message is not the setup".to_owned()),
                },
                Some(_) => return Err("the first message is not the setup".to_owned()),
                None if self.read_input()? => {}
                None => return Err("the server ended before the setup".to_owned()),
            }
        }
    }

    /// Serves until the input ends.
    fn serve(&mut self) -> Result<(), String> {
        let nonblocking = rustix::io::ioctl_fionbio(stdout(), true);
        nonblocking.map_err(|error| format!("cannot set up the output: {error}"))?;
        // A larger pipe takes fewer turns of this loop. The kernel may refuse it.
        let _ = rustix::pipe::fcntl_setpipe_size(stdout(), MAX_OUTGOING_BYTES);
        loop {
            for source in self.wait()? {
                match source {
                    Source::Input => {
                        if !self.read_input()? {
                            return Ok(());
                        }
                        while let Some(frame) = self.next_frame()? {
                            self.handle_frame(frame)?;
                        }
                    }
                    Source::Output => self.write_output()?,
                    Source::Children => self.reap(),
                    Source::NextPass => self.sweep(),
                    Source::NextMeasurement => self.measure(),
                    Source::Exec(number, source) => self.handle_exec(number, source),
                    Source::Dropped(index) => self.drop_output(index),
                }
            }
            self.execs.retain(|_, exec| !exec.is_over());
            if self.phase == Phase::Suspending {
                self.suspend()?;
            }
        }
    }

    /// Waits until something is ready.
    fn wait(&self) -> Result<Vec<Source>, String> {
        let mut sources = vec![
            Source::Input,
            Source::Children,
            Source::NextPass,
            Source::NextMeasurement,
        ];
        let (input, output) = (stdin(), stdout());
        let mut polled = vec![
            PollFd::new(&input, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
            PollFd::new(&self.next_pass, PollFlags::IN),
            PollFd::new(&self.next_measurement, PollFlags::IN),
        ];
        if !self.outgoing.is_empty() {
            sources.push(Source::Output);
            polled.push(PollFd::new(&output, PollFlags::OUT));
        }
        let has_room = self.outgoing.len() < MAX_OUTGOING_BYTES;
        for (&number, exec) in &self.execs {
            exec.sources(has_room, |source, fd: BorrowedFd<'_>, flags| {
                sources.push(Source::Exec(number, source));
                polled.push(PollFd::from_borrowed_fd(fd, flags));
            });
        }
        for (index, pipe) in self.dropped.iter().enumerate().rev() {
            sources.push(Source::Dropped(index));
            polled.push(PollFd::new(pipe, PollFlags::IN));
        }
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait: {error}")),
        }
        let ready = sources.into_iter().zip(&polled);
        let ready = ready.filter(|(_, polled)| !polled.revents().is_empty());
        Ok(ready.map(|(source, _)| source).collect())
    }

    /// Reads from the server. Returns false at the end.
    fn read_input(&mut self) -> Result<bool, String> {
        match rustix::io::read(stdin(), &mut self.scratch[..READ_BYTES]) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.input.buffer().extend_from_slice(&self.scratch[..read]);
                Ok(true)
            }
            Err(Errno::INTR | Errno::AGAIN) => Ok(true),
            Err(error) => Err(format!("cannot read from the server: {error}")),
        }
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, String> {
        let frame = self.input.next_frame();
        frame.map_err(|error| format!("the server sent {error}"))
    }

    fn reply(&mut self, reply: &Reply) {
        put_reply(&mut self.outgoing, reply);
    }

    fn write_output(&mut self) -> Result<(), String> {
        match rustix::io::write(stdout(), &self.outgoing) {
            Ok(written) => self.outgoing.advance(written),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(format!("cannot write to the server: {error}")),
        }
        Ok(())
    }

    fn write_all(&mut self) -> Result<(), String> {
        while !self.outgoing.is_empty() {
            self.write_output()?;
        }
        Ok(())
    }

    fn handle_frame(&mut self, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Control(message) => self.handle_request(parse(&message)?)?,
            Frame::Data {
                exec,
                stream: Stream::Stdin,
                bytes,
            } => {
                if let Some(exec) = self.execs.get_mut(&exec) {
                    exec.handle_input(&bytes);
                }
            }
            Frame::Credit {
                exec,
                stream,
                bytes,
            } if stream != Stream::Stdin => {
                if let Some(exec) = self.execs.get_mut(&exec) {
                    exec.handle_credit(stream, bytes);
                }
            }
            Frame::Data { .. } | Frame::Credit { .. } => {
                return Err("the server sent a frame for the wrong direction".to_owned());
            }
        }
        Ok(())
    }

    fn handle_request(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Resume if self.phase == Phase::Suspended => {
                self.greet()?;
                let setup = self.read_setup()?;
                self.take_setup(setup)?;
                self.phase = Phase::Serving;
                self.next_measurement.start(MEASURED_AFTER);
                self.reply(&Reply::Ready);
            }
            _ if self.phase != Phase::Serving => {
                return Err(
                    "the server sent a request other than `Resume` to a suspended agent".to_owned(),
                );
            }
            Request::Setup(_) | Request::Resume => {
                return Err(
                    "the server sent a second setup, or a resume without a suspension".to_owned(),
                );
            }
            Request::Start(start) => match self.start_exec(&start) {
                Ok(exec) => {
                    self.execs.insert(start.exec, exec);
                    self.watch_start();
                }
                Err(error) => {
                    let reason = error.to_string();
                    self.reply(&failed(Some(start.exec), Failure::Program, &reason));
                }
            },
            Request::Kill { exec: number } => {
                // In gVisor, background processes can outlive their exec, because there is no
                // reaper that would keep it alive.
                if let Some(group) = self.user.as_ref().and_then(|_| self.group(number)) {
                    let ended = || Exec::ended(number, Some(group));
                    self.execs.entry(number).or_insert_with(ended);
                }
                match self.execs.get_mut(&number) {
                    Some(exec) => {
                        exec.handle_kill();
                        self.begin_sweep();
                    }
                    None => self.reply(&Reply::Killed { exec: number }),
                }
            }
            Request::Signal {
                exec,
                signal,
                group,
            } => self.steer(exec, |exec| exec.signal(signal, group)),
            Request::Resize { exec, size } => self.steer(exec, |exec| exec.resize(size)),
            Request::Close { exec, stderr } => {
                if let Some(exec) = self.execs.get_mut(&exec) {
                    exec.close(if stderr {
                        Stream::Stderr
                    } else {
                        Stream::Stdout
                    });
                }
            }
            Request::Suspend => {
                self.phase = Phase::Suspending;
                let running = self.execs.values_mut().filter(|exec| !exec.has_ended());
                running.for_each(Exec::handle_kill);
                self.begin_sweep();
            }
        }
        Ok(())
    }

    /// Acts on the main process of an exec, and answers.
    fn steer(&mut self, exec: u32, act: impl FnOnce(&Exec) -> nix::Result<()>) {
        let acted = self
            .execs
            .get(&exec)
            .map_or(Err(nix::errno::Errno::ESRCH), act);
        let error = acted.err().map(|error| error as i32);
        self.reply(&Reply::Steered { exec, error });
    }

    fn start_exec(&mut self, start: &Start) -> io::Result<Exec> {
        let identity = match &self.user {
            None => None,
            Some((user, filter)) => Some(Identity {
                user: *user,
                filter,
                group: self
                    .group(start.exec)
                    .ok_or_else(|| io::Error::other("no supplementary group is left"))?,
            }),
        };
        let exec = Exec::start(start, self.limits, identity)?;
        self.next = self.next.max(start.exec.saturating_add(1));
        if self.user.is_some() {
            self.next_measurement.start_if_idle(MEASURED_AFTER);
        }
        Ok(exec)
    }

    /// The supplementary group of an exec in gVisor.
    fn group(&self, exec: u32) -> Option<u32> {
        self.first_group.checked_add(exec)
    }

    /// Confirms the suspension, or does nothing while processes are being killed. After the
    /// confirmation, the server can store the memory.
    fn suspend(&mut self) -> Result<(), String> {
        if self.execs.values().any(Exec::is_being_killed) {
            return Ok(());
        }
        let execs = std::mem::take(&mut self.execs).into_values();
        self.dropped.extend(execs.flat_map(Exec::into_outputs));
        // The next server numbers its execs from 0 again. Processes of the old execs may still run,
        // so the new execs need other groups.
        self.first_group = self.first_group.saturating_add(self.next);
        self.next = 0;
        self.phase = Phase::Suspended;
        // Timers would expire in the restored memory, before a server is there.
        self.next_pass.stop();
        self.next_measurement.stop();
        let processes = processes::with_groups();
        let processes = processes.map_err(|error| format!("cannot list processes: {error}"))?;
        self.reply(&Reply::Suspended {
            has_processes: !processes.found.is_empty(),
        });
        Ok(())
    }

    /// Reads and drops output of an earlier server's exec. Closes the pipe when the output ends.
    fn drop_output(&mut self, index: usize) {
        let Some(pipe) = self.dropped.get(index) else {
            return;
        };
        match rustix::io::read(pipe, &mut self.scratch[..]) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(read) if read > 0 => {}
            // `wait` lists later pipes first, so the others keep their indices.
            Ok(_) | Err(_) => drop(self.dropped.remove(index)),
        }
    }

    /// Kills the processes that exceed the limit, and sets the timer for the next measurement.
    fn measure(&mut self) {
        self.next_measurement.take();
        match memory::enforce(self.limits.data) {
            Ok(Some(next)) => self.next_measurement.start(next),
            Ok(None) => {}
            Err(_) => self.next_measurement.start(MEASURED_AFTER),
        }
    }

    fn handle_exec(&mut self, number: u32, source: exec::Source) {
        if let Some(exec) = self.execs.get_mut(&number) {
            exec.handle_ready(source, &mut self.scratch, &mut self.outgoing);
        }
    }

    /// Takes the statuses of all children that have ended or stopped: reapers or main processes,
    /// and processes whose parent has ended.
    fn reap(&mut self) {
        let _ = self.children.read_signal();
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => (Pid::from_raw(pid.as_raw_nonzero().get()), status),
                Err(Errno::INTR) => continue,
                Ok(None) | Err(_) => break,
            };
            let mut execs = self.execs.values_mut();
            let Some(exec) = execs.find(|exec| exec.child() == Some(pid)) else {
                continue;
            };
            if status.stopped() {
                exec.handle_child_stopped();
                self.watch_stop();
                continue;
            }
            let status = ExitStatus::from_raw(status.as_raw());
            exec.handle_child_ended(status, &mut self.outgoing);
            if exec.has_lost_reaper() {
                self.begin_sweep();
            } else if exec.is_being_killed() && exec.group().is_none() {
                exec.handle_pass(false, &mut self.outgoing);
            }
        }
    }
}

fn parse(message: &Bytes) -> Result<Request, String> {
    serde_json::from_slice(message)
        .map_err(|error| format!("the server sent an invalid request: {error}"))
}

/// Appends a reply to the frames for the server.
fn put_reply(outgoing: &mut BytesMut, reply: &Reply) {
    if let Err(error) = put_control(outgoing, reply) {
        eprintln!("actix-sandbox agent: cannot encode {reply:?}: {error}");
    }
}

fn failed(exec: Option<u32>, failure: Failure, reason: &str) -> Reply {
    Reply::Failed {
        exec,
        failure,
        reason: excerpt(reason.as_bytes()),
    }
}
