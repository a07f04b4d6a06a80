//! [`GoogleTokens`]: ID tokens of Google, by the official library.

use std::path::PathBuf;

use futures::future::BoxFuture;
use google_cloud_auth::credentials::idtoken::{Builder, IDTokenCredentials, user_account};
use rustls::crypto::{CryptoProvider, ring};
use tokio::sync::Mutex;

use super::{BearerToken, TokenError, TokenSource};

/// ID tokens for one audience, from Application Default Credentials: a service account key, the metadata
/// server, or a developer's own login. The library keeps a token until shortly before its end.
pub(crate) struct GoogleTokens {
    audience: String,
    /// Made at the first dial, since it needs a runtime, and anew after a failure: the library asks no
    /// more after an error that it takes for permanent.
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
        // The library panics without one. Whatever the program has chosen itself is left.
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

/// Every cause, and what to do: the library's own text seldom says it.
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
        "Google gave no ID token ({text}); on Google Cloud attach a service account, elsewhere run \
         `gcloud auth application-default login` or set GOOGLE_APPLICATION_CREDENTIALS"
    )
    .into()
}

/// The credentials file, if it is a developer's own login: the library's builder for all kinds does not
/// take those for ID tokens.
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
