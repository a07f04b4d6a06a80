//! The task of one exec: starts the code, moves its input and output, and kills it at its time
//! limit or on request.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    builtin::{self, Turns},
    ending::{SHORT_GRACE, asked, kill},
    output_pump::{Deadline, Drains, pump},
    shared_exec::{Ending, Outlet},
    steering::{Steered, Steering, perform},
};
use crate::{
    inside::process::{Exit, Input, Process, Started},
    machine::ServedExec,
    protocol::{Builtin, BuiltinError, Outcome, StdStream},
    server::{
        backend::{
            api::BackendSandbox,
            job::{Job, Program},
        },
        escaped::Escaped,
    },
};

/// The work of a builtin that needs no process in the sandbox. Its value is the result as JSON.
pub(crate) type Operation = BoxFuture<'static, Result<String, BuiltinError>>;

/// If the output ends this soon after the main process, the exit and the end of the output are
/// reported together.
const JOIN_ENDS_WITHIN: Duration = Duration::from_millis(5);

/// How long the output of a v1 exec is read after its main process has exited, while other
/// processes hold it open.
const V1_GRACE: Duration = Duration::from_secs(30);

/// The time limits of an exec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long the main process may run. After that, the exec is killed.
    pub(crate) run_time: Duration,
    /// How long output is read after the main process has exited, while other processes hold it
    /// open.
    pub(crate) output_grace: Duration,
}

impl Limits {
    /// Returns the limits of a v1 exec.
    pub(crate) fn v1(run_time: Duration) -> Self {
        Self {
            run_time,
            output_grace: V1_GRACE.min(run_time),
        }
    }
}

/// What an exec runs, and how it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A program. It counts toward the limit on execs.
    Program,
    /// A program in a terminal. It counts toward the limit on execs, but has no time limit. So it
    /// keeps the sandbox from being idle only while a client is attached.
    Terminal,
    /// A builtin. It has limits of its own, and keeps the sandbox from being idle only while a
    /// client is attached.
    Builtin,
    /// A builtin that runs until the client or an event in the sandbox ends it: a watch, a
    /// connection to a port, or a wait for a port. It neither keeps the sandbox from being idle nor
    /// prevents a checkpoint.
    Passive,
}

impl Kind {
    pub(crate) fn of(builtin: &Builtin) -> Self {
        match builtin {
            Builtin::Watch { .. } | Builtin::Connect { .. } | Builtin::WaitForPort { .. } => {
                Self::Passive
            }
            _ => Self::Builtin,
        }
    }
}

/// The sandbox's handle of an exec. Dropping it kills the exec.
pub(crate) struct Control {
    pub(crate) kind: Kind,
    /// The interpreter of the code, or the path or the name of the program. The operation, if this
    /// is a builtin.
    pub(crate) program: String,
    pub(crate) started: Instant,
    kill: watch::Sender<bool>,
    deadline: Arc<Deadline>,
    /// `None` for a builtin.
    steering: Option<Steering>,
    task: JoinHandle<()>,
}

impl Control {
    /// Starts a job in a sandbox.
    pub(crate) fn start(
        sandbox: Arc<dyn BackendSandbox>,
        job: Job,
        limits: Limits,
        outlet: Outlet,
        drains: Drains,
        turns: &Turns,
    ) -> Self {
        let deadline = Deadline::new();
        let (kill, killed) = watch::channel(false);
        let kind = match &job.program {
            Program::Builtin(builtin) => Kind::of(builtin),
            _ if job.terminal.is_some() => Kind::Terminal,
            Program::Code { .. } | Program::File { .. } => Kind::Program,
        };
        let program = job.program.label();
        let mut steering = None;
        let task = if let Program::Builtin(builtin) = &job.program {
            let (turn, ended) = (turns.of(builtin), deadline.clone());
            tokio::spawn(async move {
                builtin::run(&*sandbox, job, turn, killed, &ended, outlet).await;
            })
        } else {
            let (sender, steered) = Steering::new();
            steering = Some(sender);
            let run = Run {
                killed,
                deadline: deadline.clone(),
                limits,
                outlet,
                drains,
            };
            tokio::spawn(async move {
                match sandbox.start(job).await {
                    Ok(started) => run.run(started, steered).await,
                    Err(reason) => {
                        run.deadline.set(Duration::ZERO);
                        run.outlet.not_started(reason).await;
                    }
                }
            })
        };
        Self {
            kind,
            program,
            started: Instant::now(),
            kill,
            deadline,
            steering,
            task,
        }
    }

