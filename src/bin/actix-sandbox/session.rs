//! [`Session`]: a sandbox that a command creates, on a service or on a local server that ends with
//! the command.

use std::{fmt::Display, pin::pin, time::Duration};

use actix_sandbox::{
    ErrorKind, LocalServer, NewSandbox, Sandbox, SandboxBuilder, SandboxId,
    server::{Backend, ServerError},
};
use clap::Args;
use nix::sys::signal::Signal;

use crate::{
    failure::Failure,
    kept::{Kept, KeptSandboxes},
    service::{Service, ServiceArguments},
    shared::{backend, say},
    signals::{Signals, ended_by},
};

/// After a signal, how long to wait for a sandbox that is being created, to kill it.
const CREATED_WITHIN: Duration = Duration::from_secs(10);

/// Where `run` and `shell` create their sandbox.
#[derive(Args)]
pub(crate) struct SessionArguments {
    #[command(flatten)]
    service: ServiceArguments,

    /// Backend of the local server, which runs the sandbox if no service is named: confined,
    /// gvisor, namespace, auto or host. host confines nothing: use it only for code that you trust
    /// [default: confined].
    #[arg(long, value_parser = backend, conflicts_with = "url", help_heading = "Local server")]
    backend: Option<Backend>,

    /// Lets the code use the network of this machine.
    #[arg(long, conflicts_with = "url", help_heading = "Local server")]
    network: bool,
}

impl SessionArguments {
    /// The service of the arguments, the environment or the configuration file. `None` if the
    /// command starts a local server.
    pub(crate) fn service(&self) -> Result<Option<Service>, Failure> {
        match self.backend.is_some() || self.network {
            true => Ok(None),
            false => self.service.find(),
        }
    }

    pub(crate) fn service_arguments(&self) -> &ServiceArguments {
        &self.service
    }

    /// Fails if a sandbox can't be kept, because it would run on a local server of this process.
    pub(crate) fn check_keep(&self, keep: bool) -> Result<(), Failure> {
        if !keep || self.service()?.is_some() {
            return Ok(());
        }
        // Names the command that starts a server.
        self.service.require()?;
        Err(
            "`--keep` can't be combined with `--backend` or `--network`: the local server ends \
             with this command"
                .into(),
        )
    }
}

/// A sandbox that a command creates.
pub(crate) struct Session {
    pub(crate) sandbox: Sandbox,
    service: Service,
    /// The local server, if the sandbox runs on one.
    server: Option<LocalServer>,
    /// Whether the sandbox is in the file of the user's sandboxes.
    is_recorded: bool,
}

impl Session {
    /// Creates the sandbox. Leaves nothing behind if a signal arrives.
    pub(crate) async fn create(
        arguments: &SessionArguments,
        snapshot: Option<String>,
        signals: &mut Signals,
    ) -> Result<Self, Failure> {
        let (service, server) = match arguments.service()? {
            Some(service) => (service, None),
            None => {
                let started = start(arguments.backend.clone(), arguments.network)?;
                let server = signals.or(async { Ok(started.await?) }).await?;
                (Service::new(server.url()), Some(server))
            }
        };
        let mut builder = service.configure(Sandbox::create(&service.url))?;
        if let Some(name) = snapshot {
            builder = builder.snapshot(name);
        }
        let sandbox = match created(builder, signals).await {
            Ok(sandbox) => sandbox,
            Err(failure) => {
                if let Some(server) = server {
                    server.stop().await;
                }
                return Err(failure);
            }
        };
        let mut session = Self {
            sandbox,
            service,
            server,
            is_recorded: false,
        };
        // A local server and its sandboxes end with this process, even if it is killed.
        if session.server.is_none() {
            let kept = Kept::new(&session.sandbox, &session.service, Some(false));
            match record(kept).await {
                Ok(()) => session.is_recorded = true,
                Err(reason) => say(format_args!(
                    "if this command is killed, its sandbox will live until its idle timeout, \
                     because it is not recorded: {reason}"
                )),
            }
        }
        Ok(session)
    }

    /// Keeps the sandbox after the work in it.
    pub(crate) async fn keep<T>(
        self,
        done: Result<T, Failure>,
        signals: &mut Signals,
    ) -> Result<T, Failure> {
        if !self.is_recorded {
            say("the sandbox is not kept, because it is not recorded");
            return self.end_after(done, signals).await;
        }
        say(format_args!("kept {}", self.sandbox.sandbox_id()));
        done
    }

    /// Ends the session after the work in it. An error of the work comes first.
    pub(crate) async fn end_after<T>(
        self,
        done: Result<T, Failure>,
        signals: &mut Signals,
    ) -> Result<T, Failure> {
        let id = self.sandbox.sandbox_id().clone();
        let is_local = self.server.is_some();
        let ended = match signals.clean_up(self.end()).await {
            Some(ended) => ended,
            // The watchdog of the server cleans up.
            None if is_local => Ok(()),
            None => Err(may_still_run(&id, &"the service did not confirm the kill")),
        };
        match (done, ended) {
            (done, Ok(())) => done,
            (Ok(_), Err(failure)) => Err(failure),
            (Err(failure), Err(other)) => {
                other.report();
                Err(failure)
            }
        }
    }

    /// Kills the sandbox and stops the local server.
    async fn end(self) -> Result<(), Failure> {
        if let Some(server) = self.server {
            drop(self.sandbox);
            server.stop().await;
            return Ok(());
        }
        let id = self.sandbox.sandbox_id();
        match self.sandbox.kill().await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(may_still_run(id, &error)),
        }
        if self.is_recorded {
            forget(id, &self.service).await?;
        }
        Ok(())
    }
}

fn may_still_run(id: &SandboxId, reason: &dyn Display) -> Failure {
    format!("{id} may still run: {reason}; `actix-sandbox kill {id}` tries again").into()
}

/// Starts a local server.
fn start(
    backend: Option<Backend>,
    network: bool,
) -> Result<impl Future<Output = Result<LocalServer, ServerError>>, Failure> {
    let backend = match (backend.unwrap_or(Backend::Confined), network) {
        (backend, false) => backend,
        (Backend::Namespace(options), true) => Backend::Namespace(options.network(true)),
        (Backend::Gvisor(options), true) => Backend::Gvisor(options.network(true)),
        (Backend::Host, true) => Backend::Host,
        (_, true) => {
            return Err("`--network` needs `--backend namespace` or `--backend gvisor`".into());
        }
    };
    Ok(LocalServer::builder().backend(backend).start())
}

/// Creates a sandbox. If a signal arrives first, waits for the sandbox and kills it.
pub(crate) async fn created(
    builder: SandboxBuilder<NewSandbox>,
    signals: &mut Signals,
) -> Result<Sandbox, Failure> {
    let mut created = pin!(builder.into_future());
    let signal: Signal = tokio::select! {
        created = &mut created => return Ok(created?),
        signal = signals.next() => signal,
    };
    if let Ok(Ok(sandbox)) = tokio::time::timeout(CREATED_WITHIN, created).await {
        // If this fails, the sandbox lives until its idle timeout.
        let _ = sandbox.kill().await;
    }
    Err(ended_by(signal))
}

/// Adds a sandbox to the user's sandboxes.
pub(crate) async fn record(kept: Kept) -> Result<(), String> {
    KeptSandboxes::open()?.add(kept).await
}

/// Removes a sandbox from the user's sandboxes.
pub(crate) async fn forget(id: &SandboxId, service: &Service) -> Result<(), String> {
    KeptSandboxes::open()?.remove(id, service).await
}
