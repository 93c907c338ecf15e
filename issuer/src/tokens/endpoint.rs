//! `POST /token`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;

use super::{GrantRequest, grant, mint};
use crate::error::OAuthError;
use crate::http::{OAuthRequest, authenticate};
use crate::issuer::Issuer;
use crate::keys::SignerError;

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route("/token", post(token))
}

/// RFC 6749 §5.1.
#[derive(Serialize)]
struct TokenResponse {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
}

async fn token(State(issuer): State<Arc<Issuer>>, request: Result<OAuthRequest, OAuthError>) -> Response {
    let answer = match request {
        Ok(request) => issue(&issuer, &request).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => {
            issuer.metrics.tokens.increment();
            ([(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(answer)).into_response()
        }
        Err(error) => {
            issuer.metrics.token_errors.increment(error.code());
            error.into_response()
        }
    }
}

async fn issue(issuer: &Arc<Issuer>, request: &OAuthRequest) -> Result<TokenResponse, OAuthError> {
    let asked = GrantRequest::read(&request.form)?;
    let client = authenticate(issuer, &request.caller, &request.form).await?;
    let grant = grant(&issuer.config, client, &asked)?;
    let index = issuer.indices.next(&*issuer.store).await?;
    // Nothing is waited for from here on: what signs, and what is revoked, is as of now.
    issuer.require_fresh()?;
    issuer.require_clock()?;
    let published = issuer.publisher.current();
    let signer = published.token_signer.as_ref().ok_or(SignerError::Destroyed)?;
    let trust = published.trust(&issuer.config.issuer).ok_or(SignerError::Destroyed)?;
    let access_token = mint(signer, &issuer.config.issuer, trust, &grant, index, issuer.clock.now())?;
    Ok(TokenResponse { access_token, token_type: "Bearer", expires_in: grant.lifetime_s, scope: grant.scope })
}
