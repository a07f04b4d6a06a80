//! `actix-sandbox forward`: local ports that lead to ports of a sandbox.

use std::{
    error::Error as _,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    str::FromStr,
};

use actix_sandbox::{ErrorKind, EventStream, PortForward, Sandbox, SandboxEvent};
use clap::Args;
use futures::StreamExt;

use crate::cli::{
    failure::{self, Failure},
    known::KnownSandbox,
    output, runtime,
    signals::Signals,
};

const STATUS: &str = "Exit status: 130 after Ctrl-C, which is the normal way to end this command; \
    1 if a port could not be forwarded, or if the sandbox has ended; 2 for wrong arguments.";

#[derive(Args)]
#[command(after_help = STATUS)]
pub(crate) struct Forward {
    #[command(flatten)]
    sandbox: KnownSandbox,

    /// Ports to forward. 8080 forwards the local port 8080 to the port 8080 of the sandbox. 8081:80
    /// forwards the local port 8081 to port 80. 0:80 selects a free local port. Without ADDRESS, the
    /// command listens on 127.0.0.1. 0.0.0.0:8081:80 lets other machines connect, too.
    #[arg(required = true, value_name = "[[ADDRESS:]LOCAL:]PORT")]
    ports: Vec<Mapping>,
}

/// A local address and a port of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    local: SocketAddr,
    port: u16,
}

impl Forward {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        runtime::run(|signals| self.start(signals))
    }

    async fn start(self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let forwarded = signals.or(self.forward()).await;
        forwarded.map_err(Failure::quiet_if_interrupted)
    }

    /// Forwards the ports until the sandbox ends.
    async fn forward(&self) -> Result<ExitCode, Failure> {
        let sandbox = self.sandbox.attach().await?;
        let events = sandbox.events();
        let mut forwards = Vec::new();
        for mapping in &self.ports {
            forwards.push(mapping.forward(&sandbox).await?);
        }
        for (forward, mapping) in forwards.iter().zip(&self.ports) {
            let local = forward.local_addr();
            let port = mapping.port;
            output::print_line(&format!("forwarding {local} to port {port}"))?;
        }
        Err(ended(events).await)
    }
}

impl Mapping {
    async fn forward(&self, sandbox: &Sandbox) -> Result<PortForward, Failure> {
        let forwarded = sandbox.forward(self.local, self.port).await;
        forwarded.map_err(|error| match (error.kind(), error.source()) {
            (ErrorKind::LocalAddress, Some(reason)) => format!(
                "cannot listen on {}: {reason}; choose another local port, or 0 for a free one",
                self.local
            )
            .into(),
            _ => failure::describe(&error).into(),
        })
    }
}

/// Waits until the sandbox, or the session with it, has ended.
async fn ended(mut events: EventStream) -> Failure {
    while let Some(event) = events.next().await {
        if let SandboxEvent::Ended(end) = event {
            return format!("the sandbox has ended: {end}").into();
        }
    }
    "the sandbox has ended".into()
}

impl FromStr for Mapping {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (local, port) = text.rsplit_once(':').unwrap_or((text, text));
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(Invalid)?;
        let local = match local.parse::<u16>() {
            Ok(local) => SocketAddr::new(localhost, local),
            Err(_) => local.parse().map_err(|_| Invalid)?,
        };
        Ok(Self { local, port })
    }
}

/// Why a text is no [`Mapping`].
#[derive(Debug)]
struct Invalid;

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected PORT, LOCAL:PORT or ADDRESS:LOCAL:PORT, for example 127.0.0.1:8080:80",
        )
    }
}

impl std::error::Error for Invalid {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read() {
        for (text, local, port) in [
            ("80", "127.0.0.1:80", 80),
            ("8080:80", "127.0.0.1:8080", 80),
            ("0:80", "127.0.0.1:0", 80),
            ("0.0.0.0:8080:80", "0.0.0.0:8080", 80),
            ("[::1]:8080:80", "[::1]:8080", 80),
        ] {
            let local = local.parse().unwrap();
            assert_eq!(text.parse::<Mapping>().unwrap(), Mapping { local, port });
        }
        for text in [
            "",
            "0",
            "80:0",
            "65536",
            "a:80",
            "::1:80",
            "localhost:1:2",
            "1:2:3",
        ] {
            assert!(text.parse::<Mapping>().is_err(), "{text}");
        }
    }
}
