//! `POST /token`: grants and tokens by RFC 6749 §4.4 and §5, RFC 8707 and RFC 9068.

use axum::body::Body;
use axum::http::{Request, header};
use meshseal_core::authn::signature_only;
use meshseal_core::keys::KeySet;
use meshseal_core::revocation::index_of;
use meshseal_issuer::keys::{Algorithm, KeyState, Purpose};

use crate::support::{Harness, ISSUER, NOW, config, decode, form_request, secret};

const GRANT: &str = "grant_type=client_credentials";

#[tokio::test]
async fn token_follows_rfc_9068() {
    let harness = Harness::new().await;
    let answer = harness
        .post_as(
            "checkout",
            "/token",
            &format!("{GRANT}&resource=orders&scope=orders.read"),
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        (
            answer.header(header::CACHE_CONTROL),
            answer.header(header::PRAGMA)
        ),
        ("no-store", "no-cache")
    );

    // Members of the response.
    let body = answer.json();
    assert_eq!(
        (&body["token_type"], &body["expires_in"], &body["scope"]),
        (&"Bearer".into(), &300.into(), &"orders.read".into())
    );
    let members: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        ["access_token", "expires_in", "scope", "token_type"],
        "no refresh token (RFC 6749 §4.4.3)"
    );

    // Header and claims of the token.
    let (head, claims) = decode(body["access_token"].as_str().unwrap());
    assert_eq!(
        head,
        serde_json::json!({ "alg": "EdDSA", "kid": harness.active_kid(), "typ": "at+jwt" })
    );
    let jti = claims["jti"].as_str().unwrap();
    assert_eq!(
        (jti.len(), index_of(jti)),
        (22, Some(meshseal_issuer::tokens::index_floor(NOW * 1_000)))
    );
    let expected = serde_json::json!({
        "iss": ISSUER, "sub": "checkout", "client_id": "checkout", "aud": "orders",
        "iat": NOW, "exp": NOW + 300, "scope": "orders.read", "jti": jti,
    });
    assert_eq!(claims, expected);
}

#[tokio::test]
async fn published_key_verifies_each_algorithm() {
    for algorithm in Algorithm::ALL {
        let mut config = config();
        config.keys.algorithm = algorithm;
        let harness = Harness::with(config).await;
        let token = harness.token().await;
        assert_eq!(decode(&token).0["alg"], algorithm.name());
        let keys =
            KeySet::from_config(&harness.get("/jwks").await.text, &[algorithm.core()], false)
                .unwrap();
        assert_eq!(
            signature_only(&token, &keys),
            Ok(()),
            "{}",
            algorithm.name()
        );
        assert!(harness.is_active(&token).await);
    }
}

#[tokio::test]
async fn grants_scopes_of_client_and_service() {
    let harness = Harness::new().await;
    for (form, scope) in [
        ("resource=orders", "orders.read orders.write"),
        ("audience=orders&scope=orders.write", "orders.write"),
        (
            "resource=orders&scope=orders.read+orders.read",
            "orders.read",
        ),
        ("resource=stock", "stock.read"),
    ] {
        let answer = harness
            .post_as("checkout", "/token", &format!("{GRANT}&{form}"))
            .await;
        assert_eq!(answer.json()["scope"], scope, "{form}");
    }

    // A scope that is unknown, malformed or foreign.
    for scope in [
        "stock.read",
        "orders.read+nonsense",
        "orders.read++orders.write",
        "+",
        "ORDERS.READ",
    ] {
        let answer = harness
            .post_as(
                "checkout",
                "/token",
                &format!("{GRANT}&resource=orders&scope={scope}"),
            )
            .await;
        assert_eq!(answer.error(), (400, "invalid_scope".into()), "{scope}");
    }
    assert_eq!(
        decode(&harness.token_for("stock", "").await).1["scope"],
        "orders.read",
        "only the scopes of the client"
    );
    let others = harness
        .post_as("stock", "/token", &format!("{GRANT}&scope=orders.write"))
        .await;
    assert_eq!(
        others.error(),
        (400, "invalid_scope".into()),
        "a scope of the service that the client lacks"
    );
}

#[tokio::test]
async fn grants_scopes_for_each_service() {
    let shared = crate::support::yaml().replace(
        "scopes: [stock.read], lifetime",
        "scopes: [orders.read], lifetime",
    );
    let flat = "audiences: [orders, stock]\n  scopes: [orders.read, orders.write, stock.read]";
    let each = "access: [{ audience: orders, scopes: [orders.read] }, { audience: stock }]";
    let harness =
        Harness::with(meshseal_issuer::config::from_yaml(&shared.replace(flat, each)).unwrap())
            .await;
    assert_eq!(
        decode(&harness.token_for("checkout", "resource=orders").await).1["scope"],
        "orders.read"
    );
    let (_, stock) = decode(&harness.token_for("checkout", "resource=stock").await);
    assert_eq!(
        stock.get("scope"),
        None,
        "the client has `orders.read` for another service only"
    );
    let asked = harness
        .post_as(
            "checkout",
            "/token",
            &format!("{GRANT}&resource=stock&scope=orders.read"),
        )
        .await;
    assert_eq!(asked.error(), (400, "invalid_scope".into()));

    // A flat list of scopes is ambiguous if two services share a scope.
    let ambiguous = shared.replace("orders.write, stock.read]", "orders.write]");
    let error = meshseal_issuer::config::from_yaml(&ambiguous)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("clients[0].scopes[0]") && error.contains("`access`"),
        "{error}"
    );
}

