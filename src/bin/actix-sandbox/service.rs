//! The service that a command uses: its URL and credentials, from the flags, the environment or the
//! configuration file.

use std::{error::Error as _, path::PathBuf, time::Duration};

use actix_sandbox::{
    BearerToken, Error, LinkError, ListSandboxes, ReconnectPolicy, Sandbox, SandboxBuilder,
    TokenError, TokenSource,
};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    failure::Failure,
    shared::{self, TOKEN, duration},
};

/// The environment variable with the URL of the service.
pub(crate) const URL: &str = "SANDBOX_URL";

/// A command that starts a server for the commands that need one.
const SERVE: &str = "actix-sandbox serve --backend confined";

/// The heading of these arguments in `--help`.
const HEADING: &str = "Service";

#[derive(Args, Clone)]
pub(crate) struct ServiceArguments {
    /// URL of the service: https://…, http://…, wss://… or ws://…. If its path is a secret, set the
    /// variable SANDBOX_URL instead, because every user of this machine can read arguments
    /// [default: the variable SANDBOX_URL, then `url` in the configuration file].
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    url: Option<String>,

    /// File with the access token, which is sent as `Authorization: Bearer …` [default: the token
    /// in the variable ACTIX_SANDBOX_TOKEN].
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    token_file: Option<PathBuf>,

    /// Uses the features of protocol v2 on a service that speaks only v1. Needs Python 3.8 or newer
    /// in the sandbox.
    #[arg(long, help_heading = HEADING)]
    lift: bool,

    /// How long to try to reconnect after the connection is lost [default: 5m].
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = HEADING)]
    reconnect_timeout: Option<Duration>,

    /// Sends a Google ID token with every request, as Cloud Run requires.
    #[cfg(feature = "google-auth")]
    #[arg(long, help_heading = HEADING)]
    google_auth: bool,
}

/// A service and how to authenticate to it. Stored with the sandboxes that are kept on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    /// The URL. Its path may be a secret.
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lift: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) google_auth: bool,
    #[serde(skip)]
    reconnect_timeout: Option<Duration>,
}

impl ServiceArguments {
    /// The service of the flags, the environment or the configuration file. `None` if none of them
    /// names one.
    pub(crate) fn find(&self) -> Result<Option<Service>, Failure> {
        let variable = match std::env::var(URL) {
            Ok(url) => Some(url).filter(|url| !url.is_empty()),
            Err(std::env::VarError::NotPresent) => None,
            Err(error) => return Err(format!("the variable {URL} cannot be used: {error}").into()),
        };
        let service = match self.url.clone().or(variable) {
            Some(url) => Some(Service::new(url)),
            None => Config::read()?.service,
        };
        let service = service.map(|service| self.adjust(service)).transpose()?;
        Ok(service)
    }

    /// Like [`find`](Self::find). Fails if there is no service.
    pub(crate) fn require(&self) -> Result<Service, Failure> {
        self.find()?.ok_or_else(|| {
            format!(
                "no service: pass its URL (`--url` or the variable {URL}); `{SERVE}` starts a \
                 server and prints its URL"
            )
            .into()
        })
    }

    /// Whether the arguments name a URL.
    pub(crate) fn names_url(&self) -> bool {
        self.url.is_some()
    }

    /// Applies the other flags to a service.
    pub(crate) fn adjust(&self, mut service: Service) -> Result<Service, Failure> {
        if let Some(file) = &self.token_file {
            let path = std::path::absolute(file);
            let path = path.map_err(|error| format!("cannot use {}: {error}", file.display()))?;
            service.token_file = Some(path);
        }
        service.lift |= self.lift;
        service.reconnect_timeout = self.reconnect_timeout;
        #[cfg(feature = "google-auth")]
        {
            service.google_auth |= self.google_auth;
        }
        Ok(service)
    }
}

