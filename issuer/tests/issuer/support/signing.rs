//! A client that signs assertions, valid and forged ones.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use meshseal_core::base64url::encode;
use serde_json::{Value, json};

use super::{ISSUER, NOW};

struct Keys {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
    foreign: Ed25519KeyPair,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let rsa: aws_lc_rs::encoding::Pkcs8V1Der<'_> =
            aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048)
                .unwrap()
                .as_der()
                .unwrap();
        Keys {
            ed: Ed25519KeyPair::generate().unwrap(),
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            rsa: RsaKeyPair::from_pkcs8((*rsa).as_ref()).unwrap(),
            foreign: Ed25519KeyPair::generate().unwrap(),
        }
    })
}

/// Returns the public keys of the client `signer`: one of each type, each bound to its algorithm.
pub(crate) fn client_jwks() -> Value {
    let Keys { ed, ec, rsa, .. } = keys();
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA",
          "x": encode(ed.public_key().as_ref()) },
        { "kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256",
          "x": encode(x), "y": encode(y) },
        { "kty": "RSA", "kid": "rsa", "alg": "RS256",
          "n": encode(rsa.public_key().modulus().big_endian_without_leading_zero()),
          "e": encode(rsa.public_key().exponent().big_endian_without_leading_zero()) },
    ]})
}

/// Returns the public halves of PKCS#8 keys in PEM files, by file name: `ed` (Ed25519), `ec`
/// (P-256), `rsa`.
pub(crate) fn jwks_of(folder: &std::path::Path, names: &[&str]) -> Value {
    let der = |name: &str| {
        let pem = std::fs::read_to_string(folder.join(name)).unwrap();
        let body: String = pem
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap()
    };
    let jwk = |name: &&str| match *name {
        "ed" => {
            let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der(name)).unwrap();
            let x = encode(key.public_key().as_ref());
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": name, "alg": "EdDSA", "x": x })
        }
        "ec" => {
            let key =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der(name)).unwrap();
            let (x, y) = key.public_key().as_ref()[1..].split_at(32);
            let (x, y) = (encode(x), encode(y));
            json!({ "kty": "EC", "crv": "P-256", "kid": name, "alg": "ES256", "x": x, "y": y })
        }
        _ => {
            let key = RsaKeyPair::from_pkcs8(&der(name)).unwrap();
            let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
            let n = encode(n.big_endian_without_leading_zero());
            let e = encode(e.big_endian_without_leading_zero());
            json!({ "kty": "RSA", "kid": name, "alg": "RS256", "n": n, "e": e })
        }
    };
    json!({ "keys": names.iter().map(jwk).collect::<Vec<_>>() })
}

/// Returns the claims of a valid assertion.
pub(crate) fn claims(jti: &str) -> Value {
    let (iat, exp) = (NOW, NOW + 60);
    json!({ "iss": "signer", "sub": "signer", "aud": ISSUER, "exp": exp, "iat": iat, "jti": jti })
}

pub(crate) fn header(alg: &str, kid: &str) -> Value {
    json!({ "alg": alg, "kid": kid, "typ": "client-authentication+jwt" })
}

fn input(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    )
}

/// Signs with the key that the header's `kid` names, and ignores the header's `alg`.
pub(crate) fn sign(header: &Value, claims: &Value) -> String {
    let Keys {
        ed,
        ec,
        rsa,
        foreign,
    } = keys();
    let input = input(header, claims);
    let random = aws_lc_rs::rand::SystemRandom::new();
    let signature = match header["kid"].as_str() {
        Some("ec") => ec
            .sign(&random, input.as_bytes())
            .unwrap()
            .as_ref()
            .to_vec(),
        Some("rsa") => {
            let mut signature = vec![0; rsa.public_modulus_len()];
            rsa.sign(&RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature)
                .unwrap();
            signature
        }
        Some("foreign") => foreign.sign(input.as_bytes()).as_ref().to_vec(),
        _ => ed.sign(input.as_bytes()).as_ref().to_vec(),
    };
    format!("{input}.{}", encode(&signature))
}

/// Signs with HMAC and the public key as the secret: the algorithm confusion attack.
pub(crate) fn sign_with_public_key(claims: &Value) -> String {
    let input = input(&header("HS256", "ed"), claims);
    let key = aws_lc_rs::hmac::Key::new(
        aws_lc_rs::hmac::HMAC_SHA256,
        keys().ed.public_key().as_ref(),
    );
    format!(
        "{input}.{}",
        encode(aws_lc_rs::hmac::sign(&key, input.as_bytes()).as_ref())
    )
}

/// Signs with a foreign key under the client's `kid`.
pub(crate) fn sign_foreign(claims: &Value) -> String {
    let input = input(&header("EdDSA", "ed"), claims);
    format!(
        "{input}.{}",
        encode(keys().foreign.sign(input.as_bytes()).as_ref())
    )
}
