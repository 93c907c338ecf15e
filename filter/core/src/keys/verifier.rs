//! Signature verification with a key and its one algorithm (V5).

use super::{Key, PublicKey};
use crate::crypto::{EdDsa, Es, Hs, P256, P384, P521, Rsa, verify};

/// Verifier of signatures. The filter may delegate the arithmetic to its host, whose result must
/// equal that of [`Portable`].
pub trait SignatureVerifier {
    /// Returns whether `signature` is this key's signature of `message` under the key's one
    /// algorithm.
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool;
}

/// Verifier that uses neither precomputed tables nor the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl SignatureVerifier for Portable {
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        match key.public_key() {
            PublicKey::Rsa(public) => verify(&Rsa(key.alg()), public, message, signature),
            PublicKey::P256(public) => verify(&Es::<P256>(None), public, message, signature),
            PublicKey::P384(public) => verify(&Es::<P384>(None), public, message, signature),
            PublicKey::P521(public) => verify(&Es::<P521>(None), public, message, signature),
            PublicKey::Ed25519(public) => verify(&EdDsa(None), public, message, signature),
            PublicKey::Secret(secret) => verify(&Hs(key.alg()), secret, message, signature),
        }
    }
}
