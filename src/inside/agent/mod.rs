//! [`run`]: the agent, the first process of a `namespace` sandbox. It starts programs and moves
//! their streams.
//!
//! The agent has one thread and no runtime. It waits in `poll` for the server, for its children and
//! for their pipes. It reads the output of a process only while that stream has credit, so it holds
//! a bounded amount of memory, and a process whose output isn't read pauses. When its input ends,
//! the server is gone: the agent exits, and the kernel kills every other process of the sandbox.
//!
//! Code runs as the same user as the agent, and is hostile. The agent is the first process of a PID
//! namespace: the kernel discards the signals of code that such a process has no handler for,
//! SIGKILL included. The agent is not dumpable, so code can't attach to it or open its files in
//! `/proc`. The [filter](super::filter) keeps code from changing its limits.

mod exec;
mod processes;
mod setup;

use std::{collections::BTreeMap, os::fd::BorrowedFd, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use nix::{
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    stdio::{stdin, stdout},
};

use self::{exec::Exec, processes::Processes};
use super::{
    frames::{Decoder, Frame, MAX_DATA_BYTES, MAX_REQUEST_BYTES, Stream, put_control},
    messages::{Failure, Limits, PROTOCOL, Reply, Request, Setup},
};
use crate::protocol::excerpt;

/// The most bytes to hold for the server. Beyond that, output stays in the pipes.
const MAX_OUTGOING_BYTES: usize = 256 * 1024;

/// The most bytes to read at once from the server.
const READ_BYTES: usize = 64 * 1024;

/// The pause between two passes over the processes during a kill.
const PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// The passes that must find no process that lost its reaper.
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
    /// The pause until the next pass of a kill. `None` if nothing is being killed.
    pause: Option<Duration>,
    /// How many consecutive passes of the current kills found no process without a reaper.
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
        let mut agent = Self {
            input: Decoder::new(MAX_REQUEST_BYTES),
            outgoing: BytesMut::new(),
            children,
            limits: Limits::default(),
            execs: BTreeMap::new(),
            pause: None,
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
                    Source::Exec(number, source) => self.handle_exec(number, source),
                }
            }
            if self.pause.is_some() {
                self.sweep();
            }
            self.execs.retain(|_, exec| !exec.is_over());
        }
    }

    /// Waits until something is ready.
    fn wait(&self) -> Result<Vec<Source>, String> {
        let mut sources = vec![Source::Input, Source::Children];
        let (input, output) = (stdin(), stdout());
        let mut polled = vec![
            PollFd::new(&input, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
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
        let pause = self.pause.map(|pause| Timespec {
            tv_sec: 0,
            tv_nsec: pause.subsec_nanos().into(),
        });
        match poll(&mut polled, pause.as_ref()) {
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
                        self.reply(&Reply::Started { exec: start.exec });
                    }
                    Err((failure, reason)) => {
                        self.reply(&failed(Some(start.exec), failure, &reason));
                    }
                },
                Request::Kill { exec } => match self.execs.get_mut(&exec) {
                    Some(it) => {
                        it.kill();
                        self.pause = Some(PAUSE);
                        self.passes_without_strays = 0;
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
            exec.handle_ready(number, source, &mut self.scratch, &mut self.outgoing);
        }
    }

    /// Takes the statuses of all children that have ended: reapers, and processes whose reaper was
    /// killed.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        loop {
            let status = match waitpid(None, Some(flags)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(status) => status,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => break,
            };
            let Some(pid) = status.pid() else { continue };
            let mut execs = self.execs.iter_mut();
            let Some((&number, exec)) =
                execs.find(|(_, exec)| [exec.reaper(), exec.orphan()].contains(&Some(pid)))
            else {
                continue;
            };
            match status {
                // Code stopped the reaper.
                WaitStatus::Stopped(..) if exec.reaper() == Some(pid) => {
                    let _ = kill(pid, Signal::SIGCONT);
                }
                WaitStatus::Exited(..) if exec.reaper() == Some(pid) => exec.handle_reaper_ended(),
                WaitStatus::Signaled(..) if exec.reaper() == Some(pid) => {
                    exec.handle_reaper_killed(number, &mut self.outgoing);
                }
                status => exec.handle_main_ended(number, status, &mut self.outgoing),
            }
        }
    }

    /// Makes one pass over all processes, and kills those of the execs that are to be killed.
    ///
    /// A reaper ends by itself when it has no descendants left, so its end proves that no process
    /// of the exec is left. If code killed the reaper, the processes of the exec became children of
    /// this process. All other children of this process are reapers. So this kills every child that
    /// is not a reaper, and its descendants. A pass can miss a process that forks and ends at the
    /// right moment, so two passes must find none.
    fn sweep(&mut self) {
        self.pause = self.pause.map(|pause| MAX_PAUSE.min(2 * pause));
        let Ok(processes) = Processes::read() else {
            // For example, this process has no descriptor left. Try again.
            return;
        };
        let is_killed = |exec: &&Exec| exec.is_being_killed();
        let mut doomed = Vec::new();
        if self
            .execs
            .values()
            .filter(is_killed)
            .any(Exec::has_lost_reaper)
        {
            let reapers: Vec<Pid> = self.execs.values().filter_map(Exec::reaper).collect();
            doomed = processes.with_descendants(processes.children_of_this(&reapers));
        }
        self.passes_without_strays = match doomed.is_empty() {
            true => self.passes_without_strays + 1,
            false => 0,
        };
        for reaper in self
            .execs
            .values()
            .filter(is_killed)
            .filter_map(Exec::reaper)
        {
            let own = processes.with_descendants(vec![reaper]);
            doomed.extend(&own[1..]);
            // Code may have stopped it.
            let _ = kill(reaper, Signal::SIGCONT);
        }
        processes::kill_all(&doomed);
        let has_strays = self.passes_without_strays < PASSES;
        for (&exec, it) in &mut self.execs {
            if it.has_been_killed(has_strays) {
                put_reply(&mut self.outgoing, &Reply::Killed { exec });
            }
        }
        if !self.execs.values().any(Exec::is_being_killed) {
            self.pause = None;
        }
    }
}

fn parse(message: &Bytes) -> Result<Request, String> {
    serde_json::from_slice(message).map_err(|error| format!("the server sent no request: {error}"))
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
