//! Who does the arithmetic of a signature: tables of the key, the proxy where it has shown that it
//! can, or the module by itself.
//!
//! Envoy offers BoringSSL as the foreign function `verify_signature`
//! (`source/extensions/common/wasm/foreign.cc`), in half the time of the module for RSA. A host
//! that has no such function, or one that says yes to everything, is found out by known answers
//! before any token depends on it: for each algorithm one signature that is good and one that is
//! not.

use meshseal_core::jose::Alg;
use meshseal_core::json::{Budget, Document, Value};
use meshseal_core::keys::{Key, KeySet, SignatureVerifier};
use meshseal_core::{base64url, der};

use crate::host::{Host, HostSignature};

pub(crate) mod tables;

/// Signed with keys that were thrown away: a text, and for each algorithm a key and its signature
/// of the text.
const KNOWN_ANSWERS: &str = include_str!("known_answers.json");

/// The algorithms that the host verifies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hosted(Vec<Alg>);

impl Hosted {
    /// What the host can, by its answers to questions whose answers are known.
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

/// The algorithm of a known answer, if the host gives it and not its opposite.
fn proven_by(answer: Value<'_>, text: &str, host: &impl Host) -> Option<Alg> {
    let jwks = format!(r#"{{"keys":[{}]}}"#, answer.get("jwk")?);
    let set = KeySet::from_config(&jwks, &Alg::ALL, false).ok()?;
    let key = set.iter().next()?;
    let good = base64url::decode(answer.get("signature")?.as_str()?)?;
    let mut bad = good.clone();
    *bad.last_mut()? ^= 1;
    let says = |signature: &[u8]| ask(host, key, text.as_bytes(), signature);
    (says(&good) == Some(true) && says(&bad) == Some(false)).then(|| key.alg())
}

/// Puts a signature to the host; `None` if it has no answer.
fn ask(host: &impl Host, key: &Key, text: &[u8], signature: &[u8]) -> Option<bool> {
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
        // Not as long as this curve's signatures are: no need to ask.
        Some(None) => return Some(false),
    };
    host.verify_signature(&HostSignature {
        hash,
        spki: key.spki()?,
        signature,
        text,
    })
}

/// Verifies by what is cheapest in Envoy (docs/performance.md): tables of the key, once they are
/// built; else the host, if it can; else the module without help.
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
            asked.unwrap_or_else(|| tables.verify(key, message, signature))
        })
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
