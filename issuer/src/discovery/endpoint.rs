//! `GET /jwks` and `GET /.well-known/…`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value};

use super::{metadata, openid_metadata};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::etagged;
use crate::issuer::Issuer;

/// CORS header that lets any origin read public documents. They need no credentials, so `*` is safe
/// (Fetch §3.2).
const ANY_ORIGIN: (HeaderName, &str) = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");

/// Returns the routes below the issuer identifier.
pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new()
        .route("/jwks", get(jwks).options(preflight))
        .route(
            "/.well-known/openid-configuration",
            get(openid_document).options(preflight),
        )
        .route("/authorize", get(authorize).post(authorize))
}

/// Returns the metadata routes of an issuer identifier with this path (RFC 8414 §3.1, §5), which
/// may be empty.
pub(crate) fn well_known_routes(path: &str) -> Router<Arc<Issuer>> {
    // RFC 8414 §3.1 puts the issuer's path after the well-known name.
    let router = Router::new().route(
        &format!("/.well-known/oauth-authorization-server{path}"),
        get(document).options(preflight),
    );
    // Without a path, `routes` already serves the OpenID document.
    if path.is_empty() {
        return router;
    }
    router.route(
        &format!("/.well-known/openid-configuration{path}"),
        get(openid_document).options(preflight),
    )
}

/// Answers a CORS preflight request.
async fn preflight() -> impl IntoResponse {
    let headers = [
        ANY_ORIGIN,
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers)
}

/// Answers every request with `unsupported_response_type`. The endpoint exists because OpenID
/// Connect Discovery requires one; it redirects no request.
async fn authorize() -> OAuthError {
    OAuthErrorKind::UnsupportedResponseType
        .because("this issuer offers no authorization flow; use client_credentials")
}

/// Serves the public keys. Their `max-age` is randomized and shrinks while the database is away.
async fn jwks(State(issuer): State<Arc<Issuer>>, headers: HeaderMap) -> Response {
    let published = issuer.publisher.current();
    // `max-age` counts from the moment at which the database last confirmed the set. Since then,
    // another replica may have published a key, which signs when the longest `max-age` is over.
    let unpromised_s = issuer.keeper.promises().overdue_s(issuer.clock.steady());
    let most = issuer
        .config
        .keys
        .jwks_max_age_s
        .saturating_sub(issuer.publisher.unconfirmed_s().max(unpromised_s));
    // Each answer has another `max-age`, so that readers do not all return at once (I25).
    let least = most / 3 * 2;
    let mut random = [0; 8];
    // Without random bytes all readers return at once, which costs load but is safe.
    let _unlucky = aws_lc_rs::rand::fill(&mut random);
    let max_age_s = least + u64::from_le_bytes(random) % (most - least + 1);
    let cache_control = format!("public, max-age={max_age_s}, stale-if-error=86400");
    // Scripts of other origins may read the entity tag.
    let exposed = (header::ACCESS_CONTROL_EXPOSE_HEADERS, "ETag");
    let body = etagged(
        &headers,
        published.document.body.clone(),
        &published.document.etag,
        &cache_control,
    );
    ([ANY_ORIGIN, exposed], body).into_response()
}

async fn document(State(issuer): State<Arc<Issuer>>) -> impl IntoResponse {
    cacheable(metadata(&issuer.config))
}

async fn openid_document(State(issuer): State<Arc<Issuer>>) -> impl IntoResponse {
    cacheable(openid_metadata(&issuer.config))
}

fn cacheable(document: Map<String, Value>) -> impl IntoResponse {
    (
        [ANY_ORIGIN, (header::CACHE_CONTROL, "public, max-age=3600")],
        Json(document),
    )
}
