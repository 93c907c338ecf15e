//! `POST /revoke` (RFC 7009, and more for administrators).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use meshseal_core::limits::MAX_CLOCK_SKEW_S;
use meshseal_core::revocation::index_of;
use serde_json::json;

use super::request::epoch;
use super::{Receipt, RevokeRequest, RevokedToken, Revoker, Target};
use crate::clients::Client;
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::{OAuthRequest, authenticate};
use crate::issuer::Issuer;
use crate::store::Change;
use crate::tokens::signed_by_us;

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route("/revoke", post(revoke))
}

async fn revoke(State(issuer): State<Arc<Issuer>>, request: OAuthRequest) -> Result<Response, OAuthError> {
    let caller = authenticate(&issuer, &request.caller, &request.form)?;
    let asked = RevokeRequest::read(&request.form, issuer.clock.now())?;
    let Some(change) = change(&issuer, caller, asked.target).await? else {
        // RFC 7009 §2.2: what is not valid needs no revocation.
        return Ok(no_store(Json(json!({}))));
    };
    let version = issuer.publisher.commit(&change).await?;
    issuer.metrics.revocations.increment();
    tracing::info!(client = caller.id, version, tokens = change.revoke.len(), epochs = ?change.epochs, "revoked");
    let Some(wait_s) = asked.wait_s else { return Ok(no_store(Json(json!({ "version": version })))) };
    Ok(no_store(Json(Receipt::wait(&issuer, version, Duration::from_secs(wait_s)).await)))
}

fn no_store(body: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// The change to make; none for a token that is good nowhere.
async fn change(issuer: &Issuer, caller: &Client, target: Target) -> Result<Option<Change>, OAuthError> {
    match target {
        Target::Token(token) => {
            let most = (!caller.admin).then_some(issuer.config.limits.revoked_tokens_per_client);
            let revoker = Revoker { client: caller.id.clone(), most };
            let token = revoked_token(issuer, caller, &token).await?;
            Ok(token.map(|token| Change { revoke: vec![token], revoker, ..Change::default() }))
        }
        Target::Group { .. } if !caller.admin => {
            Err(OAuthErrorKind::Forbidden.because("only a client with `admin: true` may revoke groups of tokens"))
        }
        Target::Group { kind, name, before } => {
            Ok(Some(Change { epochs: vec![epoch(kind, name, before)], ..Change::default() }))
        }
    }
}

/// A token that looks foreign may be signed by a key that another replica has just made: so the newest keys are looked at, and
/// none is called worthless while they cannot be had. Leeway is the most that a proxy may grant.
async fn revoked_token(issuer: &Issuer, caller: &Client, token: &str) -> Result<Option<RevokedToken>, OAuthError> {
    let recognise = || {
        let published = issuer.publisher.current();
        signed_by_us(&issuer.config, &published, token, issuer.clock.now(), MAX_CLOCK_SKEW_S)
    };
    let mut recognised = recognise();
    if recognised.is_none() {
        issuer.publisher.refresh().await?;
        recognised = recognise();
    }
    let Some(verified) = recognised else { return Ok(None) };
    let claims = verified.claims();
    if !caller.admin && claims.client_id() != Some(&caller.id) {
        return Err(OAuthErrorKind::UnauthorizedClient.because("the token was issued to another client"));
    }
    let index = claims.jti().and_then(index_of);
    // Proxies may grant more leeway than we do.
    let expires_at = claims.expires_at().map(|exp| exp.saturating_add(MAX_CLOCK_SKEW_S));
    Ok(index.zip(expires_at).map(|(index, expires_at)| RevokedToken { index, expires_at }))
}