    /// Performs a builtin that needs no process in the sandbox.
    pub(crate) fn perform(op: &str, operation: Operation, outlet: Outlet) -> Self {
        let deadline = Deadline::new();
        let (kill, mut killed) = watch::channel(false);
        let ended = deadline.clone();
        let task = tokio::spawn(async move {
            outlet.exec.change(ServedExec::handle_started);
            let ending = tokio::select! {
                biased;
                // First, because an operation that is carried out must not be reported as killed:
                // the client could repeat it.
                outcome = operation => Ending::Completed(match outcome {
                    Ok(result) => Outcome::Result(result),
                    Err(error) => Outcome::Error(error),
                }),
                () = asked(&mut killed) => Ending::Killed(Ok(Exit::default())),
            };
            ended.set(Duration::ZERO);
            outlet.ended(ending, false).await;
        });
        Self {
            kind: Kind::Builtin,
            program: op.to_owned(),
            started: Instant::now(),
            kill,
            deadline,
            steering: None,
            task,
        }
    }

    /// Whether this exec runs a program, not a builtin, whose main process is running.
    pub(crate) fn runs_program(&self) -> bool {
        matches!(self.kind, Kind::Program | Kind::Terminal) && self.is_alive()
    }

    /// Acts on the main process. `None` if there is none.
    pub(crate) fn steering(&self) -> Option<&Steering> {
        self.steering.as_ref()
    }

    /// Kills all processes of the exec.
    pub(crate) fn kill(&self) {
        self.kill.send_replace(true);
    }

    /// Whether the main process of the exec is starting or running.
    pub(crate) fn is_alive(&self) -> bool {
        // If the task panicked, the process was dropped, which killed it.
        self.reads_until().is_none() && !self.task.is_finished()
    }

    /// Returns until when the output is read. `None` while the main process is running.
    pub(crate) fn reads_until(&self) -> Option<Instant> {
        self.deadline.at()
    }

    /// Ends the output within [`SHORT_GRACE`], even if other processes hold it open. To be called
    /// after the main process has exited.
    pub(crate) fn end_output(&self) {
        self.deadline.set(SHORT_GRACE);
    }

