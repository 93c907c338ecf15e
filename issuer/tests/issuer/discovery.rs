//! Metadata and key set: RFC 8414, RFC 7517, rules I24 and I25.

use axum::body::Body;
use axum::http::{Request, header};
use meshseal_core::keys::KeySet;
use meshseal_issuer::keys::Algorithm;

use crate::support::{Harness, ISSUER};

const DOCUMENTS: [&str; 2] = [
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
];

#[tokio::test]
async fn both_documents_name_issuer_and_existing_endpoints() {
    let harness = Harness::new().await;
    for path in DOCUMENTS {
        let document = harness.get(path).await.json();
        assert_eq!(document["issuer"], ISSUER);
        for (name, endpoint) in document
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| name.ends_with("_endpoint") || *name == "jwks_uri")
        {
            let path = endpoint.as_str().unwrap().strip_prefix(ISSUER).unwrap();
            assert_ne!(harness.get(path).await.status, 404, "{name}");
        }
        assert_eq!(
            document["grant_types_supported"],
            serde_json::json!(["client_credentials"])
        );
        let algorithms = document["token_endpoint_auth_signing_alg_values_supported"].to_string();
        assert!(!algorithms.contains("HS256") && !algorithms.contains("none"));
    }
}

#[tokio::test]
async fn not_found_names_metadata() {
    for issuer in [ISSUER, "https://a.example/t/1"] {
        let config =
            meshseal_issuer::config::from_yaml(&crate::support::yaml().replace(ISSUER, issuer));
        let harness = Harness::with(config.unwrap()).await;
        let missing = harness.get("/.well-known/other").await;
        assert_eq!(missing.status, 404);
        let detail = missing.json()["detail"].as_str().unwrap().to_owned();
        let (_, named) = detail.split_once("see ").unwrap();
        assert_eq!(
            harness.get(named).await.json()["issuer"],
            issuer,
            "{detail}"
        );
    }
}

#[tokio::test]
async fn metadata_has_required_members_without_empty_lists() {
    let harness =
        Harness::with(meshseal_issuer::config::from_yaml("listen: 127.0.0.1:8080").unwrap()).await;
    for path in DOCUMENTS {
        let document = harness.get(path).await.json();
        for (name, value) in document.as_object().unwrap() {
            assert_ne!(
                value,
                &serde_json::json!([]),
                "{path}: {name} (RFC 8414 §3.2)"
            );
        }
        // RFC 8414 §2; OpenID Connect Discovery 1.0 §3.
        let openid = [
            "authorization_endpoint",
            "subject_types_supported",
            "id_token_signing_alg_values_supported",
        ];
        let openid = openid
            .into_iter()
            .filter(|_| path.ends_with("openid-configuration"));
        for name in [
            "issuer",
            "token_endpoint",
            "jwks_uri",
            "response_types_supported",
        ]
        .into_iter()
        .chain(openid)
        {
            assert!(document.get(name).is_some(), "{path}: {name}");
        }
    }
    let openid = harness.get(DOCUMENTS[1]).await.json();
    assert!(
        openid["id_token_signing_alg_values_supported"]
            .as_array()
            .unwrap()
            .contains(&"RS256".into())
    );

    // `/authorize` exists only because OpenID Connect metadata needs it.
    for method in ["get", "post"] {
        let request = Request::builder()
            .method(method.to_uppercase().as_str())
            .uri("/authorize?response_type=none");
        let answer = harness.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.error(), (400, "unsupported_response_type".into()));
        assert_eq!(answer.header(header::LOCATION), "", "no redirect");
    }
}

#[tokio::test]
async fn finds_issuer_with_path() {
    let config = meshseal_issuer::config::from_yaml(
        &crate::support::yaml().replace(ISSUER, "https://a.example/t/1"),
    );
    let harness = Harness::with(config.unwrap()).await;
    // RFC 8414 §3.1, §5; OpenID Connect Discovery 1.0 §4.1.
    for path in [
        "/.well-known/oauth-authorization-server/t/1",
        "/.well-known/openid-configuration/t/1",
        "/t/1/.well-known/openid-configuration",
    ] {
        let document = harness.get(path).await.json();
        assert_eq!(document["issuer"], "https://a.example/t/1", "{path}");
        assert_eq!(document["token_endpoint"], "https://a.example/t/1/token");
    }
    for path in ["/t/1/token", "/token"] {
        let form = "grant_type=client_credentials&resource=orders";
        assert_eq!(
            harness.post_as("checkout", path, form).await.status,
            200,
            "{path}"
        );
    }
    assert_eq!(
        harness.get("/t/1/jwks").await.text,
        harness.get("/jwks").await.text
    );
}

