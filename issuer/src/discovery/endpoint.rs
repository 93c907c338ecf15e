//! `GET /jwks` and `GET /.well-known/…`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::metadata;
use crate::http::etagged;
use crate::issuer::Issuer;

/// Seconds for which others may keep the key set, at least and at most: drawn anew for each answer, so that they do not all
/// come back at once (I25).
const MAX_AGE_S: [u64; 2] = [240, 360];

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new()
        .route("/jwks", get(jwks))
        .route("/.well-known/oauth-authorization-server", get(document))
        .route("/.well-known/openid-configuration", get(document))
}

async fn jwks(State(issuer): State<Arc<Issuer>>, headers: HeaderMap) -> Response {
    let published = issuer.publisher.current();
    let [least, most] = MAX_AGE_S;
    let mut random = [0; 8];
    // Without randomness everybody comes back at once, which is a pity and no more.
    let _unlucky = aws_lc_rs::rand::fill(&mut random);
    let max_age_s = least + u64::from_le_bytes(random) % (most - least + 1);
    let cache_control = format!("public, max-age={max_age_s}, stale-if-error=86400");
    etagged(&headers, published.document.body.clone(), &published.document.etag, &cache_control)
}

async fn document(State(issuer): State<Arc<Issuer>>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "public, max-age=3600")], Json(metadata(&issuer.config)))
}
