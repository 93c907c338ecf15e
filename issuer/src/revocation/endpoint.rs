//! `POST /revoke`: token revocation (RFC 7009), and revocation by `jti`, key or group for
//! administrators.

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
use super::{EpochKind, Receipt, RevokeRequest, RevokedToken, Revoker, Target};
use crate::clients::Client;
use crate::config::MAX_TOKEN_LIFE_S;
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::{OAuthRequest, authenticate};
use crate::issuer::Issuer;
use crate::keys::{self, KeyState, Purpose};
use crate::store::{Change, StoreError};
use crate::tokens::{MAX_BLOCK_AGE_MS, index_floor, signed_by_us};

/// Longest time in milliseconds by which a clock may have been behind when it set the floor of a
/// lease.
const CLOCK_SPREAD_MS: u64 = 60_000;

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route("/revoke", post(revoke))
}

async fn revoke(
    State(issuer): State<Arc<Issuer>>,
    request: OAuthRequest,
) -> Result<Response, OAuthError> {
    let caller = authenticate(&issuer, &request.caller, &request.form).await?;
    // Read the request. A replica whose clock is ahead may have dated tokens later than this one.
    let latest_issue = issuer.clock.read().latest_issue_ms() / 1_000;
    let asked = RevokeRequest::read(&request.form, latest_issue)?;
    let done = carry_out(&issuer, caller, asked.target).await?;
    let Some(version) = done.version else {
        // Nothing was revoked, and RFC 7009 §2.2 requires 200. Only administrators learn the
        // reason.
        tracing::info!(
            client = caller.id,
            kind = done.kind,
            reason = done.reason,
            "nothing revoked"
        );
        let reason = done.reason.filter(|_| caller.admin);
        let hint = done.hint.filter(|_| caller.admin);
        let mut answer = json!({ "revoked": false, "kind": done.kind, "reason": reason });
        if let (Some(members), Some(hint)) = (answer.as_object_mut(), hint) {
            members.insert("hint".to_owned(), json!(hint));
        }
        return Ok(no_store(Json(answer)));
    };
    // The revocation is published: wait for the proxies, if requested, and answer.
    issuer.metrics.revocations.increment();
    tracing::info!(
        client = caller.id,
        version,
        kind = done.kind,
        name = done.name,
        jti = done.jti,
        "revoked"
    );
    let mut answer = match asked.wait_s {
        Some(wait_s) => {
            let receipt = Receipt::wait(&issuer, version, Duration::from_secs(wait_s)).await;
            json!(if caller.admin {
                receipt
            } else {
                receipt.without_names()
            })
        }
        None => json!({ "version": version }),
    };
    if let Some(members) = answer.as_object_mut() {
        members.insert("revoked".to_owned(), json!(true));
        members.insert("kind".to_owned(), json!(done.kind));
        members.extend(done.name.map(|name| ("name".to_owned(), json!(name))));
        members.extend(done.jti.map(|jti| ("jti".to_owned(), json!(jti))));
        members.extend(done.known.map(|known| ("known".to_owned(), json!(known))));
        members.extend(done.hint.map(|hint| ("hint".to_owned(), json!(hint))));
    }
    Ok(no_store(Json(answer)))
}

