//! [`TokenHash`]: what the server keeps of a sandbox's token. It tells whether a token is right, also
//! after a restart, and gives nothing away to whoever reads the state directory.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::protocol::SandboxToken;

/// The token that every request has to carry.
#[derive(Clone)]
pub(super) struct AccessToken(SecretString);

impl AccessToken {
    pub(super) fn new(token: SecretString) -> Self {
        Self(token)
    }

    /// Whether this is the token.
    pub(super) fn matches(&self, sent: &[u8]) -> bool {
        self.0.expose_secret().as_bytes().ct_eq(sent).into()
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessToken(…)")
    }
}

/// The SHA-256 of a token. A token is 192 random bits, so it needs no salt.
#[derive(Clone)]
pub(super) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(super) fn of(token: &SandboxToken) -> Self {
        Self(Sha256::digest(token.expose_secret()).into())
    }

    /// Whether this is the token; takes the same time whatever it is.
    pub(super) fn matches(&self, token: &SandboxToken) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }

    /// As hexadecimal digits.
    pub(super) fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From hexadecimal digits; `None` for what is not 32 bytes of them.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_knows_its_token_and_no_other_also_when_it_was_written_down() {
        let token = SandboxToken::new("66fa8982d57a");
        let hash = TokenHash::of(&token);
        let read = TokenHash::from_hex(&hash.to_hex()).unwrap();
        for hash in [hash, read] {
            assert!(hash.matches(&token));
            assert!(!hash.matches(&SandboxToken::new("66fa8982d57b")));
            assert!(!hash.matches(&SandboxToken::new("")));
        }
        assert!(TokenHash::from_hex("12").is_none());
        assert!(TokenHash::from_hex(&"zz".repeat(32)).is_none());
        assert!(TokenHash::from_hex(&"é".repeat(32)).is_none());
    }
}
