//! Meshseal's issuer: mints short-lived access tokens (RFC 9068) and pushes its keys and
//! revocations to the proxies, which confirm them.
//!
//! Each capability has a folder with its types, its pure logic and its endpoint.
//! [`issuer::Issuer`] is the state that they share. Only files named `*endpoint.rs`, `error.rs`,
//! `http/` and this file use the web framework.
//!
//! ```text
//! clients ─▶ tokens ─┐                 ┌─▶ bundle ──▶ proxies (long-poll; `have` confirms)
//!   admin ─▶ keys ───┼─▶ store (SQL) ──┤
//!            revocation                └─▶ discovery
//! ```
//!
//! Each change (a key step, a revocation) is one transaction that raises the version. Every replica
//! notices the new version and publishes it.

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

/// Returns the public endpoints, for clients, proxies and monitoring.
pub fn app(issuer: Arc<Issuer>) -> Site {
    let waits = bundle::waits(issuer.clone());
    let endpoints = Router::new()
        .merge(tokens::routes())
        .merge(tokens::introspection_routes())
        .merge(revocation::routes())
        .merge(discovery::routes());
    let path = config::issuer_path(&issuer.config.issuer);
    // A gateway may keep or strip the path of the issuer identifier, so the endpoints are at both
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
            // The hint contains the path, because RFC 8414 §3.1 puts it after the well-known part.
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

/// Returns the endpoints for operators, which have a listener of their own (I33).
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

/// Returns the endpoint for Prometheus, for the listener of `metrics.listen`.
pub fn metrics_app(issuer: Arc<Issuer>) -> Site {
    let router = telemetry::metrics_routes()
        .fallback(|| async { Problem::not_found("not found: this listener serves /metrics only") })
        .with_state(issuer);
    Site {
        router,
        waits: None,
    }
}