#[tokio::test]
async fn only_public_documents_allow_cross_origin() {
    let harness = Harness::new().await;
    for path in [DOCUMENTS[0], DOCUMENTS[1], "/jwks"] {
        let answer = harness.get(path).await;
        assert_eq!(
            answer.header(header::ACCESS_CONTROL_ALLOW_ORIGIN),
            "*",
            "{path}"
        );
        let preflight = Request::options(path).header("origin", "https://app.example");
        let preflight = preflight
            .header("access-control-request-method", "GET")
            .body(Body::empty())
            .unwrap();
        let preflight = harness.send(preflight).await;
        assert_eq!(
            (
                preflight.status.as_u16(),
                preflight.header(header::ACCESS_CONTROL_ALLOW_ORIGIN)
            ),
            (204, "*")
        );
    }
    for (path, answer) in [
        (
            "/token",
            harness
                .post_as(
                    "checkout",
                    "/token",
                    "grant_type=client_credentials&resource=orders",
                )
                .await,
        ),
        (
            "/introspect",
            harness.post_as("checkout", "/introspect", "token=x").await,
        ),
        ("/authorize", harness.get("/authorize").await),
    ] {
        assert_eq!(
            answer.header(header::ACCESS_CONTROL_ALLOW_ORIGIN),
            "",
            "{path}"
        );
    }
}

#[tokio::test]
async fn key_set_is_public_complete_and_cacheable() {
    let harness = Harness::new().await;
    let answer = harness.get("/jwks").await;
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    assert_eq!(
        keys.len(),
        2,
        "the active and the next token key, no bundle key"
    );
    for key in &keys {
        assert_eq!((&key["use"], &key["alg"]), (&"sig".into(), &"EdDSA".into()));
        assert_eq!(
            meshseal_core::keys::thumbprint(&key.to_string()).as_deref(),
            key["kid"].as_str(),
            "RFC 7638"
        );
        assert!(
            ["d", "p", "q", "k"]
                .iter()
                .all(|private| key.get(private).is_none())
        );
    }
    assert_eq!(
        KeySet::from_config(&answer.text, &[Algorithm::EdDsa.core()], false)
            .unwrap()
            .len(),
        2
    );

    // A conditional request transfers only a changed set.
    let etag = answer.header(header::ETAG);
    let same = harness
        .send(
            Request::get("/jwks")
                .header("if-none-match", format!("\"x\", W/{etag}"))
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!((same.status.as_u16(), same.text.as_str()), (304, ""));
    harness.post_as("operator", "/admin/keys/rotate", "").await;
    harness.tick().await;
    let changed = harness
        .send(
            Request::get("/jwks")
                .header("if-none-match", etag)
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(changed.status, 200);
}

/// Returns the `max-age` of the key set.
async fn max_age(harness: &Harness) -> u64 {
    let answer = harness.get("/jwks").await;
    let control = answer.header(header::CACHE_CONTROL);
    let age = control.strip_prefix("public, max-age=").unwrap();
    age.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn max_age_of_key_set_varies() {
    let mut config = crate::support::config();
    config.keys.jwks_max_age_s = 360;
    let harness = Harness::with(config).await;
    let mut ages = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let control = harness
            .get("/jwks")
            .await
            .header(header::CACHE_CONTROL)
            .to_owned();
        let age = control
            .strip_prefix("public, max-age=")
            .unwrap()
            .strip_suffix(", stale-if-error=86400")
            .unwrap();
        ages.insert(age.parse::<u64>().unwrap());
    }
    assert!(
        ages.len() > 10 && ages.iter().all(|age| (240..=360).contains(age)),
        "{ages:?}"
    );
}

/// While the database is unreachable, another replica may publish a key and sign with it after the
/// longest `max-age`.
#[tokio::test]
async fn unconfirmed_key_set_has_shorter_max_age() {
    let mut config = crate::support::config();
    config.keys.jwks_max_age_s = 360;
    let harness = Harness::with(config).await;
    harness.clock.advance(300);
    for _ in 0..20 {
        assert!((40..=60).contains(&max_age(&harness).await));
    }
    harness.clock.advance(3_600);
    assert_eq!(max_age(&harness).await, 0);
    harness.advance(0).await;
    assert_eq!(
        max_age(&harness).await,
        0,
        "the database has no record of the promise"
    );
    harness.tick().await;
    assert!(max_age(&harness).await >= 240);
}
