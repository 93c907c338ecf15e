//! Client authentication with secrets: RFC 6749 §2.3, §5.2.

use axum::body::Body;
use axum::http::{Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Answer, Harness, basic, config, form_request, secret};

const GRANT: &str = "grant_type=client_credentials&resource=orders";
const ASSERTION: &str =
    "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

async fn with_header(harness: &Harness, authorization: &str, form: &str) -> Answer {
    let request = form_request("/token", form).header("authorization", authorization);
    harness
        .send(request.body(Body::from(form.to_owned())).unwrap())
        .await
}

fn encoded(joined: &str) -> String {
    format!("Basic {}", STANDARD.encode(joined))
}

#[tokio::test]
async fn a_secret_in_the_header_or_in_the_body() {
    let harness = Harness::new().await;
    let secret = secret("checkout");
    assert_eq!(
        with_header(&harness, &basic("checkout"), GRANT)
            .await
            .status,
        200
    );
    assert_eq!(
        with_header(
            &harness,
            &basic("checkout").replace("Basic", "bAsIc"),
            GRANT
        )
        .await
        .status,
        200
    );
    assert_eq!(
        with_header(
            &harness,
            &basic("checkout"),
            &format!("{GRANT}&client_id=checkout")
        )
        .await
        .status,
        200
    );
    assert_eq!(
        with_header(&harness, &encoded(&format!("check%6Fut:{secret}")), GRANT)
            .await
            .status,
        200,
        "RFC 6749 §2.3.1"
    );
    assert_eq!(
        harness
            .post(
                "/token",
                &format!("{GRANT}&client_id=checkout&client_secret={secret}")
            )
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn two_secrets_while_one_replaces_the_other() {
    let harness = Harness::new().await;
    let new = secret("checkout-new");
    assert_eq!(
        with_header(&harness, &encoded(&format!("checkout:{new}")), GRANT)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_wrong_proof_is_invalid_client_and_says_no_more() {
    let harness = Harness::new().await;
    let mut answers = Vec::new();
    for joined in [
        "checkout:wrong",
        "nobody:wrong",
        "checkout:",
        ":",
        "no-colon",
        "signer:x",
    ] {
        let answer = with_header(&harness, &encoded(joined), GRANT).await;
        assert_eq!(answer.error(), (401, "invalid_client".into()), "{joined}");
        assert!(
            answer
                .header(header::WWW_AUTHENTICATE)
                .starts_with("Basic realm="),
            "{joined}"
        );
        answers.push(answer.text);
    }
    answers.dedup();
    assert_eq!(
        answers.len(),
        1,
        "an unknown client looks like a wrong secret"
    );
    for authorization in [
        "Bearer abc",
        "Basic",
        "Basic !!!",
        "Digest username=checkout",
    ] {
        assert_eq!(
            with_header(&harness, authorization, GRANT).await.status,
            401,
            "{authorization}"
        );
    }
    let in_body = harness
        .post(
            "/token",
            &format!("{GRANT}&client_id=checkout&client_secret=wrong"),
        )
        .await;
    assert_eq!(in_body.status, 401);
    assert_eq!(
        harness.post("/token", GRANT).await.error(),
        (401, "invalid_client".into()),
        "no proof at all"
    );
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
        let wrong = || {
            form_request(path, form).header("authorization", encoded(&format!("{client}:wrong")))
        };
        let mut statuses = Vec::new();
        for _ in 0..12 {
            statuses.push(
                harness
                    .send(wrong().body(Body::from(form)).unwrap())
                    .await
                    .status
                    .as_u16(),
            );
            assert_eq!(
                harness.post_as(client, path, form).await.status,
                right,
                "{path}"
            );
        }
        assert_eq!(
            statuses[10..],
            [429, 429],
            "{path}: failures beyond the rate are told to slow down"
        );
        harness.advance(20).await;
    }
}

#[tokio::test]
async fn every_401_has_a_challenge() {
    let harness = Harness::new().await;
    let posts = [
        "/token",
        "/introspect",
        "/revoke",
        "/admin/keys/rotate",
        "/admin/keys/revoke",
    ];
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
        assert!(
            answer
                .header(header::WWW_AUTHENTICATE)
                .starts_with("Basic realm="),
            "{path}"
        );
    }
}

/// Every way to fail at every endpoint: status, and reason in the counter.
#[tokio::test]
async fn failures_are_counted_by_endpoint_and_reason() {
    let harness = Harness::new().await;
    let right = secret("checkout");
    let id = "client_id=checkout";
    let several = format!("{id}&client_secret={right}");
    let [header, wrong_type] = [
        "Basic !!!",
        "client_assertion_type=jwt&client_assertion=a.b.c",
    ]
    .map(str::to_owned);
    let cases = [
        ("credentials-missing", 401, vec![], String::new()),
        (
            "secret-wrong",
            401,
            vec![encoded("checkout:wrong")],
            String::new(),
        ),
        (
            "client-unknown",
            401,
            vec![encoded("unknown:x")],
            String::new(),
        ),
        (
            "method-wrong",
            401,
            vec![encoded("signer:x")],
            String::new(),
        ),
        ("header-malformed", 401, vec![header], String::new()),
        (
            "assertion-malformed",
            401,
            vec![],
            format!("{ASSERTION}&client_assertion=a.b.c"),
        ),
        (
            "header-repeated",
            400,
            vec![basic("checkout"), basic("checkout")],
            String::new(),
        ),
        (
            "methods-several",
            400,
            vec![basic("checkout")],
            several.clone(),
        ),
        (
            "client-id-differs",
            400,
            vec![basic("checkout")],
            "client_id=stock".to_owned(),
        ),
        (
            "client-id-missing",
            400,
            vec![],
            format!("client_secret={right}"),
        ),
        ("assertion-type-wrong", 400, vec![], wrong_type),
        (
            "parameter-repeated",
            400,
            vec![],
            format!("{several}&client_secret={right}"),
        ),
    ];
    let endpoints = [
        ("token", "/token", GRANT),
        ("introspect", "/introspect", "token=x"),
        ("revoke", "/revoke", "token=x"),
        ("admin", "/admin/keys", "x=y"),
        ("admin", "/admin/keys/rotate", "x=y"),
        ("admin", "/admin/keys/revoke", "kid=x"),
        ("admin", "/admin/proxies", "x=y"),
        ("admin", "/admin/proxies/forget", "name=x"),
        ("admin", "/admin/incident", "x=y"),
        ("admin", "/admin/incident/declare", "reason=x"),
        ("admin", "/admin/incident/end", "x=y"),
    ];
    for (name, path, form) in endpoints {
        for (reason, status, headers, proof) in &cases {
            let label = (name, *reason);
            let before = harness.issuer.metrics.authentication_failures.get(&label);
            let mut request = form_request(path, form);
            for header in headers {
                request = request.header("authorization", header);
            }
            let answer = harness
                .send(request.body(Body::from(format!("{form}&{proof}"))).unwrap())
                .await;
            let error = if *status == 401 {
                "invalid_client"
            } else {
                "invalid_request"
            };
            assert_eq!(
                answer.error(),
                (*status, error.to_owned()),
                "{path} {reason}"
            );
            let after = harness.issuer.metrics.authentication_failures.get(&label);
            assert_eq!(after, before + 1, "{path} {reason}");
        }
        // The buckets of failures fill up again.
        harness.advance(60).await;
    }
    for path in ["/admin/keys", "/admin/proxies", "/admin/incident"] {
        let before = harness
            .issuer
            .metrics
            .authentication_failures
            .get(&("admin", "header-repeated"));
        let mut request = Request::get(path);
        for _ in 0..2 {
            request = request.header("authorization", basic("operator"));
        }
        assert_eq!(
            harness
                .send(request.body(Body::empty()).unwrap())
                .await
                .status,
            400,
            "{path}"
        );
        let after = harness
            .issuer
            .metrics
            .authentication_failures
            .get(&("admin", "header-repeated"));
        assert_eq!(after, before + 1, "GET {path}");
    }
    let line =
        "meshseal_authentication_failures_total{endpoint=\"token\",reason=\"secret-wrong\"} 1\n";
    assert!(harness.metrics().await.contains(line));
}

#[tokio::test]
async fn with_no_configuration_there_are_no_credentials_at_all() {
    let mut config = meshseal_issuer::config::Config::default_settings();
    config.database = config.database.clone();
    let harness = Harness::with(config).await;
    for client in ["admin", "meshseal", "operator", ""] {
        assert_eq!(
            with_header(&harness, &encoded(&format!("{client}:{client}")), GRANT)
                .await
                .status,
            401
        );
    }
    assert_eq!(harness.get("/jwks").await.status, 200);
}
