//! Client assertions of the operator's verbs (`private_key_jwt`, RFC 7523 §2.2).

use std::path::Path;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use meshseal_core::base64url::encode;
use serde_json::json;
use ureq::tls::{PemItem, parse_pem};
use zeroize::Zeroizing;

use super::Failure;
use crate::clients::ASSERTION_TYPE;
use crate::clock::{Clock as _, SystemClock};

/// Lifetime of an assertion in seconds. It is short, because the assertion is used at once.
const LIFETIME_S: u64 = 60;

enum Key {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A client's private key and the claims of its assertions.
pub(super) struct Assertions {
    key: Key,
    client: String,
    kid: Option<String>,
    issuer: String,
}

impl Assertions {
    /// Reads a PKCS#8 key from a PEM file.
    pub(super) fn read(
        path: &Path,
        client: &str,
        kid: Option<&str>,
        issuer: &str,
    ) -> Result<Self, Failure> {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("--client-key-file {}: {error}", path.display()))
        };
        let pem = Zeroizing::new(std::fs::read(path).map_err(|error| wrong(&error))?);
        let der = parse_pem(&pem).find_map(|item| match item {
            Ok(PemItem::PrivateKey(key)) => Some(Zeroizing::new(key.der().to_vec())),
            Ok(_) | Err(_) => None,
        });
        // PKCS#8 names the algorithm, so at most one of the parsers accepts the key.
        let der =
            der.ok_or_else(|| wrong(&"holds no private key in PEM (PKCS#8: openssl genpkey)"))?;
        let key = if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            Key::Ed25519(key)
        } else if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der) {
            Key::P256(key)
        } else {
            let key = RsaKeyPair::from_pkcs8(&der)
                .map_err(|_| wrong(&"must be a PKCS#8 key: Ed25519, P-256 or RSA"))?;
            Key::Rsa(key)
        };
        Ok(Self {
            key,
            client: client.to_owned(),
            kid: kid.map(str::to_owned),
            issuer: issuer.to_owned(),
        })
    }

    /// Returns the form parameters that authenticate one request. Each request needs new ones,
    /// because the issuer accepts an assertion only once.
    pub(super) fn parameters(&self) -> Result<[(&'static str, String); 2], Failure> {
        // A random `jti` makes the assertion unique.
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(no_random_bytes)?;
        let now = SystemClock::new().now();
        // Header and claims (RFC 7523 §3).
        let alg = match &self.key {
            Key::Ed25519(_) => "EdDSA",
            Key::P256(_) => "ES256",
            Key::Rsa(_) => "RS256",
        };
        let mut header = json!({ "alg": alg, "typ": "client-authentication+jwt" });
        if let (Some(members), Some(kid)) = (header.as_object_mut(), &self.kid) {
            members.insert("kid".to_owned(), json!(kid));
        }
        let claims = json!({
            "iss": self.client,
            "sub": self.client,
            "aud": self.issuer,
            "iat": now,
            "exp": now.saturating_add(LIFETIME_S),
            "jti": encode(&random),
        });
        // Signature (RFC 7515 §5.1).
        let input = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signature = match &self.key {
            Key::Ed25519(key) => key.sign(input.as_bytes()).as_ref().to_vec(),
            Key::P256(key) => key
                .sign(&SystemRandom::new(), input.as_bytes())
                .map_err(no_random_bytes)?
                .as_ref()
                .to_vec(),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    input.as_bytes(),
                    &mut signature,
                )
                .map_err(no_random_bytes)?;
                signature
            }
        };
        let assertion = format!("{input}.{}", encode(&signature));
        Ok([
            ("client_assertion_type", ASSERTION_TYPE.to_owned()),
            ("client_assertion", assertion),
        ])
    }
}

/// Returns the error for missing random bytes, which `jti` and signature need.
fn no_random_bytes(_: Unspecified) -> Failure {
    Failure::new("could not sign: the operating system returned no random bytes")
}