#[tokio::test]
async fn token_is_for_one_permitted_service() {
    let harness = Harness::new().await;
    assert_eq!(
        decode(&harness.token_for("stock", "").await).1["aud"],
        "orders",
        "a client of one service may omit the resource"
    );
    assert_eq!(
        decode(
            &harness
                .token_for("checkout", "resource=stock&audience=stock")
                .await
        )
        .1["exp"],
        NOW + 60
    );

    // No target, an unknown one, two different ones, and one of another client.
    for (client, form) in [
        ("checkout", ""),
        ("checkout", "resource=unknown"),
        ("checkout", "resource=orders&audience=stock"),
        ("checkout", "resource=orders+stock"),
        ("stock", "resource=stock"),
    ] {
        let answer = harness
            .post_as(client, "/token", &format!("{GRANT}&{form}"))
            .await;
        assert_eq!(
            answer.error(),
            (400, "invalid_target".into()),
            "{client} {form}"
        );
    }
    assert_eq!(
        harness.post_as("operator", "/token", GRANT).await.error(),
        (400, "unauthorized_client".into())
    );
}

#[tokio::test]
async fn malformed_requests_get_rfc_6749_errors() {
    let harness = Harness::new().await;
    let cases = [
        ("", (400, "invalid_request")),
        ("grant_type=", (400, "invalid_request")),
        (
            "grant_type=password&username=a&password=b",
            (400, "unsupported_grant_type"),
        ),
        (
            "grant_type=refresh_token&refresh_token=x",
            (400, "unsupported_grant_type"),
        ),
        (
            "grant_type=client_credentials&grant_type=client_credentials",
            (400, "invalid_request"),
        ),
        (
            "grant_type=client_credentials&resource=orders&resource=stock",
            (400, "invalid_target"),
        ),
        (
            "grant_type=client_credentials&%C3%A9%22%5C=1&%C3%A9%22%5C=2",
            (400, "invalid_request"),
        ),
        (
            "grant_type=client_credentials&scope=%ff",
            (400, "invalid_request"),
        ),
    ];
    for (form, (status, code)) in cases {
        let answer = harness.post_as("checkout", "/token", form).await;
        assert_eq!(answer.error(), (status, code.into()), "{form}");
        assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/json");

        // The description has the character set of RFC 6749 §5.2.
        let description = answer.json()["error_description"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            description
                .chars()
                .all(|letter| matches!(letter, ' '..='!' | '#'..='[' | ']'..='~')),
            "RFC 6749 §5.2: {description}"
        );
    }
}

#[tokio::test]
async fn rejects_other_content_than_forms() {
    let harness = Harness::new().await;
    let json = Request::post("/token")
        .header("content-type", "application/json")
        .body(Body::from("{}"))
        .unwrap();
    assert_eq!(
        harness.send(json).await.error(),
        (400, "invalid_request".into())
    );
    let query = form_request("/token?client_secret=x", "")
        .body(Body::from(GRANT))
        .unwrap();
    assert_eq!(
        harness.send(query).await.error(),
        (400, "invalid_request".into())
    );
    assert!(query_is_ascii(&harness).await, "RFC 6749 §5.2");
    let shouted = Request::post("/token").header(
        "content-type",
        "Application/X-WWW-Form-Urlencoded; charset=UTF-8",
    );
    let shouted = shouted.header("authorization", crate::support::basic("checkout"));
    let shouted = shouted
        .body(Body::from(format!("{GRANT}&resource=orders")))
        .unwrap();
    assert_eq!(harness.send(shouted).await.status, 200, "RFC 9110 §8.3.1");
    let huge = harness.post("/token", &"x".repeat(40_000)).await;
    assert_eq!(huge.error(), (413, "invalid_request".into()));
    assert_eq!(harness.get("/token").await.status, 405);
}

async fn query_is_ascii(harness: &Harness) -> bool {
    harness
        .send(
            form_request("/token?x=1", "")
                .body(Body::from(GRANT))
                .unwrap(),
        )
        .await
        .text
        .is_ascii()
}

#[tokio::test]
async fn limits_request_rate_of_client() {
    let mut config = config();
    config.limits.requests_per_second = 3;
    let harness = Harness::with(config).await;
    for _ in 0..3 {
        harness.token().await;
    }
    let form = format!("{GRANT}&resource=orders");
    let answer = harness.post_as("checkout", "/token", &form).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header(header::RETRY_AFTER)),
        (429, "1")
    );
    assert_eq!(
        harness.post_as("stock", "/token", &form).await.status,
        200,
        "the limit is per client"
    );
    harness.advance(1).await;
    assert_eq!(
        harness.post_as("checkout", "/token", &form).await.status,
        200
    );
}

#[tokio::test]
async fn tokens_cost_no_database_write() {
    let harness = Harness::new().await;
    harness.tick().await;
    let file = || std::fs::read(harness.database.file().with_extension("db-wal")).unwrap();
    harness.token().await;
    let before = file();
    for _ in 0..500 {
        harness.token().await;
    }
    assert_eq!(before, file());
}

#[tokio::test]
async fn database_contains_no_secret() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let kept: Vec<u8> = ["db", "db-wal"]
        .iter()
        .flat_map(|extension| {
            std::fs::read(harness.database.file().with_extension(extension)).unwrap()
        })
        .collect();
    let holds = |needle: &[u8]| kept.windows(needle.len()).any(|window| window == needle);
    assert!(
        holds(harness.active_kid().as_bytes()),
        "the files contain the key id"
    );
    assert!(!holds(token.as_bytes()) && !holds(secret("checkout").as_bytes()));
    // PKCS#8 begins with these bytes for Ed25519 (RFC 8410 §7).
    let sealed = harness
        .key(Purpose::Token, KeyState::Active)
        .unwrap()
        .sealed
        .unwrap();
    assert!(
        !sealed
            .windows(9)
            .any(|window| window == [0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20])
    );
}
