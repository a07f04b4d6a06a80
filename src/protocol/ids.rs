//! Identifiers: [`SandboxId`] names a sandbox, [`SandboxToken`] authorizes a client to attach to
//! it, [`ExecId`] names an exec in it.

use std::{borrow::Borrow, fmt, sync::Arc};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;

/// The id that a server gave to a sandbox, for example `sandbox-9182`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct SandboxId(Box<str>);

impl SandboxId {
    /// Creates an id from any text. The server decides whether a sandbox has this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into().into_boxed_str())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for SandboxId {
    fn from(id: T) -> Self {
        Self::new(id)
    }
}

/// The id that a client gave to an exec (protocol v2). Unique in the sandbox.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(from = "String")]
pub struct ExecId(Arc<str>);

impl ExecId {
    /// The maximum length of an id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Creates an id from any text. A server accepts ids of 1 to [`MAX_BYTES`](Self::MAX_BYTES)
    /// bytes.
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(Arc::from(id.as_ref()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a server accepts this id.
    pub(crate) fn is_valid(&self) -> bool {
        (1..=Self::MAX_BYTES).contains(&self.0.len())
    }
}

impl Borrow<str> for ExecId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str>> From<T> for ExecId {
    fn from(id: T) -> Self {
        Self::new(id)
    }
}

/// Implements `Display` and `Debug` that show the id as text.
macro_rules! show_as_text {
    ($($id:ty)*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}
show_as_text!(SandboxId ExecId);

/// The secret that a client needs to attach to a sandbox.
///
/// `Debug` doesn't show the secret, and there is no `Display`. Comparison takes constant time. The
/// memory is wiped on drop.
///
/// ```
/// use actix_sandbox::SandboxToken;
///
/// let token = SandboxToken::new("66fa8982d57a");
/// assert_eq!(format!("{token:?}"), "SandboxToken(…)");
/// assert_eq!(token.expose_secret(), "66fa8982d57a");
/// ```
#[derive(Clone)]
pub struct SandboxToken(SecretString);

impl SandboxToken {
    /// Creates a token from the text that the server gave.
    pub fn new(token: impl Into<String>) -> Self {
        Self(SecretString::from(token.into()))
    }

    /// Returns the secret. The name makes it easy to find the places where secrets are used.
    pub fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }

    /// Removes the token from a peer's text, even if an `excerpt` cut the token off. Ignores a
    /// token that is too short to be a secret, because removing it would garble the text.
    pub(crate) fn redact(&self, mut text: String) -> String {
        const SECRET: usize = 8;
        let token = self.expose_secret();
        if token.len() >= SECRET && text.contains(token) {
            text = text.replace(token, "…");
        }
        if let Some(end) = text.rfind('…') {
            let before = &text[..end];
            let begun = |&len: &usize| token.get(..len).is_some_and(|it| before.ends_with(it));
            let most = token.len().min(end + 1);
            if let Some(len) = (SECRET..most).rev().find(begun) {
                text.replace_range(end - len..end, "");
            }
        }
        text
    }
}

impl fmt::Debug for SandboxToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SandboxToken(…)")
    }
}

impl PartialEq for SandboxToken {
    /// Compares in constant time for tokens of equal length.
    fn eq(&self, other: &Self) -> bool {
        self.expose_secret()
            .as_bytes()
            .ct_eq(other.expose_secret().as_bytes())
            .into()
    }
}

impl Eq for SandboxToken {}

impl<T: Into<String>> From<T> for SandboxToken {
    fn from(token: T) -> Self {
        Self::new(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_never_shown_by_debug() {
        let token = SandboxToken::new("very-secret");
        assert!(!format!("{token:?} {:#?}", Some(&token)).contains("secret"));
    }

    #[test]
    fn a_token_that_an_excerpt_cuts_off_is_not_shown_either() {
        let token = SandboxToken::new("tok-5e1f0c7a9b-secret");
        for before in 170..200 {
            let frame = format!(
                "{}{}{}",
                "x".repeat(before),
                token.expose_secret(),
                "y".repeat(50)
            );
            let detail = format!(
                "`{}` is no frame",
                crate::protocol::excerpt(frame.as_bytes())
            );
            let shown = token.redact(detail);
            assert!(!shown.contains("tok-5e1f"), "{before}: {shown}");
        }
        assert_eq!(
            token.redact("tok-5e…".into()),
            "tok-5e…",
            "too short to matter"
        );
    }

    #[test]
    fn tokens_compare_by_value() {
        assert_eq!(SandboxToken::new("a"), SandboxToken::new("a"));
        assert_ne!(SandboxToken::new("a"), SandboxToken::new("b"));
        assert_ne!(SandboxToken::new("a"), SandboxToken::new("ab"));
    }
}
