//! One exec, in a task of its own: starts the code, moves its input and output, ends it when told to.
//!
//! Where its output goes and where its input comes from is its [`Outlet`]'s affair. The exec without a name,
//! of protocol v1, has a [`Channel`]: bounded, and read by the sandbox only while there is room for output, so that a full one stops
//! the reading of the pipes, and so the process. The way back, [`Control`], is never blocked by that.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWrite,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{
    backend::{BackendSandbox, Exit, Job, Started},
    escaped::Escaped,
    output::{Taker, TextTaker, discard, pump},
    stdin::StdinQueue,
};
use crate::protocol::StdStream;

/// Pieces of output on their way to the sandbox; each is at most 64 KiB.
const EVENTS_IN_FLIGHT: usize = 2;

/// What becomes of an exec.
#[derive(Debug)]
pub(super) enum ExecEvent {
    /// The code runs.
    Started,
    /// The code could not be started, and why. It is the last event.
    NotStarted(String),
    /// A piece of output.
    Output(StdStream, String),
    /// The exec is over and all its output was told. It is the last event.
    Ended(Ending),
}

/// How an exec ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// By itself.
    Exited(Exit),
    /// It was killed because somebody asked for it; a failure of that, with the reason.
    Killed(Result<Exit, String>),
    /// It ran into its time limit.
    TimedOut(Exit),
}

/// A pipe that takes input.
pub(super) type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// What an exec is connected to.
pub(super) trait Outlet: Send + Sync + 'static {
    /// Where the output of a stream goes.
    fn taker(&self, stream: StdStream) -> impl Taker;

    /// Something became of the exec.
    fn tell(&self, event: ExecEvent) -> impl Future<Output = ()> + Send;

    /// Moves input to the pipe of the process, until there is none any more. May be dropped.
    fn feed(&self, pipe: Input) -> impl Future<Output = ()> + Send;

    /// It is gone, or about to be killed: its output is taken to the end whether there is room for it or not.
    fn dying(&self);

    /// The process takes no more input.
    fn close_stdin(&self);
}

/// The sandbox's handle of an exec. When it is dropped the exec is killed.
pub(super) struct Control {
    /// True once no process of the exec is left in the foreground.
    pub(super) gone: watch::Receiver<bool>,
    kill: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Control {
    /// Starts a job in a sandbox.
    pub(super) fn start(
        sandbox: Arc<dyn BackendSandbox>,
        job: Job,
        max_run_time: Duration,
        outlet: impl Outlet,
    ) -> Self {
        let (kill, killed) = watch::channel(false);
        let (gone_sender, gone) = watch::channel(false);
        let task = tokio::spawn(async move {
            match sandbox.start(job).await {
                Ok(started) => {
                    let run = Run {
                        killed,
                        gone: gone_sender,
                        max_run_time,
                        outlet,
                    };
                    run.run(started).await;
                }
                Err(reason) => {
                    outlet.close_stdin();
                    gone_sender.send_replace(true);
                    outlet.tell(ExecEvent::NotStarted(reason)).await;
                }
            }
        });
        Self { gone, kill, task }
    }

    /// Kills all processes of the exec. The answer is [`ExecEvent::Ended`].
    pub(super) fn kill(&self) {
        self.kill.send_replace(true);
    }

    /// Whether a process of the exec is running in the foreground.
    pub(super) fn is_alive(&self) -> bool {
        // Without a sender the task panicked, and dropping the process killed it.
        !*self.gone.borrow() && self.gone.has_changed().is_ok()
    }

    /// Resolves at the end of the task.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }
}

/// The sandbox's handle of the exec without a name. When it is dropped the exec is killed.
pub(super) struct Execution {
    pub(super) events: mpsc::Receiver<ExecEvent>,
    pub(super) stdin: Arc<StdinQueue>,
    pub(super) control: Control,
}

impl Execution {
    /// Starts a job in a sandbox.
    pub(super) fn start(
        sandbox: Arc<dyn BackendSandbox>,
        job: Job,
        max_run_time: Duration,
        stdin: Arc<StdinQueue>,
    ) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        let channel = Channel {
            events: sender,
            stdin: stdin.clone(),
        };
        Self {
            events,
            stdin,
            control: Control::start(sandbox, job, max_run_time, channel),
        }
    }

