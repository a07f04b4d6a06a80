//! [`run`]: the agent, the first process of a `namespace` sandbox. It starts programs and moves
//! their streams.
//!
//! The agent has one thread and no runtime. It waits in `poll` for the server, for its children and
//! for their pipes. It reads the output of a process only while that stream has credit, so it holds
//! a bounded amount of memory, and a process whose output isn't read pauses. When its input ends,
//! the server is gone: the agent exits, and the kernel kills every other process of the sandbox.
//!
//! Code runs as the same user as the agent, and is hostile. The agent is the first process (PID 1)
//! of a PID namespace. The kernel discards a signal that code sends to PID 1 if PID 1 has no
//! handler for it, and also SIGKILL and SIGSTOP. The agent is not dumpable, so code can't attach to
//! it or open its files in `/proc`. The [filter](super::filter) keeps code from changing the limits
//! of the agent.

mod exec;
mod processes;
mod reaper;
mod setup;

use std::{
    collections::BTreeMap,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use nix::{
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{WaitOptions, wait},
    stdio::{stdin, stdout},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    },
};

use self::{exec::Exec, processes::Processes};
use super::{
    frames::{Decoder, Frame, MAX_DATA_BYTES, MAX_REQUEST_BYTES, Stream, put_control},
    messages::{Failure, Limits, PROTOCOL, Reply, Request, Setup},
    proc::kill_all,
};
use crate::protocol::excerpt;

/// The most bytes to hold for the server. Beyond that, output stays in the pipes.
const MAX_OUTGOING_BYTES: usize = 256 * 1024;

/// The most bytes to read at once from the server.
const READ_BYTES: usize = 64 * 1024;

/// The pause before the first pass over the processes during a kill.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest pause before a pass. Each pause is twice as long as the one before.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// The time between passes while an exec is starting. A pass continues its processes, in case code
/// has stopped one. A start usually takes a millisecond, so most starts need no pass.
const STARTS_WITHIN: Duration = Duration::from_millis(200);

/// How many consecutive passes must find no process without a reaper before the agent reports that
/// none is left.
const PASSES: u32 = 2;

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
    Exec(u32, exec::Source),
}

struct Agent {
    input: Decoder,
    /// Frames for the server.
    outgoing: BytesMut,
    /// Tells when a child has ended or stopped.
    children: SignalFd,
    limits: Limits,
    execs: BTreeMap<u32, Exec>,
    /// Expires when the next pass over the processes is due.
    next_pass: Timer,
    /// Whether `next_pass` will expire.
    is_sweeping: bool,
    pause: Duration,
    /// How many consecutive passes have found no process without a reaper. `begin_sweep` resets it.
    passes_without_strays: u32,
    /// Holds bytes between two pipes.
    scratch: Vec<u8>,
}

