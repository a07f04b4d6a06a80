//! [`GoogleTokens`]: Google ID tokens, fetched with Google's official library.

use std::path::PathBuf;

use futures::future::BoxFuture;
use google_cloud_auth::credentials::idtoken::{Builder, IDTokenCredentials, user_account};
use rustls::crypto::{CryptoProvider, ring};
use tokio::sync::Mutex;

use super::{BearerToken, TokenError, TokenSource};

/// Fetches ID tokens for one audience with Application Default Credentials: a service account key,
/// the metadata server, or a developer's own login. The library caches a token until shortly before
/// it expires.
pub(crate) struct GoogleTokens {
    audience: String,
    /// Created at the first dial, because they need a runtime. Created again after a failure,
    /// because the library doesn't retry after an error that it considers permanent.
    credentials: Mutex<Option<IDTokenCredentials>>,
}

impl GoogleTokens {
    /// The audience is the origin of the service, for example `https://name-1234.a.run.app`.
    pub(crate) fn new(audience: String) -> Self {
        Self {
            audience,
            credentials: Mutex::default(),
        }
    }

    async fn credentials(&self) -> Result<IDTokenCredentials, TokenError> {
        // The library panics without a default provider. Keep the program's own choice if there is
        // one.
        if CryptoProvider::get_default().is_none() {
            let _ = ring::default_provider().install_default();
        }
        if let Some(login) = own_login().await {
            return Ok(user_account::Builder::new(login).build()?);
        }
        Ok(Builder::new(&*self.audience).build()?)
    }
}

impl TokenSource for GoogleTokens {
    fn token(&self) -> BoxFuture<'_, Result<BearerToken, TokenError>> {
        Box::pin(async {
            let mut kept = self.credentials.lock().await;
            let credentials = match &*kept {
                Some(credentials) => credentials.clone(),
                None => kept
                    .insert(self.credentials().await.map_err(explain)?)
                    .clone(),
            };
            match credentials.id_token().await {
                Ok(token) => Ok(BearerToken::new(token)),
                Err(error) => {
                    *kept = None;
                    Err(explain(error.into()))
                }
            }
        })
    }
}

/// Adds the causes of an error and a hint, which the library's own text often lacks.
fn explain(error: TokenError) -> TokenError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    format!(
        "cannot get an ID token from Google ({text}); on Google Cloud, attach a service account; \
         elsewhere, run `gcloud auth application-default login` or set \
         GOOGLE_APPLICATION_CREDENTIALS"
    )
    .into()
}

/// Returns the credentials file if it is a developer's own login. The library's general builder
/// doesn't support these for ID tokens.
async fn own_login() -> Option<serde_json::Value> {
    let file = match std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(file) => PathBuf::from(file),
        None => {
            let (base, below) = match cfg!(windows) {
                true => (std::env::var_os("APPDATA")?, "gcloud"),
                false => (std::env::var_os("HOME")?, ".config/gcloud"),
            };
            PathBuf::from(base)
                .join(below)
                .join("application_default_credentials.json")
        }
    };
    let read = tokio::task::spawn_blocking(move || std::fs::read(file));
    let text = read.await.ok()?.ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    (json["type"] == "authorized_user").then_some(json)
}
