//! `GET /healthz` and `GET /readyz` for clients; `GET /metrics` for operators.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::metrics::Gauges;
use super::readiness::{Capability, Readiness};
use crate::error::Problem;
use crate::issuer::Issuer;

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/readyz/{capability}", get(readyz_of))
}

/// Returns the route of `/metrics`, for `admin.listen` and `metrics.listen`. It is never served on
/// `listen`, where clients connect.
pub(crate) fn metrics_routes() -> Router<Arc<Issuer>> {
    Router::new().route("/metrics", get(metrics))
}

/// Liveness: answers while the process can serve requests.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Readiness of all capabilities: 503 while any of them is unavailable.
async fn readyz(State(issuer): State<Arc<Issuer>>) -> Response {
    answer(&Readiness::of(&issuer, &Capability::ALL))
}

/// Readiness of one capability, for probes that need no other.
async fn readyz_of(State(issuer): State<Arc<Issuer>>, Path(name): Path<String>) -> Response {
    match Capability::parse(&name) {
        Some(capability) => answer(&Readiness::of(&issuer, &[capability])),
        None => Problem::not_found("capabilities are keys, bundle, mint, introspect and revoke")
            .into_response(),
    }
}

/// Returns 200, or 503 as a problem document (RFC 9457), with the state of each capability.
fn answer(readiness: &Readiness) -> Response {
    let (detail, no_store) = (&readiness.detail, (header::CACHE_CONTROL, "no-store"));
    let incident = &readiness.incident;
    let Some(problem) = &readiness.problem else {
        let body = json!({ "status": "ready", "capabilities": detail, "incident": incident });
        return ([no_store], Json(body)).into_response();
    };
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let body = json!({
        "type": "about:blank",
        "title": "Unavailable",
        "status": status.as_u16(),
        "detail": problem,
        "capabilities": detail,
        "incident": incident,
    });
    // Probes and load balancers retry soon.
    let headers = [
        no_store,
        (header::CONTENT_TYPE, "application/problem+json"),
        (header::RETRY_AFTER, "1"),
    ];
    (status, headers, body.to_string()).into_response()
}

/// Metrics in the text format of Prometheus. Gauges are read now, counters when they change.
async fn metrics(State(issuer): State<Arc<Issuer>>) -> impl IntoResponse {
    // Take one consistent snapshot of the published state.
    let published = issuer.publisher.current();
    let live = issuer.live_proxies().await;
    let trust = published.trust(&issuer.config.issuer);
    let time = issuer.clock.read();
    let gauges = Gauges {
        version: published.version(),
        keys: trust.map_or(0, |trust| trust.keys.len()),
        revoked: trust.map_or(0, |trust| trust.revoked.len()),
        proxies: live.proxies.len(),
        proxies_current: live.holding(published.version()),
        polls_waiting: issuer.proxies.waiting(),
        proxies_all_counted: live.all_known && !issuer.proxies.too_many(),
        fresh: issuer.publisher.is_fresh(),
        incident: issuer.publisher.incident().is_some(),
        tampered: issuer.publisher.tampered().is_some(),
        clock_behind_s: time.behind_ms.div_ceil(1_000),
        clock_ahead_s: time.ahead_ms.div_ceil(1_000),
        clock_disagreement_s: time.disagreement_ms().div_ceil(1_000),
        kept_longer_s: issuer.keeper.kept_longer_s(),
        database: issuer.store.health(),
    };
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        issuer.metrics.render(&gauges),
    )
}
