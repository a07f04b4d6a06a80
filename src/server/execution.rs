//! One exec, in a task of its own: starts the code, moves its input and output, ends it when told to.
//!
//! It talks to its sandbox by a bounded channel of [`ExecEvent`]s, which the sandbox reads only while
//! there is room for output; a full channel stops the reading of the pipes, and so the process. The
//! way back, [`Execution`], is never blocked by that.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{
    backend::{BackendSandbox, Language, Started},
    output::{discard, pump},
    stdin::StdinQueue,
};
use crate::protocol::StdStream;

/// Pieces of output on their way to the sandbox; each is at most 64 KiB.
const EVENTS_IN_FLIGHT: usize = 2;

/// What an exec tells its sandbox.
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
    Exited,
    /// It was killed because somebody asked for it; a failure of that, with the reason.
    Killed(Result<(), String>),
    /// It ran into the time limit.
    TimedOut,
}

/// The sandbox's handle of an exec. When it is dropped the exec is killed.
pub(super) struct Execution {
    pub(super) events: mpsc::Receiver<ExecEvent>,
    pub(super) stdin: Arc<StdinQueue>,
    /// True once no process of the exec is left in the foreground.
    pub(super) gone: watch::Receiver<bool>,
    kill: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Execution {
    /// Starts code in a sandbox.
    pub(super) fn start(
        sandbox: Arc<dyn BackendSandbox>,
        language: Language,
        code: String,
        max_run_time: Duration,
        stdin: Arc<StdinQueue>,
    ) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        let (kill, killed) = watch::channel(false);
        let (gone_sender, gone) = watch::channel(false);
        let task = tokio::spawn({
            let stdin = stdin.clone();
            async move {
                match sandbox.start(language, code).await {
                    Ok(started) => {
                        let run = Run {
                            killed,
                            gone: gone_sender,
                            max_run_time,
                            stdin,
                            events: sender,
                        };
                        run.run(started).await;
                    }
                    Err(reason) => {
                        stdin.close();
                        gone_sender.send_replace(true);
                        let _ = sender.send(ExecEvent::NotStarted(reason)).await;
                    }
                }
            }
        });
        Self {
            events,
            stdin,
            gone,
            kill,
            task,
        }
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

    /// Kills the exec and waits for its end; output that was not told yet is dropped.
    pub(super) async fn abandon(self) {
        self.kill();
        drop(self.events);
        let _ = self.task.await;
    }
}

struct Run {
    killed: watch::Receiver<bool>,
    gone: watch::Sender<bool>,
    max_run_time: Duration,
    stdin: Arc<StdinQueue>,
    events: mpsc::Sender<ExecEvent>,
}

impl Run {
    async fn run(mut self, started: Started) {
        let Started {
            stdin,
            stdout,
            stderr,
            mut process,
        } = started;
        let _ = self.events.send(ExecEvent::Started).await;

        let pump = |pipe, stream| {
            tokio::spawn(pump(
                pipe,
                stream,
                self.gone.subscribe(),
                self.events.clone(),
                ExecEvent::Output,
            ))
        };
        let pumps = [
            pump(stdout, StdStream::Stdout),
            pump(stderr, StdStream::Stderr),
        ];

        let input = self.stdin.clone();
        let mut ending = tokio::select! {
            biased;
            // An error means that the handle was dropped.
            _ = self.killed.wait_for(|&killed| killed) => Ending::Killed(Ok(())),
            waited = process.wait() => {
                if let Err(error) = waited {
                    tracing::warn!(%error, "a process could not be waited for");
                }
                Ending::Exited
            }
            () = sleep(self.max_run_time) => Ending::TimedOut,
            () = async {
                input.feed(stdin).await;
                std::future::pending().await
            } => Ending::Exited,
        };
        if ending != Ending::Exited {
            let killed = process.kill().await;
            if let Err(reason) = &killed {
                tracing::warn!(%reason, "an exec could not be killed");
            }
            if let Ending::Killed(result) = &mut ending {
                *result = killed;
            }
        }
        self.stdin.close();
        self.gone.send_replace(true);

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
            _ = self.killed.wait_for(|&killed| killed), if ending == Ending::Exited => true,
        };
        if late_kill {
            ending = Ending::Killed(process.kill().await);
            flushed.await;
        }
        drop(process);
        let _ = self.events.send(ExecEvent::Ended(ending)).await;
    }
}
