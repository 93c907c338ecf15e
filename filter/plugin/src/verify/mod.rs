//! Selects the fastest safe way to verify a signature: precomputed tables of the key, the proxy, or
//! the module itself.
//!
//! Envoy offers BoringSSL as the foreign function `verify_signature`
//! (`source/extensions/common/wasm/foreign.cc`), which takes half the time of the module for RSA.
//! The filter tests this function before any token depends on it, with one valid and one invalid
//! signature per algorithm. So a host without the function is detected, and so is one that accepts
//! every signature.

use meshseal_core::jose::Alg;
use meshseal_core::json::{Budget, Document, Value};
use meshseal_core::keys::{Key, KeySet, SignatureVerifier};
use meshseal_core::{base64url, der};

use crate::host::{Host, HostSignature};

pub(crate) mod tables;

/// Known answers: a text, and for each algorithm a public key and its signature of the text. The
/// private keys were destroyed.
const KNOWN_ANSWERS: &str = include_str!("known_answers.json");

/// Algorithms that the host has been proven to verify correctly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosted(Vec<Alg>);

impl Hosted {
    /// Determines the algorithms of the host by known answers.
    pub(crate) fn proven(host: &impl Host) -> Self {
        let Ok(document) = Document::lent(KNOWN_ANSWERS, Budget::JWKS) else {
            return Self::default();
        };
        let text = document
            .root()
            .get("text")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let answers = document
            .root()
            .get("answers")
            .into_iter()
            .flat_map(Value::items);
        Self(
            answers
                .filter_map(|answer| proven_by(answer, text, host))
                .collect(),
        )
    }

    fn covers(&self, alg: Alg) -> bool {
        self.0.contains(&alg)
    }
}

/// Returns the algorithm of a known answer if the host accepts its signature and rejects a changed
/// one.
fn proven_by(answer: Value<'_>, text: &str, host: &impl Host) -> Option<Alg> {
    let jwks = format!(r#"{{"keys":[{}]}}"#, answer.get("jwk")?);
    let set = KeySet::from_config(&jwks, &Alg::ALL, false).ok()?;
    let key = set.iter().next()?;
    let good = base64url::decode(answer.get("signature")?.as_str()?)?;
    let mut bad = good.clone();
    *bad.last_mut()? ^= 1;
    // The second check detects hosts that accept every signature.
    let accepts_good = ask(host, key, text.as_bytes(), &good) == Some(true);
    let proven = accepts_good && ask(host, key, text.as_bytes(), &bad) == Some(false);
    proven.then(|| key.alg())
}

/// Asks the host to verify a signature. Returns `None` if the host has no answer.
fn ask(host: &impl Host, key: &Key, text: &[u8], signature: &[u8]) -> Option<bool> {
    // A JWS carries ECDSA signatures as r and s of fixed length (RFC 7518 §3.4); BoringSSL expects
    // DER.
    let ecdsa = |length: usize| {
        if signature.len() == length {
            der::ecdsa_signature(signature)
        } else {
            None
        }
    };
    let (hash, converted) = match key.alg() {
        Alg::Rs256 => ("sha256", None),
        Alg::Rs384 => ("sha384", None),
        Alg::Rs512 => ("sha512", None),
        Alg::Es256 => ("sha256", Some(ecdsa(64))),
        Alg::Es384 => ("sha384", Some(ecdsa(96))),
        Alg::Es512 => ("sha512", Some(ecdsa(132))),
        Alg::Ps256
        | Alg::Ps384
        | Alg::Ps512
        | Alg::EdDsa
        | Alg::Hs256
        | Alg::Hs384
        | Alg::Hs512 => return None,
    };
    let signature = match &converted {
        None => signature,
        Some(Some(der)) => der,
        // A signature of the wrong length for its curve is invalid; the host need not be asked.
        Some(None) => return Some(false),
    };
    host.verify_signature(&HostSignature {
        hash,
        spki: key.spki()?,
        signature,
        text,
    })
}

/// Signature verifier that prefers the cheapest way in Envoy (docs/performance.md): tables of the
/// key once they are built, else the host if it is proven, else the module alone.
pub(crate) struct Verifier<'v, H> {
    pub(crate) host: &'v H,
    pub(crate) hosted: Option<&'v Hosted>,
}

impl<H: Host> SignatureVerifier for Verifier<'_, H> {
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        tables::with(|tables| {
            let hosted =
                self.hosted.is_some_and(|hosted| hosted.covers(key.alg())) && !tables.is_ready(key);
            let asked = if hosted {
                ask(self.host, key, message, signature)
            } else {
                None
            };
            // Without complete tables of the key this verifies in the module.
            asked.unwrap_or_else(|| tables.verify(key, message, signature))
        })
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
