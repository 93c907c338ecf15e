//! Makes tokens by hand: keys and signatures from aws-lc, and any JSON that the caller wants. Uses
//! no code of Meshseal, so that the filter is not tested against itself.

use anyhow::{Context as _, Result, anyhow, bail};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaEncoding,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// Encodes base64url without padding.
pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes base64url without padding.
///
/// # Errors
/// Fails if the text is not base64url without padding.
pub fn unb64(text: &str) -> Result<Vec<u8>> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|error| anyhow!("not base64url: {error}"))
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// RSA of 2048 bits.
    Rsa,
    /// 64 random bytes for HMAC.
    Oct,
}

#[derive(Debug)]
enum Secret {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
    Oct(Vec<u8>),
}

/// A key pair, or a shared secret.
#[derive(Debug)]
pub struct Key {
    kind: Kind,
    kid: String,
    secret: Secret,
}

impl Key {
    /// Generates a random key.
    ///
    /// # Errors
    /// Fails if the generator fails, which does not happen in practice.
    pub fn generate(kind: Kind, kid: &str) -> Result<Self> {
        let secret = match kind {
            Kind::Ed25519 => Secret::Ed25519(Ed25519KeyPair::generate()?),
            Kind::P256 => Secret::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
            Kind::P384 => Secret::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?),
            Kind::P521 => Secret::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING)?),
            Kind::Rsa => Secret::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048)?)),
            Kind::Oct => {
                let mut bytes = vec![0; 64];
                fill(&mut bytes)?;
                Secret::Oct(bytes)
            }
        };
        Ok(Self {
            kind,
            kid: kid.to_owned(),
            secret,
        })
    }

    /// The key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The default algorithm of this kind of key.
    pub fn alg(&self) -> &'static str {
        match self.kind {
            Kind::Ed25519 => "EdDSA",
            Kind::P256 => "ES256",
            Kind::P384 => "ES384",
            Kind::P521 => "ES512",
            Kind::Rsa => "RS256",
            Kind::Oct => "HS256",
        }
    }

    /// Returns the JWK for a verifier, with `kid`, `alg` and `use`. For an `oct` key it contains
    /// the secret.
    ///
    /// # Errors
    /// Fails if the public key does not have the expected form.
    pub fn jwk(&self) -> Result<Value> {
        self.jwk_for(self.alg())
    }

    /// Returns the JWK for another algorithm of the family, for example PS384 for an RSA key.
    ///
    /// # Errors
    /// Fails if the public key does not have the expected form.
    pub fn jwk_for(&self, alg: &str) -> Result<Value> {
        let mut jwk = self.bare_jwk()?;
        let members = jwk.as_object_mut().context("a JWK is an object")?;
        members.extend(
            [("kid", self.kid.as_str()), ("alg", alg), ("use", "sig")]
                .map(|(k, v)| (k.to_owned(), v.into())),
        );
        Ok(jwk)
    }

    /// Returns the JWK with key material only, as many providers publish it.
    ///
    /// # Errors
    /// Fails if the public key does not have the expected form.
    pub fn bare_jwk(&self) -> Result<Value> {
        Ok(match &self.secret {
            Secret::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())})
            }
            Secret::Ecdsa(pair) => {
                let point = pair
                    .public_key()
                    .as_ref()
                    .get(1..)
                    .context("an uncompressed point")?;
                let (x, y) = point
                    .split_at_checked(point.len() / 2)
                    .context("an uncompressed point")?;
                json!({"kty": "EC", "crv": self.curve(), "x": b64(x), "y": b64(y)})
            }
            Secret::Rsa(pair) => json!({"kty": "RSA", "n": b64(modulus(pair)?), "e": "AQAB"}),
            Secret::Oct(bytes) => json!({"kty": "oct", "k": b64(bytes)}),
        })
    }

    /// Returns the DER of an RSA public key, which an RS/HS confusion attack uses as HMAC secret.
    pub fn public_der(&self) -> &[u8] {
        match &self.secret {
            Secret::Rsa(pair) => pair.public_key().as_ref(),
            Secret::Ed25519(_) | Secret::Ecdsa(_) | Secret::Oct(_) => &[],
        }
    }

    fn curve(&self) -> &'static str {
        match self.kind {
            Kind::P384 => "P-384",
            Kind::P521 => "P-521",
            Kind::Ed25519 | Kind::P256 | Kind::Rsa | Kind::Oct => "P-256",
        }
    }

    /// Signs with the algorithm `alg`.
    ///
    /// # Errors
    /// Fails if the key does not support the algorithm.
    pub fn sign(&self, alg: &str, input: &[u8]) -> Result<Vec<u8>> {
        Ok(match &self.secret {
            Secret::Ed25519(pair) => pair.sign(input).as_ref().to_vec(),
            Secret::Ecdsa(pair) => pair.sign(&SystemRandom::new(), input)?.as_ref().to_vec(),
            Secret::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    rsa_encoding(alg)?,
                    &SystemRandom::new(),
                    input,
                    &mut signature,
                )?;
                signature
            }
            Secret::Oct(bytes) => mac(alg, bytes, input)?,
        })
    }
}

