//! `private_key_jwt`: RFC 7523 §3 with the stricter rules of draft-ietf-oauth-rfc7523bis (rule
//! I10), and attacks on it.

use serde_json::{Value, json};

use crate::support::signing::{claims, header, sign, sign_foreign, sign_with_public_key};
use crate::support::{Answer, Harness, ISSUER, NOW, decode};

/// Requests a token with an assertion.
pub(crate) async fn present(harness: &Harness, assertion: &str, more: &str) -> Answer {
    let kind =
        "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    harness
        .post(
            "/token",
            &format!("grant_type=client_credentials&{kind}&client_assertion={assertion}{more}"),
        )
        .await
}

/// Sets a member of an object, or removes it if the value is null.
pub(crate) fn changed(base: Value, name: &str, value: Value) -> Value {
    let mut changed = base;
    let members = changed.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name)
    } else {
        members.insert(name.to_owned(), value)
    };
    changed
}

#[tokio::test]
async fn accepts_each_client_key_with_its_algorithm() {
    let harness = Harness::new().await;
    for (at, (alg, kid)) in [
        ("EdDSA", "ed"),
        ("Ed25519", "ed"),
        ("ES256", "ec"),
        ("RS256", "rsa"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = present(
            &harness,
            &sign(&header(alg, kid), &claims(&format!("j{at}"))),
            "",
        )
        .await;
        assert_eq!(answer.status, 200, "{alg}: {}", answer.text);
        assert_eq!(
            decode(answer.json()["access_token"].as_str().unwrap()).1["sub"],
            "signer"
        );
    }
}

#[tokio::test]
async fn accepts_missing_iat_and_audience_array() {
    let harness = Harness::new().await;
    let plain = json!({ "alg": "EdDSA", "kid": "ed" });
    for (at, (head, claims)) in [
        (plain.clone(), changed(claims("1"), "iat", Value::Null)),
        (
            json!({ "alg": "EdDSA", "kid": "ed", "typ": "JWT" }),
            claims("2"),
        ),
        (plain, changed(claims("3"), "aud", json!([ISSUER]))),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            present(&harness, &sign(&head, &claims), "").await.status,
            200,
            "{at}"
        );
    }
    assert_eq!(
        present(
            &harness,
            &sign(&header("EdDSA", "ed"), &claims("4")),
            "&client_id=signer"
        )
        .await
        .status,
        200
    );
}

#[tokio::test]
async fn accepts_assertion_once() {
    let harness = Harness::new().await;
    let assertion = sign(&header("EdDSA", "ed"), &claims("once"));
    assert_eq!(present(&harness, &assertion, "").await.status, 200);
    assert_eq!(
        present(&harness, &assertion, "").await.error(),
        (401, "invalid_client".into())
    );
    let same_jti = sign(
        &header("ES256", "ec"),
        &changed(claims("once"), "exp", json!(NOW + 90)),
    );
    assert_eq!(
        present(&harness, &same_jti, "").await.status,
        401,
        "same jti in another assertion"
    );
    harness.advance(89).await;
    assert_eq!(
        present(&harness, &assertion, "").await.status,
        401,
        "replay within the clock skew"
    );
}

#[tokio::test]
async fn rejects_wrong_claims() {
    let harness = Harness::new().await;
    let cases = [
        (
            "aud",
            json!(format!("{ISSUER}/token")),
            "the endpoint is not the issuer",
        ),
        ("aud", json!(format!("{ISSUER}/")), "compared as text"),
        (
            "aud",
            json!([ISSUER, "https://other.example"]),
            "another audience, too",
        ),
        ("aud", json!([]), "empty audience"),
        ("aud", Value::Null, "no audience"),
        ("iss", json!("checkout"), "another issuer"),
        ("sub", json!("checkout"), "another subject"),
        ("sub", Value::Null, "no subject"),
        ("iss", Value::Null, "no issuer"),
        ("exp", Value::Null, "no expiry"),
        ("exp", json!(NOW - 31), "expired"),
        ("exp", json!(NOW + 301), "lifetime too long"),
        ("exp", json!("soon"), "not a number"),
        ("iat", json!(NOW + 31), "issued in the future"),
        ("iat", json!(NOW - 300), "lifetime from iat too long"),
        ("nbf", json!(NOW + 31), "not valid yet"),
        ("jti", Value::Null, "no jti"),
        ("jti", json!(""), "empty jti"),
        ("jti", json!("j".repeat(300)), "jti too long"),
        ("jti", json!(7), "not a string"),
        (
            "cnf",
            json!({ "jkt": "x" }),
            "bound to a key that the issuer does not check",
        ),
    ];

    // Each case changes one claim of a valid assertion.
    for (name, value, why) in cases {
        let assertion = sign(
            &header("EdDSA", "ed"),
            &changed(claims("x"), name, value.clone()),
        );
        assert_eq!(
            present(&harness, &assertion, "").await.error(),
            (401, "invalid_client".into()),
            "{name}={value}: {why}"
        );
    }
    assert_eq!(
        present(&harness, &sign(&header("EdDSA", "ed"), &claims("x")), "")
            .await
            .status,
        200,
        "a rejected assertion does not use up its jti"
    );
}

