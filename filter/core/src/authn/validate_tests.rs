use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use core::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authz::Request;
use crate::policy::Policy;
use crate::testing::{ISSUER, NOW, TestKey, claims, inline_policy, merge};
use crate::{base64url, limits};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn key() -> TestKey {
    TestKey::new("k1", 1)
}

fn verdict(token: &str, policy: &Policy) -> Result<Verified, Rejection> {
    validate(token, policy.authn(), &Trust::new(), NOW)
}

fn rejection(token: &str) -> Rejection {
    verdict(token, &inline_policy(&[&key()], json!({}), Value::Null))
        .err()
        .unwrap_or_else(|| panic!("accepted: {token}"))
}

fn with_claims(changes: Value) -> Option<Rejection> {
    verdict(
        &key().token(&claims(changes)),
        &inline_policy(&[&key()], json!({}), Value::Null),
    )
    .err()
}

fn with_header(changes: Value) -> Rejection {
    let mut header = key().header();
    merge(&mut header, changes);
    rejection(&key().sign(&header, &claims(json!({})).to_string()))
}

/// Covers Ed25519. `tests/mutations.rs` covers every algorithm, and insertions too, but its signers
/// do not run in wasm.
#[test]
fn rejects_token_with_flipped_bit_or_truncation() {
    let policy = inline_policy(&[&key()], json!({}), Value::Null);
    let good = key().token(&claims(json!({})));
    assert!(verdict(&good, &policy).is_ok());
    for at in 0..good.len() {
        assert!(verdict(&good[..at], &policy).is_err(), "cut at {at}");
        for bit in 0..7 {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let flipped = String::from_utf8(bytes).unwrap();
            assert!(verdict(&flipped, &policy).is_err(), "{flipped}");
        }
    }
}

#[test]
fn valid_token_gives_access_to_claims() {
    let verified = verdict(
        &key().token(&claims(json!({}))),
        &inline_policy(&[&key()], json!({}), Value::Null),
    )
    .unwrap();
    assert_eq!(verified.claims().subject(), Some("checkout"));
    assert_eq!(verified.claims().issuer(), Some(ISSUER));
    assert!(verified.claims().has_scope("orders.read"));
    assert_eq!(
        (verified.kid(), verified.alg(), verified.jwt_rule()),
        (Some("k1"), Alg::EdDsa, 0)
    );
    assert_eq!(verified.expires_at(), NOW + 290 + 30);
}

#[test]
fn v1_accepts_compact_serialization_only() {
    let token = key().token(&claims(json!({})));
    for spelled in [
        format!("{token}."),
        format!(".{token}"),
        token.replacen('.', "..", 1),
        format!("{token}.a.b"),
        format!(" {token}"),
    ] {
        assert_eq!(rejection(&spelled), Rejection::TokenMalformed, "{spelled}");
    }
    assert_eq!(
        rejection(&json!({ "payload": "e30", "signatures": [] }).to_string()),
        Rejection::TokenMalformed
    );
}

