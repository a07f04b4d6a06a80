//! [`run`]: the task of a builtin exec. [`Turns`] limits how many builtins run concurrently.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncReadExt,
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch},
};

use super::{
    ending::{SHORT_GRACE, asked, kill},
    output_pump::{Deadline, pump},
    shared_exec::{Ending, Outlet},
};
use crate::{
    inside::{
        builtin::{MAX_REPORT_BYTES, Report},
        process::{Pipe, Process, Started},
    },
    machine::ServedExec,
    protocol::{Builtin, BuiltinError, Outcome, StdStream},
    server::backend::{
        api::BackendSandbox,
        job::{Job, Program},
    },
};

/// How many builtins that move the content of files run concurrently in a sandbox.
const TRANSFERS: usize = 16;
/// How many other builtins run concurrently in a sandbox.
const QUICK: usize = 16;
/// How many watches, and waits for a port, run concurrently in a sandbox.
const WATCHES: usize = 64;
/// How many connections to ports are open concurrently in a sandbox.
const CONNECTIONS: usize = 256;

/// Limits how many builtins of one sandbox run concurrently. A builtin over a limit waits for its
/// turn.
pub(crate) struct Turns {
    transfers: Arc<Semaphore>,
    quick: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let turns = |number| Arc::new(Semaphore::new(number));
        Self {
            transfers: turns(TRANSFERS),
            quick: turns(QUICK),
            watches: turns(WATCHES),
            connections: turns(CONNECTIONS),
        }
    }
}

impl Turns {
    /// Waits for the turn of a builtin.
    pub(crate) fn of(
        &self,
        builtin: &Builtin,
    ) -> impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + use<> {
        let turns = match builtin {
            Builtin::Read { .. }
            | Builtin::Write { .. }
            | Builtin::Copy { .. }
            | Builtin::Pack { .. }
            | Builtin::Unpack { .. } => &self.transfers,
            Builtin::Watch { .. } | Builtin::WaitForPort { .. } => &self.watches,
            Builtin::Connect { .. } => &self.connections,
            _ => &self.quick,
        };
        turns.clone().acquire_owned()
    }
}

/// Waits for the turn of a builtin and runs it. Reports every failure as the outcome. Sets
/// `deadline` when the builtin has ended.
pub(super) async fn run(
    sandbox: &dyn BackendSandbox,
    job: Job,
    turn: impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send,
    mut killed: watch::Receiver<bool>,
    deadline: &Arc<Deadline>,
    outlet: Outlet,
) {
    // Answer now, so that a builtin that waits for its turn doesn't look like a lost request.
    outlet.exec.change(ServedExec::handle_started);
    let turn = tokio::select! {
        biased;
        () = asked(&mut killed) => None,
        turn = turn => turn.ok(),
    };
    let ending = match turn {
        None => Ending::Killed(Ok(Default::default())),
        Some(_turn) => match sandbox.start(job).await {
            Ok(started) => perform(started, &mut killed, deadline, &outlet).await,
            Err(reason) => Ending::Completed(Outcome::Error(BuiltinError::other(reason))),
        },
    };
    deadline.set(Duration::ZERO);
    outlet.ended(ending, false).await;
}

/// Runs a builtin that has neither input nor output, for an operation of the server. Returns its
/// result as JSON. Dropping the future stops the builtin.
pub(crate) async fn ask(
    sandbox: &dyn BackendSandbox,
    builtin: Builtin,
) -> Result<String, BuiltinError> {
    let job = Job::of(Program::Builtin(builtin));
    let started = sandbox.start(job).await.map_err(BuiltinError::other)?;
    // The builtin stops when the process is dropped.
    let (_process, _stdin, _stdout) = (started.process, started.stdin, started.stdout);
    match read_report(started.stderr).await {
        Ok(Outcome::Result(result)) => Ok(result),
        Ok(Outcome::Error(error)) => Err(error),
        Err(reason) => Err(no_outcome(&reason)),
    }
}

/// Moves the streams of a builtin until it has ended.
async fn perform(
    started: Started,
    killed: &mut watch::Receiver<bool>,
    deadline: &Arc<Deadline>,
    outlet: &Outlet,
) -> Ending {
    let Started {
        stdin,
        stdout,
        stderr,
        process,
    } = started;
    let keeper = outlet.keeper(StdStream::Stdout);
    let mut output = tokio::spawn(pump(stdout, deadline.clone(), keeper));
    // The end of stdin commits a write, so stdin must stay open until a kill is confirmed.
    let mut stdin = Some(stdin);
    // If this task is dropped, the process is dropped before its stdin. That stops the builtin.
    let mut process = process;
    let mut report = std::pin::pin!(read_report(stderr));
    let outcome = tokio::select! {
        biased;
        () = asked(killed) => None,
        // Polled before the report, so that stdin that the builtin has taken is acknowledged first.
        () = async {
            if let Some(pipe) = &mut stdin {
                outlet.feed(pipe).await;
            }
            stdin = None;
            std::future::pending().await
        } => None,
        outcome = &mut report => Some(outcome),
    };
    let mut ending = match outcome {
        Some(Ok(outcome)) => Ending::Completed(outcome),
        Some(Err(reason)) => tokio::select! {
            biased;
            exit = process.wait() => match exit {
                // The sandbox was lost.
                Err(error) => Ending::Lost(error.to_string()),
                Ok(_) => Ending::Completed(Outcome::Error(no_outcome(&reason))),
            },
            () = asked(killed) => {
                stop(&mut *process, std::future::ready(Err(reason)), outlet).await
            }
        },
        None => stop(&mut *process, report, outlet).await,
    };
    outlet.exec.will_end();
    // A connection that failed ends its output after this.
    drop(stdin);
    outlet.exec.change(ServedExec::handle_stdin_closed);
    outlet.keep_rest();
    if let Ending::Killed(Err(_)) = ending {
        // The builtin may still hold its output open.
        deadline.set(Duration::ZERO);
    }
    let output = tokio::select! {
        biased;
        output = &mut output => output,
        () = asked(killed) => {
            outlet.exec.will_die(None);
            deadline.set(SHORT_GRACE);
            output.await
        }
    };
    if !matches!(output, Ok(None)) && matches!(ending, Ending::Completed(Outcome::Result(_))) {
        ending = Ending::Lost("The end of the output was lost.".to_owned());
    }
    ending
}