impl Service {
    /// A service without credentials.
    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token_file: None,
            lift: false,
            google_auth: false,
            reconnect_timeout: None,
        }
    }

    /// The URL without its path, which may be a secret.
    pub(crate) fn shown(&self) -> String {
        shown(&self.url)
    }

    /// Sets the credentials and the options that all commands have in common.
    pub(crate) fn configure<S>(
        &self,
        builder: SandboxBuilder<S>,
    ) -> Result<SandboxBuilder<S>, Failure> {
        let mut builder = builder.auto_reconnect(true).lift(self.lift).debug(true);
        if self.reconnect_timeout.is_some() {
            builder = builder.reconnect_policy(ReconnectPolicy {
                max_elapsed: self.reconnect_timeout,
                ..ReconnectPolicy::default()
            });
        }
        match (self.google_auth, self.token()?) {
            (true, _) => builder = google(builder)?,
            (false, Some(token)) => builder = builder.bearer_token_source(source(token)),
            (false, None) => {}
        }
        Ok(builder)
    }

    /// Lists the sandboxes of the service.
    pub(crate) fn list(&self) -> Result<ListSandboxes, Failure> {
        let mut list = Sandbox::list(&self.url);
        if let Some(token) = self.token()? {
            list = list.bearer_token_source(source(token));
        }
        #[cfg(feature = "google-auth")]
        if self.google_auth {
            list = list.google_auth(true);
        }
        Ok(list)
    }

    /// Whether requests carry an access token.
    pub(crate) fn has_token(&self) -> bool {
        self.token().is_ok_and(|token| token.is_some())
    }

    fn token(&self) -> Result<Option<BearerToken>, Failure> {
        if self.google_auth {
            return Ok(None);
        }
        let token = shared::token(self.token_file.as_deref())?;
        Ok(token.map(BearerToken::new))
    }
}

/// A source that always returns this token.
fn source(token: BearerToken) -> impl TokenSource {
    move || {
        let token = token.clone();
        async move { Ok::<_, TokenError>(token) }
    }
}

#[cfg(feature = "google-auth")]
#[expect(clippy::unnecessary_wraps, reason = "it fails without the feature")]
fn google<S>(builder: SandboxBuilder<S>) -> Result<SandboxBuilder<S>, Failure> {
    Ok(builder.google_auth(true))
}

#[cfg(not(feature = "google-auth"))]
fn google<S>(_: SandboxBuilder<S>) -> Result<SandboxBuilder<S>, Failure> {
    Err(
        "this build has no Google authentication: install it with `--features cli,google-auth`"
            .into(),
    )
}

/// Returns the URL without its path, which may be a secret.
pub(crate) fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match rest.split_once('/') {
        Some((authority, path)) if !path.is_empty() => format!("{scheme}://{authority}/…"),
        _ => url.to_owned(),
    }
}

/// What the texts of the library say, and what the user of this command can do instead.
const FLAGS: [(&str, &str); 6] = [
    ("see `SandboxBuilder::lift`", "`--lift` adds it"),
    ("`.lift(true)`", "`--lift`"),
    (
        "`.checkpoint(true)` (`enable_sandbox_checkpoint`)",
        "`--checkpoint`",
    ),
    (
        "`.checkpoint(true)` (the same as `.enable_sandbox_checkpoint(true)`)",
        "`--checkpoint`",
    ),
    (
        "`.max_bytes(…)` or `.max_entries(…)`",
        "`--max-size` or `--max-entries`",
    ),
    ("`.google_auth(true)`", "`--google-auth`"),
];

/// Describes why a client call failed, with the flags to change. The library names its methods
/// instead.
pub(crate) fn failed(error: &Error) -> String {
    let cause = error.source().and_then(|it| it.downcast_ref());
    let token =
        format!("pass an access token in a file (`--token-file`) or in the variable {TOKEN}");
    match cause {
        // The library's text is about its methods.
        Some(LinkError::UpgradeRefused(refusal)) if refusal.needs_credentials() => {
            format!("cannot open the sandbox: {refusal}; {token}")
        }
        Some(LinkError::UpgradeRefused(refusal)) if [401, 403].contains(&refusal.status) => {
            format!("{error}; {token}")
        }
        _ => FLAGS
            .iter()
            .fold(error.to_string(), |text, (method, flag)| {
                text.replace(method, flag)
            }),
    }
}
