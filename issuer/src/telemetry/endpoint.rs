//! `GET /healthz`, `/readyz`; `GET /metrics` elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::metrics::Gauges;
use crate::error::Problem;
use crate::issuer::Issuer;

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz))
}

/// Served to operators and, with `metrics.listen`, on a listener of its own: never where clients are served.
pub(crate) fn metrics_routes() -> Router<Arc<Issuer>> {
    Router::new().route("/metrics", get(metrics))
}

/// The process runs and answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// It can mint, and knows what is revoked.
async fn readyz(State(issuer): State<Arc<Issuer>>) -> Result<&'static str, Problem> {
    let published = issuer.publisher.current();
    if published.token_signer.is_none() || published.bundle_signer.is_none() {
        return Err(Problem::unavailable("a signing key cannot be used; see the log"));
    }
    if !issuer.publisher.is_fresh() {
        return Err(Problem::unavailable("the database does not answer"));
    }
    if !issuer.clock.read().is_sound() {
        return Err(Problem::unavailable("the clock went back; if it is right now, restart the issuer"));
    }
    if issuer.ending.is_cancelled() { Err(Problem::unavailable("shutting down")) } else { Ok("ready\n") }
}

async fn metrics(State(issuer): State<Arc<Issuer>>) -> impl IntoResponse {
    let published = issuer.publisher.current();
    let live = issuer.live_proxies().await;
    let trust = published.trust(&issuer.config.issuer);
    let gauges = Gauges {
        version: published.version(),
        keys: trust.map_or(0, |trust| trust.keys.len()),
        revoked: trust.map_or(0, |trust| trust.revoked.len()),
        proxies: live.proxies.len(),
        proxies_current: live.holding(published.version()),
        polls_waiting: issuer.proxies.waiting(),
        proxies_all_counted: live.all_known && !issuer.proxies.too_many(),
        fresh: issuer.publisher.is_fresh(),
        clock_behind_s: issuer.clock.read().behind_ms.div_ceil(1_000),
        database: issuer.store.health(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], issuer.metrics.render(&gauges))
}
