//! The service that a command uses: its URL and credentials, from the flags, the environment or the
//! configuration file.

use std::{path::PathBuf, time::Duration};

use actix_sandbox::{
    BearerToken, ListSandboxes, ReconnectPolicy, Sandbox, SandboxBuilder, TokenError, TokenSource,
};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cli::{
    attached,
    config::{Config, ConfiguredService},
    failure::Failure,
    shared::{self, TOKEN, duration, variable},
};

/// The environment variable with the URL of the service.
pub(crate) const URL: &str = "SANDBOX_URL";

/// How to name a service.
pub(crate) const NAME_ONE: &str = "pass its URL (`--url` or the variable SANDBOX_URL); \
    `actix-sandbox serve --backend confined` starts a server and prints its URL";

/// The heading of these arguments in `--help`.
const HEADING: &str = "Service";

#[derive(Args, Clone)]
pub(crate) struct ServiceArguments {
    /// URL of the service [default: the variable SANDBOX_URL, then the configuration file; for the
    /// id of a sandbox, the service on which it was created].
    ///
    /// The schemes are https, http, wss and ws. Every user of this machine can read arguments: if
    /// the path of the URL is a secret, use the variable.
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    url: Option<String>,

    /// File with the access token [default: `token_file` in the configuration file, then the
    /// variable ACTIX_SANDBOX_TOKEN; for the id of a sandbox, what was used when it was created].
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    /// The URL. Its path may be a secret.
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Whether the variable [`TOKEN`] has the access token. Otherwise the variable is not for this
    /// service, which must not get it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    token_variable: bool,
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
        let service = match self
            .url
            .clone()
            .map_or_else(|| variable(URL), |url| Ok(Some(url)))?
        {
            Some(url) => Some(Service::new(url)),
            None => Config::read()?.map(Service::configured),
        };
        let Some(mut service) = service else {
            return Ok(None);
        };
        service.token_variable = service.token_file.is_none() && variable(TOKEN)?.is_some();
        Ok(Some(self.adjust(service)?))
    }

    /// Like [`find`](Self::find). Fails if there is no service.
    pub(crate) fn require(&self) -> Result<Service, Failure> {
        let service = self.find()?;
        service.ok_or_else(|| format!("no service is named: {NAME_ONE}").into())
    }

    /// Fails if arguments need a service that is not named. Otherwise a user might believe that they
    /// have an effect.
    pub(crate) fn check_unused(&self) -> Result<(), Failure> {
        #[cfg(feature = "google-auth")]
        let google_auth = self.google_auth;
        #[cfg(not(feature = "google-auth"))]
        let google_auth = false;
        let given = [
            ("--token-file", self.token_file.is_some()),
            ("--lift", self.lift),
            ("--google-auth", google_auth),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((flag, _)) => Err(format!("`{flag}` needs a service: {NAME_ONE}").into()),
            None => Ok(()),
        }
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
            service.token_variable = false;
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
            token_variable: false,
            lift: false,
            google_auth: false,
            reconnect_timeout: None,
        }
    }

    /// The service in the configuration file.
    fn configured(configured: ConfiguredService) -> Self {
        Self {
            token_file: configured.token_file,
            lift: configured.lift,
            google_auth: configured.google_auth,
            ..Self::new(configured.url)
        }
    }

    /// Whether this is the same service, whatever its credentials.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        /// `ws://host/` is the same service as `http://host`.
        fn base(url: &str) -> String {
            let url = url.trim_end_matches('/');
            match url.strip_prefix("ws") {
                Some(rest) => format!("http{rest}"),
                None => url.to_owned(),
            }
        }
        base(&self.url) == base(&other.url)
    }

    /// How long clients try to reconnect.
    pub(crate) fn reconnect_timeout(&self) -> Duration {
        let default = ReconnectPolicy::default().max_elapsed;
        self.reconnect_timeout.or(default).unwrap_or(Duration::MAX)
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
        builder = builder.output_policy(attached::patient());
        builder = builder.reconnect_policy(ReconnectPolicy {
            max_elapsed: Some(self.reconnect_timeout()),
            ..ReconnectPolicy::default()
        });
        if self.google_auth {
            return google(builder);
        }
        Ok(match self.has_token()? {
            true => builder.bearer_token_source(self.token_source()),
            false => builder,
        })
    }

    /// Lists the sandboxes of the service.
    pub(crate) fn list(&self) -> Result<ListSandboxes, Failure> {
        let list = Sandbox::list(&self.url);
        #[cfg(feature = "google-auth")]
        if self.google_auth {
            return Ok(list.google_auth(true));
        }
        Ok(match self.has_token()? {
            true => list.bearer_token_source(self.token_source()),
            false => list,
        })
    }

    /// Whether requests carry an access token. Fails if it can't be read.
    pub(crate) fn has_token(&self) -> Result<bool, Failure> {
        Ok(self.token()?.is_some())
    }

    fn token(&self) -> Result<Option<String>, String> {
        match (&self.token_file, self.token_variable) {
            (None, false) => Ok(None),
            (file, _) => shared::token(file.as_deref()),
        }
    }

    /// Reads the token again for each connection, because a sandbox may outlive a token.
    fn token_source(&self) -> impl TokenSource + use<> {
        let service = self.clone();
        move || {
            let token = service.token();
            async move {
                match token {
                    Ok(Some(token)) => Ok(BearerToken::new(token)),
                    Ok(None) => Err(TokenError::from(format!("the variable {TOKEN} is not set"))),
                    Err(reason) => Err(TokenError::from(reason)),
                }
            }
        }
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
