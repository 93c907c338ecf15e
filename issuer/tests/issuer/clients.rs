//! Client authentication with secrets: RFC 6749 §2.3, §5.2.

use axum::body::Body;
use axum::http::header;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Answer, Harness, basic, config, form_request, secret};

const GRANT: &str = "grant_type=client_credentials&resource=orders";
const ASSERTION: &str = "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

async fn with_header(harness: &Harness, authorization: &str, form: &str) -> Answer {
    let request = form_request("/token", form).header("authorization", authorization);
    harness.send(request.body(Body::from(form.to_owned())).unwrap()).await
}

fn encoded(joined: &str) -> String {
    format!("Basic {}", STANDARD.encode(joined))
}

#[tokio::test]
async fn a_secret_in_the_header_or_in_the_body() {
    let harness = Harness::new().await;
    let secret = secret("checkout");
    assert_eq!(with_header(&harness, &basic("checkout"), GRANT).await.status, 200);
    assert_eq!(with_header(&harness, &basic("checkout").replace("Basic", "bAsIc"), GRANT).await.status, 200);
    assert_eq!(with_header(&harness, &basic("checkout"), &format!("{GRANT}&client_id=checkout")).await.status, 200);
    assert_eq!(
        with_header(&harness, &encoded(&format!("check%6Fut:{secret}")), GRANT).await.status,
        200,
        "RFC 6749 §2.3.1"
    );
    assert_eq!(harness.post("/token", &format!("{GRANT}&client_id=checkout&client_secret={secret}")).await.status, 200);
}

#[tokio::test]
async fn two_secrets_while_one_replaces_the_other() {
    let harness = Harness::new().await;
    let new = secret("checkout-new");
    assert_eq!(with_header(&harness, &encoded(&format!("checkout:{new}")), GRANT).await.status, 200);
}

#[tokio::test]
async fn a_wrong_proof_is_invalid_client_and_says_no_more() {
    let harness = Harness::new().await;
    let mut answers = Vec::new();
    for joined in ["checkout:wrong", "nobody:wrong", "checkout:", ":", "no-colon", "signer:x"] {
        let answer = with_header(&harness, &encoded(joined), GRANT).await;
        assert_eq!(answer.error(), (401, "invalid_client".into()), "{joined}");
        assert!(answer.header(header::WWW_AUTHENTICATE).starts_with("Basic realm="), "{joined}");
        answers.push(answer.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "an unknown client looks like a wrong secret");
    for authorization in ["Bearer abc", "Basic", "Basic !!!", "Digest username=checkout"] {
        assert_eq!(with_header(&harness, authorization, GRANT).await.status, 401, "{authorization}");
    }
    let in_body = harness.post("/token", &format!("{GRANT}&client_id=checkout&client_secret=wrong")).await;
    assert_eq!(in_body.status, 401);
    assert_eq!(harness.post("/token", GRANT).await.error(), (401, "invalid_client".into()), "no proof at all");
}

#[tokio::test]
async fn more_than_one_method_is_refused() {
    let harness = Harness::new().await;
    let body = format!("{GRANT}&client_id=checkout&client_secret={}", secret("checkout"));
    let assertion =
        "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion=a.b.c";
    for form in [body.clone(), format!("{GRANT}&{assertion}"), format!("{GRANT}&client_id=stock")] {
        assert_eq!(
            with_header(&harness, &basic("checkout"), &form).await.error(),
            (400, "invalid_request".into()),
            "{form}"
        );
    }
    assert_eq!(harness.post("/token", &format!("{body}&{assertion}")).await.error(), (400, "invalid_request".into()));
    let twice = form_request("/token", GRANT)
        .header("authorization", basic("checkout"))
        .header("authorization", basic("checkout"));
    let twice = harness.send(twice.body(Body::from(GRANT)).unwrap()).await;
    assert_eq!(twice.error(), (400, "invalid_request".into()));
}

#[tokio::test]
async fn right_secret_passes_during_failures() {
    let mut config = config();
    config.limits.failures_per_second = 1;
    let harness = Harness::with(config).await;
    for (client, path, form, right) in [
        ("checkout", "/token", GRANT, 200),
        ("operator", "/revoke", "subject=checkout", 200),
        ("checkout", "/introspect", "token=x", 200),
        ("operator", "/admin/keys/rotate", "", 202),
    ] {
        let wrong = || form_request(path, form).header("authorization", encoded(&format!("{client}:wrong")));
        let mut statuses = Vec::new();
        for _ in 0..12 {
            statuses.push(harness.send(wrong().body(Body::from(form)).unwrap()).await.status.as_u16());
            assert_eq!(harness.post_as(client, path, form).await.status, right, "{path}");
        }
        assert_eq!(statuses[10..], [429, 429], "{path}: failures beyond the rate are told to slow down");
        harness.advance(20).await;
    }
}

#[tokio::test]
async fn every_401_has_a_challenge() {
    let harness = Harness::new().await;
    let posts = ["/token", "/introspect", "/revoke", "/admin/keys/rotate", "/admin/keys/revoke"];
    let forms = [
        GRANT.to_owned(),
        format!("{GRANT}&client_id=checkout&client_secret=wrong"),
        format!("{GRANT}&{ASSERTION}&client_assertion=a.b.c"),
    ];
    let mut answers = Vec::new();
    for path in posts {
        for form in &forms {
            answers.push((path, harness.post(path, form).await));
        }
    }
    for path in ["/admin/keys", "/admin/proxies"] {
        answers.push((path, harness.get(path).await));
    }
    for (path, answer) in answers {
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header(header::WWW_AUTHENTICATE).starts_with("Basic realm="), "{path}");
    }
}

#[tokio::test]
async fn failures_are_counted_by_endpoint_and_reason() {
    let harness = Harness::new().await;
    for joined in ["checkout:wrong", "checkout:wrong", "unknown:x", "signer:x"] {
        with_header(&harness, &encoded(joined), GRANT).await;
    }
    harness.post("/revoke", "token=x").await;
    harness.post("/introspect", &format!("token=x&{ASSERTION}&client_assertion=a.b.c")).await;
    harness.get("/admin/keys").await;
    let metrics = harness.metrics().await;
    for (endpoint, reason, count) in [
        ("token", "secret-wrong", 2),
        ("token", "client-unknown", 1),
        ("token", "method-wrong", 1),
        ("revoke", "credentials-missing", 1),
        ("introspect", "assertion-malformed", 1),
        ("admin", "credentials-missing", 1),
    ] {
        let line =
            format!("meshseal_authentication_failures_total{{endpoint=\"{endpoint}\",reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
}

#[tokio::test]
async fn with_no_configuration_there_are_no_credentials_at_all() {
    let mut config = meshseal_issuer::config::Config::default_settings();
    config.database = config.database.clone();
    let harness = Harness::with(config).await;
    for client in ["admin", "meshseal", "operator", ""] {
        assert_eq!(with_header(&harness, &encoded(&format!("{client}:{client}")), GRANT).await.status, 401);
    }
    assert_eq!(harness.get("/jwks").await.status, 200);
}