/// Returns the HMAC of `input` with any bytes as secret.
///
/// # Errors
/// Fails if `alg` is not HS256, HS384 or HS512.
pub fn mac(alg: &str, secret: &[u8], input: &[u8]) -> Result<Vec<u8>> {
    let algorithm = match alg {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        "HS512" => hmac::HMAC_SHA512,
        other => bail!("no HMAC for {other}"),
    };
    Ok(hmac::sign(&hmac::Key::new(algorithm, secret), input)
        .as_ref()
        .to_vec())
}

/// Returns the SHA-256 digest in base64url.
pub fn sha256(bytes: &[u8]) -> String {
    b64(digest::digest(&digest::SHA256, bytes))
}

fn rsa_encoding(alg: &str) -> Result<&'static dyn RsaEncoding> {
    Ok(match alg {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        "PS512" => &RSA_PSS_SHA512,
        other => bail!("no RSA encoding for {other}"),
    })
}

/// Returns the modulus of a 2048-bit key from its `RSAPublicKey ::= SEQUENCE { modulus INTEGER,
/// publicExponent INTEGER }` (RFC 8017 A.1.1): nine bytes of tags, lengths and sign come before it.
fn modulus(pair: &RsaKeyPair) -> Result<&[u8]> {
    pair.public_key()
        .as_ref()
        .get(9..265)
        .ok_or_else(|| anyhow!("not a 2048-bit RSA public key"))
}

/// Returns a JWKS with the JWKs of the keys.
///
/// # Errors
/// Returns the errors of [`Key::jwk`].
pub fn jwks(keys: &[&Key]) -> Result<Value> {
    let keys = keys
        .iter()
        .map(|key| key.jwk())
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({ "keys": keys }))
}

/// A token under construction. It starts as a valid RFC 9068 access token; tests change one thing
/// at a time.
#[derive(Clone, Debug)]
pub struct Token {
    /// The protected header.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
}

impl Token {
    /// Creates a token of `issuer` for `audience`, valid for five minutes from `now`.
    pub fn new(issuer: &str, audience: &str, now: u64) -> Self {
        let mut jti = [0; 16];
        // A failure leaves a constant `jti`, which is harmless in tests.
        let _ = fill(&mut jti);
        let claims = json!({
            "iss": issuer, "aud": audience,
            "sub": "alice", "client_id": "checkout", "scope": "orders.read",
            "iat": now, "exp": now + 300, "jti": b64(jti),
        });
        let header = json!({ "typ": "at+jwt" });
        Self {
            header: object(header),
            claims: object(claims),
        }
    }

    /// Sets a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a claim.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets a header member.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a header member. For a token without `alg` or `kid`, use [`Token::seal`].
    #[must_use]
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    /// Signs the token with the key's default algorithm and `kid`, unless the header names others.
    ///
    /// # Errors
    /// Fails if the key cannot sign with the algorithm in the header.
    pub fn sign(mut self, key: &Key) -> Result<String> {
        self.header.entry("alg").or_insert_with(|| key.alg().into());
        self.header.entry("kid").or_insert_with(|| key.kid().into());
        let alg = self
            .header
            .get("alg")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        self.seal(|input| key.sign(&alg, input))
    }

    /// Serializes header and claims unchanged and appends the result of `signature`, which gets the
    /// signing input.
    ///
    /// # Errors
    /// Returns the errors of `signature`.
    pub fn seal(self, signature: impl FnOnce(&[u8]) -> Result<Vec<u8>>) -> Result<String> {
        let header = Value::Object(self.header).to_string();
        let claims = Value::Object(self.claims).to_string();
        seal(&header, claims.as_bytes(), signature)
    }
}

/// Builds a compact JWS from the bytes of header and payload.
///
/// # Errors
/// Returns the errors of `signature`.
pub fn seal(
    header: &str,
    payload: &[u8],
    signature: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
) -> Result<String> {
    let input = format!("{}.{}", b64(header), b64(payload));
    let signature = signature(input.as_bytes())?;
    Ok(format!("{input}.{}", b64(signature)))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}
