//! Signature verification in the module itself: jwt-compact's [`Algorithm`] trait over current, well-kept crates.
//!
//! Each algorithm has its own key type, so that a key cannot reach another algorithm's arithmetic (V5). Signing is not
//! ours: the signing key types here have no values.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::num::NonZeroUsize;

use jwt_compact::{Algorithm, AlgorithmSignature};
use sha2::{Digest, Sha256, Sha384, Sha512};

use self::hmac::Hs;
pub(crate) use self::hmac::Secret;
use self::rsa::Rsa;

pub(crate) use self::rsa::{RsaKey, RsaProblem};
use crate::alg::Alg;
use crate::keys::{Key, PublicKey};

mod hmac;
mod montgomery;
mod rsa;

/// Checks signatures. The filter may hand the arithmetic to its host; the answer must be the same as [`Portable`]'s.
pub trait SignatureVerifier {
    /// Whether `signature` is this key's signature of `message`, under the one algorithm of the key.
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool;
}

/// Verifies with nothing but the crates compiled in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl SignatureVerifier for Portable {
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        match key.public_key() {
            PublicKey::Rsa(public) => verify(&Rsa(key.alg()), public, message, signature),
            PublicKey::P256(public) => verify(&Es256, public, message, signature),
            PublicKey::P384(public) => verify(&Es384, public, message, signature),
            PublicKey::P521(public) => verify(&Es512, public, message, signature),
            PublicKey::Ed25519(public) => verify(&EdDsa, public, message, signature),
            PublicKey::Secret(secret) => verify(&Hs(key.alg()), secret, message, signature),
        }
    }
}

fn verify<A: Algorithm>(algorithm: &A, key: &A::VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    if A::Signature::LENGTH.is_some_and(|length| length.get() != signature.len()) {
        return false;
    }
    A::Signature::try_from_slice(signature).is_ok_and(|signature| algorithm.verify_signature(&signature, key, message))
}

/// Bytes of a fixed length that are read without interpretation.
pub(crate) struct Fixed<const LENGTH: usize>([u8; LENGTH]);

impl<const LENGTH: usize> AlgorithmSignature for Fixed<LENGTH> {
    const LENGTH: Option<NonZeroUsize> = NonZeroUsize::new(LENGTH);

    fn try_from_slice(slice: &[u8]) -> anyhow::Result<Self> {
        slice.try_into().map(Self).map_err(|_| anyhow::Error::msg("signature length"))
    }

    fn as_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.0)
    }
}

/// Bytes whose length depends on the key or the hash.
pub(crate) struct Variable(Vec<u8>);

impl AlgorithmSignature for Variable {
    fn try_from_slice(slice: &[u8]) -> anyhow::Result<Self> {
        Ok(Self(slice.to_vec()))
    }

    fn as_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.0)
    }
}

/// `EdDSA` with Ed25519 (RFC 8037 §3.1).
pub(crate) struct EdDsa;

impl Algorithm for EdDsa {
    type SigningKey = Infallible;
    type VerifyingKey = ed25519_dalek::VerifyingKey;
    type Signature = Fixed<64>;

    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(Alg::EdDsa.name())
    }

    fn sign(&self, key: &Infallible, _message: &[u8]) -> Self::Signature {
        match *key {}
    }

    /// Strict: refuses small-order points and signatures with more than one form.
    fn verify_signature(&self, signature: &Self::Signature, key: &Self::VerifyingKey, message: &[u8]) -> bool {
        key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

macro_rules! ecdsa {
    ($(#[$doc:meta])* $name:ident, $curve:ident, $alg:expr, $length:literal, $hash:ident) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl Algorithm for $name {
            type SigningKey = Infallible;
            type VerifyingKey = $curve::ecdsa::VerifyingKey;
            type Signature = Fixed<$length>;

            fn name(&self) -> Cow<'static, str> {
                Cow::Borrowed($alg.name())
            }

            fn sign(&self, key: &Infallible, _message: &[u8]) -> Self::Signature {
                match *key {}
            }

            fn verify_signature(&self, signature: &Self::Signature, key: &Self::VerifyingKey, message: &[u8]) -> bool {
                use $curve::ecdsa::signature::hazmat::PrehashVerifier as _;
                let Ok(signature) = $curve::ecdsa::Signature::from_slice(&signature.0) else { return false };
                key.verify_prehash(&$hash::digest(message), &signature).is_ok()
            }
        }
    };
}

ecdsa!(
    /// ECDSA on P-256: r and s of 32 bytes each (RFC 7518 §3.4).
    Es256, p256, Alg::Es256, 64, Sha256
);
ecdsa!(
    /// ECDSA on P-384: r and s of 48 bytes each.
    Es384, p384, Alg::Es384, 96, Sha384
);
ecdsa!(
    /// ECDSA on P-521: r and s of 66 bytes each.
    Es512, p521, Alg::Es512, 132, Sha512
);
