//! `POST /token`: the token endpoint (RFC 6749 §3.2).

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

/// Longest wait of a token request after a revocation of its group: the allowed clock difference
/// between replicas, and a second.
const MAX_WAIT: Duration = Duration::from_secs(8);

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route("/token", post(token))
}

/// Successful response (RFC 6749 §5.1).
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
            // RFC 6749 §5.1 requires both headers.
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

/// Authenticates the client and issues a token.
async fn issue(issuer: &Arc<Issuer>, request: &OAuthRequest) -> Result<TokenResponse, OAuthError> {
    let asked = GrantRequest::read(&request.form)?;
    let client = authenticate(issuer, &request.caller, &request.form).await?;
    let grant = grant(&issuer.config, client, &asked)?;
    let index = issuer
        .indices
        .next(&*issuer.store, issuer.clock.read().latest_issue_ms())
        .await?;
    // A token must not be dated before a revocation of its group, so this may have to wait.
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

/// Mints a token under the present keys and revocations. The inner error is the time to wait until
/// a token of this group may be dated.
fn try_mint(
    issuer: &Issuer,
    grant: &Grant<'_>,
    index: u64,
) -> Result<Result<String, Duration>, OAuthError> {
    // INVARIANT: these checks and the keys belong to the moment of signing. Leasing an index or
    // waiting may have taken long, and the key may have been revoked meanwhile.
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

/// Returns the error for a client whose tokens were revoked just now.
fn just_revoked() -> OAuthError {
    OAuthErrorKind::Unavailable.because("tokens of this client were just revoked; try again")
}

/// Waits until a token may be dated. A token dated before the revocation of its group would be
/// rejected, and `iat` must not be in the future.
async fn wait_for_date(issuer: &Issuer, early: Duration, begun: Instant) -> Result<(), OAuthError> {
    // The number of waiting requests is limited.
    let _permit = issuer
        .dated_later
        .try_acquire()
        .map_err(|_| just_revoked())?;
    if begun.elapsed() + early > MAX_WAIT {
        return Err(just_revoked());
    }
    tokio::select! {
        () = sleep(early) => Ok(()),
        () = issuer.ending.cancelled() => Err(just_revoked()),
    }
}
