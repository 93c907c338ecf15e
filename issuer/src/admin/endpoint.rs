//! Endpoints below `/admin/` for administrators: clients with `admin: true`.

use std::sync::Arc;

use axum::extract::{FromRequest as _, Request, State};
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{IncidentReport, IncidentView, KeysView, ProxiesView};
use crate::bundle::{Counted, Live};
use crate::clients::Client;
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::{Caller, Form, OAuthRequest, authenticate};
use crate::issuer::Issuer;
use crate::keys::{self, Purpose};
use crate::store::{Change, StoreError};

/// Maximum length of the reason of a declared incident, in bytes.
const MAX_REASON_BYTES: usize = 1_000;

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new()
        .route("/admin/keys", get(list_keys).post(list_keys))
        .route("/admin/keys/rotate", post(rotate))
        .route("/admin/keys/revoke", post(revoke))
        .route("/admin/proxies", get(list_proxies).post(list_proxies))
        .route("/admin/proxies/forget", post(forget_proxies))
        .route("/admin/incident", get(show_incident).post(show_incident))
        .route("/admin/incident/declare", post(declare_incident))
        .route("/admin/incident/end", post(end_incident))
}

/// Authenticates the caller and returns its client, which must be an administrator.
async fn require_admin<'i>(
    issuer: &'i Arc<Issuer>,
    caller: &Caller,
    form: &Form,
) -> Result<&'i Client, OAuthError> {
    let client = authenticate(issuer, caller, form).await?;
    if client.admin {
        return Ok(client);
    }
    Err(OAuthErrorKind::Forbidden.because("this client is not an administrator (`admin: true`)"))
}

/// Authenticates an administrator that reads. A GET has no body, so it authenticates with its
/// Authorization header; a POST may also do so with its form (`private_key_jwt`).
async fn require_admin_reader(issuer: &Arc<Issuer>, request: Request) -> Result<(), OAuthError> {
    let (caller, form) = if request.method() == Method::POST {
        let OAuthRequest { caller, form } = OAuthRequest::from_request(request, issuer).await?;
        (caller, form)
    } else {
        (Caller::of(&request), Form::default())
    };
    require_admin(issuer, &caller, &form).await.map(|_| ())
}

/// Returns the workers that count. Fails with 503 if the proxies of other replicas are unknown,
/// because the caller could not tell an incomplete list from a complete one.
async fn live(issuer: &Issuer) -> Result<Live, OAuthError> {
    let live = issuer.live_proxies().await;
    if live.all_known {
        Ok(live)
    } else {
        Err(OAuthErrorKind::Unavailable
            .because("the proxies of other replicas are unknown; try again"))
    }
}

async fn list_keys(
    State(issuer): State<Arc<Issuer>>,
    request: Request,
) -> Result<Json<KeysView>, OAuthError> {
    require_admin_reader(&issuer, request).await?;
    let head = issuer.publisher.refresh().await?;
    let live = live(&issuer).await?;
    let view = KeysView::of(&issuer.publisher.current(), &live, head.rotation_requested);
    let bundle_rotation_requested = issuer.keeper.bundle_rotation_requested(&issuer).await?;
    Ok(Json(KeysView {
        bundle_rotation_requested,
        ..view
    }))
}

async fn list_proxies(
    State(issuer): State<Arc<Issuer>>,
    request: Request,
) -> Result<Json<ProxiesView>, OAuthError> {
    require_admin_reader(&issuer, request).await?;
    let live = live(&issuer).await?;
    Ok(Json(ProxiesView::of(
        issuer.publisher.current().version(),
        live,
    )))
}

/// Stops counting workers that have ended according to the operator: all of a node, or one. Rejects
/// workers that poll, because they have not ended.
async fn forget_proxies(
    State(issuer): State<Arc<Issuer>>,
    request: OAuthRequest,
) -> Result<Json<Value>, OAuthError> {
    let admin = require_admin(&issuer, &request.caller, &request.form).await?;
    let name = request.form.get("name").ok_or_else(|| {
        OAuthErrorKind::InvalidRequest
            .because("`name` is missing: give a worker or node listed by `/admin/proxies`")
    })?;
    // Find the workers that the name stands for.
    let proxies: Vec<Counted> = live(&issuer)
        .await?
        .proxies
        .into_iter()
        .filter(|Counted { record, .. }| record.worker == name || record.node == name)
        .collect();
    if proxies.is_empty() {
        return Err(
            OAuthErrorKind::InvalidRequest.because("no counted worker or node has this name")
        );
    }
    // Only unreachable workers can be forgotten.
    let gone: Vec<String> = proxies
        .iter()
        .filter(|proxy| !proxy.reachable)
        .map(|proxy| proxy.record.worker.clone())
        .collect();
    if gone.is_empty() {
        return Err(OAuthErrorKind::InvalidRequest.because(
            "the worker polls or polled recently; only unreachable workers can be forgotten",
        ));
    }
    // INVARIANT: the database comes first, so that a failed write leaves this replica unchanged.
    issuer
        .store
        .proxies_are_gone(&gone, issuer.clock.now())
        .await?;
    issuer.proxies.drop_gone(&gone);
    tracing::warn!(
        client = admin.id,
        name,
        workers = ?gone,
        "workers forgotten: receipts no longer wait for them"
    );
    Ok(Json(
        json!({ "forgotten": gone, "still_polling": proxies.len().saturating_sub(gone.len()) }),
    ))
}

