//! Signatures and keys (V5, V7, V14).

use anyhow::{Context as _, Result};
use meshseal_tests::http::Request;
use meshseal_tests::mint::{b64, unb64};

use crate::world::{MAIN, SHARED, World, cases, refused, token};

fn order() -> Request {
    Request::get("/orders/1")
}

/// Returns the token with changed signature bytes.
fn with_signature(token: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<String> {
    let (input, signature) = token.rsplit_once('.').context("three parts")?;
    let mut bytes = unb64(signature)?;
    change(&mut bytes);
    Ok(format!("{input}.{}", b64(bytes)))
}

/// Signs a valid token with the key `alg` and flips a bit of the signature.
fn tampered(world: &World, alg: &str) -> Result<String> {
    with_signature(&token().sign(world.key(alg)?)?, |bytes| {
        flip_first_bit(bytes);
    })
}

fn flip_first_bit(bytes: &mut [u8]) {
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
}

/// Returns the claims of `other` with header and signature of `signed`.
fn with_claims_of(signed: &str, other: &str) -> Result<String> {
    let mut parts: Vec<&str> = signed.split('.').collect();
    let claims = parts.get_mut(1).context("three parts")?;
    *claims = other.split('.').nth(1).context("three parts")?;
    Ok(parts.join("."))
}

cases! { world;
    tampered_payload: MAIN,
        order().bearer(&with_claims_of(&world.good()?, &world.sign(token().claim("sub", "root"))?)?)
        => refused(401, "signature-invalid");
    tampered_eddsa_signature: MAIN,
        order().bearer(&with_signature(&world.good()?, |bytes| flip_first_bit(bytes))?)
        => refused(401, "signature-invalid");
    tampered_es256_signature: MAIN,
        order().bearer(&tampered(world, "ES256")?)
        => refused(401, "signature-invalid");
    tampered_rs256_signature: MAIN,
        order().bearer(&tampered(world, "RS256")?)
        => refused(401, "signature-invalid");
    tampered_mac: SHARED,
        order().bearer(&tampered(world, "HS256")?)
        => refused(401, "signature-invalid");
    truncated_signature: MAIN,
        order().bearer(&with_signature(&world.good()?, |bytes| bytes.truncate(63))?)
        => refused(401, "signature-invalid");
    ecdsa_signature_of_zeros: MAIN,
        order().bearer(&with_signature(&token().sign(world.key("ES256")?)?, |bytes| bytes.fill(0))?)
        => refused(401, "signature-invalid");
    right_kid_wrong_key: MAIN, order().bearer(&token().sign(world.key("stranger")?)?)
        => refused(401, "signature-invalid");
    unknown_kid: MAIN, order().bearer(&world.sign(token().header("kid", "yesterday"))?)
        => refused(401, "key-unknown");
    kid_that_looks_like_a_path: MAIN,
        order().bearer(&world.sign(token().header("kid", "../../etc/passwd"))?)
        => refused(401, "key-unknown");
    /// The filter ignores a key inside the token.
    key_inside_the_token: MAIN, order().bearer(&{
        let stranger = world.key("stranger")?;
        token().header("jwk", stranger.jwk()?).header("kid", "mine").sign(stranger)?
    }) => refused(401, "key-unknown");
}
