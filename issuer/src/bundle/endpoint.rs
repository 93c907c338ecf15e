//! `GET /bundle`: the long-poll. The request says what the proxy has; the answer comes the moment there is more.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::proxies::Presence;
use super::{Answer, SyncError};
use crate::clients::Failure;
use crate::error::Problem;
use crate::http::{Peer, Waits};
use crate::issuer::Issuer;

/// Longest wait in seconds: below the minute after which many intermediaries cut idle connections.
const MAX_WAIT_S: u64 = 55;

/// Longest node id in bytes.
const MAX_NODE_BYTES: usize = 128;

/// Where proxies poll.
pub(crate) const PATH: &str = "/bundle";

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route(PATH, get(bundle))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Poll {
    have: Option<u64>,
    #[serde(default)]
    wait: u64,
}

async fn bundle(
    State(issuer): State<Arc<Issuer>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    poll: Result<Query<Poll>, QueryRejection>,
) -> Result<Response, Problem> {
    if let Some(reason) = wrong_poll_token(&issuer, &headers) {
        let source = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Extension(peer)| peer.0);
        let failure = Failure { endpoint: "bundle", source, client: "", reason };
        issuer.failures.note(failure, &issuer.registry, &issuer.metrics, issuer.clock.steady_ms());
    }
    let (poll, worker) = admit(&issuer, &headers, poll)?;
    if poll.have.is_some_and(|have| have > issuer.publisher.current().version()) {
        catch_up(&issuer, poll.have.unwrap_or_default()).await?;
    }
    // Other replicas could not count a proxy that begins here, so that their receipts would be
    // wrong.
    if !issuer.publisher.is_fresh() && poll.have.is_none() {
        issuer.metrics.bundles.increment("unavailable");
        return Err(Problem::unavailable("the issuer's database does not answer; what is known may be old"));
    }
    let _present = enter(&issuer, worker, &headers, &poll);
    answer(&issuer, &poll).await
}

/// Picks the polls that wait, so that their connections need not.
pub(crate) fn waits(issuer: Arc<Issuer>) -> Waits {
    Box::new(move |request| {
        if request.uri().path() != PATH || request.method() != Method::GET {
            return None;
        }
        let (poll, worker) = admit(&issuer, request.headers(), Query::try_from_uri(request.uri())).ok()?;
        let nothing_new = poll.wait > 0 && poll.have == Some(issuer.publisher.current().version());
        if !nothing_new {
            return None;
        }
        let present = enter(&issuer, worker, request.headers(), &poll);
        let issuer = issuer.clone();
        Some(Box::pin(async move {
            let _present = present;
            answer(&issuer, &poll).await.into_response()
        }))
    })
}

/// Whether a poll may be answered, and for which worker.
fn admit(
    issuer: &Issuer,
    headers: &HeaderMap,
    poll: Result<Query<Poll>, QueryRejection>,
) -> Result<(Poll, Option<u64>), Problem> {
    if wrong_poll_token(issuer, headers).is_some() {
        return Err(Problem::unauthorized("polling needs one of the tokens in `bundle.pollTokens`"));
    }
    let Query(poll) =
        poll.map_err(|_| Problem::bad_request("the query is `have=VERSION&wait=SECONDS`, both optional"))?;
    if poll.wait > MAX_WAIT_S {
        return Err(Problem::bad_request(format!("`wait` may be at most {MAX_WAIT_S} seconds")));
    }
    Ok((poll, worker(headers)?))
}

fn enter(issuer: &Issuer, worker: Option<u64>, headers: &HeaderMap, poll: &Poll) -> Option<Presence> {
    worker.map(|worker| issuer.proxies.enter(worker, node(headers), poll.have.unwrap_or(0)))
}

async fn answer(issuer: &Issuer, poll: &Poll) -> Result<Response, Problem> {
    hold(issuer, poll.have, Duration::from_secs(poll.wait)).await.map(respond)
}

async fn catch_up(issuer: &Issuer, have: u64) -> Result<(), Problem> {
    let caught_up = issuer.publisher.catch_up(have).await;
    if caught_up == Err(SyncError::Ahead) {
        issuer.metrics.bundles.increment("ahead");
    }
    Ok(caught_up?)
}

/// Waits for a version newer than what the proxy has.
async fn hold(issuer: &Issuer, have: Option<u64>, wait: Duration) -> Result<Answer, Problem> {
    let deadline = Instant::now() + wait;
    let mut versions = issuer.publisher.versions();
    let newer = versions.wait_for(|version| Some(*version) != have);
    let came = tokio::select! {
        came = timeout_at(deadline, newer) => matches!(came, Ok(Ok(_))),
        () = issuer.ending.cancelled() => false,
    };
    let kind = match (came, have) {
        (false, _) if !issuer.publisher.is_fresh() => "stale",
        (false, _) => "heartbeat",
        (true, None) => "first",
        (true, Some(_)) => "change",
    };
    issuer.metrics.bundles.increment(kind);
    Ok(issuer.publisher.answer(have)?)
}

fn respond(answer: Answer) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/jose"), (header::CACHE_CONTROL, "no-store")];
    (headers, answer.bundle).into_response()
}

/// The reason why a poll does not carry a known token.
fn wrong_poll_token(issuer: &Issuer, headers: &HeaderMap) -> Option<&'static str> {
    let known = &issuer.config.bundle.poll_tokens;
    if known.is_empty() {
        return None;
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Some("credentials-missing") };
    let presented = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
    let Some(presented) = presented.map(|token| issuer.secrets.presented(token)) else {
        return Some("header-malformed");
    };
    let matching = known.iter().filter(|hash| hash.matches(&presented)).count();
    (matching == 0).then_some("poll-token-wrong")
}

fn worker(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("x-meshseal-worker") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let worker = text.and_then(|text| u64::from_str_radix(text, 16).ok());
    worker.map(Some).ok_or_else(|| Problem::bad_request("`x-meshseal-worker` must be 16 hexadecimal digits"))
}

fn node(headers: &HeaderMap) -> &str {
    let text = headers.get("x-meshseal-node").and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.get(..MAX_NODE_BYTES).unwrap_or(text)
}
