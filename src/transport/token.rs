//! [`TokenSource`]: where the bearer token of a dial comes from.

use std::{fmt, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use awc::http::header::HeaderValue;
use futures::{FutureExt, future::BoxFuture};
use secrecy::{ExposeSecret, SecretString};

use crate::machine::LinkError;

/// A token for the header `Authorization: Bearer …`. Its `Debug` shows nothing.
///
/// ```
/// use actix_sandbox::BearerToken;
///
/// assert_eq!(format!("{:?}", BearerToken::new("eyJhbGciOi…")), "BearerToken(…)");
/// ```
#[derive(Clone)]
pub struct BearerToken(SecretString);

impl BearerToken {
    /// A token, without `Bearer `.
    pub fn new(token: impl Into<String>) -> Self {
        Self(SecretString::from(token.into()))
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

/// Why a [`TokenSource`] gives no token. Its text is shown to users: it must not hold a secret.
pub type TokenError = Box<dyn std::error::Error + Send + Sync>;

/// Gives the bearer token for each dial of a sandbox, those after a lost link included.
///
/// Tokens of such services are good for an hour or so, a sandbox may live longer: so the source is asked
/// every time, and keeps what is still good itself. It has as long as the
/// [`connect_timeout`](crate::SandboxBuilder::connect_timeout). A failure counts like a port that
/// refuses: it is tried again under the reconnect policy, where there is one. The future may be dropped.
///
/// Any function that gives such a future is a source:
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
    /// A token that is good now.
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

/// The value of the header for one dial.
pub(super) async fn authorization(
    source: &Arc<dyn TokenSource>,
    within: Duration,
) -> Result<HeaderValue, LinkError> {
    let failed = |detail: String| LinkError::NoToken { detail };
    // A source is other people's code: when it panics, that is its failure, not the connection's.
    let asked = AssertUnwindSafe(async { source.token().await }).catch_unwind();
    let token = match tokio::time::timeout(within, asked).await {
        Ok(Ok(Ok(token))) => token,
        Ok(Ok(Err(error))) => return Err(failed(error.to_string())),
        Ok(Err(_panic)) => return Err(failed("it panicked".to_owned())),
        Err(_) => return Err(failed(format!("it gave none within {within:?}"))),
    };
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", token.0.expose_secret())).map_err(|_| {
            failed("its token holds characters that no header can, such as a line break".to_owned())
        })?;
    value.set_sensitive(true);
    Ok(value)
}
