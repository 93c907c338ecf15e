//! `POST /token`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use tokio::time::{Duration, Instant, sleep};

use super::{Grant, GrantRequest, earliest_issue, grant, mint};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::{OAuthRequest, authenticate};
use crate::issuer::Issuer;
use crate::keys::SignerError;

/// Longest wait for the date of a token after a revocation of its group: the allowed spread between
/// replicas, and a second.
const MAX_WAIT: Duration = Duration::from_secs(8);

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

async fn token(
    State(issuer): State<Arc<Issuer>>,
    request: Result<OAuthRequest, OAuthError>,
) -> Response {
    let answer = match request {
        Ok(request) => issue(&issuer, &request).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => {
            issuer.metrics.tokens.increment();
            (
                [
                    (header::CACHE_CONTROL, "no-store"),
                    (header::PRAGMA, "no-cache"),
                ],
                Json(answer),
            )
                .into_response()
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
    let index = issuer
        .indices
        .next(&*issuer.store, issuer.clock.read().latest_issue_ms())
        .await?;
    let begun = Instant::now();
    loop {
        match try_mint(issuer, &grant, index)? {
            Ok(access_token) => {
                let (expires_in, scope) = (grant.lifetime_s, grant.scope);
                return Ok(TokenResponse {
                    access_token,
                    token_type: "Bearer",
                    expires_in,
                    scope,
                });
            }
            Err(early) => wait_for_date(issuer, early, begun).await?,
        }
    }
}

/// Mints with the key, and under the revocations, of this moment. Returns how much too early it is,
/// if it is.
fn try_mint(
    issuer: &Issuer,
    grant: &Grant<'_>,
    index: u64,
) -> Result<Result<String, Duration>, OAuthError> {
    issuer.require_fresh()?;
    issuer.require_authentic()?;
    issuer.require_clock()?;
    let published = issuer.publisher.current();
    let signer = published
        .token_signer
        .as_ref()
        .ok_or(SignerError::Destroyed)?;
    let trust = published
        .trust(&issuer.config.issuer)
        .ok_or(SignerError::Destroyed)?;
    let issue_ms = issuer.clock.read().issue_ms();
    let earliest_ms = earliest_issue(trust, grant.client).saturating_mul(1_000);
    if issue_ms < earliest_ms {
        return Ok(Err(Duration::from_millis(
            earliest_ms.saturating_sub(issue_ms),
        )));
    }
    Ok(Ok(mint(
        signer,
        &issuer.config.issuer,
        grant,
        index,
        issue_ms / 1_000,
    )?))
}

/// Waits until a token may be dated: one of a group that was revoked just now would be rejected
/// with it, and `iat` is never in the future.
async fn wait_for_date(issuer: &Issuer, early: Duration, begun: Instant) -> Result<(), OAuthError> {
    let busy = || {
        OAuthErrorKind::Unavailable.because("tokens of this client were just revoked; try again")
    };
    let _permit = issuer.dated_later.try_acquire().map_err(|_| busy())?;
    if begun.elapsed() + early > MAX_WAIT {
        return Err(busy());
    }
    tokio::select! {
        () = sleep(early) => Ok(()),
        () = issuer.ending.cancelled() => Err(busy()),
    }
}
