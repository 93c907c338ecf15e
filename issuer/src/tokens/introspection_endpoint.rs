//! `POST /introspect`: the introspection endpoint (RFC 7662 §2).

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};

use super::introspection::{active, inactive, may_know};
use super::own_token;
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::{OAuthRequest, authenticate};
use crate::issuer::Issuer;

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route("/introspect", post(introspect))
}

async fn introspect(
    State(issuer): State<Arc<Issuer>>,
    request: OAuthRequest,
) -> Result<impl IntoResponse, OAuthError> {
    let caller = authenticate(&issuer, &request.caller, &request.form).await?;
    let token = request
        .form
        .get("token")
        .ok_or_else(|| OAuthErrorKind::InvalidRequest.because("`token` is missing"))?;
    // Without fresh state the token may be revoked, so the answer is an error.
    issuer.require_fresh()?;
    let published = issuer.publisher.current();
    let verified = own_token(&issuer.config, &published, token, issuer.clock.now());
    // A caller that may not know the token gets the same answer as for an invalid token.
    let told = verified.filter(|verified| may_know(&issuer.config, caller, verified.claims()));
    issuer.metrics.introspections.increment();
    let answer = told.map_or_else(inactive, |verified| active(verified.claims()));
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)))
}
