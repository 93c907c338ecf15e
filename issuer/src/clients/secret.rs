//! Client secrets: generated here, 256 random bits, stored as hashes only (I11). A slow hash would
//! protect guessable secrets. These are not, so that a fast one serves. A keyed hash says nothing
//! without the master key.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use zeroize::Zeroizing;

use crate::keys::MasterKey;

const PREFIX: &str = "sha256:";
const KEYED_PREFIX: &str = "hmac-sha256:";
const BYTES: usize = 32;

/// Purpose of the key that is derived from the master key.
const PURPOSE: &str = "meshseal client secrets";

/// Shortest text that can hold 128 random bits in base64.
const SHORTEST: usize = 22;

/// The stored hash of a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretHash {
    /// SHA-256.
    Plain([u8; BYTES]),
    /// HMAC-SHA256 under a key that is derived from the master key.
    Keyed([u8; BYTES]),
}

/// Hashes secrets, with a key that is derived from the master key.
pub struct SecretHasher(hmac::Key);

impl SecretHasher {
    /// Derives the key.
    #[must_use]
    pub fn new(master: &MasterKey) -> Self {
        Self(master.derive(PURPOSE))
    }

    /// Returns the keyed hash, as stored.
    #[must_use]
    pub fn keyed(&self, secret: &str) -> SecretHash {
        SecretHash::Keyed(bytes(hmac::sign(&self.0, secret.as_bytes()).as_ref()))
    }

    /// Hashes a presented secret in each way in which one may be stored.
    #[must_use]
    pub fn presented(&self, secret: &str) -> Presented {
        Presented {
            plain: SecretHash::of(secret),
            keyed: self.keyed(secret),
        }
    }
}

/// The hashes of a presented secret.
#[derive(Debug)]
pub struct Presented {
    plain: SecretHash,
    keyed: SecretHash,
}

fn bytes(hash: &[u8]) -> [u8; BYTES] {
    let mut copy = [0; BYTES];
    for (to, from) in copy.iter_mut().zip(hash) {
        *to = *from;
    }
    copy
}

impl SecretHash {
    /// Returns the SHA-256 of a secret.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self::Plain(bytes(digest(&SHA256, secret.as_bytes()).as_ref()))
    }

    /// Reads `sha256:` or `hmac-sha256:` and 43 characters of base64url, as `meshseal client
    /// secret` prints it.
    ///
    /// # Errors
    /// The remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (is_keyed, hash) = match text.strip_prefix(KEYED_PREFIX) {
            Some(hash) => (true, Some(hash)),
            None => (false, text.strip_prefix(PREFIX)),
        };
        let bytes = hash.and_then(|hash| URL_SAFE_NO_PAD.decode(hash).ok());
        let hash = bytes.and_then(|bytes| <[u8; BYTES]>::try_from(bytes).ok());
        hash.map(if is_keyed { Self::Keyed } else { Self::Plain }).ok_or_else(|| {
            "must be hmac-sha256: or sha256: and 43 characters, as `meshseal client secret` prints it".to_owned()
        })
    }

    /// Reads a hash, or takes the hash of a secret that is written out.
    ///
    /// # Errors
    /// The remedy.
    pub fn of_configured(text: &str) -> Result<Self, String> {
        if text.starts_with(PREFIX) || text.starts_with(KEYED_PREFIX) {
            return Self::parse(text);
        }
        if text.len() < SHORTEST {
            return Err(format!(
                "must be a random token of at least {SHORTEST} characters, or its sha256: hash"
            ));
        }
        Ok(Self::of(text))
    }

    /// Returns whether a presented secret has this hash, in constant time.
    #[must_use]
    pub fn matches(&self, presented: &Presented) -> bool {
        let other = if matches!(self, Self::Plain(_)) {
            &presented.plain
        } else {
            &presented.keyed
        };
        verify_slices_are_equal(self.bytes(), other.bytes()).is_ok()
    }

    const fn bytes(&self) -> &[u8; BYTES] {
        match self {
            Self::Plain(bytes) | Self::Keyed(bytes) => bytes,
        }
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if matches!(self, Self::Plain(_)) {
            PREFIX
        } else {
            KEYED_PREFIX
        };
        write!(out, "{prefix}{}", URL_SAFE_NO_PAD.encode(self.bytes()))
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
        Some(Self(Zeroizing::new(format!(
            "mss_{}",
            URL_SAFE_NO_PAD.encode(bytes.as_ref())
        ))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(byte: u8) -> SecretHasher {
        let key = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
        SecretHasher::new(&MasterKey::from_base64(&key, "test").unwrap())
    }

    #[test]
    fn printed_hash_matches_only_its_secret_and_key() {
        let (secret, hasher, other) =
            (NewSecret::generate().unwrap().0, hasher(1), self::hasher(2));
        for (stored, is_keyed) in [
            (SecretHash::of(&secret), false),
            (hasher.keyed(&secret), true),
        ] {
            let hash = SecretHash::parse(&stored.to_string()).unwrap();
            assert!(hash.matches(&hasher.presented(&secret)));
            assert!(!hash.matches(&hasher.presented(&secret[1..])));
            assert_eq!(hash.matches(&other.presented(&secret)), !is_keyed);
            assert!(!format!("{hash:?}").contains(&hash.to_string()));
        }
    }

    #[test]
    fn secrets_in_clear_and_cut_hashes_are_refused() {
        for text in [
            "secret",
            "sha256:",
            "sha256:abc",
            "sha512:n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg",
        ] {
            assert!(SecretHash::parse(text).is_err(), "{text}");
        }
        assert!(SecretHash::of_configured("too-short").is_err());
        assert!(SecretHash::of_configured("a-random-token-of-enough-length").is_ok());
    }
}
