//! Generation of signing keys.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Algorithm, KeyRecord, KeyState, MasterKey, Purpose};
use crate::config::MAX_TOKEN_LIFE_S;

/// Failure to generate a key: no random bytes, or an unsupported algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signing key could not be generated")]
pub struct GenerateError;

/// Generates a key and seals its private half. RSA takes up to a second, so this must not run on a
/// thread that serves requests.
///
/// # Errors
/// [`GenerateError`].
pub fn generate(
    purpose: Purpose,
    algorithm: Algorithm,
    state: KeyState,
    now: u64,
    master: &MasterKey,
) -> Result<KeyRecord, GenerateError> {
    let (pkcs8, mut jwk) = match algorithm {
        Algorithm::EdDsa => ed25519(),
        Algorithm::Es256 => p256(),
        Algorithm::Rs256 => rsa(),
    }
    .ok_or(GenerateError)?;
    // The thumbprint is that of the required members (RFC 7638 §3); the others are added later.
    let kid = meshseal_core::keys::thumbprint(&jwk.to_string()).ok_or(GenerateError)?;
    if let Value::Object(members) = &mut jwk {
        members.extend(
            [("kid", &*kid), ("alg", algorithm.name()), ("use", "sig")]
                .map(|(name, value)| (name.into(), value.into())),
        );
    }
    let sealed = Some(
        master
            .seal(&KeyRecord::seal_name(&kid), &pkcs8)
            .map_err(|_| GenerateError)?,
    );
    Ok(KeyRecord {
        kid,
        purpose,
        algorithm,
        state,
        since: now,
        // Set by the store and the caller.
        published: 0,
        ready_at: 0,
        drain_s: MAX_TOKEN_LIFE_S,
        public_jwk: jwk.to_string(),
        sealed,
    })
}

/// Private key (PKCS#8) and public JWK.
type Made = (Zeroizing<Vec<u8>>, Value);

fn ed25519() -> Option<Made> {
    let pair = Ed25519KeyPair::generate().ok()?;
    let pkcs8 = Zeroizing::new(pair.to_pkcs8().ok()?.as_ref().to_vec());
    Some((
        pkcs8,
        json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) }),
    ))
}

fn p256() -> Option<Made> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok()?;
    let pkcs8 = Zeroizing::new(pair.to_pkcs8v1().ok()?.as_ref().to_vec());
    // SEC 1 §2.3.3, uncompressed: 4 ‖ x ‖ y.
    let (x, y) = pair
        .public_key()
        .as_ref()
        .strip_prefix(&[4])?
        .split_at_checked(32)?;
    Some((
        pkcs8,
        json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) }),
    ))
}

fn rsa() -> Option<Made> {
    let der: Pkcs8V1Der<'_> = RsaPair::generate(KeySize::Rsa2048).ok()?.as_der().ok()?;
    let pkcs8 = Zeroizing::new((*der).as_ref().to_vec());
    let pair = RsaKeyPair::from_pkcs8(&pkcs8).ok()?;
    let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
    let jwk = json!({
        "kty": "RSA",
        "n": encode(n.big_endian_without_leading_zero()),
        "e": encode(e.big_endian_without_leading_zero()),
    });
    Some((pkcs8, jwk))
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Signer;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn core_verifies_tokens_of_every_algorithm() {
        let master = MasterKey::from_base64(&STANDARD.encode([7; 32]), "test").unwrap();
        for algorithm in Algorithm::ALL {
            let record = generate(Purpose::Token, algorithm, KeyState::Active, 1, &master).unwrap();
            let jwk: Value = serde_json::from_str(&record.public_jwk).unwrap();
            assert!(
                ["d", "p", "q", "dp", "dq", "qi"]
                    .iter()
                    .all(|private| jwk.get(private).is_none()),
                "{jwk}"
            );
            let keys = json!({ "keys": [jwk] }).to_string();
            let keys = meshseal_core::keys::KeySet::from_config(&keys, &[algorithm.core()], false)
                .unwrap();
            let token = Signer::open(&record, &master)
                .unwrap()
                .token(b"{}")
                .unwrap();
            assert_eq!(
                meshseal_core::authn::signature_only(&token, &keys),
                Ok(()),
                "{}",
                algorithm.name()
            );
        }
    }

    #[test]
    fn key_opens_only_in_own_row() {
        let master = MasterKey::from_base64(&STANDARD.encode([7; 32]), "test").unwrap();
        let one = generate(
            Purpose::Token,
            Algorithm::EdDsa,
            KeyState::Active,
            1,
            &master,
        )
        .unwrap();
        let two = generate(
            Purpose::Token,
            Algorithm::EdDsa,
            KeyState::Active,
            1,
            &master,
        )
        .unwrap();
        let swapped = KeyRecord {
            sealed: two.sealed,
            ..one.clone()
        };
        assert_eq!(
            Signer::open(&swapped, &master).err(),
            Some(crate::keys::SignerError::Sealed)
        );
        let published = KeyRecord {
            public_jwk: two.public_jwk,
            ..one
        };
        assert_eq!(
            Signer::open(&published, &master).err(),
            Some(crate::keys::SignerError::SelfTest)
        );
    }
}