#[test]
fn v2_token_has_one_encoding() {
    let token = key().token(&claims(json!({})));
    // A signature of 64 bytes leaves four unused bits in the last character.
    let (head, last) = token.split_at(token.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    assert_eq!(at % 16, 0, "canonical");
    assert_eq!(
        rejection(&format!("{head}{}", &alphabet[at + 1..at + 2])),
        Rejection::TokenMalformed
    );
    assert_eq!(rejection(&format!("{token}==")), Rejection::TokenMalformed);
}

#[test]
fn v3_rejects_repeated_names_anywhere() {
    let twice = claims(json!({}))
        .to_string()
        .replacen('{', "{\"sub\":\"admin\",", 1);
    assert_eq!(
        rejection(&key().sign(&key().header(), &twice)),
        Rejection::ClaimsMalformed
    );
    let nested = claims(json!({ "x": "@" }))
        .to_string()
        .replace("\"@\"", "{\"a\":1,\"a\":2}");
    assert_eq!(
        rejection(&key().sign(&key().header(), &nested)),
        Rejection::ClaimsMalformed
    );
}

#[test]
fn v3_checks_size_first() {
    assert_eq!(
        rejection(&"a".repeat(limits::MAX_TOKEN_BYTES + 1)),
        Rejection::TokenTooLarge
    );
    assert_eq!(
        with_claims(json!({ "x": "a".repeat(limits::MAX_TOKEN_BYTES) })),
        Some(Rejection::TokenTooLarge)
    );
}

#[test]
fn v4_rejects_none_and_unknown_algorithms() {
    for alg in ["none", "None", "NONE", "", "HS256", "ES256K", "eddsa"] {
        assert_eq!(
            with_header(json!({ "alg": alg })),
            Rejection::AlgorithmNotAllowed,
            "{alg}"
        );
    }
    let unsigned = format!(
        "{}.{}.",
        base64url::encode(br#"{"alg":"none"}"#),
        base64url::encode(claims(json!({})).to_string().as_bytes())
    );
    assert_eq!(rejection(&unsigned), Rejection::AlgorithmNotAllowed);
    let stripped = key()
        .token(&claims(json!({})))
        .rsplit_once('.')
        .map(|(head, _)| format!("{head}."))
        .unwrap();
    assert_eq!(rejection(&stripped), Rejection::TokenMalformed);
}

#[test]
fn v4_rejects_algorithm_outside_rule() {
    let policy = inline_policy(&[&key()], json!({ "algorithms": ["EdDSA"] }), Value::Null);
    let mut header = key().header();
    merge(&mut header, json!({ "alg": "ES256" }));
    let token = key().sign(&header, &claims(json!({})).to_string());
    assert_eq!(
        verdict(&token, &policy).unwrap_err(),
        Rejection::AlgorithmNotAllowed
    );
}

#[test]
fn v5_header_must_name_keys_algorithm() {
    assert_eq!(
        with_header(json!({ "alg": "ES256" })),
        Rejection::AlgorithmMismatch
    );
    let mut header = key().header();
    merge(&mut header, json!({ "alg": "Ed25519" }));
    let token = key().sign(&header, &claims(json!({})).to_string());
    assert!(
        verdict(&token, &inline_policy(&[&key()], json!({}), Value::Null)).is_ok(),
        "RFC 9864's name for the same"
    );
}

#[test]
fn v7_uses_keys_of_issuer_only() {
    let mallory = TestKey::new("k1", 66);
    let mut header = mallory.header();
    merge(
        &mut header,
        json!({ "jwk": mallory.jwk(), "jku": "https://mallory.example", "x5c": ["AA"] }),
    );
    assert_eq!(
        rejection(&mallory.sign(&header, &claims(json!({})).to_string())),
        Rejection::SignatureInvalid
    );
    assert_eq!(
        with_header(json!({ "kid": "../../etc/passwd" })),
        Rejection::KeyUnknown
    );
}

#[test]
fn token_without_kid_needs_single_key() {
    let mut header = key().header();
    merge(&mut header, json!({ "kid": null }));
    let token = key().sign(&header, &claims(json!({})).to_string());
    assert!(verdict(&token, &inline_policy(&[&key()], json!({}), Value::Null)).is_ok());
    let two = inline_policy(&[&key(), &TestKey::new("k2", 2)], json!({}), Value::Null);
    assert_eq!(verdict(&token, &two).unwrap_err(), Rejection::KeyAmbiguous);
}

#[test]
fn v8_rejects_extensions() {
    assert_eq!(
        with_header(json!({ "crit": ["b64"], "b64": false })),
        Rejection::CriticalHeader
    );
    assert_eq!(
        with_header(json!({ "crit": ["exp"], "exp": 1 })),
        Rejection::CriticalHeader
    );
}

#[test]
fn v9_compares_issuer_exactly() {
    for issuer in [
        "https://issuer.example/",
        "https://ISSUER.example",
        "http://issuer.example",
        "issuer.example",
    ] {
        assert_eq!(
            with_claims(json!({ "iss": issuer })),
            Some(Rejection::IssuerUnknown),
            "{issuer}"
        );
    }
    assert_eq!(
        with_claims(json!({ "iss": null })),
        Some(Rejection::ClaimMissing)
    );
}

#[test]
fn v9_rejects_key_of_another_issuer() {
    fn rule(issuer: &str, key: &TestKey) -> Value {
        json!({ "issuer": issuer, "audiences": ["orders"],
            "jwks": { "keys": [key.jwk()] } })
    }
    let (ours, theirs) = (TestKey::new("a", 1), TestKey::new("b", 2));
    let config =
        json!({ "jwtRules": [rule(ISSUER, &ours), rule("https://other.example", &theirs)] });
    let policy = crate::config::read_policy(&config.to_string()).unwrap();
    assert_eq!(
        verdict(&theirs.token(&claims(json!({}))), &policy).unwrap_err(),
        Rejection::KeyUnknown
    );
    let accepted = verdict(
        &theirs.token(&claims(json!({ "iss": "https://other.example" }))),
        &policy,
    )
    .unwrap();
    assert_eq!(accepted.jwt_rule(), 1);
}

#[test]
fn v10_requires_own_audience() {
    assert_eq!(with_claims(json!({ "aud": ["billing", "orders"] })), None);
    for audience in [
        json!("billing"),
        json!([]),
        json!("orders/"),
        json!("ORDERS"),
        json!("https://orders"),
    ] {
        assert_eq!(
            with_claims(json!({ "aud": audience })),
            Some(Rejection::AudienceMismatch),
            "{audience}"
        );
    }
    assert_eq!(
        with_claims(json!({ "aud": null })),
        Some(Rejection::ClaimMissing)
    );
    assert_eq!(
        with_claims(json!({ "aud": "" })),
        Some(Rejection::ClaimMissing)
    );
}

fn plain() -> Policy {
    inline_policy(&[&key()], json!({}), Value::Null)
}

/// Returns the verdict on a token with these claims under a rule with these settings.
fn under(rule: Value, typ: &str, changes: Value) -> Option<Rejection> {
    let mut header = key().header();
    merge(&mut header, json!({ "typ": typ }));
    let token = key().sign(&header, &claims(changes).to_string());
    verdict(&token, &inline_policy(&[&key()], rule, Value::Null)).err()
}

#[test]
fn v10_uses_audience_claim_without_aud_only() {
    let rule = json!({ "audienceClaim": "client_id", "tokenTypes": ["JWT"] });
    assert_eq!(
        under(
            rule.clone(),
            "JWT",
            json!({ "aud": null, "client_id": "orders" })
        ),
        None
    );
    assert_eq!(
        under(
            rule.clone(),
            "JWT",
            json!({ "aud": "", "client_id": ["x", "orders"] })
        ),
        Some(Rejection::ClaimsMalformed)
    );
    assert_eq!(
        under(
            rule.clone(),
            "JWT",
            json!({ "aud": null, "client_id": "other" })
        ),
        Some(Rejection::AudienceMismatch)
    );
    assert_eq!(
        under(
            rule.clone(),
            "JWT",
            json!({ "aud": null, "client_id": null })
        ),
        Some(Rejection::ClaimMissing)
    );
    assert_eq!(
        under(
            rule.clone(),
            "JWT",
            json!({ "aud": "other", "client_id": "orders" })
        ),
        Some(Rejection::AudienceMismatch)
    );
    assert_eq!(
        under(
            rule,
            "JWT",
            json!({ "aud": "orders", "client_id": "other" })
        ),
        None
    );
}

#[test]
fn v11_accepts_access_tokens_by_default() {
    for typ in [
        json!("at+jwt"),
        json!("AT+JWT"),
        json!("application/at+jwt"),
        json!("Application/at+JWT"),
    ] {
        let mut header = key().header();
        merge(&mut header, json!({ "typ": typ }));
        let token = key().sign(&header, &claims(json!({})).to_string());
        assert!(
            verdict(&token, &inline_policy(&[&key()], json!({}), Value::Null)).is_ok(),
            "{typ}"
        );
    }
    let others = [
        "JWT",
        "JOSE",
        "dpop+jwt",
        "secevent+jwt",
        "client-authentication+jwt",
        "meshseal-bundle+jwt",
        "statuslist+jwt",
        "",
    ];
    for typ in others {
        assert_eq!(
            with_header(json!({ "typ": typ })),
            Rejection::TypeNotAllowed,
            "{typ}"
        );
    }
    assert_eq!(
        with_header(json!({ "typ": null })),
        Rejection::TypeNotAllowed
    );
}

#[test]
fn v11_rule_may_accept_plain_jwts() {
    let policy = inline_policy(&[&key()], json!({ "tokenTypes": ["JWT"] }), Value::Null);
    let plain =
        claims(json!({ "client_id": null, "jti": null, "iat": null, "sub": null })).to_string();
    for (typ, accepted) in [
        (json!("JWT"), true),
        (json!("jose"), true),
        (Value::Null, true),
        (json!("at+jwt"), false),
        (json!("dpop+jwt"), false),
    ] {
        let mut header = key().header();
        merge(&mut header, json!({ "typ": typ }));
        assert_eq!(
            verdict(&key().sign(&header, &plain), &policy).is_ok(),
            accepted,
            "{typ}"
        );
    }
}

#[test]
fn v11_rejects_id_token_as_access_token() {
    fn verdict(types: Value, changes: Value) -> Option<Rejection> {
        let mut all = json!({ "scope": null });
        merge(&mut all, json!({}));
        let Value::Object(changes) = changes else {
            panic!()
        };
        changes
            .into_iter()
            .for_each(|(name, value)| all[name] = value);
        under(json!({ "tokenTypes": types }), "JWT", all)
    }
    let refused = Some(Rejection::TypeNotAllowed);
    let id_tokens = [
        json!({ "nonce": "n-0S6" }),
        json!({ "at_hash": "MTIzNDU2Nzg5MDEyMzQ1Ng" }),
        json!({ "c_hash": "LDktKdoQak3Pk0cnXxCltA", "scope": "openid" }),
        json!({ "s_hash": "LDktKdoQak3Pk0cnXxCltA" }),
        json!({ "typ": "ID", "scope": "openid" }),
        json!({ "token_use": "id", "cognito:groups": ["staff"] }),
    ];
    for token in id_tokens {
        assert_eq!(verdict(json!(["JWT"]), token.clone()), refused, "{token}");
        assert_eq!(
            verdict(json!(["at+jwt", "JWT"]), token.clone()),
            refused,
            "{token}"
        );
        assert_eq!(verdict(json!(["ID"]), token.clone()), None, "{token}");
    }
    for token in [
        json!({ "typ": "Refresh" }),
        json!({ "typ": "Offline" }),
        json!({ "typ": "Logout" }),
    ] {
        assert_eq!(
            verdict(json!(["JWT", "ID"]), token.clone()),
            refused,
            "{token}"
        );
    }
    let access_tokens = [
        json!({}),
        json!({ "nonce": "n-0S6", "scope": "openid profile", "typ": "Bearer" }),
        json!({ "nonce": "n-0S6", "typ": "Bearer" }),
        json!({ "nonce": "n-0S6", "scp": "Orders.Read" }),
        json!({ "token_use": "access", "auth_time": 1_700_000_000 }),
        json!({ "auth_time": 1_700_000_000, "acr": "1", "amr": ["pwd"], "sid": "s", "azp": "app" }),
        json!({ "nonce": "" }),
    ];
    for token in access_tokens {
        assert_eq!(verdict(json!(["JWT"]), token.clone()), None, "{token}");
        assert_eq!(verdict(json!(["ID"]), token.clone()), refused, "{token}");
    }
}

#[test]
fn v11_rejects_security_events_everywhere() {
    let logout = json!({ "events": { "http://schemas.openid.net/event/backchannel-logout": {} } });
    for (types, typ) in [
        (json!(["JWT"]), "JWT"),
        (json!(["at+jwt"]), "at+jwt"),
        (json!(["ID"]), "JWT"),
    ] {
        for events in [logout.clone(), json!({ "events": {} })] {
            assert_eq!(
                under(json!({ "tokenTypes": types }), typ, events),
                Some(Rejection::TypeNotAllowed),
                "{types}"
            );
        }
    }
}

#[test]
fn v12_times_are_exact_to_the_second() {
    use Rejection::{TokenExpired, TokenIssuedInFuture, TokenLifetimeTooLong, TokenNotYetValid};
    for (changes, expected) in [
        (json!({ "exp": NOW - 29 }), None),
        (json!({ "exp": NOW - 30 }), Some(TokenExpired)),
        (json!({ "exp": 0 }), Some(TokenExpired)),
        (json!({ "nbf": NOW + 30 }), None),
        (json!({ "nbf": NOW + 31 }), Some(TokenNotYetValid)),
        (json!({ "iat": NOW + 30 }), None),
        (json!({ "iat": NOW + 31 }), Some(TokenIssuedInFuture)),
        (json!({ "iat": NOW, "exp": NOW + 24 * 3600 }), None),
        (
            json!({ "iat": NOW, "exp": NOW + 24 * 3600 + 1 }),
            Some(TokenLifetimeTooLong),
        ),
        (
            json!({ "exp": 9_007_199_254_740_992_u64 }),
            Some(TokenLifetimeTooLong),
        ),
        (json!({ "exp": null }), Some(Rejection::ClaimMissing)),
        (
            json!({ "exp": "1700000290" }),
            Some(Rejection::ClaimsMalformed),
        ),
    ] {
        assert_eq!(with_claims(changes.clone()), expected, "{changes}");
    }
}

#[test]
fn v12_rule_sets_skew_and_lifetime() {
    let policy = inline_policy(
        &[&key()],
        json!({ "clockSkew": "0s", "maxLifetime": "5m" }),
        Value::Null,
    );
    for (changes, expected) in [
        (json!({ "exp": NOW + 1 }), None),
        (json!({ "exp": NOW }), Some(Rejection::TokenExpired)),
        (
            json!({ "iat": NOW - 10, "exp": NOW + 291 }),
            Some(Rejection::TokenLifetimeTooLong),
        ),
    ] {
        let token = key().token(&claims(changes));
        assert_eq!(verdict(&token, &policy).err(), expected);
    }
}

#[test]
fn v13_access_tokens_require_all_claims() {
    for claim in ["sub", "client_id", "iat", "jti"] {
        assert_eq!(
            with_claims(json!({ claim: null })),
            Some(Rejection::ClaimMissing),
            "{claim}"
        );
    }
}

#[test]
fn required_claims_replace_those_of_the_type() {
    fn rule(claims: Value) -> Value {
        json!({ "requiredClaims": claims })
    }
    assert_eq!(
        under(
            rule(json!(["client_id", "jti"])),
            "at+jwt",
            json!({ "sub": null, "iat": null })
        ),
        None
    );
    let missing = Some(Rejection::ClaimMissing);
    assert_eq!(
        under(
            rule(json!(["client_id", "jti"])),
            "at+jwt",
            json!({ "jti": null })
        ),
        missing
    );
    assert_eq!(
        under(rule(json!(["sub"])), "at+jwt", json!({ "sub": "" })),
        missing
    );
    assert_eq!(
        under(
            rule(json!(["realm.name"])),
            "at+jwt",
            json!({ "realm": { "name": "a" } })
        ),
        None
    );
    assert_eq!(
        under(
            rule(json!(["[realm.name]"])),
            "at+jwt",
            json!({ "realm": { "name": "a" } })
        ),
        missing
    );
    // The setting does not affect `exp` and `aud`.
    assert_eq!(
        under(rule(json!(["sub"])), "at+jwt", json!({ "exp": null })),
        missing
    );
    assert_eq!(
        under(rule(json!(["sub"])), "at+jwt", json!({ "aud": null })),
        missing
    );
    let jwt = json!({ "tokenTypes": ["JWT"], "requiredClaims": ["sub"] });
    assert_eq!(under(jwt, "JWT", json!({ "sub": null })), missing);
}

#[test]
fn v3_each_limit_has_its_own_code() {
    fn host(bytes: usize) -> String {
        "a".repeat(bytes) + ".:443"
    }
    fn path(bytes: usize) -> String {
        "/".to_string() + &"a".repeat(bytes - 1)
    }
    fn typ(bytes: usize) -> Rejection {
        with_header(json!({ "typ": "t".repeat(bytes) }))
    }
    fn payload(members: &str) -> String {
        let claims = claims(json!({})).to_string();
        key().sign(
            &key().header(),
            &format!("{},{members}}}", &claims[..claims.len() - 1]),
        )
    }
    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }
    let deepest = usize::from(limits::MAX_JSON_DEPTH);
    assert_eq!(
        verdict(&payload(&format!("\"x\":{}", nested(deepest))), &plain()).err(),
        Some(Rejection::TokenTooDeep)
    );
    assert!(
        verdict(
            &payload(&format!("\"x\":{}", nested(deepest - 1))),
            &plain()
        )
        .is_ok()
    );
    assert_eq!(
        with_header(json!({ "kid": "k".repeat(limits::MAX_KID_BYTES + 1) })),
        Rejection::KidTooLong
    );
    assert_eq!(
        with_header(json!({ "x": "k".repeat(limits::MAX_HEADER_SEGMENT_BYTES) })),
        Rejection::HeaderTooLarge
    );
    let long = base64url::encode(&[7; limits::MAX_SIGNATURE_BYTES + 1]);
    let token = key().token(&claims(json!({})));
    let (head, _) = token.rsplit_once('.').unwrap();
    assert_eq!(
        rejection(&format!("{head}.{long}")),
        Rejection::SignatureTooLong
    );
    assert_eq!(typ(limits::MAX_TYP_BYTES + 1), Rejection::TypeTooLong);
    assert_eq!(typ(limits::MAX_TYP_BYTES), Rejection::TypeNotAllowed);
    let operation = json!({ "paths": ["/*"], "hosts": ["*"] });
    let policy = inline_policy(
        &[&key()],
        json!({}),
        json!([{ "to": [{ "operation": operation }] }]),
    );
    let route = |host: &str, path: &str| {
        policy
            .authz()
            .canonical(&Request {
                method: "GET",
                host,
                path,
            })
            .err()
    };
    assert_eq!(
        route("h", &path(limits::MAX_PATH_BYTES + 1)),
        Some(Rejection::PathTooLong)
    );
    assert_eq!(
        route("h", &(path(limits::MAX_PATH_BYTES) + "?" + &path(9_000))),
        None
    );
    assert_eq!(
        route(&host(limits::MAX_HOST_BYTES + 1), "/"),
        Some(Rejection::HostTooLong)
    );
    assert_eq!(route(&host(limits::MAX_HOST_BYTES), "/"), None);
    // Either this test or `v3_checks_size_first` covers the code of each limit.
    let tried = [
        Rejection::PathTooLong,
        Rejection::HostTooLong,
        Rejection::TypeTooLong,
        Rejection::TokenTooLarge,
        Rejection::HeaderTooLarge,
        Rejection::KidTooLong,
        Rejection::SignatureTooLong,
    ];
    assert!(
        tried.iter().eq(crate::rejection::LIMITS
            .iter()
            .map(|(rejection, _)| rejection))
    );
    assert_eq!(Rejection::TokenTooDeep.limit(), Some(deepest));
}

/// Claims like Keycloak's `resource_access`, Entra's `groups` and Okta's `scp`, as large as a token
/// can be.
#[test]
fn v3_accepts_any_structure_within_size() {
    fn clients(count: usize) -> Value {
        let each = (0..count).map(|at| (format!("client-{at}"), json!({ "roles": ["r"] })));
        json!({ "resource_access": Value::Object(each.collect()) })
    }
    fn groups(count: usize) -> Value {
        json!({ "groups": (0..count).map(|at| format!("g{at:04}"))
        .collect::<Value>() })
    }
    for changes in [
        clients(129),
        clients(330),
        groups(1_000),
        groups(1_400),
        json!({ "x": alloc::vec![0; 5_500] }),
    ] {
        let token = key().token(&claims(changes));
        assert!(token.len() <= limits::MAX_TOKEN_BYTES, "{}", token.len());
        assert!(verdict(&token, &plain()).is_ok(), "{}", token.len());
    }
}

#[test]
fn v14_rejects_changed_claim() {
    let token = key().token(&claims(json!({})));
    let forged = key().token(&claims(json!({ "sub": "admin" })));
    let (head, signature) = token.rsplit_once('.').unwrap();
    let (forged_head, _) = forged.rsplit_once('.').unwrap();
    assert_eq!(
        rejection(&format!("{forged_head}.{signature}")),
        Rejection::SignatureInvalid
    );
    assert_eq!(
        rejection(&format!("{head}.{}", base64url::encode(&[0; 64]))),
        Rejection::SignatureInvalid
    );
    assert_eq!(
        rejection(&format!("{head}.{}", base64url::encode(&[0; 63]))),
        Rejection::SignatureInvalid
    );
}

#[test]
fn v19_rejects_bound_token_without_proof() {
    assert_eq!(
        with_claims(json!({ "cnf": { "jkt": "x" } })),
        Some(Rejection::BindingUnsupported)
    );
    assert_eq!(
        with_claims(json!({ "cnf": {} })),
        Some(Rejection::BindingUnsupported)
    );
}

#[test]
fn cheap_checks_precede_signature() {
    struct Counted(core::cell::Cell<u32>);
    impl SignatureVerifier for Counted {
        fn verify(&self, _key: &Key, _message: &[u8], _signature: &[u8]) -> bool {
            self.0.set(self.0.get() + 1);
            false
        }
    }
    let policy = inline_policy(&[&key()], json!({}), Value::Null);
    let (trust, counted) = (Trust::new(), Counted(core::cell::Cell::new(0)));
    let run = |changes: Value| {
        let token = key().token(&claims(changes));
        check(&token, policy.authn(), &trust, || NOW)
            .and_then(|checked| checked.verify(&counted))
            .err()
    };
    assert_eq!(
        run(json!({ "exp": NOW - 100 })),
        Some(Rejection::TokenExpired)
    );
    assert_eq!(
        run(json!({ "aud": "billing" })),
        Some(Rejection::AudienceMismatch)
    );
    assert_eq!(counted.0.get(), 0);
    assert_eq!(run(json!({})), Some(Rejection::SignatureInvalid));
    assert_eq!(counted.0.get(), 1);
}

#[test]
fn signature_only_ignores_claims() {
    let set = KeySet::from_config(
        &json!({ "keys": [key().jwk()] }).to_string(),
        &Alg::ALL,
        true,
    )
    .unwrap();
    assert_eq!(
        signature_only(&key().sign(&key().header(), "no claims"), &set),
        Ok(())
    );
    let other = TestKey::new("k1", 9);
    assert_eq!(
        signature_only(&other.sign(&key().header(), "no claims"), &set),
        Err(Rejection::SignatureInvalid)
    );
}

#[test]
fn assertion_is_validated_by_its_rule() {
    let set = KeySet::from_config(
        &json!({ "keys": [key().jwk()] }).to_string(),
        &Alg::ALL,
        false,
    )
    .unwrap();
    let mut rule = JwtRule::new(ISSUER, alloc::vec!["orders".into()]);
    rule.token_types = alloc::vec![TokenType::ClientAuthentication];
    let mut header = key().header();
    merge(&mut header, json!({ "typ": "client-authentication+jwt" }));
    let assertion = key().sign(&header, &claims(json!({ "client_id": null })).to_string());
    assert!(validate_with(&assertion, &set, &rule, NOW, &Portable).is_ok());
    assert_eq!(
        validate_with(
            &key().token(&claims(json!({}))),
            &set,
            &rule,
            NOW,
            &Portable
        )
        .unwrap_err(),
        Rejection::TypeNotAllowed
    );
    let other = JwtRule {
        issuer: "https://other.example".into(),
        ..rule
    };
    assert_eq!(
        validate_with(&assertion, &set, &other, NOW, &Portable).unwrap_err(),
        Rejection::IssuerUnknown
    );
}

proptest! {
    #[test]
    fn never_panics(token in "[A-Za-z0-9_.-]{0,80}", header in "\\PC{0,40}",
        payload in "\\PC{0,40}") {
        let policy = inline_policy(&[&key()], json!({}), Value::Null);
        prop_assert!(verdict(&token, &policy).is_err());
        let token = [header, payload, String::from("x")]
            .map(|part| base64url::encode(part.as_bytes())).join(".");
        prop_assert!(verdict(&token, &policy).is_err());
    }
}

/// A policy with two rules of one issuer, whose keys are fetched from two places.
fn two_clusters() -> Policy {
    fn rule(cluster: &str, audience: &str) -> Value {
        json!({
            "issuer": ISSUER, "audiences": [audience], "jwksUri": "https://k8s/openid/v1/jwks",
            "jwksCluster": cluster,
            "refreshInterval": "10s",
        })
    }
    crate::config::read_policy(
        &json!({ "jwtRules": [rule("a", "orders"), rule("b", "orders")] }).to_string(),
    )
    .unwrap()
}

fn fetch(trust: &mut Trust, policy: &Policy, rule: usize, key: &TestKey, at: u64) {
    let jwks = json!({ "keys": [key.jwk()] }).to_string();
    trust
        .accept_jwks(rule, &jwks, policy.authn(), Duration::from_secs(at))
        .unwrap();
}

/// Returns the index of the rule that accepts a token.
fn rule_of(policy: &Policy, trust: &Trust, token: &str) -> Result<usize, Rejection> {
    validate(token, policy.authn(), trust, NOW).map(|token| token.jwt_rule())
}

#[test]
fn issuer_may_have_two_key_sets() {
    let policy = two_clusters();
    // The clusters may even use the same `kid`.
    for (kid_a, kid_b) in [("a", "b"), ("main", "main")] {
        let [a, b, c] =
            [(kid_a, 1), (kid_b, 2), (kid_b, 3)].map(|(kid, seed)| TestKey::new(kid, seed));
        let [of_a, of_b, of_c] = [&a, &b, &c].map(|key| key.token(&claims(json!({}))));
        let mut trust = Trust::new();
        assert_eq!(
            rule_of(&policy, &trust, &of_a),
            Err(Rejection::KeysUnavailable)
        );
        fetch(&mut trust, &policy, 0, &a, 0);
        assert_eq!(rule_of(&policy, &trust, &of_a), Ok(0));
        assert_eq!(
            rule_of(&policy, &trust, &of_b),
            Err(Rejection::KeysUnavailable),
            "cluster b may have signed it"
        );
        fetch(&mut trust, &policy, 1, &b, 0);
        assert_eq!(
            [
                rule_of(&policy, &trust, &of_a),
                rule_of(&policy, &trust, &of_b)
            ],
            [Ok(0), Ok(1)]
        );
        let expired = a.token(&claims(json!({ "exp": NOW - 100 })));
        assert_eq!(
            rule_of(&policy, &trust, &expired),
            Err(Rejection::TokenExpired)
        );
        assert_eq!(
            rule_of(&policy, &trust, &of_c),
            Err(Rejection::SignatureInvalid)
        );
    }
}

#[test]
fn cached_token_keeps_its_rule() {
    let policy = two_clusters();
    let (a, b) = (TestKey::new("a", 1), TestKey::new("b", 2));
    let mut trust = Trust::new();
    fetch(&mut trust, &policy, 0, &a, 0);
    fetch(&mut trust, &policy, 1, &b, 0);
    let token = a.token(&claims(json!({})));
    let proof = validate(&token, policy.authn(), &trust, NOW)
        .unwrap()
        .proof();
    assert!(proof.still_holds(&token, policy.authn(), &trust, NOW));
    fetch(&mut trust, &policy, 0, &b, 0);
    fetch(&mut trust, &policy, 1, &a, 0);
    assert!(
        !proof.still_holds(&token, policy.authn(), &trust, NOW),
        "the other rule accepts it now, by other settings"
    );
}

#[test]
fn stale_fetched_keys_give_no_verdict() {
    let policy = two_clusters();
    let a = TestKey::new("a", 1);
    let mut trust = Trust::new();
    fetch(&mut trust, &policy, 0, &a, 1_000);
    fetch(&mut trust, &policy, 1, &TestKey::new("b", 2), 1_025);
    let token = a.token(&claims(json!({})));
    let verdict_at = |trust: &mut Trust, now: u64| {
        let before = trust.generation();
        let aged = trust.age_jwks(policy.authn(), Duration::from_secs(now));
        let changed = trust.generation() != before;
        (
            aged,
            changed,
            validate(&token, policy.authn(), trust, NOW).map(|token| token.jwt_rule()),
        )
    };
    assert_eq!(verdict_at(&mut trust, 1_030), (vec![], false, Ok(0)));
    assert_eq!(
        verdict_at(&mut trust, 1_031),
        (vec![0], true, Err(Rejection::KeysStale))
    );
    assert_eq!(
        verdict_at(&mut trust, 1_032),
        (vec![], false, Err(Rejection::KeysStale))
    );
    assert_eq!(trust.keys().count(), 1);
    fetch(&mut trust, &policy, 0, &a, 1_033);
    assert_eq!(verdict_at(&mut trust, 1_033), (vec![], false, Ok(0)));
}