    /// Resolves when the task has ended.
    pub(crate) async fn ended(&mut self) {
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

struct Run {
    killed: watch::Receiver<bool>,
    /// Until when output is read. Set when the main process has ended.
    deadline: Arc<Deadline>,
    limits: Limits,
    outlet: Outlet,
    /// Takes the pipes that other processes still hold open when the exec ends.
    drains: Drains,
}

impl Run {
    async fn run(mut self, started: Started, steered: Steered) {
        let Started {
            stdin,
            stdout,
            stderr,
            mut process,
        } = started;
        self.outlet.exec.change(ServedExec::handle_started);

        let pump = |pipe, stream| {
            let keeper = self.outlet.keeper(stream);
            tokio::spawn(pump(pipe, self.deadline.clone(), keeper))
        };
        let pumps = [
            pump(stdout, StdStream::Stdout),
            pump(stderr, StdStream::Stderr),
        ];
        let mut ending = self.main(stdin, steered, &mut *process).await;
        let by_itself = matches!(ending, Ending::Exited(_));
        let grace = match by_itself {
            true => self.limits.output_grace,
            false => SHORT_GRACE,
        };
        self.deadline.set(grace);
        self.outlet.exec.change(ServedExec::handle_stdin_closed);
        self.outlet.keep_rest();

        let mut output_cut = std::pin::pin!(async {
            let mut cut = false;
            for pump in pumps {
                if let Ok(Some(pipe)) = pump.await {
                    // Other processes still write to the pipe, and must not block.
                    self.drains.add(pipe);
                    cut = true;
                }
            }
            cut
        });
        let cut = match timeout(JOIN_ENDS_WITHIN, &mut output_cut).await {
            Ok(cut) => cut,
            Err(_elapsed) => {
                self.outlet.exited(ending.clone()).await;
                tokio::select! {
                    biased;
                    cut = &mut output_cut => cut,
                    () = asked(&mut self.killed), if by_itself => {
                        self.outlet.exec.will_die(None);
                        ending = Ending::Killed(kill(&mut *process).await);
                        self.deadline.set(SHORT_GRACE);
                        output_cut.await
                    }
                }
            }
        };
        drop(process);
        self.outlet.ended(ending, cut).await;
    }

    /// Feeds stdin to the main process until it exits. Kills the process and its children at the
    /// time limit or on request.
    async fn main(
        &mut self,
        mut stdin: Input,
        mut steered: Steered,
        process: &mut dyn Process,
    ) -> Ending {
        let mut late = std::pin::pin!(sleep(self.limits.run_time));
        let mut fed = std::pin::pin!(async {
            self.outlet.feed(&mut stdin).await;
            drop(stdin);
            std::future::pending::<()>().await
        });
        let is_late = loop {
            tokio::select! {
                biased;
                () = asked(&mut self.killed) => break false,
                // Before the exit: the process may have exited after it took the last bytes.
                () = &mut fed => {}
                exit = process.wait() => return match exit {
                    Ok(exit) => Ending::Exited(exit),
                    Err(error) => {
                        let error = error.to_string();
                        tracing::warn!(error = %Escaped(&error), "an exec was lost");
                        Ending::Lost(error)
                    }
                },
                request = steered.next() => tokio::select! {
                    biased;
                    () = asked(&mut self.killed) => break false,
                    () = perform(request, process) => {}
                },
                () = &mut late => break true,
            }
        };
        self.outlet.exec.will_die(None);
        let killed = kill(process).await;
        match killed {
            Ok(exit) if is_late => Ending::TimedOut(exit),
            killed => Ending::Killed(killed),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        protocol::{EndReason, ExecId},
        server::exec::shared_exec::SharedExec,
    };

    /// The end of an operation that is killed before its task runs for the first time.
    async fn killed_at_once(operation: Operation, lost: Option<&str>) -> (EndReason, bool) {
        let exec = SharedExec::new(ServedExec::new(ExecId::from("a"), 1_024), None);
        let (events, _events) = mpsc::channel(1);
        let outlet = Outlet {
            id: Some(ExecId::from("a")),
            exec: exec.clone(),
            events,
        };
        let mut control = Control::perform("extend", operation, outlet);
        exec.will_die(lost.map(str::to_owned));
        control.kill();
        control.ended().await;
        exec.look(|exec| {
            let end = exec.end().expect("the end");
            (end.reason, end.outcome.is_some())
        })
    }

    #[tokio::test]
    async fn a_kill_does_not_hide_what_was_carried_out() {
        for lost in [None, Some("the sandbox ends")] {
            let done: Operation = Box::pin(std::future::ready(Ok("{}".to_owned())));
            let end = killed_at_once(done, lost).await;
            assert_eq!(end, (EndReason::Exited, true));
            let pending: Operation = Box::pin(std::future::pending());
            let reason = match lost {
                None => EndReason::Killed,
                Some(_) => EndReason::SandboxLost,
            };
            assert_eq!(killed_at_once(pending, lost).await, (reason, false));
        }
    }
}