/// Requests a rotation, or with `force=true` rotates at once.
async fn rotate(
    State(issuer): State<Arc<Issuer>>,
    request: OAuthRequest,
) -> Result<(StatusCode, Json<Value>), OAuthError> {
    let admin = require_admin(&issuer, &request.caller, &request.form).await?;
    let purpose = match request.form.get("purpose") {
        None => Purpose::Token,
        Some(name) => Purpose::parse(name).ok_or_else(|| {
            OAuthErrorKind::InvalidRequest.because("`purpose` must be token or bundle")
        })?,
    };
    let now = issuer.clock.now();
    // A forced rotation waits for no verifier.
    if is_forced(&request.form) {
        let version = keys::promote(&issuer, purpose).await?;
        tracing::warn!(
            client = admin.id,
            purpose = purpose.name(),
            version,
            "rotation forced"
        );
        return Ok((StatusCode::OK, Json(json!({ "version": version }))));
    }
    // Record the request in the database; the key manager of the leading replica carries it out.
    match purpose {
        Purpose::Token => issuer.store.request_rotation(now).await?,
        Purpose::Bundle => issuer.keeper.request_bundle_rotation(&issuer).await?,
    }
    issuer.keeper_wanted.notify_one();
    tracing::info!(
        client = admin.id,
        purpose = purpose.name(),
        "rotation requested"
    );
    Ok((StatusCode::ACCEPTED, Json(json!({ "requested_at": now }))))
}

fn is_forced(form: &Form) -> bool {
    form.get("force") == Some("true")
}

async fn revoke(
    State(issuer): State<Arc<Issuer>>,
    request: OAuthRequest,
) -> Result<Json<Value>, OAuthError> {
    let admin = require_admin(&issuer, &request.caller, &request.form).await?;
    let kid = request
        .form
        .get("kid")
        .ok_or_else(|| OAuthErrorKind::InvalidRequest.because("`kid` is missing"))?;
    let version = keys::revoke(&issuer, kid, is_forced(&request.form)).await?;
    tracing::warn!(client = admin.id, kid, version, "signing key revoked");
    Ok(Json(json!({ "version": version })))
}

async fn show_incident(
    State(issuer): State<Arc<Issuer>>,
    request: Request,
) -> Result<Json<IncidentView>, OAuthError> {
    require_admin_reader(&issuer, request).await?;
    // Tampered rows are part of the answer, not an error.
    let incident = match issuer.publisher.refresh().await {
        Ok(head) => head.incident,
        Err(StoreError::Tampered(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let tampered = issuer.publisher.tampered().map(|rows| String::clone(&rows));
    let incident = incident.map(|incident| IncidentReport {
        since: incident.since,
        reason: incident.reason,
    });
    Ok(Json(IncidentView { incident, tampered }))
}

async fn declare_incident(
    State(issuer): State<Arc<Issuer>>,
    request: OAuthRequest,
) -> Result<Json<Value>, OAuthError> {
    let admin = require_admin(&issuer, &request.caller, &request.form).await?;
    let reason = request
        .form
        .get("reason")
        .filter(|reason| !reason.is_empty() && reason.len() <= MAX_REASON_BYTES);
    let reason = reason.ok_or_else(|| {
        OAuthErrorKind::InvalidRequest
            .because(format!("`reason` must have 1 to {MAX_REASON_BYTES} bytes"))
    })?;
    // The lost state may have leased the same indices, so give up the own lease.
    issuer.indices.forget();
    let version = issuer
        .publisher
        .declare_incident(format!("declared by {}: {reason}", admin.id), &[])
        .await?;
    issuer.keeper_wanted.notify_one();
    Ok(Json(json!({ "version": version })))
}

async fn end_incident(
    State(issuer): State<Arc<Issuer>>,
    request: OAuthRequest,
) -> Result<Json<Value>, OAuthError> {
    let admin = require_admin(&issuer, &request.caller, &request.form).await?;
    let Some(incident) = issuer.publisher.refresh().await?.incident else {
        return Err(OAuthErrorKind::InvalidRequest.because("no incident to end"));
    };
    // End the incident. Revocations that it made stay in force.
    let version = issuer
        .publisher
        .commit(&Change {
            incident: Some(None),
            ..Change::default()
        })
        .await?;
    tracing::warn!(
        client = admin.id,
        reason = incident.reason,
        version,
        "incident ended"
    );
    Ok(Json(json!({ "version": version })))
}