fn no_store(body: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// Outcome of a request.
#[derive(Default)]
struct Done {
    /// Version that carries the revocation; `None` if nothing was revoked.
    version: Option<u64>,
    kind: &'static str,
    name: Option<String>,
    /// The `jti` whose index is revoked. After a request by `jti` alone, it does not imply that a
    /// token with this `jti` was issued: no list of issued or leased indices is kept.
    jti: Option<String>,
    /// Reason why nothing was revoked.
    reason: Option<&'static str>,
    /// True if this issuer issues tokens of the named group; `None` if no group is named.
    known: Option<bool>,
    /// Advice for the operator if a request has, or may have, no effect.
    hint: Option<&'static str>,
}

impl Done {
    /// Creates the outcome of a request that revoked nothing.
    fn nothing(kind: &'static str, reason: &'static str) -> Self {
        Self {
            kind,
            reason: Some(reason),
            ..Self::default()
        }
    }

    fn advising(self, hint: &'static str) -> Self {
        Self {
            hint: Some(hint),
            ..self
        }
    }
}

/// Authorizes and performs a revocation.
async fn carry_out(issuer: &Issuer, caller: &Client, target: Target) -> Result<Done, OAuthError> {
    match target {
        // Any client may revoke its own tokens; `revoke_token` checks that.
        Target::Token(token) => revoke_token(issuer, caller, &token).await,
        _ if !caller.admin => Err(OAuthErrorKind::Forbidden.because(
            "only a client with `admin: true` may revoke by jti, key or group; send the token \
             itself",
        )),
        Target::Jti(jti) => revoke_jti(issuer, caller, jti).await,
        Target::Key(kid) => revoke_key(issuer, kid).await,
        Target::Group { kind, name, before } => revoke_group(issuer, kind, name, before).await,
    }
}

/// Revokes the tokens of a group that were issued before a time.
async fn revoke_group(
    issuer: &Issuer,
    kind: EpochKind,
    name: String,
    before: u64,
) -> Result<Done, OAuthError> {
    // An epoch that has expired would be deleted at once, so it is not committed.
    let record = epoch(kind, name.clone(), before);
    let (certain, _) = certain_time(issuer).await?;
    if record.expires_at <= certain {
        return Ok(Done::nothing(kind.name(), "tokens-expired").advising(
            "every token issued before `issued_before` has expired; give a later time, or omit it \
             to revoke all tokens issued so far",
        ));
    }
    let version = issuer
        .publisher
        .commit(&Change {
            epochs: vec![record],
            ..Change::default()
        })
        .await?;
    // The answer tells whether tokens of this group can exist.
    let hint = unknown_group(issuer, kind, &name);
    let known = (kind != EpochKind::All).then_some(hint.is_none());
    let name = Some(name).filter(|name| !name.is_empty());
    Ok(Done {
        version: Some(version),
        kind: kind.name(),
        name,
        known,
        hint,
        ..Done::default()
    })
}

/// Returns the reason why a group may have no tokens. The group is revoked nevertheless, because
/// its client may have been removed from the configuration lately.
fn unknown_group(issuer: &Issuer, kind: EpochKind, name: &str) -> Option<&'static str> {
    match kind {
        EpochKind::All | EpochKind::Kid => None,
        // With client credentials the client is the subject of its tokens.
        EpochKind::Client | EpochKind::Subject if issuer.registry.get(name).is_some() => None,
        EpochKind::Client | EpochKind::Subject => Some(
            "no configured client has this clientId; is it misspelt, or was it removed from the \
             configuration?",
        ),
        EpochKind::Session => {
            Some("this issuer issues no tokens with a session (`sid`); revoke by client or jti")
        }
        EpochKind::Grant => {
            Some("this issuer issues no tokens with a grant (`grant_id`); revoke by client or jti")
        }
    }
}

/// Returns the certain time (Unix seconds), and whether it lags by an hour or more. A clock that is
/// ahead must not make valid tokens count as expired (ADR 20).
async fn certain_time(issuer: &Issuer) -> Result<(u64, bool), StoreError> {
    let mark = keys::stored_mark(&*issuer.store, &*issuer.clock, issuer.master()).await?;
    Ok((
        issuer.clock.now().min(mark.certain_ms() / 1_000),
        mark.lag_ms >= MAX_BLOCK_AGE_MS,
    ))
}

/// Revokes one token.
async fn commit_token(
    issuer: &Issuer,
    caller: &Client,
    token: RevokedToken,
    jti: &str,
) -> Result<Done, OAuthError> {
    // The quota keeps one client from using up the revocations that proxies can take.
    let most = (!caller.admin).then_some(issuer.config.limits.revoked_tokens_per_client);
    let revoker = Revoker {
        client: caller.id.clone(),
        most,
    };
    let change = Change {
        revoke: vec![token],
        revoker,
        ..Change::default()
    };
    let version = issuer.publisher.commit(&change).await?;
    Ok(Done {
        version: Some(version),
        kind: "token",
        jti: Some(jti.to_owned()),
        ..Done::default()
    })
}

