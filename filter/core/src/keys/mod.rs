//! Signature keys, each bound to exactly one algorithm (V5, V6), and key sets.

mod key_set;
mod read;
mod tables;
mod verifier;

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use jwt_compact::jwk::JsonWebKey;
use sha2::{Digest as _, Sha256};

use crate::crypto::{EcKey, EdKey, P256, P384, P521, RsaKey, Secret};
use crate::jose::{Alg, Family};
use crate::{base64url, der};

pub use key_set::{KeyProblem, KeySet, PassedOver};
pub use tables::KeyTables;
pub use verifier::{Portable, SignatureVerifier};

/// A key in the form that the arithmetic of its algorithm needs.
#[derive(Clone, Debug, PartialEq)]
pub enum PublicKey {
    /// RSA of 2048 to [`crate::limits::MAX_RSA_BITS`] bits.
    Rsa(RsaKey),
    /// A point of P-256.
    P256(EcKey<P256>),
    /// A point of P-384.
    P384(EcKey<P384>),
    /// A point of P-521.
    P521(EcKey<P521>),
    /// A point of Ed25519.
    Ed25519(EdKey),
    /// A shared secret; accepted in the configuration only.
    Secret(Secret),
}

/// Identity of a key, independent of its `kid`: a digest of algorithm and public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// Computes the digest. Each part is preceded by its length, so that different lists of parts
    /// cannot have the same input.
    fn of(alg: Alg, parts: &[Vec<u8>]) -> Self {
        let mut hash = Sha256::new_with_prefix(alg.name());
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        // Half of the digest keeps proofs small; forging a key with the same id stays infeasible.
        let (half, _) = digest.split_at(16);
        Self(half.try_into().unwrap_or_default())
    }
}

/// One key of a set, bound to one algorithm.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    id: KeyId,
    kid: Option<Box<str>>,
    alg: Alg,
    public: PublicKey,
    /// Key in the form that a proxy needs for its own verification; `None` for unsupported key
    /// types.
    spki: Option<Box<[u8]>>,
}

impl Key {
    /// Returns the identity of the key, which tokens do not contain.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the key id that tokens name (`kid`).
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Returns the one algorithm that the key verifies.
    #[must_use]
    pub fn alg(&self) -> Alg {
        self.alg
    }

    /// Returns the key as `SubjectPublicKeyInfo` (RFC 5280 §4.1), for RSA and ECDSA keys.
    #[must_use]
    pub fn spki(&self) -> Option<&[u8]> {
        self.spki.as_deref()
    }

    /// Returns the key material.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

impl Key {
    /// Builds a key without `kid` from its JWK parameters, in the order of `read::parameters`.
    fn of(family: Family, alg: Alg, public: PublicKey, parts: &[Vec<u8>]) -> Self {
        // RSA and elliptic-curve keys have two parameters.
        let spki = match parts {
            [one, two] => der::subject_public_key_info(family, one, two).map(Into::into),
            _ => None,
        };
        Self {
            id: KeyId::of(alg, parts),
            kid: None,
            alg,
            public,
            spki,
        }
    }
}

/// Returns the RFC 7638 SHA-256 thumbprint of a JWK's public part in base64url; `None` for anything
/// but a JWK.
#[must_use]
pub fn thumbprint(jwk: &str) -> Option<String> {
    let jwk: JsonWebKey<'_> = serde_json::from_str(jwk).ok()?;
    let public = if jwk.is_signing_key() {
        jwk.to_verifying_key()
    } else {
        jwk
    };
    // The library writes the canonical form of RFC 7638 §3.2.
    Some(base64url::encode(&Sha256::digest(
        public.to_string().as_bytes(),
    )))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