impl Agent {
    /// Greets the server, and confines this process as the server asks.
    fn start() -> Result<Self, String> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        let children = signals
            .thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            })
            .map_err(|error| format!("cannot wait for children: {error}"))?;
        let next_pass = Timer::new().map_err(|error| format!("cannot create a timer: {error}"))?;
        let mut agent = Self {
            input: Decoder::new(MAX_REQUEST_BYTES),
            outgoing: BytesMut::new(),
            children,
            limits: Limits::default(),
            execs: BTreeMap::new(),
            next_pass,
            is_sweeping: false,
            pause: PAUSE,
            passes_without_strays: 0,
            scratch: vec![0; READ_BYTES.max(MAX_DATA_BYTES)],
        };
        agent.reply(&Reply::Hello { protocol: PROTOCOL });
        agent.write_all()?;
        let setup = agent.read_setup()?;
        agent.limits = setup.limits;
        let confined = setup::confine(&setup);
        agent.reply(&match &confined {
            Ok(()) => Reply::Ready,
            Err(reason) => failed(None, Failure::Setup, reason),
        });
        agent.write_all()?;
        confined?;
        Ok(agent)
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
                    Source::Exec(number, source) => self.handle_exec(number, source),
                }
            }
            self.execs.retain(|_, exec| !exec.is_over());
        }
    }

    /// Waits until something is ready.
    fn wait(&self) -> Result<Vec<Source>, String> {
        let mut sources = vec![Source::Input, Source::Children, Source::NextPass];
        let (input, output) = (stdin(), stdout());
        let mut polled = vec![
            PollFd::new(&input, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
            PollFd::new(&self.next_pass.0, PollFlags::IN),
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
            Frame::Control(message) => match parse(&message)? {
                Request::Setup(_) => return Err("the server sent a second setup".to_owned()),
                Request::Start(start) => match Exec::start(&start, self.limits) {
                    Ok(exec) => {
                        self.execs.insert(start.exec, exec);
                        if !self.is_sweeping {
                            self.schedule_pass(STARTS_WITHIN);
                        }
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        self.reply(&failed(Some(start.exec), Failure::Program, &reason));
                    }
                },
                Request::Kill { exec } => match self.execs.get_mut(&exec) {
                    Some(it) => {
                        it.handle_kill();
                        self.begin_sweep();
                    }
                    None => self.reply(&Reply::Killed { exec }),
                },
                Request::Close { exec, stderr } => {
                    if let Some(exec) = self.execs.get_mut(&exec) {
                        exec.close(if stderr {
                            Stream::Stderr
                        } else {
                            Stream::Stdout
                        });
                    }
                }
            },
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

    fn handle_exec(&mut self, number: u32, source: exec::Source) {
        if let Some(exec) = self.execs.get_mut(&number) {
            exec.handle_ready(source, &mut self.scratch, &mut self.outgoing);
        }
    }

    /// Takes the statuses of all children that have ended or stopped: reapers, and processes whose
    /// reaper was killed.
    fn reap(&mut self) {
        let _ = self.children.read_signal();
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => (Pid::from_raw(pid.as_raw_nonzero().get()), status),
                Err(Errno::INTR) => continue,
                Ok(None) | Err(_) => break,
            };
            let mut execs = self.execs.values_mut();
            let Some(exec) = execs.find(|exec| exec.reaper() == Some(pid)) else {
                continue;
            };
            if status.stopped() {
                // Code stopped the reaper.
                let _ = kill(pid, Signal::SIGCONT);
                continue;
            }
            exec.handle_reaper_ended(!status.exited(), &mut self.outgoing);
            if exec.has_lost_reaper() {
                self.begin_sweep();
            } else if exec.is_being_killed() {
                exec.handle_pass(false, &mut self.outgoing);
            }
        }
    }

    /// Starts passes over the processes. If they run already, starts again with the shortest pause.
    fn begin_sweep(&mut self) {
        self.passes_without_strays = 0;
        self.pause = PAUSE;
        self.schedule_pass(self.pause);
    }

    fn schedule_pass(&mut self, after: Duration) {
        self.is_sweeping = true;
        self.next_pass.start(after);
    }

    /// Makes one pass over all processes. Kills the processes of the execs that are being killed,
    /// and continues stopped processes of the execs that are starting.
    ///
    /// A reaper ends by itself when it has no descendants left, so its end proves that no process
    /// of the exec is left. If code killed the reaper, its orphans became children of the agent.
    /// All other children of the agent are reapers. So a pass kills every child that is not a
    /// reaper, and the descendants of that child. A pass can miss a process that forks and ends
    /// while the pass reads `/proc`, so [`PASSES`] consecutive passes must find none.
    fn sweep(&mut self) {
        self.next_pass.take();
        self.is_sweeping = false;
        let is_killed = |exec: &&Exec| exec.is_being_killed();
        if self.execs.values().any(Exec::is_being_killed) {
            self.pause = MAX_PAUSE.min(2 * self.pause);
            self.schedule_pass(self.pause);
        } else if self.execs.values().any(Exec::is_starting) {
            self.schedule_pass(STARTS_WITHIN);
        } else {
            return;
        }
        let Ok(processes) = Processes::read() else {
            // For example, this process has no descriptor left. The next pass tries again.
            return;
        };
        let mut doomed = Vec::new();
        if self.execs.values().any(Exec::has_lost_reaper) {
            let reapers: Vec<Pid> = self.execs.values().filter_map(Exec::reaper).collect();
            doomed = processes.with_descendants(processes.children_of_this(&reapers));
            self.passes_without_strays = match doomed.is_empty() {
                true => self.passes_without_strays + 1,
                false => 0,
            };
        }
        for reaper in self
            .execs
            .values()
            .filter(is_killed)
            .filter_map(Exec::reaper)
        {
            let own = processes.with_descendants(vec![reaper]);
            doomed.extend(own.into_iter().skip(1));
            // Code may have stopped the reaper.
            let _ = kill(reaper, Signal::SIGCONT);
        }
        // Code may have stopped a process between its fork and its exec.
        let starting = self.execs.values().filter(|exec| exec.is_starting());
        let starting = starting.filter_map(Exec::reaper).collect();
        for pid in processes.with_descendants(starting) {
            let _ = kill(pid, Signal::SIGCONT);
        }
        kill_all(&doomed);
        let has_strays = self.passes_without_strays < PASSES;
        for exec in self
            .execs
            .values_mut()
            .filter(|exec| exec.is_being_killed())
        {
            exec.handle_pass(has_strays, &mut self.outgoing);
        }
    }
}

/// A timer that `poll` can wait for.
struct Timer(OwnedFd);

impl Timer {
    fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        timerfd_create(TimerfdClockId::Monotonic, flags).map(Self)
    }

    /// Lets the timer expire once, after this time.
    fn start(&self, after: Duration) {
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: 0,
                tv_nsec: after.subsec_nanos().into(),
            },
        };
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once);
    }

    /// Makes the timer unready after it has expired.
    fn take(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
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