/// Kills a builtin. The report may say that the builtin took effect before it noticed the
/// kill.
async fn stop(
    process: &mut dyn Process,
    report: impl Future<Output = io::Result<Outcome>>,
    outlet: &Outlet,
) -> Ending {
    outlet.exec.will_die(None);
    let mut report = std::pin::pin!(report);
    let mut killed = std::pin::pin!(kill(process));
    // The builtin can't end while it waits for room to report.
    let (killed, reported) = tokio::select! {
        biased;
        reported = &mut report => (killed.await, Some(reported)),
        killed = &mut killed => (killed, None),
    };
    let exit = match killed {
        Ok(exit) => exit,
        Err(reason) => return Ending::Killed(Err(reason)),
    };
    let reported = match reported {
        Some(reported) => reported,
        None => report.await,
    };
    match reported {
        Ok(outcome @ Outcome::Result(_)) => Ending::Completed(outcome),
        _ => Ending::Killed(Ok(exit)),
    }
}

/// The error of a builtin that has ended without a report.
fn no_outcome(reason: &io::Error) -> BuiltinError {
    BuiltinError::other(format!("the operation ended without an outcome: {reason}"))
}

/// Reads the report of a builtin, which is all that its stderr contains.
async fn read_report(stderr: Pipe) -> io::Result<Outcome> {
    let mut json = Vec::new();
    let most = MAX_REPORT_BYTES as u64 + 1;
    stderr.take(most).read_to_end(&mut json).await?;
    Ok(match serde_json::from_slice(&json)? {
        Report::Result(result) => Outcome::Result(result.to_string()),
        Report::Error(error) => Outcome::Error(error),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use futures::future::BoxFuture;
    use tokio::{
        io::{AsyncRead, AsyncWriteExt, ReadBuf, duplex, empty, sink},
        sync::{mpsc, oneshot},
        time::timeout,
    };

    use super::*;
    use crate::{
        inside::process::{Exit, Process},
        server::exec::shared_exec::SharedExec,
    };

    const RESULT: &str = r#"{"result":{}}"#;

    /// A process that ends when `ended` is sent.
    struct Fake(Option<oneshot::Receiver<()>>);

    impl Process for Fake {
        fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>> {
            Box::pin(std::future::pending())
        }

        fn kill(&mut self) -> BoxFuture<'_, Result<(), String>> {
            Box::pin(async {
                if let Some(ended) = self.0.take() {
                    let _ = ended.await;
                }
                // The wait after a kill must return.
                Err("killed".to_owned())
            })
        }
    }

    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
        }
    }

    fn started(stdout: Pipe, stderr: Pipe, process: Fake) -> Started {
        Started {
            stdin: Box::new(sink()),
            stdout,
            stderr,
            process: Box::new(process),
        }
    }

    /// How a builtin ends. `is_killed` is whether the kill comes before the first event. Another
    /// kill comes when the builtin waits.
    async fn ending(started: Started, is_killed: bool) -> Ending {
        let exec = SharedExec::new(ServedExec::new("e".into(), 1_024), None);
        let outlet = Outlet {
            id: Some("e".into()),
            exec,
            events: mpsc::channel(1).0,
        };
        let (kill, mut killed) = watch::channel(is_killed);
        let deadline = Deadline::new();
        let performed = perform(started, &mut killed, &deadline, &outlet);
        let (ending, _) = tokio::join!(timeout(Duration::from_secs(10), performed), async {
            kill.send_replace(true)
        });
        ending.expect("the builtin did not end")
    }

    #[tokio::test]
    async fn a_kill_while_a_builtin_writes_its_report_ends_it() {
        let (stderr, mut report) = duplex(4);
        let (end, ended) = oneshot::channel();
        tokio::spawn(async move {
            report.write_all(RESULT.as_bytes()).await.unwrap();
            drop(report);
            end.send(())
        });
        let process = Fake(Some(ended));
        let started = started(Box::new(empty()), Box::new(stderr), process);
        let ending = ending(started, true).await;
        assert!(matches!(ending, Ending::Killed(Err(_))));
    }

    #[tokio::test]
    async fn a_builtin_whose_output_was_lost_has_no_success() {
        let stdout = Box::new(Broken);
        let started = started(stdout, Box::new(RESULT.as_bytes()), Fake(None));
        assert!(matches!(ending(started, false).await, Ending::Lost(_)));
    }

    #[tokio::test]
    async fn a_kill_ends_a_builtin_whose_output_stays_open() {
        let (stdout, _open) = duplex(4);
        let started = started(Box::new(stdout), Box::new(RESULT.as_bytes()), Fake(None));
        assert!(matches!(ending(started, false).await, Ending::Lost(_)));
    }

    #[tokio::test]
    async fn a_kill_ends_a_builtin_that_neither_reports_nor_exits() {
        let started = started(Box::new(empty()), Box::new(empty()), Fake(None));
        assert!(matches!(
            ending(started, false).await,
            Ending::Killed(Err(_))
        ));
    }
}
