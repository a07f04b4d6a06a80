//! [`Container`]: a running container of gVisor, with the agent as its first process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::net::unix::pipe;

use super::runsc::Runsc;
use crate::{
    inside::{messages::Setup, remote::Remote},
    server::{backend::agent_errors, escaped::Escaped},
};

/// A running container. Dropping it ends the container in the background.
pub(super) struct Container {
    pub(super) remote: Remote,
    runsc: Arc<Runsc>,
    /// Random, so that code can't guess it. [`Runsc::end`] finds the processes of the container by
    /// it.
    name: String,
    bundle: PathBuf,
    /// Whether the memory is being stored, after which the processes end.
    is_storing: Arc<AtomicBool>,
}

impl Container {
    /// Starts a container, or restores it from `image`. Waits until the agent is ready.
    pub(super) async fn start(
        runsc: Arc<Runsc>,
        name: String,
        bundle: &Path,
        image: Option<&Path>,
        setup: Setup,
    ) -> Result<Self, String> {
        let remote = Self::connect(&runsc, &name, bundle, image, setup).await?;
        let container = Self {
            remote,
            runsc,
            name,
            bundle: bundle.to_owned(),
            is_storing: Arc::default(),
        };
        container.end_with_agent();
        Ok(container)
    }

    /// Ends the container in the background when its agent has ended.
    fn end_with_agent(&self) {
        let (ended, is_storing) = (self.remote.ended(), self.is_storing.clone());
        let (runsc, name, bundle) = (self.runsc.clone(), self.name.clone(), self.bundle.clone());
        tokio::spawn(async move {
            // If the agent broke the protocol, code may control it, so kill it.
            let reason = ended.await;
            tracing::debug!(reason = %Escaped(reason), "the agent of a sandbox has ended");
            // `runsc checkpoint` ends the agent and then answers, unless it is killed.
            if !is_storing.load(Ordering::Relaxed) {
                let _ = runsc.end(&name, &bundle).await;
            }
        });
    }

    async fn connect(
        runsc: &Runsc,
        name: &str,
        bundle: &Path,
        image: Option<&Path>,
        setup: Setup,
    ) -> Result<Remote, String> {
        let pipes = || {
            let (stdin, input) = io::pipe()?;
            let (output, stdout) = io::pipe()?;
            let (errors, stderr) = io::pipe()?;
            let input = pipe::Sender::from_owned_fd(input.into())?;
            let output = pipe::Receiver::from_owned_fd(output.into())?;
            let errors = pipe::Receiver::from_owned_fd(errors.into())?;
            io::Result::Ok((input, output, errors, stdin, stdout, stderr))
        };
        let (input, output, errors, stdin, stdout, stderr) =
            pipes().map_err(|error| format!("cannot create pipes: {error}"))?;
        let mut command = runsc.command(if image.is_some() { "restore" } else { "run" });
        command.args(["--detach", "--bundle"]).arg(bundle);
        if let Some(image) = image {
            command.arg("--image-path").arg(image);
        }
        command.arg(name).stdin(stdin).stdout(stdout).stderr(stderr);
        runsc.limit_memory(&mut command, setup.limits.data);
        let called = runsc.call(&mut command).await;
        // Close the server's copies of the agent's ends of the pipes.
        drop(command);
        if let Err(reason) = called {
            let _ = runsc.end(name, bundle).await;
            return Err(reason);
        }
        let connected = match image {
            Some(_) => Remote::resume(output, input, setup).await,
            None => Remote::connect(output, input, setup).await,
        };
        match connected {
            Ok(remote) => {
                tokio::spawn(agent_errors::log(errors));
                Ok(remote)
            }
            Err(reason) => {
                let _ = runsc.end(name, bundle).await;
                let said = agent_errors::lines(errors).await;
                match said.is_empty() {
                    true => Err(reason),
                    false => Err(format!("{reason}: {said}")),
                }
            }
        }
    }

    /// Stores the memory of all processes in the directory `image`, and ends them. The agent must
    /// be suspended.
    pub(super) async fn store(&self, image: &Path) -> Result<(), String> {
        fs::create_dir_all(image).map_err(|error| error.to_string())?;
        self.is_storing.store(true, Ordering::Relaxed);
        let mut command = self.runsc.command("checkpoint");
        self.runsc
            .call(command.arg("--image-path").arg(image).arg(&self.name))
            .await
    }

    /// Ends the container with all its processes.
    pub(super) async fn end(&self) -> Result<(), String> {
        self.runsc
            .end(&self.name, &self.bundle)
            .await
            .map_err(|error| format!("the sandbox could not be ended: {error}"))
    }
}
