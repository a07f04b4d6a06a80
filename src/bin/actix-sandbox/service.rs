//! The service that a command uses: its URL and credentials, from the flags, the environment or the
//! configuration file.

use std::{error::Error as _, path::PathBuf};

use actix_sandbox::{
    BearerToken, Error, LinkError, ListSandboxes, Sandbox, SandboxBuilder, TokenError, TokenSource,
};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    config::Config,
    failure::Failure,
    shared::{self, TOKEN},
};

/// The environment variable with the URL of the service.
pub(crate) const URL: &str = "SANDBOX_URL";

/// A command that starts a server for the commands that need one.
const SERVE: &str = "actix-sandbox serve --backend confined";

#[derive(Args, Clone)]
#[command(next_help_heading = "Service")]
pub(crate) struct ServiceArguments {
    /// URL of the service: https://…, http://…, wss://… or ws://…. If its path is a secret, set the
    /// variable SANDBOX_URL instead, because every user of this machine can read arguments
    /// [default: the variable SANDBOX_URL, then `url` in the configuration file].
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// File with the access token, which is sent as `Authorization: Bearer …` [default: the token
    /// in the variable ACTIX_SANDBOX_TOKEN].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Uses the features of protocol v2 on a service that speaks only v1. Needs Python 3.8 or newer
    /// in the sandbox.
    #[arg(long)]
    lift: bool,

    /// Sends a Google ID token with every request, as Cloud Run requires.
    #[cfg(feature = "google-auth")]
    #[arg(long)]
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
            Some(url) => Some(Service {
                url,
                token_file: None,
                lift: false,
                google_auth: false,
            }),
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
        #[cfg(feature = "google-auth")]
        {
            service.google_auth |= self.google_auth;
        }
        Ok(service)
    }
}

impl Service {
    /// A local server of this process.
    pub(crate) fn local(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            token_file: None,
            lift: false,
            google_auth: false,
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

/// Describes why a client call failed, with the flags to change. The library names its methods
/// instead.
pub(crate) fn failed(error: &Error) -> String {
    let cause = error.source().and_then(|it| it.downcast_ref());
    match cause {
        Some(LinkError::UpgradeRefused(refusal)) if refusal.needs_credentials() => format!(
            "cannot open the sandbox: {refusal}; the service may require a token: pass it in a file \
             (`--token-file`) or in the variable {TOKEN}"
        ),
        // The server has given the reason.
        Some(LinkError::UpgradeRefused(refusal)) if refusal.status == 401 => format!(
            "cannot open the sandbox: {}; pass the token in a file (`--token-file`) or in the variable \
             {TOKEN}",
            refusal.to_string().trim_end_matches('.')
        ),
        _ => with_flags(error.to_string()),
    }
}

/// Replaces the methods of the library in a message by flags.
fn with_flags(message: String) -> String {
    const FLAGS: [(&str, &str); 2] = [
        (
            "see `SandboxBuilder::lift`",
            "`--lift` adds it, by a Python program in the sandbox",
        ),
        (
            "raise it by `.max_bytes(…)` or `.max_entries(…)`",
            "raise it by `--max-size` or `--max-entries`",
        ),
    ];
    let replace = |message: String, (methods, flags)| message.replace(methods, flags);
    FLAGS.into_iter().fold(message, replace)
}
