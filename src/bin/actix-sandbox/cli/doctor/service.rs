//! Checks the service at a URL, step by step: DNS, TCP, HTTP, and a sandbox from create to kill.

use std::{io, net::SocketAddr};

use actix_sandbox::{Error, ErrorKind, Language, ProtocolVersion, Sandbox};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use url::{Host, Url};

use super::{
    LIMIT,
    printer::Printer,
    report::{ServiceReport, Step, millis},
    target::{Problem, Target},
};
use crate::cli::{failure::Failure, service::shown, signals::Signals};

/// Runs the steps until one fails.
pub(super) async fn check(
    target: &Target,
    signals: &mut Signals,
    printer: &mut Printer,
) -> Result<ServiceReport, Failure> {
    let url = shown(target.url());
    printer.service(&url)?;
    let mut check = Check {
        target,
        signals,
        printer,
        report: ServiceReport {
            url,
            works: false,
            protocol: None,
            features: Vec::new(),
            lift: None,
            steps: Vec::new(),
        },
    };
    if check.reach().await? {
        check.report.works = check.sandbox().await?;
    }
    Ok(check.report)
}

struct Check<'a> {
    target: &'a Target,
    signals: &'a mut Signals,
    printer: &'a mut Printer,
    report: ServiceReport,
}

impl Check<'_> {
    /// Checks DNS, TCP and HTTP. Returns whether an HTTP server answers.
    async fn reach(&mut self) -> Result<bool, Failure> {
        // The client has accepted the URL, so it has a host.
        let url =
            Url::parse(self.target.url()).map_err(|error| Failure::from(error.to_string()))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let addresses = match url.host() {
            Some(Host::Ipv4(ip)) => vec![SocketAddr::from((ip, port))],
            Some(Host::Ipv6(ip)) => vec![SocketAddr::from((ip, port))],
            Some(Host::Domain(host)) => match self.step("dns", resolve(host, port)).await? {
                Some(addresses) => addresses,
                None => return Ok(false),
            },
            None => return Ok(false),
        };
        if self.step("tcp", connect(&addresses)).await?.is_none() {
            return Ok(false);
        }
        let is_tls = ["https", "wss"].contains(&url.scheme());
        let answered = self.step("http", answer(self.target, is_tls)).await?;
        Ok(answered.is_some())
    }

    /// Creates a sandbox, runs `true` in it and kills it. Returns whether all that works.
    async fn sandbox(&mut self) -> Result<bool, Failure> {
        let created = self.create("create", false).await?;
        let Some(sandbox) = created else {
            return Ok(false);
        };
        let version = sandbox.protocol_version();
        self.report.protocol = Some(version.to_string());
        self.report.features = sandbox.features().await.unwrap_or_default();
        let works = self.use_and_kill(&sandbox, "run", "kill").await?;
        if works && version == ProtocolVersion::V1 {
            let lifted = self.create("lift", true).await?;
            let works = match &lifted {
                Some(sandbox) => self.use_and_kill(sandbox, "lift run", "lift kill").await?,
                None => false,
            };
            self.report.lift = Some(works);
        }
        Ok(works)
    }

    /// Runs `true` in a sandbox and kills the sandbox, whatever happens.
    async fn use_and_kill(
        &mut self,
        sandbox: &Sandbox,
        run: &'static str,
        kill: &'static str,
    ) -> Result<bool, Failure> {
        let target = self.target;
        let ran = self.step(run, run_true(sandbox, target)).await;
        let ran = match ran {
            Ok(ran) => ran,
            Err(stop) => {
                let _ = timeout(LIMIT, sandbox.kill()).await;
                return Err(stop);
            }
        };
        let begin = Instant::now();
        // A signal doesn't interrupt the kill.
        let killed = timeout(LIMIT, sandbox.kill()).await;
        let killed = match killed {
            Ok(Ok(())) => Ok(((), None)),
            Ok(Err(error)) => Err(Problem::of(&error, target)),
            Err(_) => Err(Problem::slow()),
        };
        let killed = self.record(kill, begin, killed)?;
        Ok(ran.is_some() && killed.is_some())
    }

    /// Creates a sandbox.
    async fn create(&mut self, name: &'static str, lift: bool) -> Result<Option<Sandbox>, Failure> {
        let target = self.target;
        let begin = Instant::now();
        let creating = Box::pin(target.create().lift(lift).into_future());
        let created = match self.signals.while_creating(timeout(LIMIT, creating)).await {
            Ok(created) => created,
            Err((stop, created)) => {
                if let Some(Ok(Ok(sandbox))) = created {
                    let _ = timeout(LIMIT, sandbox.kill()).await;
                }
                return Err(stop);
            }
        };
        let created = match created {
            Ok(Ok(sandbox)) => {
                let detail = format!("protocol {}", sandbox.protocol_version());
                Ok((sandbox, Some(detail)))
            }
            Ok(Err(error)) => Err(Problem::of(&error, target)),
            Err(_) => Err(Problem::slow()),
        };
        let kept = created.as_ref().ok().map(|(sandbox, _)| sandbox.clone());
        match (self.record(name, begin, created), kept) {
            (Err(stop), Some(sandbox)) => {
                let _ = timeout(LIMIT, sandbox.kill()).await;
                Err(stop)
            }
            (recorded, _) => recorded,
        }
    }

    /// Runs a step, prints it and records it. Returns `None` if it failed.
    async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(T, Option<String>), Problem>>,
    ) -> Result<Option<T>, Failure> {
        let begin = Instant::now();
        let done = self.signals.or_interrupted(timeout(LIMIT, work)).await?;
        let done = done.unwrap_or_else(|_| Err(Problem::slow()));
        self.record(name, begin, done)
    }

    fn record<T>(
        &mut self,
        name: &'static str,
        begin: Instant,
        done: Result<(T, Option<String>), Problem>,
    ) -> Result<Option<T>, Failure> {
        let mut step = Step {
            step: name,
            works: done.is_ok(),
            ms: millis(begin.elapsed()),
            detail: None,
            problem: None,
            advice: Vec::new(),
        };
        let value = match done {
            Ok((value, detail)) => {
                step.detail = detail;
                Some(value)
            }
            Err(failure) => {
                step.step = failure.step.unwrap_or(name);
                step.problem = Some(failure.problem);
                step.advice = failure.advice;
                None
            }
        };
        self.printer.step(&step)?;
        self.report.steps.push(step);
        Ok(value)
    }
}

