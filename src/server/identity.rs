//! The id and the token of a sandbox. Of the token, the server keeps only its hash: [`TokenHash`].

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::protocol::{SandboxId, SandboxToken};

/// The SHA-256 of a token. A token is 192 random bits, so it needs no salt.
#[derive(Clone)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &SandboxToken) -> Self {
        Self(Sha256::digest(token.expose_secret()).into())
    }

    /// Whether this is the token; takes the same time whatever it is.
    pub(crate) fn matches(&self, token: &SandboxToken) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }

    /// As hexadecimal digits.
    pub(crate) fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// From hexadecimal digits; `None` for what is not 32 bytes of them.
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

/// A new id, and a token of 192 random bits.
pub(crate) fn new_identity() -> Result<(SandboxId, SandboxToken), getrandom::Error> {
    Ok((
        SandboxId::new(format!("sandbox-{}", random_hex::<8>()?)),
        SandboxToken::new(random_hex::<24>()?),
    ))
}

/// Random bytes, as hexadecimal digits.
pub(crate) fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Longest sandbox id that is looked up, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Whether an id could be one of ours. What could not is never looked for anywhere.
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