/// Revokes a token that the request contains.
///
/// Another replica may have generated the key of an unrecognised token just now. So the newest keys
/// are loaded before a token counts as unknown, and a failure to load them is an error.
async fn revoke_token(issuer: &Issuer, caller: &Client, token: &str) -> Result<Done, OAuthError> {
    let recognise = || {
        let published = issuer.publisher.current();
        signed_by_us(&issuer.config, &published, token, issuer.clock.now())
    };
    let mut recognised = recognise();
    if recognised.is_err() {
        issuer.publisher.look_again().await?;
        recognised = recognise();
    }
    let verified = match recognised {
        Ok(verified) => verified,
        Err(rejection) => return Ok(Done::nothing("token", rejection.code())),
    };
    // The token is genuine: only its client, or an administrator, may revoke it (RFC 7009 §2.1).
    let claims = verified.claims();
    if !caller.admin && claims.client_id() != Some(&caller.id) {
        return Err(
            OAuthErrorKind::UnauthorizedClient.because("the token was issued to another client")
        );
    }
    let (Some(jti), Some(expires_at)) = (claims.jti(), claims.expires_at()) else {
        return Ok(Done::nothing("token", "claim-missing"));
    };
    let Some(index) = index_of(jti) else {
        return Ok(Done::nothing("token", "jti-without-index"));
    };
    // A proxy may accept the token past its expiry, by up to the largest clock skew.
    let expires_at = expires_at.saturating_add(MAX_CLOCK_SKEW_S);
    commit_token(issuer, caller, RevokedToken { index, expires_at }, jti).await
}

/// Revokes a token by its `jti`. Its expiry is unknown, so the revocation is kept for the longest
/// lifetime of any token.
async fn revoke_jti(issuer: &Issuer, caller: &Client, jti: String) -> Result<Done, OAuthError> {
    let Some(index) = index_of(&jti) else {
        return Ok(Done::nothing("token", "jti-without-index"));
    };
    // Revoking an index that was never leased would revoke a future token of any client.
    let unused = issuer
        .store
        .lease_indices(1, 0)
        .await?
        .start
        .max(issuer.indices.highest());
    if index >= unused {
        return Ok(Done::nothing("token", "jti-unknown")
            .advising("no token has this jti yet; is it misspelt?"));
    }
    let (certain, lags) = certain_time(issuer).await?;
    let oldest_ms = certain
        .saturating_sub(MAX_TOKEN_LIFE_S)
        .saturating_mul(1_000);
    // An index below the floor of the oldest valid token belongs to an expired token. Releases
    // before the limit on the age of blocks used a block for as long as they ran, so their indices
    // may be older. Certain time lags for a day after an upgrade, and the check is skipped then.
    if !lags && index < index_floor(oldest_ms.saturating_sub(MAX_BLOCK_AGE_MS + CLOCK_SPREAD_MS)) {
        return Ok(Done::nothing("token", "jti-expired").advising(
            "no valid token is as old as this jti; is it misspelt, or of another issuer?",
        ));
    }
    let expires_at = issuer.clock.now().saturating_add(MAX_TOKEN_LIFE_S);
    commit_token(issuer, caller, RevokedToken { index, expires_at }, &jti).await
}

/// Revokes a token key, and with it all tokens that it signed.
async fn revoke_key(issuer: &Issuer, kid: String) -> Result<Done, OAuthError> {
    issuer.publisher.refresh().await?;
    let published = issuer.publisher.current();
    let is_revoked = published
        .trust(&issuer.config.issuer)
        .is_some_and(|trust| trust.epochs.revokes_key(&kid));
    match published
        .keys
        .iter()
        .find(|key| key.kid == kid)
        .map(|key| (key.purpose, key.state))
    {
        None => {
            return Ok(Done::nothing("key", "key-unknown")
                .advising("see the key ids in `meshseal keys list`"));
        }
        // Revoking a bundle key changes the keys that proxies must pin. The admin listener has a
        // separate operation for that.
        Some((Purpose::Bundle, _)) => {
            return Ok(
                Done::nothing("key", "key-signs-no-tokens").advising("use `meshseal keys revoke`")
            );
        }
        Some((Purpose::Token, KeyState::Retired)) if !is_revoked => {
            return Ok(Done::nothing("key", "key-retired")
                .advising("every token that this key signed has expired"));
        }
        Some((Purpose::Token, _)) => {}
    }
    let version = keys::revoke(issuer, &kid, false).await?;
    Ok(Done {
        version: Some(version),
        kind: "key",
        name: Some(kid),
        ..Done::default()
    })
}
