//! Keys, tokens and prepared requests.

use std::sync::Arc;

use anyhow::Result;
use meshseal_tests::clock::unix_now;
use meshseal_tests::mint::{Key, Kind, Token};
use serde_json::{Value, json};

use crate::drive::Requests;

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "orders";

/// A key with its only algorithm, which is usually also its `kid`.
pub(crate) struct Signer {
    pub(crate) alg: &'static str,
    key: Key,
}

impl Signer {
    pub(crate) fn new(alg: &'static str) -> Result<Self> {
        Self::named(alg, alg)
    }

    pub(crate) fn named(alg: &'static str, kid: &str) -> Result<Self> {
        let kind = match alg {
            "EdDSA" => Kind::Ed25519,
            "ES256" => Kind::P256,
            "ES384" => Kind::P384,
            "ES512" => Kind::P521,
            _ => Kind::Rsa,
        };
        Ok(Self {
            alg,
            key: Key::generate(kind, kid)?,
        })
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Returns a token that is valid for an hour, with changes.
    pub(crate) fn token(&self, change: impl Fn(Token) -> Token) -> Result<String> {
        let token = Token::new(ISSUER, AUDIENCE, unix_now()).claim("exp", unix_now() + 3_600);
        change(token.header("alg", self.alg)).sign(&self.key)
    }

    /// Returns requests, each with a different token.
    pub(crate) fn requests(&self, count: usize) -> Result<Requests> {
        self.requests_with(count, |token| token)
    }

    pub(crate) fn requests_with(
        &self,
        count: usize,
        change: impl Fn(Token) -> Token,
    ) -> Result<Requests> {
        let requests = (0..count).map(|_| Ok(request(&self.token(&change)?)));
        Ok(Arc::new(requests.collect::<Result<_>>()?))
    }

    /// Returns requests whose tokens carry the signature of another token: well-formed but invalid.
    pub(crate) fn forged(&self, count: usize) -> Result<Requests> {
        let other = self.token(|token| token)?;
        let signature = other
            .rsplit_once('.')
            .map_or("", |(_, signature)| signature);
        let mut requests = Vec::with_capacity(count);
        for _ in 0..count {
            let token = self.token(|token| token)?;
            let signed = token.rsplit_once('.').map_or("", |(signed, _)| signed);
            requests.push(request(&format!("{signed}.{signature}")));
        }
        Ok(Arc::new(requests))
    }
}

pub(crate) fn request(token: &str) -> Vec<u8> {
    format!("GET /orders/1 HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n")
        .into_bytes()
}

/// Returns the public keys, each bound to its algorithm.
pub(crate) fn jwks(signers: &[Signer]) -> Result<Value> {
    let keys = signers
        .iter()
        .map(|signer| signer.key.jwk_for(signer.alg))
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({ "keys": keys }))
}
