//! [`start`]: runs a builtin in a thread of this process, for sandboxes without an agent.

use std::{
    io::{self, PipeWriter},
    path::PathBuf,
    thread,
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{net::unix::pipe, sync::watch, time::timeout};

use super::{
    builtin::{Streams, serve},
    process::{Exit, Process, Started},
};
use crate::protocol::Builtin;

/// How long a builtin may take to stop. A file system that doesn't answer can hold its thread.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Starts a builtin. Relative paths start at `home`. Dropping the process stops the builtin.
pub(crate) fn start(builtin: Builtin, home: PathBuf) -> io::Result<Started> {
    let (stdin, input) = io::pipe()?;
    let (output, stdout) = io::pipe()?;
    let (errors, stderr) = io::pipe()?;
    let (stopped, stopper) = io::pipe()?;
    let input = pipe::Sender::from_owned_fd(input.into())?;
    let output = pipe::Receiver::from_owned_fd(output.into())?;
    let errors = pipe::Receiver::from_owned_fd(errors.into())?;
    let mut streams = Streams::new(stdin.into(), stdout.into(), stopped.into())?;
    let (ended, exited) = watch::channel(false);
    thread::Builder::new()
        .name(format!("builtin {}", builtin.op()))
        .spawn(move || {
            // If this fails, the server notices that there is no outcome.
            let _ = serve(&builtin, &home, &mut streams, stderr);
            drop(streams);
            ended.send_replace(true);
        })?;
    Ok(Started {
        stdin: Box::new(input),
        stdout: Box::new(output),
        stderr: Box::new(errors),
        process: Box::new(Thread {
            stop: Some(stopper),
            exited,
        }),
    })
}

/// A builtin that runs in a thread.
struct Thread {
    /// Stops the builtin when it is dropped.
    stop: Option<PipeWriter>,
    exited: watch::Receiver<bool>,
}

impl Process for Thread {
    fn wait(&mut self) -> BoxFuture<'_, io::Result<Exit>> {
        Box::pin(async {
            // If the thread has panicked, it has ended, too.
            let _ = self.exited.wait_for(|&ended| ended).await;
            Ok(Exit::default())
        })
    }

    fn kill(&mut self) -> BoxFuture<'_, Result<(), String>> {
        self.stop = None;
        Box::pin(async {
            let ended = timeout(STOPPED_WITHIN, self.exited.wait_for(|&ended| ended)).await;
            ended.map(drop).map_err(|_| {
                format!("the operation did not stop within {STOPPED_WITHIN:?} of the kill")
            })
        })
    }
}
