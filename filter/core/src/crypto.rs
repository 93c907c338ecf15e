//! Signature verification in the module itself: jwt-compact's [`Algorithm`] trait over current, well-kept crates.
//!
//! Each algorithm has its own key type, so that a key cannot reach another algorithm's arithmetic (V5). Signing is not
//! ours: the signing key types here have no values.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::num::NonZeroUsize;

use hmac::{Hmac, KeyInit, Mac};
use jwt_compact::{Algorithm, AlgorithmSignature};
use rsa::traits::PublicKeyParts as _;
use rsa::{BigUint, Pkcs1v15Sign, Pss};
use sha2::{Digest, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;

use crate::alg::Alg;
use crate::keys::{Key, PublicKey};

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

/// The digest of a message under the hash of an algorithm (its last three digits; EdDSA hashes for itself).
enum Hash {
    Sha256([u8; 32]),
    Sha384([u8; 48]),
    Sha512([u8; 64]),
}

impl Hash {
    fn of(alg: Alg, message: &[u8]) -> Self {
        match alg {
            Alg::Rs256 | Alg::Ps256 | Alg::Es256 | Alg::Hs256 => Self::Sha256(Sha256::digest(message).into()),
            Alg::Rs384 | Alg::Ps384 | Alg::Es384 | Alg::Hs384 => Self::Sha384(Sha384::digest(message).into()),
            Alg::Rs512 | Alg::Ps512 | Alg::Es512 | Alg::Hs512 | Alg::EdDsa => {
                Self::Sha512(Sha512::digest(message).into())
            }
        }
    }
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

/// RSASSA-PKCS1-v1_5 and RSASSA-PSS (RFC 7518 §3.3, §3.5); the salt is as long as the hash.
pub(crate) struct Rsa(pub(crate) Alg);

impl Rsa {
    fn is_pss(&self) -> bool {
        matches!(self.0, Alg::Ps256 | Alg::Ps384 | Alg::Ps512)
    }
}

impl Algorithm for Rsa {
    type SigningKey = Infallible;
    type VerifyingKey = rsa::RsaPublicKey;
    type Signature = Variable;

    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.0.name())
    }

    fn sign(&self, key: &Infallible, _message: &[u8]) -> Self::Signature {
        match *key {}
    }

    fn verify_signature(&self, signature: &Self::Signature, key: &Self::VerifyingKey, message: &[u8]) -> bool {
        let signature = signature.0.as_slice();
        // RFC 8017 §5.2.2: s is less than n. The crate's PSS takes s + n as well, a second spelling of one signature.
        if BigUint::from_bytes_be(signature) >= *key.n() {
            return false;
        }
        let verified = match (Hash::of(self.0, message), self.is_pss()) {
            (Hash::Sha256(hash), false) => key.verify(Pkcs1v15Sign::new::<rsa::sha2::Sha256>(), &hash, signature),
            (Hash::Sha384(hash), false) => key.verify(Pkcs1v15Sign::new::<rsa::sha2::Sha384>(), &hash, signature),
            (Hash::Sha512(hash), false) => key.verify(Pkcs1v15Sign::new::<rsa::sha2::Sha512>(), &hash, signature),
            (Hash::Sha256(hash), true) => key.verify(Pss::new::<rsa::sha2::Sha256>(), &hash, signature),
            (Hash::Sha384(hash), true) => key.verify(Pss::new::<rsa::sha2::Sha384>(), &hash, signature),
            (Hash::Sha512(hash), true) => key.verify(Pss::new::<rsa::sha2::Sha512>(), &hash, signature),
        };
        verified.is_ok()
    }
}

/// A shared secret of at least the hash's length (RFC 7518 §3.2). Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) Vec<u8>);

impl core::fmt::Debug for Secret {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str("Secret(..)")
    }
}

/// HMAC (RFC 7518 §3.2), compared in constant time.
pub(crate) struct Hs(pub(crate) Alg);

impl Hs {
    fn tag<M: Mac + KeyInit>(secret: &Secret, message: &[u8]) -> Vec<u8> {
        let Ok(mac) = <M as KeyInit>::new_from_slice(&secret.0) else { return Vec::new() };
        mac.chain_update(message).finalize().into_bytes().to_vec()
    }
}

impl Algorithm for Hs {
    type SigningKey = Infallible;
    type VerifyingKey = Secret;
    type Signature = Variable;

    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.0.name())
    }

    fn sign(&self, key: &Infallible, _message: &[u8]) -> Self::Signature {
        match *key {}
    }

    fn verify_signature(&self, signature: &Self::Signature, key: &Self::VerifyingKey, message: &[u8]) -> bool {
        #[expect(clippy::wildcard_enum_match_arm, reason = "a key of any other algorithm verifies nothing")]
        let tag = match self.0 {
            Alg::Hs256 => Self::tag::<Hmac<Sha256>>(key, message),
            Alg::Hs384 => Self::tag::<Hmac<Sha384>>(key, message),
            Alg::Hs512 => Self::tag::<Hmac<Sha512>>(key, message),
            _ => return false,
        };
        !tag.is_empty() && bool::from(tag.ct_eq(&signature.0))
    }
}
