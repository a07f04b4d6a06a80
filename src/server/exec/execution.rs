//! One exec, in a task of its own: starts the code, moves its input and output, ends it when told to.
//!
//! Where its output goes and where its input comes from is the affair of its [`Outlet`].

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::output_pump::{Deadline, Drains, Taker, pump};
use crate::{
    protocol::StdStream,
    server::{
        backend::{
            api::{BackendSandbox, Exit, Input, Process, Started},
            job::Job,
        },
        escaped::Escaped,
    },
};

/// An end whose output is complete within this time is told together with it.
const JOIN_ENDS_WITHIN: Duration = Duration::from_millis(5);

/// How long output is read after its end when nothing of the exec is left, or its sandbox is stored
/// or goes.
const SHORT_GRACE: Duration = Duration::from_millis(250);

/// How long an exec may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Until its main process ends; then it is killed.
    pub(crate) run_time: Duration,
    /// From the end of its main process to that of its output, while other processes hold it.
    pub(crate) output_grace: Duration,
}

/// What becomes of an exec.
#[derive(Debug)]
pub(crate) enum ExecEvent {
    /// The code runs.
    Started,
    /// The code could not be started, and why. It is the last event.
    NotStarted(String),
    /// A piece of output.
    Output(StdStream, String),
    /// The main process ended, and its output goes on. Not told where both end together.
    Exited(Ending),
    /// The exec is over and all its output was told. It is the last event.
    Ended {
        ending: Ending,
        /// Other processes still hold its output.
        cut: bool,
    },
}

/// How an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself.
    Exited(Exit),
    /// It was killed because that was asked for, or what held its output was; a failure of that,
    /// with the reason.
    Killed(Result<Exit, String>),
    /// It ran into its time limit.
    TimedOut(Exit),
}

/// What an exec is connected to.
pub(crate) trait Outlet: Send + Sync + 'static {
    /// Where the output of a stream goes.
    fn taker(&self, stream: StdStream) -> impl Taker;

    /// Something became of the exec.
    fn tell(&self, event: ExecEvent) -> impl Future<Output = ()> + Send;

    /// Moves input to the pipe of the process, until there is none any more. May be dropped.
    fn feed(&self, pipe: Input) -> impl Future<Output = ()> + Send;

    /// Its main process is gone: what the pipes held then is taken whether there is room for it or
    /// not.
    fn exited(&self);

    /// It is about to be killed, or its sandbox goes: what is not taken soon is dropped.
    fn dying(&self);

    /// The process takes no more input.
    fn close_stdin(&self);
}

/// The sandbox's handle of an exec. When it is dropped the exec is killed.
pub(crate) struct Control {
    /// True once no process of the exec is left in the foreground.
    pub(crate) gone: watch::Receiver<bool>,
    kill: watch::Sender<bool>,
    deadline: Arc<Deadline>,
    task: JoinHandle<()>,
}

