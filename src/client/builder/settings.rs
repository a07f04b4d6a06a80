//! Checks all options before anything is dialled.

use std::{sync::Arc, time::Duration};

use awc::http::header::{HeaderName, HeaderValue};

use super::{ExistingSandbox, NewSandbox, OpenMode, SandboxBuilder, sealed};
use crate::{
    Error, SandboxActor,
    actor::{self, Settings},
    machine::{ConnectionConfig, Mode},
    protocol::SandboxConfig as Configuration,
    transport::{DialConfig, Endpoint, Recorder, TokenSource},
};

/// Headers that the client sets itself.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "cookie",
    "host",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
];

impl<S: OpenMode> SandboxBuilder<S> {
    /// Returns the actor of the sandbox instead of a handle, for programs that use actors. The
    /// actor dials when it is started, and answers [`Open`](crate::actor::Open) when the sandbox
    /// runs.
    ///
    /// # Errors
    ///
    /// Fails if the URL or an option is invalid, if the [recording](Self::record_to) can't be
    /// created, or with [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) if the operating system
    /// provides no random bytes.
    pub fn into_actor(self) -> Result<SandboxActor, Error> {
        Ok(SandboxActor::new(self.settings()?))
    }

    pub(in crate::client) fn settings(self) -> Result<Settings, Error> {
        let endpoint = Endpoint::parse(&self.url)?;
        let tokens = self.token_source(&endpoint)?;
        let mode = self.sandbox.mode()?;
        let positive = [
            ("connect_timeout", self.connect_timeout),
            ("create_timeout", self.timeouts.ready),
            ("exec_timeout", self.timeouts.exec),
            ("kill_timeout", self.timeouts.kill),
            ("store_timeout", self.timeouts.store),
            ("keepalive", self.keepalive.interval),
            ("keepalive", self.keepalive.timeout),
            ("reconnect_policy", self.policy.initial),
            ("reconnect_policy", self.policy.max),
        ];
        if let Some((option, _)) = positive.into_iter().find(|(_, timeout)| timeout.is_zero()) {
            return Err(Error::option(
                option,
                "is zero; a time longer than zero is needed",
            ));
        }
        if self.max_message_bytes < 1024 {
            let problem = format!(
                "is {} bytes; at least 1024 are needed",
                self.max_message_bytes
            );
            return Err(Error::option("max_message_bytes", problem));
        }
        if let Some(problem) = self.output.problem() {
            return Err(Error::option("output_policy", problem));
        }
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| header(name, value))
            .collect::<Result<_, _>>()?;

        // This check comes last, so that no file is created if another option is invalid.
        let recorder = match &self.record_to {
            None => None,
            Some(path) => {
                let token = match &mode {
                    Mode::Attach(_, token) => Some(token),
                    _ => None,
                };
                let created = Recorder::create(path, token).map_err(|error| {
                    let path = path.display();
                    let problem = format!("names {path}, which cannot be created: {error}");
                    Error::option("record_to", problem)
                });
                Some(created?)
            }
        };

