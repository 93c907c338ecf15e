//! Malformed tokens: wrong form, header, algorithm, type or encoding (V1–V4, V8, V11).

use anyhow::{Context as _, Result};
use meshseal_tests::http::Request;
use meshseal_tests::mint::{b64, mac, seal};
use serde_json::json;

use crate::world::{MAIN, World, cases, refused, token};

fn order() -> Request {
    Request::get("/orders/1")
}

/// Returns a valid token with one part changed.
fn with_part(world: &World, index: usize, change: impl FnOnce(&str) -> String) -> Result<String> {
    let good = world.good()?;
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    let part = parts.get_mut(index).context("three parts")?;
    *part = change(part);
    Ok(parts.join("."))
}

/// Returns a token with this text as its header, signed with the EdDSA key.
fn with_header(world: &World, header: &str) -> Result<String> {
    let claims = serde_json::to_vec(&token().claims)?;
    let key = world.key("EdDSA")?;
    seal(header, &claims, |input| key.sign("EdDSA", input))
}

/// Sets an unused bit of the last base64url character: another spelling of the same bytes.
fn respelled(part: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (head, last) = part.split_at(part.len() - 1);
    let position = ALPHABET.find(last).unwrap_or(0);
    let next = ALPHABET.chars().nth(position + 1).unwrap_or('A');
    format!("{head}{next}")
}

cases! { world;
    no_token: MAIN, order() => refused(401, "token-missing");
    another_scheme_is_no_token: MAIN, order().header("authorization", "Basic YWxpY2U6c2VjcmV0")
        => refused(401, "token-missing");
    garbage: MAIN, order().bearer("garbage") => refused(401, "token-malformed");
    only_dots: MAIN, order().bearer("..") => refused(401, "token-malformed");
    two_parts: MAIN, order().bearer("e30.e30") => refused(401, "token-malformed");
    four_parts: MAIN, order().bearer(&format!("{}.e30", world.good()?))
        => refused(401, "token-malformed");
    encrypted_token: MAIN, order().bearer("eyJhbGciOiJkaXIifQ..aXY.Y2lwaGVy.dGFn")
        => refused(401, "token-malformed");
    padding: MAIN, order().bearer(&format!("{}==", world.good()?))
        => refused(401, "token-malformed");
    standard_base64_alphabet: MAIN,
        order().bearer(&with_part(world, 2, |part| format!("+/{}", part.get(2..).unwrap_or("")))?)
        => refused(401, "token-malformed");
    /// The signature is 64 bytes: 86 characters, of which the last has four unused bits.
    second_spelling_of_a_signature: MAIN, order().bearer(&with_part(world, 2, respelled)?)
        => refused(401, "token-malformed");
    space_inside: MAIN, order().bearer(&format!("{} x", world.good()?))
        => refused(401, "token-malformed");
    larger_than_the_budget: MAIN,
        order().bearer(&world.sign(token().claim("pad", "x".repeat(17_000)))?)
        => refused(401, "token-too-large");

    header_is_no_json: MAIN, order().bearer(&with_header(world, "EdDSA")?)
        => refused(401, "header-malformed");
    header_names_alg_twice: MAIN,
        order().bearer(&with_header(
            world,
            r#"{"alg":"EdDSA","alg":"none","typ":"at+jwt","kid":"EdDSA"}"#,
        )?)
        => refused(401, "header-malformed");
    header_without_alg: MAIN,
        order().bearer(&with_header(world, r#"{"typ":"at+jwt","kid":"EdDSA"}"#)?)
        => refused(401, "header-malformed");
    kid_is_a_number: MAIN,
        order().bearer(&with_header(world, r#"{"alg":"EdDSA","typ":"at+jwt","kid":7}"#)?)
        => refused(401, "header-malformed");
    kid_longer_than_the_budget: MAIN,
        order().bearer(&world.sign(token().header("kid", "k".repeat(257)))?)
        => refused(401, "kid-too-long");
    header_longer_than_the_budget: MAIN,
        order().bearer(&world.sign(token().header("x", "x".repeat(2_048)))?)
        => refused(401, "header-too-large");
    unknown_crit: MAIN,
        order().bearer(&world.sign(token().header("crit", json!(["exp"])).header("exp", 1))?)
        => refused(401, "critical-header");
    unencoded_payload: MAIN,
        order().bearer(&world.sign(token().header("b64", false).header("crit", json!(["b64"])))?)
        => refused(401, "critical-header");

    /// The classic unsigned token ends in a dot.
    alg_none: MAIN, order().bearer(&token().header("alg", "none").seal(|_| Ok(Vec::new()))?)
        => refused(401, "algorithm-not-allowed");
    alg_none_with_a_signature: MAIN,
        order().bearer(&token().header("alg", "none").seal(|_| Ok(vec![0; 64]))?)
        => refused(401, "algorithm-not-allowed");
    alg_none_in_another_spelling: MAIN,
        order().bearer(
            &token().header("alg", "nOnE").header("kid", "EdDSA").seal(|_| Ok(vec![0; 64]))?,
        )
        => refused(401, "algorithm-not-allowed");
    alg_in_lower_case: MAIN, order().bearer(&world.sign(token().header("alg", "eddsa"))?)
        => refused(401, "algorithm-not-allowed");
    /// The classic RS/HS confusion: the public RSA key as the secret of an HMAC.
    rsa_key_as_hmac_secret: MAIN, order().bearer(&{
        let secret = world.key("RS256")?.public_der().to_vec();
        token()
            .header("alg", "HS256")
            .header("kid", "RS256")
            .seal(|input| mac("HS256", &secret, input))?
    }) => refused(401, "algorithm-not-allowed");
    alg_of_another_key: MAIN,
        order().bearer(&token().header("alg", "RS256").header("kid", "ES256").seal(|input| {
        world.key("RS256")?.sign("RS256", input)
    })?) => refused(401, "algorithm-mismatch");
    /// A key serves one algorithm only, even within the RSA family.
    pss_with_a_pkcs1_key: MAIN,
        order().bearer(&token().header("alg", "PS256").sign(world.key("RS256")?)?)
        => refused(401, "algorithm-mismatch");

    no_typ: MAIN, order().bearer(&world.sign(token().without_header("typ"))?)
        => refused(401, "type-not-allowed");
    typ_jwt: MAIN, order().bearer(&world.sign(token().header("typ", "JWT"))?)
        => refused(401, "type-not-allowed");
    typ_of_a_security_event: MAIN,
        order().bearer(&world.sign(token().header("typ", "secevent+jwt"))?)
        => refused(401, "type-not-allowed");
    typ_of_a_dpop_proof: MAIN, order().bearer(&world.sign(token().header("typ", "dpop+jwt"))?)
        => refused(401, "type-not-allowed");

    claims_are_no_json: MAIN, order().bearer(&with_part(world, 1, |_| b64("not json"))?)
        => refused(401, "claims-malformed");
    claims_name_sub_twice: MAIN, order().bearer(&with_part(world, 1, |part| {
        let _ = part;
        b64(r#"{"iss":"https://issuer.example","sub":"alice","sub":"root"}"#)
    })?) => refused(401, "claims-malformed");
    claims_nested_too_deep: MAIN,
        order().bearer(&with_part(world, 1, |_| {
            b64(format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40)))
        })?)
        => refused(401, "token-too-deep");
    claims_are_not_utf8: MAIN,
        order().bearer(&with_part(world, 1, |_| b64([b'{', b'"', 0xff, b'"', b':', b'1', b'}']))?)
        => refused(401, "claims-malformed");
}
