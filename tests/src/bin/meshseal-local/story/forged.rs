//! Forged and malformed tokens, each of which the filter rejects.

use anyhow::{Context as _, Result};
use meshseal_tests::clock::unix_now;
use meshseal_tests::issuer::kid_of;
use meshseal_tests::mint::{Key, Kind, Token, b64, mac, unb64};
use serde_json::Value;

use super::{Story, order};

pub(super) async fn tell(story: &mut Story, good: &str) -> Result<()> {
    let response = story.ask(&order()).await?;
    story.answer("no token", "401 token-missing", &response);
    let issuer = story.stack.issuer.url();
    let public_key = first_public_key(&story.stack.issuer.jwks().await?)?;
    let stranger = Key::generate(Kind::Ed25519, &kid_of(good)?)?;
    let confused = Token::new(&issuer, "orders", unix_now())
        .header("alg", "HS256")
        .header("kid", kid_of(good)?)
        .seal(|input| mac("HS256", &public_key, input))?;
    let cases = [
        ("garbage", "401 token-malformed", "garbage".to_owned()),
        (
            "tampered payload",
            "401 signature-invalid",
            with_part(good, 1, |claims| {
                Ok(claims.replace("orders.read", "orders.evil"))
            })?,
        ),
        (
            "tampered signature",
            "401 signature-invalid",
            with_flipped_signature(good)?,
        ),
        (
            "wrong audience",
            "401 audience-mismatch",
            story.stack.issuer.token("billing").await?,
        ),
        (
            "wrong issuer",
            "401 issuer-unknown",
            Token::new("https://evil.example", "orders", unix_now()).sign(&stranger)?,
        ),
        (
            "alg none, nothing signed",
            "401 algorithm-not-allowed",
            unsigned(&issuer)?,
        ),
        (
            "RS/HS confusion: the public key as a secret",
            "401 algorithm-not-allowed",
            confused,
        ),
        (
            "the right kid, another key",
            "401 signature-invalid",
            Token::new(&issuer, "orders", unix_now()).sign(&stranger)?,
        ),
    ];
    for (what, expected, token) in cases {
        let response = story.ask(&order().bearer(&token)).await?;
        story.answer(what, expected, &response);
    }
    Ok(())
}

fn unsigned(issuer: &str) -> Result<String> {
    Token::new(issuer, "orders", unix_now())
        .header("alg", "none")
        .seal(|_| Ok(Vec::new()))
}

/// Returns the bytes of the published public key, as an attacker would use them.
fn first_public_key(jwks: &Value) -> Result<Vec<u8>> {
    unb64(
        jwks.pointer("/keys/0/x")
            .and_then(Value::as_str)
            .context("the issuer publishes no Ed25519 key")?,
    )
}

/// Returns the token with the text of one part changed.
fn with_part(
    token: &str,
    index: usize,
    change: impl FnOnce(&str) -> Result<String>,
) -> Result<String> {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let part = parts.get_mut(index).context("three parts")?;
    *part = b64(change(&String::from_utf8(unb64(part)?)?)?);
    Ok(parts.join("."))
}

fn with_flipped_signature(token: &str) -> Result<String> {
    let (input, signature) = token.rsplit_once('.').context("three parts")?;
    let mut bytes = unb64(signature)?;
    bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    Ok(format!("{input}.{}", b64(bytes)))
}
