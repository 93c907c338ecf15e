//! Metadata and key set: RFC 8414, RFC 7517, rules I24, I25.

use axum::body::Body;
use axum::http::{Request, header};
use meshseal_core::keys::KeySet;
use meshseal_issuer::keys::Algorithm;

use crate::support::{Harness, ISSUER};

#[tokio::test]
async fn both_documents_name_the_one_issuer_and_endpoints_that_exist() {
    let harness = Harness::new().await;
    let document = harness.get("/.well-known/oauth-authorization-server").await.json();
    assert_eq!(document, harness.get("/.well-known/openid-configuration").await.json());
    assert_eq!(document["issuer"], ISSUER);
    for (name, endpoint) in
        document.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint") || *name == "jwks_uri")
    {
        let path = endpoint.as_str().unwrap().strip_prefix(ISSUER).unwrap();
        assert_ne!(harness.get(path).await.status, 404, "{name}");
    }
    assert_eq!(document["grant_types_supported"], serde_json::json!(["client_credentials"]));
    let algorithms = document["token_endpoint_auth_signing_alg_values_supported"].to_string();
    assert!(!algorithms.contains("HS256") && !algorithms.contains("none"));
    assert_eq!(harness.get("/.well-known/other").await.status, 404);
}

#[tokio::test]
async fn the_key_set_is_public_whole_and_cacheable() {
    let harness = Harness::new().await;
    let answer = harness.get("/jwks").await;
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2, "the signing key and the next, not the bundle's");
    for key in &keys {
        assert_eq!((&key["use"], &key["alg"]), (&"sig".into(), &"EdDSA".into()));
        assert_eq!(meshseal_core::keys::thumbprint(&key.to_string()).as_deref(), key["kid"].as_str(), "RFC 7638");
        assert!(["d", "p", "q", "k"].iter().all(|private| key.get(private).is_none()));
    }
    assert_eq!(KeySet::from_config(&answer.text, &[Algorithm::EdDsa.core()], false).unwrap().len(), 2);
    let etag = answer.header(header::ETAG);
    let same = harness
        .send(Request::get("/jwks").header("if-none-match", format!("\"x\", W/{etag}")).body(Body::empty()).unwrap())
        .await;
    assert_eq!((same.status.as_u16(), same.text.as_str()), (304, ""));
    harness.post_as("operator", "/admin/keys/rotate", "").await;
    harness.tick().await;
    let changed = harness.send(Request::get("/jwks").header("if-none-match", etag).body(Body::empty()).unwrap()).await;
    assert_eq!(changed.status, 200);
}

#[tokio::test]
async fn caches_do_not_all_come_back_at_once() {
    let harness = Harness::new().await;
    let mut ages = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let control = harness.get("/jwks").await.header(header::CACHE_CONTROL).to_owned();
        let age = control.strip_prefix("public, max-age=").unwrap().strip_suffix(", stale-if-error=86400").unwrap();
        ages.insert(age.parse::<u64>().unwrap());
    }
    assert!(ages.len() > 10 && ages.iter().all(|age| (240..=360).contains(age)), "{ages:?}");
}
