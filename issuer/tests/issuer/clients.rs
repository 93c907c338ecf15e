//! Client authentication with secrets: RFC 6749 §2.3, §5.2.

use axum::body::Body;
use axum::http::{Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Answer, Harness, basic, config, form_request, secret};

const GRANT: &str = "grant_type=client_credentials&resource=orders";
const ASSERTION: &str =
    "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Posts a form to `/token` with this `Authorization` header.
async fn with_header(harness: &Harness, authorization: &str, form: &str) -> Answer {
    with_header_at(harness, "/token", authorization, form).await
}

async fn with_header_at(harness: &Harness, path: &str, authorization: &str, form: &str) -> Answer {
    let request = form_request(path, form).header("authorization", authorization);
    harness
        .send(request.body(Body::from(form.to_owned())).unwrap())
        .await
}

/// Returns the `Authorization` header for a client id and a secret, joined by a colon.
fn encoded(joined: &str) -> String {
    format!("Basic {}", STANDARD.encode(joined))
}

#[tokio::test]
async fn accepts_secret_in_header_or_body() {
    let harness = Harness::new().await;

    // The scheme is case-insensitive, and the credentials are form-encoded (RFC 6749 §2.3.1).
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
async fn accepts_both_secrets_during_rotation() {
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
async fn rejects_wrong_credentials_without_details() {
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

    // Other schemes and malformed headers.
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
        "no client authentication"
    );
}

#[tokio::test]
async fn accepts_right_secret_during_failures() {
    let mut config = config();
    config.limits.failures_per_second = 1;
    let harness = Harness::with(config).await;
    for (client, path, form, right) in [
        ("checkout", "/token", GRANT, 200),
        ("operator", "/revoke", "subject=checkout", 200),
        ("checkout", "/introspect", "token=x", 200),
        ("operator", "/admin/keys/rotate", "", 202),
    ] {
        let wrong = encoded(&format!("{client}:wrong"));
        let mut statuses = Vec::new();
        for _ in 0..12 {
            let answer = with_header_at(&harness, path, &wrong, form).await;
            statuses.push(answer.status.as_u16());
            assert_eq!(
                harness.post_as(client, path, form).await.status,
                right,
                "{path}"
            );
        }
        assert_eq!(
            statuses[10..],
            [429, 429],
            "{path}: failures above the rate get 429"
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

    // Endpoints with GET.
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

/// A failed authentication: its reason, the expected status, `Authorization` headers, and form
/// fields.
type FailureCase = (&'static str, u16, Vec<String>, String);

fn in_form(reason: &'static str, status: u16, form: &str) -> FailureCase {
    (reason, status, vec![], form.to_owned())
}

fn in_header(reason: &'static str, header: &str) -> FailureCase {
    (reason, 401, vec![header.to_owned()], String::new())
}

fn failure_cases() -> Vec<FailureCase> {
    let secret_in_form = format!("client_secret={}", secret("checkout"));
    let several = format!("client_id=checkout&{secret_in_form}");
    let forged = format!("{ASSERTION}&client_assertion=a.b.c");
    let wrong_type = "client_assertion_type=jwt&client_assertion=a.b.c";
    let right = basic("checkout");
    vec![
        in_form("credentials-missing", 401, ""),
        in_header("secret-wrong", &encoded("checkout:wrong")),
        in_header("client-unknown", &encoded("unknown:x")),
        in_header("method-wrong", &encoded("signer:x")),
        in_header("header-malformed", "Basic !!!"),
        in_form("assertion-malformed", 401, &forged),
        (
            "header-repeated",
            400,
            vec![right.clone(), right.clone()],
            String::new(),
        ),
        ("methods-several", 400, vec![right.clone()], several.clone()),
        (
            "client-id-differs",
            400,
            vec![right],
            "client_id=stock".to_owned(),
        ),
        in_form("client-id-missing", 400, &secret_in_form),
        in_form("assertion-type-wrong", 400, wrong_type),
        in_form(
            "parameter-repeated",
            400,
            &format!("{several}&{secret_in_form}"),
        ),
    ]
}

/// Returns how many authentications failed at an endpoint for a reason.
fn failures(harness: &Harness, label: (&'static str, &'static str)) -> u64 {
    harness.issuer.metrics.authentication_failures.get(&label)
}

/// Covers each failure at each endpoint: the status, and the reason in the counter.
#[tokio::test]
async fn failures_are_counted_by_endpoint_and_reason() {
    let harness = Harness::new().await;
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
        for (reason, status, headers, proof) in failure_cases() {
            let before = failures(&harness, (name, reason));
            let mut request = form_request(path, form);
            for header in headers {
                request = request.header("authorization", header);
            }
            let body = Body::from(format!("{form}&{proof}"));
            let answer = harness.send(request.body(body).unwrap()).await;
            let error = if status == 401 {
                "invalid_client"
            } else {
                "invalid_request"
            };
            assert_eq!(
                answer.error(),
                (status, error.to_owned()),
                "{path} {reason}"
            );
            let after = failures(&harness, (name, reason));
            assert_eq!(after, before + 1, "{path} {reason}");
        }
        // The limiter of failures recovers.
        harness.advance(60).await;
    }
    let line =
        "meshseal_authentication_failures_total{endpoint=\"token\",reason=\"secret-wrong\"} 1\n";
    assert!(harness.metrics().await.contains(line));
}

#[tokio::test]
async fn repeated_header_is_counted_for_get() {
    let harness = Harness::new().await;
    let label = ("admin", "header-repeated");
    for path in ["/admin/keys", "/admin/proxies", "/admin/incident"] {
        let before = failures(&harness, label);
        let request = Request::get(path)
            .header("authorization", basic("operator"))
            .header("authorization", basic("operator"));
        let answer = harness.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(failures(&harness, label), before + 1, "{path}");
    }
}

#[tokio::test]
async fn default_configuration_has_no_credentials() {
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