type Done<T> = Result<(T, Option<String>), Problem>;

async fn resolve(host: &str, port: u16) -> Done<Vec<SocketAddr>> {
    let found = lookup_host((host, port)).await;
    let found: Vec<_> = found
        .map_err(|error| {
            Problem::new(
                format!("the host `{host}` does not resolve: {error}"),
                "check the host name in the URL, and the DNS servers of this machine",
            )
        })?
        .collect();
    let ips: Vec<_> = found.iter().map(|it| it.ip().to_string()).collect();
    Ok((found, Some(ips.join(", "))))
}

async fn connect(addresses: &[SocketAddr]) -> Done<()> {
    let mut last = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(_) => return Ok(((), Some(address.to_string()))),
            Err(error) => last = Some((address, error)),
        }
    }
    let Some((address, error)) = last else {
        return Err(Problem::new(
            "the host has no address".to_owned(),
            "check the host name in the URL",
        ));
    };
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: start the server, or correct the port in the URL"
        }
        _ => "check the address in the URL, and the network and firewall of this machine",
    };
    Err(Problem::new(
        format!("cannot connect to {address}: {error}"),
        advice,
    ))
}

/// Waits for an HTTP response. Its status doesn't matter: a service may not have a list.
async fn answer(target: &Target, is_tls: bool) -> Done<()> {
    let answered = target.answer().await;
    let status = match &answered {
        Ok(()) => Some(200),
        Err(error) => error.http_status(),
    };
    let step = match answered.as_ref().map_err(Error::kind) {
        Err(ErrorKind::Tls) => Some("tls"),
        Err(ErrorKind::NoToken) => Some("token"),
        Err(
            ErrorKind::Resolve
            | ErrorKind::Connect
            | ErrorKind::NotWebSocket
            | ErrorKind::Timeout
            | ErrorKind::LinkLost,
        ) => None,
        _ => {
            let status = status.map_or("an answer".to_owned(), |it| format!("status {it}"));
            let over = if is_tls { " over TLS" } else { "" };
            return Ok(((), Some(format!("{status}{over}"))));
        }
    };
    let Err(error) = answered else {
        return Ok(((), None));
    };
    Err(Problem {
        step,
        ..Problem::of(&error, target)
    })
}

async fn run_true(sandbox: &Sandbox, target: &Target) -> Done<()> {
    let output = sandbox.run(Language::Bash, "true").await;
    let output = output.map_err(|error| Problem::of(&error, target))?;
    match sandbox.protocol_version() {
        ProtocolVersion::V1 => Ok(((), Some("v1 reports no exit status".to_owned()))),
        _ => match output.error_for_status() {
            Ok(_) => Ok(((), Some("exit status 0".to_owned()))),
            Err(error) => Err(Problem::of(&error, target)),
        },
    }
}
