//! [`Target`]: the service to check, and the requests to it. [`Problem`]: why a request failed, and
//! what to do.

use std::{error::Error as _, time::Duration};

use actix_sandbox::{
    Error, ErrorKind, LinkError, ListSandboxes, NewSandbox, Sandbox, SandboxBuilder,
};

use super::LIMIT;
use crate::cli::{failure::Failure, service::Service, shared::TOKEN};

/// How long a request may take. Less than [`LIMIT`], so that the error of the request says why.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);

/// After this time without a process, the service deletes the sandbox of a check that was killed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A label that no sandbox has, so that the list of a server is short.
const NO_LABEL: (&str, &str) = ("actix-sandbox-doctor", "none");

/// The service to check.
pub(super) struct Target {
    service: Service,
    builder: SandboxBuilder<NewSandbox>,
    list: ListSandboxes,
}

impl Target {
    /// Fails if the URL or the token is invalid.
    pub(super) fn new(service: Service) -> Result<Self, Failure> {
        let builder = service
            .configure(Sandbox::create(&service.url))?
            .auto_reconnect(false)
            .connect_timeout(REQUEST_TIMEOUT)
            .create_timeout(REQUEST_TIMEOUT)
            .exec_timeout(REQUEST_TIMEOUT)
            .kill_timeout(REQUEST_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT);
        builder.clone().into_actor()?;
        let (key, value) = NO_LABEL;
        let list = service.list()?.label(key, value).timeout(REQUEST_TIMEOUT);
        Ok(Self {
            service,
            builder,
            list,
        })
    }

    /// Contains the secret path, so it must not be printed.
    pub(super) fn url(&self) -> &str {
        &self.service.url
    }

    /// A builder of a sandbox on this service.
    pub(super) fn create(&self) -> SandboxBuilder<NewSandbox> {
        self.builder.clone()
    }

    /// Sends a request without a WebSocket. Any answer of an HTTP server will do.
    pub(super) async fn answer(&self) -> Result<(), Error> {
        self.list.clone().await.map(drop)
    }

    /// What to do if the service refuses the credentials.
    fn authenticate(&self) -> Vec<String> {
        if self.service.google_auth {
            let role = "the account needs the role roles/run.invoker for this service";
            return vec![role.to_owned()];
        }
        let token = match self.service.has_token().is_ok_and(|has| has) {
            true => "the service refuses this token: pass another one",
            false => "the service may require a token: pass it",
        };
        let mut advice = vec![format!(
            "{token} in a file (`--token-file`) or in the variable {TOKEN}"
        )];
        if cfg!(feature = "google-auth") {
            advice.push("on Cloud Run, use `--google-auth`".to_owned());
        }
        advice
    }
}

/// Why a step failed, and what to do.
pub(super) struct Problem {
    /// The step that failed, if it is not the one that ran.
    pub(super) step: Option<&'static str>,
    pub(super) problem: String,
    pub(super) advice: Vec<String>,
}

impl Problem {
    pub(super) fn new(problem: String, advice: &str) -> Self {
        Self {
            step: None,
            problem,
            advice: vec![advice.to_owned()],
        }
    }

    pub(super) fn slow() -> Self {
        Self::new(
            format!("no answer within {LIMIT:?}"),
            "check the address, and whether a firewall drops the packets",
        )
    }

    /// Of a request to the service.
    pub(super) fn of(error: &Error, target: &Target) -> Self {
        let cause = error.source().and_then(|it| it.downcast_ref());
        // The name of the step says which request failed.
        let problem = match cause {
            Some(cause @ (LinkError::UpgradeRefused(_) | LinkError::NotWebSocket { .. })) => {
                cause.to_string()
            }
            _ => error.to_string(),
        };
        let not_a_service = "another program answers at this address: check host, port and path";
        let advice = match (error.kind(), error.http_status()) {
            (_, Some(401 | 403)) => target.authenticate(),
            // The text of this error says what to do.
            (_, Some(404)) => Vec::new(),
            (_, Some(429 | 500..)) => {
                vec!["try again later, or look at the log of the service".to_owned()]
            }
            (_, Some(_)) | (ErrorKind::NotWebSocket | ErrorKind::Protocol, None) => {
                vec![not_a_service.to_owned()]
            }
            (ErrorKind::Tls, None) => vec![
                "the certificate must be valid for the host name, and its authority must be one \
                 that web browsers trust"
                    .to_owned(),
            ],
            _ => Vec::new(),
        };
        Self {
            step: None,
            problem,
            advice,
        }
    }
}
