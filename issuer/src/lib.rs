//! Meshseal's issuer: mints short-lived access tokens (RFC 9068) and pushes its keys and
//! revocations to the proxies, which confirm them.
//!
//! One folder a capability, each with its types, its pure logic and its endpoint; what they share
//! is [`issuer::Issuer`]. Only files named `*endpoint.rs`, `error.rs`, `http/` and this one know
//! the web framework.
//!
//! ```text
//! clients ─▶ tokens ─┐                 ┌─▶ bundle ──▶ proxies (long-poll; `have` is the confirmation)
//!   admin ─▶ keys ───┼─▶ store (SQL) ──┤
//!            revocation                └─▶ discovery
//! ```
//! A change (a key's step, a revocation) is one transaction that raises the version; every replica
//! notices and publishes it.

pub mod admin;
pub mod background;
pub mod bundle;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod error;
mod group;
pub mod http;
pub mod issuer;
pub mod keys;
pub mod revocation;
pub mod store;
pub mod telemetry;
pub mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;

use crate::error::Problem;
use crate::http::Site;
use crate::issuer::Issuer;

/// What an issuer serves to everybody: clients, proxies, and whoever watches it.
pub fn app(issuer: Arc<Issuer>) -> Site {
    let waits = bundle::waits(issuer.clone());
    let endpoints = Router::new()
        .merge(tokens::routes())
        .merge(tokens::introspection_routes())
        .merge(revocation::routes())
        .merge(discovery::routes());
    let path = config::issuer_path(&issuer.config.issuer);
    // A gateway may keep the path of the issuer identifier, or strip it: the endpoints are at both
    // places.
    let router = if path.is_empty() {
        endpoints
    } else {
        endpoints.clone().nest(path, endpoints)
    };
    let router = router
        .merge(discovery::well_known_routes(path))
        .merge(bundle::routes())
        .merge(telemetry::routes())
        .fallback(|State(issuer): State<Arc<Issuer>>| async move {
            let path = config::issuer_path(&issuer.config.issuer);
            Problem::not_found(format!(
                "no such endpoint; see /.well-known/oauth-authorization-server{path}"
            ))
        })
        .with_state(issuer);
    Site {
        router,
        waits: Some(waits),
    }
}

/// What it serves to operators, on a listener of its own (I33).
pub fn admin_app(issuer: Arc<Issuer>) -> Site {
    let router = admin::routes()
        .merge(telemetry::metrics_routes())
        .fallback(|| async {
            Problem::not_found("not found: this listener serves /admin/* and /metrics only")
        })
        .with_state(issuer);
    Site {
        router,
        waits: None,
    }
}

/// Serves counters to Prometheus, on the listener of `metrics.listen`.
pub fn metrics_app(issuer: Arc<Issuer>) -> Site {
    let router = telemetry::metrics_routes()
        .fallback(|| async { Problem::not_found("not found: this listener serves /metrics only") })
        .with_state(issuer);
    Site {
        router,
        waits: None,
    }
}
