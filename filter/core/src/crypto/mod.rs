//! Signature verification inside the module. It implements jwt-compact's [`Algorithm`] trait, with
//! the arithmetic of other crates where that is fast in WebAssembly, and with its own arithmetic
//! elsewhere (`docs/adr/0008-arithmetic-of-our-own-for-verification.md`).
//!
//! ```text
//! ecdsa ─ weierstrass ─ field      ed25519 (fiat-crypto)            rsa ─ montgomery      hmac
//!      ╰────── window ──────────────────╯
//! ```
//!
//! Verification handles public data only, so all of it except [`hmac`] takes variable time. This
//! code must never handle a private key. Each algorithm has its own key type, so that a key cannot
//! reach another algorithm's arithmetic (V5). The module cannot sign: the signing key types have no
//! values.

use alloc::borrow::Cow;
use core::num::NonZeroUsize;

use jwt_compact::{Algorithm, AlgorithmSignature};

pub(crate) use self::ecdsa::{EcKey, Ecdsa, Es, P256, P384, P521};
pub(crate) use self::ed25519::{EdDsa, EdKey, EdProblem, Edwards};
pub(crate) use self::hmac::{Hs, Secret};
pub(crate) use self::rsa::{Rsa, RsaKey, RsaProblem};
pub(crate) use self::weierstrass::Points;
pub(crate) use self::window::{Group, NARROWEST, Table, WIDEST};
use crate::limits;

mod ecdsa;
mod ed25519;
mod field;
mod hmac;
mod montgomery;
mod rsa;
mod weierstrass;
mod window;

/// Returns whether `signature` is the key's signature of `message`.
pub(crate) fn verify<A: Algorithm>(
    algorithm: &A,
    key: &A::VerifyingKey,
    message: &[u8],
    signature: &[u8],
) -> bool {
    // A wrong length is rejected here, in the same way for every algorithm.
    if A::Signature::LENGTH.is_some_and(|length| length.get() != signature.len()) {
        return false;
    }
    A::Signature::try_from_slice(signature)
        .is_ok_and(|signature| algorithm.verify_signature(&signature, key, message))
}

/// Signature of a fixed length.
pub(crate) struct Fixed<const LENGTH: usize>([u8; LENGTH]);

impl<const LENGTH: usize> AlgorithmSignature for Fixed<LENGTH> {
    const LENGTH: Option<NonZeroUsize> = NonZeroUsize::new(LENGTH);

    fn try_from_slice(slice: &[u8]) -> anyhow::Result<Self> {
        slice
            .try_into()
            .map(Self)
            .map_err(|_| anyhow::Error::msg("signature length"))
    }

    fn as_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.0)
    }
}

/// Signature whose length depends on the key or the hash, up to that of the largest RSA key.
pub(crate) struct Variable {
    bytes: [u8; limits::MAX_SIGNATURE_BYTES],
    length: usize,
}

impl Variable {
    /// Returns the bytes of the signature.
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl AlgorithmSignature for Variable {
    fn try_from_slice(slice: &[u8]) -> anyhow::Result<Self> {
        let mut bytes = [0; _];
        let place = bytes
            .get_mut(..slice.len())
            .ok_or_else(|| anyhow::Error::msg("signature length"))?;
        place.copy_from_slice(slice);
        Ok(Self {
            bytes,
            length: slice.len(),
        })
    }

    fn as_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.bytes())
    }
}