    /// Kills the exec and waits for its end; output that was not told yet is dropped.
    pub(super) async fn abandon(mut self) {
        self.control.kill();
        drop(self.events);
        self.control.ended().await;
    }
}

/// The outlet of the exec without a name.
struct Channel {
    events: mpsc::Sender<ExecEvent>,
    stdin: Arc<StdinQueue>,
}

impl Outlet for Channel {
    fn taker(&self, stream: StdStream) -> impl Taker {
        TextTaker::new(stream, self.events.clone(), ExecEvent::Output)
    }

    async fn tell(&self, event: ExecEvent) {
        let _ = self.events.send(event).await;
    }

    async fn feed(&self, pipe: Input) {
        self.stdin.feed(pipe).await;
    }

    /// The sandbox makes room for it.
    fn dying(&self) {}

    fn close_stdin(&self) {
        self.stdin.close();
    }
}

struct Run<O> {
    killed: watch::Receiver<bool>,
    gone: watch::Sender<bool>,
    max_run_time: Duration,
    outlet: O,
}

impl<O: Outlet> Run<O> {
    async fn run(mut self, started: Started) {
        let Started {
            stdin,
            stdout,
            stderr,
            mut process,
        } = started;
        self.outlet.tell(ExecEvent::Started).await;

        let pump = |pipe, stream| {
            let taker = self.outlet.taker(stream);
            tokio::spawn(pump(pipe, self.gone.subscribe(), taker))
        };
        let pumps = [
            pump(stdout, StdStream::Stdout),
            pump(stderr, StdStream::Stderr),
        ];

        let exit = |waited: std::io::Result<Exit>| {
            waited.unwrap_or_else(|error| {
                tracing::warn!(error = %Escaped(error), "a process could not be waited for");
                Exit::default()
            })
        };
        let mut ending = tokio::select! {
            biased;
            // An error means that the handle was dropped.
            _ = self.killed.wait_for(|&killed| killed) => Ending::Killed(Ok(Exit::default())),
            waited = process.wait() => Ending::Exited(exit(waited)),
            () = sleep(self.max_run_time) => Ending::TimedOut(Exit::default()),
            () = async {
                self.outlet.feed(stdin).await;
                std::future::pending().await
            } => Ending::Exited(Exit::default()),
        };
        let by_itself = matches!(ending, Ending::Exited(_));
        if !by_itself {
            self.outlet.dying();
            let killed = process.kill().await;
            if let Err(reason) = &killed {
                tracing::warn!(reason = %Escaped(reason), "an exec could not be killed");
            }
            let after = match &killed {
                Ok(()) => exit(process.wait().await),
                Err(_) => Exit::default(),
            };
            match &mut ending {
                Ending::Killed(result) => *result = killed.map(|()| after),
                Ending::Exited(exit) | Ending::TimedOut(exit) => *exit = after,
            }
        }
        self.outlet.close_stdin();
        self.gone.send_replace(true);
        self.outlet.dying();

        let mut flushed = std::pin::pin!(async {
            for pump in pumps {
                if let Ok(Some(pipe)) = pump.await {
                    // Background children write to it still, and live on.
                    tokio::spawn(discard(pipe));
                }
            }
        });
        // While its output is on its way, a kill still means what it left in the background.
        let late_kill = tokio::select! {
            biased;
            () = &mut flushed => false,
            _ = self.killed.wait_for(|&killed| killed), if by_itself => true,
        };
        if late_kill {
            ending = Ending::Killed(match process.kill().await {
                Ok(()) => Ok(exit(process.wait().await)),
                Err(reason) => Err(reason),
            });
            flushed.await;
        }
        drop(process);
        self.outlet.tell(ExecEvent::Ended(ending)).await;
    }
}
