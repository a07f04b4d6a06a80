//! [`LinkError`]: why a link failed. Plain data, so that the machines can carry it.

use std::{fmt, io, time::Duration};

use crate::protocol::SandboxToken;

/// Why a link could not be dialled, or was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkError {
    /// The host name could not be resolved.
    Resolve {
        /// The host.
        host: String,
        /// The message of the resolver.
        detail: String,
    },
    /// The TCP connection failed, for example because nothing listens at the address.
    Connect {
        /// Host and port.
        address: String,
        /// The kind of failure.
        kind: io::ErrorKind,
        /// The message of the operating system.
        detail: String,
    },
    /// The TLS handshake failed.
    Tls {
        /// Host and port.
        address: String,
        /// The message of the TLS library.
        detail: String,
    },
    /// This build has no TLS: the feature `tls` is off.
    TlsUnavailable {
        /// Host and port.
        address: String,
    },
    /// The token source returned no bearer token for the dial.
    NoToken {
        /// The message of the token source.
        detail: String,
    },
    /// The server answered the WebSocket upgrade with an HTTP status other than 101.
    UpgradeRefused(Box<UpgradeRefusal>),
    /// The peer doesn't speak HTTP or WebSocket.
    NotWebSocket {
        /// Host and port.
        address: String,
        /// Why the answer is invalid.
        detail: String,
    },
    /// TCP, TLS and upgrade together took longer than the connect timeout.
    ConnectTimeout {
        /// Host and port.
        address: String,
        /// The timeout.
        after: Duration,
    },
    /// The peer closed the WebSocket.
    Closed {
        /// The close code, if the peer sent one.
        code: Option<u16>,
        /// The peer's reason, often empty.
        reason: String,
    },
    /// The connection ended without a close frame.
    Dropped {
        /// The message of the operating system, or a note that the stream ended.
        detail: String,
    },
    /// Nothing arrived for the time of the health check, not even an answer to a ping.
    Silent {
        /// The time without a message.
        after: Duration,
    },
    /// The link was open, but the server did not report in time that the sandbox runs.
    NotReady {
        /// The timeout.
        after: Duration,
    },
    /// The server still believes that another client is attached.
    InUse,
    /// The peer violated the protocol.
    Protocol {
        /// What the peer sent, with an excerpt of at most 200 characters.
        detail: String,
    },
    /// The actor that owned the link is gone: it panicked, or its System was stopped.
    ActorGone,
}

/// The response to an upgrade that the server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeRefusal {
    /// Host and port.
    pub address: String,
    /// The HTTP status.
    pub status: u16,
    /// The first line of the body, if it says more than the status.
    pub reason: Option<String>,
    /// The target of a redirect, without user, password, query and fragment. The client doesn't
    /// follow redirects.
    pub location: Option<String>,
    /// How long the server asks clients to wait (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl UpgradeRefusal {
    /// Whether the server wants credentials, or others than it got, and gives no other reason.
    pub fn needs_credentials(&self) -> bool {
        [401, 403].contains(&self.status) && self.reason.is_none()
    }
}

impl LinkError {
    /// Removes the token of the sandbox from all texts of the peer.
    pub(crate) fn redact(self, token: &SandboxToken) -> Self {
        match self {
            Self::UpgradeRefused(mut refusal) => {
                refusal.reason = refusal.reason.map(|reason| token.redact(reason));
                refusal.location = refusal.location.map(|location| token.redact(location));
                Self::UpgradeRefused(refusal)
            }
            Self::Closed { code, reason } => Self::Closed {
                code,
                reason: token.redact(reason),
            },
            Self::Protocol { detail } => Self::Protocol {
                detail: token.redact(detail),
            },
            other => other,
        }
    }

