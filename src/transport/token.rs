//! [`TokenSource`]: provides the bearer token of a dial.

use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use awc::http::header::HeaderValue;
use futures::{FutureExt, future::BoxFuture};
use secrecy::{ExposeSecret, SecretString};

use crate::machine::LinkError;

/// A token for the header `Authorization: Bearer …`. Its `Debug` output omits the token.
///
/// ```
/// use actix_sandbox::BearerToken;
///
/// assert_eq!(format!("{:?}", BearerToken::new("eyJhbGciOi…")), "BearerToken(…)");
/// ```
#[derive(Clone)]
pub struct BearerToken(SecretString);

impl BearerToken {
    /// Creates a token from its text, without the prefix `Bearer `.
    pub fn new(token: impl Into<String>) -> Self {
        Self(SecretString::from(token.into()))
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

/// The error of a [`TokenSource`]. Its text is shown to users, so it must not contain a secret.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

/// Provides the bearer token for each dial of a sandbox, including reconnects.
///
/// A sandbox may outlive a token. So the client calls the source for every dial, and the source
/// caches a token while it is valid.
///
/// Each call must complete within the [`connect_timeout`](crate::SandboxBuilder::connect_timeout).
/// The client treats a failure like a refused connection: it retries as far as the reconnect policy
/// permits. The client may drop the future before it completes.
///
/// Any function that returns such a future is a token source:
///
/// ```
/// use actix_sandbox::{BearerToken, Sandbox, TokenError};
///
/// async fn fetch() -> Result<BearerToken, TokenError> {
///     let token = std::fs::read_to_string("/run/secrets/token")?;
///     Ok(BearerToken::new(token.trim_end()))
/// }
///
/// let builder = Sandbox::create("https://sandbox.example").bearer_token_source(fetch);
/// # drop(builder);
/// ```
pub trait TokenSource: Send + Sync + 'static {
    /// Returns a token that is valid now.
    fn token(&self) -> BoxFuture<'_, Result<BearerToken, TokenError>>;
}

impl<F, T> TokenSource for F
where
    F: Fn() -> T + Send + Sync + 'static,
    T: Future<Output = Result<BearerToken, TokenError>> + Send + 'static,
{
    fn token(&self) -> BoxFuture<'_, Result<BearerToken, TokenError>> {
        Box::pin(self())
    }
}

/// Returns the `Authorization` header of one dial. Fails if the source fails, panics or takes
/// longer than `within`.
pub(super) async fn authorization(
    source: &Arc<dyn TokenSource>,
    within: Duration,
) -> Result<HeaderValue, LinkError> {
    let failed = |detail: String| LinkError::NoToken { detail };
    // The source is user code: report its panic as a failure of the source.
    let asked = AssertUnwindSafe(async { source.token().await }).catch_unwind();
    let token = match tokio::time::timeout(within, asked).await {
        Ok(Ok(Ok(token))) => token,
        Ok(Ok(Err(error))) => return Err(failed(error.to_string())),
        Ok(Err(_panic)) => return Err(failed("the source panicked".to_owned())),
        Err(_) => return Err(failed(format!("the source took longer than {within:?}"))),
    };
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", token.0.expose_secret())).map_err(|_| {
            failed("its token has characters invalid in a header, such as a line break".to_owned())
        })?;
    value.set_sensitive(true);
    Ok(value)
}