impl Control {
    /// Starts a job in a sandbox.
    pub(crate) fn start(
        sandbox: Arc<dyn BackendSandbox>,
        job: Job,
        limits: Limits,
        outlet: impl Outlet,
        drains: Drains,
    ) -> Self {
        let deadline = Deadline::new();
        let run_deadline = deadline.clone();
        let (kill, killed) = watch::channel(false);
        let (gone_sender, gone) = watch::channel(false);
        let task = tokio::spawn(async move {
            match sandbox.start(job).await {
                Ok(started) => {
                    let run = Run {
                        killed,
                        gone: gone_sender,
                        deadline: run_deadline,
                        limits,
                        outlet,
                        drains,
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
        Self {
            gone,
            kill,
            deadline,
            task,
        }
    }

    /// Kills all processes of the exec. The answer is [`ExecEvent::Ended`].
    pub(crate) fn kill(&self) {
        self.kill.send_replace(true);
    }

    /// Whether a process of the exec is running in the foreground.
    pub(crate) fn is_alive(&self) -> bool {
        // Without a sender the task panicked, and dropping the process killed it.
        !*self.gone.borrow() && self.gone.has_changed().is_ok()
    }

    /// Until when its output is read, once its main process has ended.
    pub(crate) fn reads_until(&self) -> Option<Instant> {
        self.deadline.at()
    }

    /// Its main process has ended: its output ends soon, too, whether other processes hold it or
    /// not.
    pub(crate) fn end_output(&self) {
        self.deadline.set(SHORT_GRACE);
    }

    /// Resolves at the end of the task.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }
}

struct Run<O> {
    killed: watch::Receiver<bool>,
    gone: watch::Sender<bool>,
    /// Until when output is read, once the main process has ended.
    deadline: Arc<Deadline>,
    limits: Limits,
    outlet: O,
    /// For pipes that other processes of the sandbox still hold at its end.
    drains: Drains,
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
            tokio::spawn(pump(pipe, self.deadline.clone(), taker))
        };
        let pumps = [
            pump(stdout, StdStream::Stdout),
            pump(stderr, StdStream::Stderr),
        ];
        let mut ending = self.main(stdin, &mut *process).await;
        let by_itself = matches!(ending, Ending::Exited(_));
        let grace = match by_itself {
            true => self.limits.output_grace,
            false => SHORT_GRACE,
        };
        self.deadline.set(grace);
        self.outlet.close_stdin();
        self.outlet.exited();
        self.gone.send_replace(true);

        let mut output_cut = std::pin::pin!(async {
            let mut cut = false;
            for pump in pumps {
                if let Ok(Some(pipe)) = pump.await {
                    // The processes that write to it live on.
                    self.drains.add(pipe);
                    cut = true;
                }
            }
            cut
        });
        let cut = match timeout(JOIN_ENDS_WITHIN, &mut output_cut).await {
            Ok(cut) => cut,
            Err(_elapsed) => {
                self.outlet.tell(ExecEvent::Exited(ending.clone())).await;
                let ended = tokio::select! {
                    biased;
                    cut = &mut output_cut => Some(cut),
                    _ = self.killed.wait_for(|&killed| killed), if by_itself => None,
                };
                match ended {
                    Some(cut) => cut,
                    None => {
                        self.outlet.dying();
                        ending = Ending::Killed(kill(&mut *process).await);
                        self.deadline.set(SHORT_GRACE);
                        output_cut.await
                    }
                }
            }
        };
        drop(process);
        self.outlet.tell(ExecEvent::Ended { ending, cut }).await;
    }

    /// Feeds the main process until it ends, or ends it and its children when it is told to.
    async fn main(&mut self, stdin: Input, process: &mut dyn Process) -> Ending {
        let ending = tokio::select! {
            biased;
            // An error means that the handle was dropped.
            _ = self.killed.wait_for(|&killed| killed) => Ending::Killed(Ok(Exit::default())),
            exit = wait(process) => return Ending::Exited(exit),
            () = sleep(self.limits.run_time) => Ending::TimedOut(Exit::default()),
            () = async {
                self.outlet.feed(stdin).await;
                std::future::pending().await
            } => Ending::Exited(Exit::default()),
        };
        self.outlet.dying();
        let killed = kill(process).await;
        match ending {
            Ending::TimedOut(_) => Ending::TimedOut(killed.unwrap_or_default()),
            _ => Ending::Killed(killed),
        }
    }
}

async fn wait(process: &mut dyn Process) -> Exit {
    process.wait().await.unwrap_or_else(|error| {
        tracing::warn!(error = %Escaped(error), "a process could not be waited for");
        Exit::default()
    })
}

async fn kill(process: &mut dyn Process) -> Result<Exit, String> {
    if let Err(reason) = process.kill().await {
        tracing::warn!(reason = %Escaped(&reason), "an exec could not be killed");
        return Err(reason);
    }
    Ok(wait(process).await)
}