    /// Whether the dial failed, so that nothing was requested from the service.
    pub(crate) fn is_dial_failure(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. }
                | Self::Connect { .. }
                | Self::Tls { .. }
                | Self::TlsUnavailable { .. }
                | Self::NoToken { .. }
                | Self::UpgradeRefused(_)
                | Self::NotWebSocket { .. }
                | Self::ConnectTimeout { .. }
        )
    }

    /// Whether the server closed the link because a message of this client was too large (RFC 6455,
    /// 7.4.1).
    pub(super) fn is_too_large(&self) -> bool {
        let code = crate::protocol::names::CLOSE_TOO_BIG;
        matches!(self, Self::Closed { code: Some(given), .. } if *given == code)
    }

    /// Whether the server refused the upgrade temporarily, because it is overloaded, limits the
    /// rate of requests or is being deployed.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::UpgradeRefused(refusal) if [429, 503].contains(&refusal.status))
    }

    /// How long the server asks clients to wait before they dial again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::UpgradeRefused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether dialling again may succeed. A server that refused for good or broke the protocol
    /// will do so again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::NoToken { .. }
            | Self::ConnectTimeout { .. }
            | Self::Closed { .. }
            | Self::Dropped { .. }
            | Self::Silent { .. }
            | Self::NotReady { .. }
            | Self::InUse => true,
            Self::UpgradeRefused(refusal) => {
                refusal.status == 408 || refusal.status == 429 || refusal.status >= 500
            }
            Self::Tls { .. }
            | Self::TlsUnavailable { .. }
            | Self::NotWebSocket { .. }
            | Self::Protocol { .. }
            | Self::ActorGone => false,
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { host, detail } => {
                write!(f, "the host `{host}` does not resolve: {detail}")
            }
            Self::Connect {
                address,
                detail,
                kind,
            } => {
                write!(f, "cannot connect to {address}: {detail}")?;
                if *kind == io::ErrorKind::ConnectionRefused {
                    f.write_str("; is the server running, and is the port right?")?;
                }
                Ok(())
            }
            Self::Tls { address, detail } => {
                write!(f, "the TLS handshake with {address} failed: {detail}")?;
                if detail.contains("InvalidContentType") {
                    f.write_str("; does the port speak plain HTTP? then use ws:// or http://")?;
                }
                Ok(())
            }
            Self::TlsUnavailable { address } => {
                write!(
                    f,
                    "cannot connect to {address} with TLS: build actix-sandbox with the feature \
                     `tls`, or use ws://"
                )
            }
            Self::NoToken { detail } => {
                write!(
                    f,
                    "the token source returned no bearer token for the dial: {detail}"
                )
            }
            Self::UpgradeRefused(refusal) => refusal.fmt(f),
            Self::NotWebSocket { address, detail } => {
                write!(
                    f,
                    "{address} is not a WebSocket server: {detail}; is the port right?"
                )
            }
            Self::ConnectTimeout { address, after } => {
                write!(f, "no WebSocket connection to {address} within {after:?}")
            }
            Self::Closed {
                code: Some(code),
                reason,
            } if reason.is_empty() => {
                write!(f, "the server closed the connection with code {code}")
            }
            Self::Closed {
                code: Some(code),
                reason,
            } => {
                write!(
                    f,
                    "the server closed the connection with code {code}: {reason}"
                )
            }
            Self::Closed { code: None, .. } => f.write_str("the server closed the connection"),
            Self::Dropped { detail } => write!(f, "the connection broke: {detail}"),
            Self::Silent { after } => write!(
                f,
                "nothing arrived from the server for {after:?}, not even an answer to a ping"
            ),
            Self::NotReady { after } => {
                write!(
                    f,
                    "the server accepted the connection, but did not report SANDBOX_RUNNING within \
                     {after:?}"
                )
            }
            Self::InUse => {
                f.write_str("the server says that another client is attached (SANDBOX_IN_USE)")
            }
            Self::Protocol { detail } => write!(f, "the server violated the protocol: {detail}"),
            Self::ActorGone => f.write_str(
                "the actor of the connection is gone: it panicked, or its System was stopped",
            ),
        }
    }
}

impl fmt::Display for UpgradeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            status,
            reason,
            location,
            retry_after,
        } = self;
        write!(
            f,
            "{address} refused the WebSocket upgrade with HTTP status {status}"
        )?;
        if let Some(reason) = reason {
            write!(f, ": {reason}")?;
        }
        if let Some(location) = location {
            write!(
                f,
                "; it redirects to {location}; redirects are not followed, because \
                 the credentials would go there; if that is the service, use its URL"
            )?;
        }
        if let Some(wait) = retry_after {
            write!(f, "; it asks to wait {wait:?} before the next attempt")?;
        }
        if *status == 404 {
            f.write_str(
                "; is this the URL of a sandbox service? The URL of a local server \
                 includes a secret path",
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for UpgradeRefusal {}

impl std::error::Error for LinkError {}