#[tokio::test]
async fn rejects_wrong_signatures_headers_and_keys() {
    let harness = Harness::new().await;
    let good = sign(&header("EdDSA", "ed"), &claims("x"));
    let (input, signature) = good.rsplit_once('.').unwrap();
    let unsigned = sign(&json!({ "alg": "none", "kid": "ed" }), &claims("x"));
    let cases = [
        (
            "alg none",
            format!("{}.", unsigned.rsplit_once('.').unwrap().0),
        ),
        ("alg none, signed", unsigned),
        (
            "HMAC with the public key",
            sign_with_public_key(&claims("x")),
        ),
        ("another's key under this kid", sign_foreign(&claims("x"))),
        (
            "an unknown kid",
            sign(&header("EdDSA", "foreign"), &claims("x")),
        ),
        (
            "alg of another key",
            sign(&header("ES256", "ed"), &claims("x")),
        ),
        (
            "kid of another alg",
            sign(&header("EdDSA", "ec"), &claims("x")),
        ),
        (
            "RS256 in name only",
            sign(&header("PS256", "rsa"), &claims("x")),
        ),
        (
            "an access token's type",
            sign(
                &json!({ "alg": "EdDSA", "kid": "ed", "typ": "at+jwt" }),
                &claims("x"),
            ),
        ),
        (
            "an unknown type",
            sign(
                &json!({ "alg": "EdDSA", "kid": "ed", "typ": "secevent+jwt" }),
                &claims("x"),
            ),
        ),
        (
            "crit",
            sign(
                &json!({ "alg": "EdDSA", "kid": "ed", "crit": ["exp"], "exp": 1 }),
                &claims("x"),
            ),
        ),
        (
            "a key of its own",
            sign(
                &json!({ "alg": "EdDSA", "kid": "mine", "jwk": { "kty": "OKP" } }),
                &claims("x"),
            ),
        ),
        ("no signature", format!("{input}.")),
        (
            "a cut signature",
            format!("{input}.{}", &signature[..signature.len() - 2]),
        ),
        ("a dot more", format!("{good}.")),
        ("nonsense", "x".to_owned()),
    ];

    // Every forgery gets the same answer, and the right assertion stays usable.
    for (what, assertion) in cases {
        let answer = present(&harness, &assertion, "").await;
        assert_eq!(answer.error(), (401, "invalid_client".into()), "{what}");
    }
    assert_eq!(present(&harness, &good, "").await.status, 200);
}

#[tokio::test]
async fn rejects_assertion_for_another_client() {
    let harness = Harness::new().await;
    let for_other = changed(
        changed(claims("x"), "iss", json!("checkout")),
        "sub",
        json!("checkout"),
    );
    assert_eq!(
        present(&harness, &sign(&header("EdDSA", "ed"), &for_other), "")
            .await
            .status,
        401,
        "that client authenticates with secrets"
    );
    let good = sign(&header("EdDSA", "ed"), &claims("x"));
    assert_eq!(
        present(&harness, &good, "&client_id=checkout").await.status,
        401
    );
    let form = format!(
        "grant_type=client_credentials&client_assertion_type=other&client_assertion={good}"
    );
    assert_eq!(
        harness.post("/token", &form).await.error(),
        (400, "invalid_request".into())
    );
    assert_eq!(present(&harness, &good, "").await.status, 200);
}

#[tokio::test]
async fn accepts_valid_assertion_during_forgeries() {
    let mut config = crate::support::config();
    config.limits.failures_per_second = 1;
    let harness = Harness::with(config).await;
    let mut statuses = Vec::new();
    for at in 0..12 {
        let forged = sign_foreign(&claims(&format!("forged-{at}")));
        statuses.push(present(&harness, &forged, "").await.status.as_u16());
        let right = sign(&header("EdDSA", "ed"), &claims(&format!("right-{at}")));
        assert_eq!(
            present(&harness, &right, "").await.status,
            200,
            "after {at} forgeries of the same client and source"
        );
    }
    assert_eq!(statuses, [[401; 10].as_slice(), &[429, 429]].concat());
    let metrics = harness.metrics().await;
    assert!(
        metrics.contains("{endpoint=\"token\",reason=\"signature-invalid\"} 12\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn rejects_own_access_token_as_assertion() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    assert_eq!(
        present(&harness, &token, "").await.error(),
        (401, "invalid_client".into())
    );
}
