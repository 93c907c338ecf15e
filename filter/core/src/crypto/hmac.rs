//! HMAC with a shared secret (RFC 7518 §3.2).

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::convert::Infallible;

use hmac::{Hmac, KeyInit, Mac};
use jwt_compact::Algorithm;
use sha2::{Sha256, Sha384, Sha512};

use super::Variable;
use crate::jose::Alg;

/// A shared secret at least as long as the hash (RFC 7518 §3.2). Its `Debug` output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) Vec<u8>);

impl core::fmt::Debug for Secret {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str("Secret(..)")
    }
}

/// HMAC (RFC 7518 §3.2), with constant-time comparison.
pub(crate) struct Hs(pub(crate) Alg);

impl Hs {
    /// Returns whether `tag` is the HMAC of the message.
    fn verifies<M: Mac + KeyInit>(secret: &Secret, message: &[u8], tag: &[u8]) -> bool {
        // `verify_slice` compares in constant time and rejects truncated tags.
        <M as KeyInit>::new_from_slice(&secret.0)
            .is_ok_and(|mac| mac.chain_update(message).verify_slice(tag).is_ok())
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

    fn verify_signature(
        &self,
        signature: &Self::Signature,
        key: &Self::VerifyingKey,
        message: &[u8],
    ) -> bool {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "keys of other algorithms never verify"
        )]
        match self.0 {
            Alg::Hs256 => Self::verifies::<Hmac<Sha256>>(key, message, signature.bytes()),
            Alg::Hs384 => Self::verifies::<Hmac<Sha384>>(key, message, signature.bytes()),
            Alg::Hs512 => Self::verifies::<Hmac<Sha512>>(key, message, signature.bytes()),
            _ => false,
        }
    }
}
