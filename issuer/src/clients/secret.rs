//! Client secrets: made here, 256 random bits, kept as SHA-256 only. A slow hash would protect guessable secrets; these are
//! not, so a fast one serves (I11).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use zeroize::Zeroizing;

const PREFIX: &str = "sha256:";
const BYTES: usize = 32;

/// Shortest text that can hold 128 random bits in base64.
const SHORTEST: usize = 22;

/// The SHA-256 of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash([u8; BYTES]);

impl SecretHash {
    /// Of a secret that somebody presents.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        let mut hash = [0; BYTES];
        for (to, from) in hash.iter_mut().zip(digest(&SHA256, secret.as_bytes()).as_ref()) {
            *to = *from;
        }
        Self(hash)
    }

    /// Reads `sha256:` and 43 characters of base64url, as `meshseal client secret` prints it.
    ///
    /// # Errors
    /// The remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = text.strip_prefix(PREFIX).and_then(|hash| URL_SAFE_NO_PAD.decode(hash).ok());
        let hash = bytes.and_then(|bytes| <[u8; BYTES]>::try_from(bytes).ok());
        hash.map(Self)
            .ok_or_else(|| "must be sha256: and 43 characters, as `meshseal client secret` prints it".to_owned())
    }

    /// Reads a hash, or takes the hash of a secret that is written out.
    ///
    /// # Errors
    /// The remedy.
    pub fn of_configured(text: &str) -> Result<Self, String> {
        if text.starts_with(PREFIX) {
            return Self::parse(text);
        }
        if text.len() < SHORTEST {
            return Err(format!("must be a random token of at least {SHORTEST} characters, or its sha256: hash"));
        }
        Ok(Self::of(text))
    }

    /// Whether both are of the same secret; takes as long when they are not.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SecretHash")
    }
}

/// A fresh secret: shown once, to the operator.
pub struct NewSecret(pub Zeroizing<String>);

impl NewSecret {
    /// 256 bits from the system; `None` when it gives none.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; BYTES]);
        aws_lc_rs::rand::fill(bytes.as_mut()).ok()?;
        Some(Self(Zeroizing::new(format!("mss_{}", URL_SAFE_NO_PAD.encode(bytes.as_ref())))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_hash_reads_back_and_matches_only_its_secret() {
        let secret = NewSecret::generate().unwrap().0;
        let hash = SecretHash::parse(&SecretHash::of(&secret).to_string()).unwrap();
        assert!(hash.matches(&SecretHash::of(&secret)));
        assert!(!hash.matches(&SecretHash::of(&secret[1..])));
        assert!(!format!("{hash:?}").contains(&hash.to_string()));
    }

    #[test]
    fn secrets_in_clear_and_cut_hashes_are_refused() {
        for text in ["secret", "sha256:", "sha256:abc", "sha512:n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg"] {
            assert!(SecretHash::parse(text).is_err(), "{text}");
        }
        assert!(SecretHash::of_configured("too-short").is_err());
        assert!(SecretHash::of_configured("a-random-token-of-enough-length").is_ok());
    }
}
