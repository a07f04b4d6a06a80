//! [`Session`]: a sandbox that a command creates, on a service or on a local server that ends with
//! the command.

use std::{fmt::Display, time::Duration};

use actix_sandbox::{
    ErrorKind, LocalServer, NewSandbox, Sandbox, SandboxBuilder,
    server::{Backend, ServerError},
};
use clap::Args;

use crate::cli::{
    failure::Failure,
    kept::{Kept, forget, record},
    service::{self, Service, ServiceArguments},
    shared::{LOCAL_SERVER, backend, say},
    signals::{CLEAN_UP_WITHIN, Signals},
};

/// Idle timeout of a sandbox that is kept.
const KEPT_IDLE: Duration = Duration::from_secs(60 * 60);
/// How much longer than its reconnects a client may be away before its sandbox ends.
const IDLE_MARGIN: Duration = Duration::from_secs(60);

/// Where `run` and `shell` create their sandbox.
#[derive(Args)]
pub(crate) struct SessionArguments {
    #[command(flatten)]
    service: ServiceArguments,

    /// Runs the sandbox on a local server with this backend, even if a service is named: confined,
    /// gvisor, namespace, auto or host. host confines nothing: use it only for code that you trust
    /// [default: confined, if no service is named].
    #[arg(long, value_parser = local_backend, conflicts_with = "url", help_heading = LOCAL_SERVER)]
    backend: Option<Backend>,

    /// Lets the code use the network of this machine. Needs --backend namespace or gvisor.
    #[arg(long, conflicts_with = "url", help_heading = LOCAL_SERVER)]
    network: bool,
}

/// Parses the name of a backend. An empty value, for example of an unset variable, means the
/// default.
fn local_backend(name: &str) -> Result<Backend, String> {
    match name {
        "" => Ok(Backend::Confined),
        name => backend(name),
    }
}

impl SessionArguments {
    /// The service of the arguments, the environment or the configuration file. `None` if the
    /// command starts a local server.
    fn service(&self) -> Result<Option<Service>, Failure> {
        let service = match self.is_local() {
            true => None,
            false => self.service.find()?,
        };
        if service.is_none() {
            self.service.check_unused()?;
        }
        Ok(service)
    }

    /// Whether an argument is about the local server.
    pub(crate) fn is_local(&self) -> bool {
        self.backend.is_some() || self.network
    }

    pub(crate) fn service_arguments(&self) -> &ServiceArguments {
        &self.service
    }

    /// Why a sandbox can't be kept on a local server of this process.
    fn cannot_keep(&self) -> Failure {
        match self.is_local() {
            true => "`--keep` can't be combined with `--backend` or `--network`: the local server \
                     ends with this command"
                .into(),
            false => format!("`--keep` needs a service: {}", service::NAME_ONE).into(),
        }
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
    /// Creates the sandbox. Leaves nothing behind if a signal arrives. `keep` is whether it outlives
    /// the command.
    pub(crate) async fn create(
        arguments: &SessionArguments,
        snapshot: Option<String>,
        keep: bool,
        signals: &mut Signals,
    ) -> Result<Self, Failure> {
        let (service, server) = match arguments.service()? {
            Some(service) => (service, None),
            None if keep => return Err(arguments.cannot_keep()),
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
        builder = builder.idle_timeout(match keep {
            true => KEPT_IDLE,
            false => service.reconnect_timeout().saturating_add(IDLE_MARGIN),
        });
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
                    "cannot store the id and the token of the sandbox: {reason}; if this command is \
                     killed, `actix-sandbox kill` can't find the sandbox, which ends at its idle \
                     timeout"
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
            say("the sandbox is not kept, because its id and token could not be stored");
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
        let ended = self.end(signals).await;
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
    async fn end(self, signals: &mut Signals) -> Result<(), Failure> {
        if let Some(server) = self.server {
            drop(self.sandbox);
            // If this is not done in time, the watchdog of the server cleans up.
            let _ = signals.within(CLEAN_UP_WITHIN, server.stop()).await;
            return Ok(());
        }
        kill(&self.sandbox, signals).await?;
        if self.is_recorded
            && let Err(reason) = forget(self.sandbox.sandbox_id().as_str(), &self.service).await
        {
            say(reason);
        }
        Ok(())
    }
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
    // `--timeout` is the only limit on the run time.
    let builder = LocalServer::builder().max_run_time(Duration::MAX);
    Ok(builder.backend(backend).start())
}

/// Creates a sandbox. If a signal arrives first, waits for the sandbox and kills it.
pub(crate) async fn created(
    builder: SandboxBuilder<NewSandbox>,
    signals: &mut Signals,
) -> Result<Sandbox, Failure> {
    let (stopped, created) = match signals.while_creating(builder.into_future()).await {
        Ok(created) => return Ok(created?),
        Err(stopped) => stopped,
    };
    match created {
        Some(Ok(sandbox)) => kill(&sandbox, signals).await.unwrap_or_else(|failure| {
            failure.report();
        }),
        Some(Err(_)) => {}
        None => say("the service may still create a sandbox, which ends at its idle timeout"),
    }
    Err(stopped)
}

/// Kills a sandbox, unless another signal arrives.
pub(crate) async fn kill(sandbox: &Sandbox, signals: &mut Signals) -> Result<(), Failure> {
    let reason: Box<dyn Display> = match signals.clean_up(sandbox, sandbox.kill()).await {
        Some(Ok(())) => return Ok(()),
        Some(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Some(Err(error)) => Box::new(error),
        None => Box::new("the service did not confirm the kill"),
    };
    Err(format!("{} may still run: {reason}", sandbox.sandbox_id()).into())
}
