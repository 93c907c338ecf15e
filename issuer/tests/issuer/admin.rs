//! `/admin/…`: access and views of administrators.

use axum::body::Body;
use axum::http::Request;
use tower::ServiceExt as _;

use crate::support::{Harness, Proxy, basic, deaf_worker};

#[tokio::test]
async fn only_administrators_get_in() {
    let harness = Harness::new().await;
    for path in ["/admin/keys", "/admin/proxies"] {
        assert_eq!(
            harness.get(path).await.error(),
            (401, "invalid_client".into()),
            "{path}"
        );
        assert_eq!(
            harness.get_as("checkout", path).await.error(),
            (403, "insufficient_scope".into()),
            "{path}"
        );
        assert_eq!(harness.get_as("operator", path).await.status, 200, "{path}");
    }
    let kid = harness.active_kid();
    for (path, form) in [
        ("/admin/keys/rotate", String::new()),
        ("/admin/keys/revoke", format!("kid={kid}")),
    ] {
        assert_eq!(
            harness.post(path, &form).await.error(),
            (401, "invalid_client".into()),
            "{path}"
        );
        assert_eq!(
            harness.post_as("checkout", path, &form).await.error(),
            (403, "insufficient_scope".into()),
            "{path}"
        );
    }
    harness.tick().await;
    assert_eq!(harness.active_kid(), kid);
}

#[tokio::test]
async fn listeners_serve_disjoint_paths() {
    let harness = Harness::new().await;
    for (router, path) in [
        (&harness.router, "/admin/keys"),
        (&harness.router, "/metrics"),
        (&harness.admin, "/token"),
        (&harness.admin, "/bundle"),
    ] {
        let request = Request::get(path)
            .header("authorization", basic("operator"))
            .body(Body::empty())
            .unwrap();
        assert_eq!(
            router.clone().oneshot(request).await.unwrap().status(),
            404,
            "{path}"
        );
    }
}

#[tokio::test]
async fn shows_keys_with_state_and_confirmations() {
    let harness = Harness::new().await;
    Proxy::of(&harness, 1).confirm(&harness).await;
    let _deaf = harness.issuer.proxies.enter(&deaf_worker(2));
    let view = harness.get_as("operator", "/admin/keys").await.json();
    assert_eq!(
        (&view["proxies"], &view["version"]),
        (&2.into(), &harness.version().into())
    );
    let active = view["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["state"] == "active" && key["purpose"] == "token")
        .unwrap();
    assert_eq!(
        (&active["kid"], &active["confirmed"], &active["algorithm"]),
        (&harness.active_kid().into(), &1.into(), &"EdDSA".into())
    );
    assert!(!view.to_string().contains("sealed"));
    harness.post_as("operator", "/admin/keys/rotate", "").await;
    assert!(harness.get_as("operator", "/admin/keys").await.json()["rotation_requested"].is_u64());
}