        let random = || actor::random_bits().map_err(|error| Error::random(&error));
        let label = self.debug_label.as_deref().unwrap_or("sandbox");
        Ok(Settings {
            mode,
            dial: DialConfig {
                endpoint,
                headers,
                tokens,
                connect_timeout: self.connect_timeout,
                max_protocol: self.max_protocol,
                max_message_bytes: self.max_message_bytes,
                #[cfg(feature = "tls")]
                tls: self.tls,
            },
            connection: ConnectionConfig {
                auto_reconnect: self.auto_reconnect,
                policy: self.policy,
                busy_timeout: self.timeouts.ready,
                close_timeout: Duration::from_secs(2),
                // Any number that differs between sandboxes.
                seed: random()? as u64,
            },
            lift: match self.lift {
                true => Some(format!("{:032x}", random()?)),
                false => None,
            },
            keepalive: self.keepalive,
            timeouts: self.timeouts,
            process: self.process,
            output: self.output,
            recorder,
            // Unique among the clients of the sandbox.
            exec_prefix: format!("{:032x}", random()?),
            kept: None,
            debug: self.debug.then(|| Arc::from(label)),
        })
    }

    /// Returns the token source. Fails if the authentication options contradict each other.
    fn token_source(&self, endpoint: &Endpoint) -> Result<Option<Arc<dyn TokenSource>>, Error> {
        #[cfg(feature = "google-auth")]
        let google = self.google;
        #[cfg(not(feature = "google-auth"))]
        let google = false;
        let option = match (google, &self.tokens) {
            (false, None) => return Ok(None),
            (true, Some(_)) => {
                return Err(Error::option(
                    "use_google_auth",
                    "cannot be combined with `bearer_token_source`: leave one of them out",
                ));
            }
            (true, None) => "use_google_auth",
            (false, Some(_)) => "bearer_token_source",
        };
        let is_authorization = |name: &str| name.eq_ignore_ascii_case("authorization");
        if self.headers.iter().any(|(name, _)| is_authorization(name)) {
            return Err(Error::option(
                option,
                "cannot be combined with an `Authorization` header: leave one of them out",
            ));
        }
        #[cfg(feature = "google-auth")]
        if google {
            if !endpoint.is_tls() && !endpoint.is_loopback() {
                return Err(Error::option(
                    "use_google_auth",
                    "would send the token in clear text: use https:// or wss://",
                ));
            }
            let tokens = crate::transport::GoogleTokens::new(endpoint.origin());
            return Ok(Some(Arc::new(tokens)));
        }
        let _ = endpoint;
        Ok(self.tokens.clone())
    }
}

impl sealed::OpenMode for NewSandbox {
    const KILL_UNCLAIMED: bool = true;

    fn mode(self) -> Result<Mode, Error> {
        let max_lifetime = self.max_lifetime.map(|it| seconds("max_lifetime", it));
        let configuration = Configuration {
            idle_timeout: Some(seconds("idle_timeout", self.idle_timeout)?),
            max_lifetime: max_lifetime.transpose()?,
            ..self.configuration
        };
        configuration.check()?;
        Ok(Mode::Create(configuration))
    }
}

/// The whole seconds of an option. Fails for a fraction of a second, and for zero.
pub(in crate::client) fn seconds(option: &'static str, time: Duration) -> Result<u64, Error> {
    if time.subsec_nanos() != 0 || time.is_zero() {
        let problem = format!("is {time:?}; it must be a whole number of seconds, at least 1 s");
        return Err(Error::option(option, problem));
    }
    Ok(time.as_secs())
}

impl sealed::OpenMode for ExistingSandbox {
    const KILL_UNCLAIMED: bool = false;

    fn mode(self) -> Result<Mode, Error> {
        if self.id.as_str().is_empty() {
            return Err(Error::option(
                "id",
                "is empty; pass the id that `sandbox_id()` returned",
            ));
        }
        if self.token.expose_secret().is_empty() {
            return Err(Error::option(
                "token",
                "is empty; pass the token that `sandbox_token()` returned",
            ));
        }
        Ok(Mode::Attach(self.id, self.token))
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let shown: String = name.chars().take(100).collect();
    let parsed = HeaderName::try_from(name).map_err(|_| {
        Error::option(
            "header",
            format!("has the name `{shown}`, which is not a valid header name (RFC 9110)"),
        )
    })?;
    if RESERVED_HEADERS.contains(&parsed.as_str()) {
        return Err(Error::option(
            "header",
            format!("sets `{shown}`, which only the client may set"),
        ));
    }
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        Error::option(
            "header",
            format!(
                "has a value for `{shown}` that contains control characters, such as a line break"
            ),
        )
    })?;
    value.set_sensitive(true);
    Ok((parsed, value))
}
