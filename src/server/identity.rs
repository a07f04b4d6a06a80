//! The id and the token of a sandbox. The server keeps only the hash of the token: [`TokenHash`].

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::protocol::{SandboxId, SandboxToken};

/// The SHA-256 of a token. A token has 192 random bits, so the hash needs no salt.
#[derive(Clone)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &SandboxToken) -> Self {
        Self(Sha256::digest(token.expose_secret()).into())
    }

    /// Whether this is the hash of the token. Compares in constant time.
    pub(crate) fn matches(&self, token: &SandboxToken) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }

    /// Returns the hash as hexadecimal digits.
    pub(crate) fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Parses hexadecimal digits. Returns `None` unless the text is 32 bytes in hexadecimal.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
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

/// Generates an id, and a token of 192 random bits.
pub(crate) fn new_identity() -> Result<(SandboxId, SandboxToken), getrandom::Error> {
    Ok((
        SandboxId::new(format!("sandbox-{}", random_hex::<8>()?)),
        SandboxToken::new(random_hex::<24>()?),
    ))
}

/// Generates random bytes, as hexadecimal digits.
pub(crate) fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Maximum length of a sandbox id, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Whether a server could have created this id. The server looks up no other id, so an id can't be
/// a path.
pub(crate) fn is_well_formed(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_BYTES
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_hash_matches_only_its_own_token() {
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

    #[test]
    fn identities_are_long_and_never_the_same() {
        let (id, token) = new_identity().unwrap();
        let (other_id, other_token) = new_identity().unwrap();
        assert!(is_well_formed(id.as_str()));
        assert_eq!(token.expose_secret().len(), 48);
        assert_ne!(id, other_id);
        assert_ne!(token, other_token);
    }

    #[test]
    fn ids_that_look_like_paths_are_not_ids() {
        for id in ["../../etc/passwd", "a/b", "..", "a\0b", "a b", "é"] {
            assert!(!is_well_formed(id), "{id}");
        }
        assert!(!is_well_formed(&"a".repeat(MAX_ID_BYTES + 1)));
        assert!(is_well_formed("sandbox-9182"));
    }
}
