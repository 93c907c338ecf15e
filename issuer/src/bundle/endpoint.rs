//! `GET /bundle`: the long poll. The request states the version that the proxy holds. The answer
//! comes as soon as a newer version is published, or when the waiting time ends.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use tokio::time::{Instant, timeout_at};

use super::poll::{Parameters, Poll};
use super::proxies::{Contact, Presence};
use super::{Answer, Base, Publisher, SyncError, Validity};
use crate::clients::{Authorization, Failure, credentials_of};
use crate::error::Problem;
use crate::http::{Peer, Waits};
use crate::issuer::Issuer;
use crate::store::StoreError;

/// Time for this replica to load a version that another replica has published, if a proxy states
/// that version without proof.
const AHEAD_PATIENCE: Duration = Duration::from_millis(300);

/// Path of the poll endpoint.
pub(crate) const PATH: &str = "/bundle";

pub(crate) fn routes() -> Router<Arc<Issuer>> {
    Router::new().route(PATH, get(bundle))
}

async fn bundle(
    State(issuer): State<Arc<Issuer>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, Problem> {
    // Record a failed authentication; `admit` rejects the request below.
    if let Some(reason) = wrong_poll_token(&issuer, &headers) {
        let source = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Extension(peer)| peer.0);
        let failure = Failure {
            endpoint: "bundle",
            source,
            client: "",
            reason,
        };
        issuer.failures.note(
            failure,
            &issuer.registry,
            &issuer.metrics,
            issuer.clock.steady_ms(),
        );
    }
    let poll = admit(&issuer, &headers, query)?;
    // Account for a version that this replica does not know.
    if let Some(have) = poll
        .have
        .filter(|have| is_unknown(&issuer.publisher, *have, poll.proven))
    {
        catch_up(&issuer, have, poll.proven).await?;
    }
    // While the database is unavailable, a proxy that starts here cannot be recorded. Other
    // replicas would not count it, and their receipts would be wrong.
    let begins = poll.held(issuer.publisher.current().version()).is_none();
    if begins && !issuer.publisher.can_answer() {
        issuer.metrics.bundles.increment("unavailable");
        return Err(Problem::unavailable(
            "the issuer's database does not answer, so its state may be outdated; poll again",
        ));
    }
    let present = enter(&issuer, &poll);
    answer(&issuer, &poll, present.as_ref()).await
}

/// Returns the function that recognises polls which have to wait. The server takes the connections
/// of such polls out of hyper, which holds 16 KB of buffers for each connection.
pub(crate) fn waits(issuer: Arc<Issuer>) -> Waits {
    Box::new(move |request| {
        if request.uri().path() != PATH || request.method() != Method::GET {
            return None;
        }
        let poll = admit(
            &issuer,
            request.headers(),
            Query::try_from_uri(request.uri()),
        )
        .ok()?;
        let published = issuer.publisher.current().version();
        // All other polls are answered at once, by the router.
        let nothing_new = poll.wait_s > 0 && poll.held(published) == Some(published);
        if !nothing_new {
            return None;
        }
        let present = enter(&issuer, &poll);
        let issuer = issuer.clone();
        Some(Box::pin(async move {
            answer(&issuer, &poll, present.as_ref())
                .await
                .into_response()
        }))
    })
}

/// Authenticates a poll and reads its parameters.
fn admit(
    issuer: &Issuer,
    headers: &HeaderMap,
    query: Result<Query<Parameters>, QueryRejection>,
) -> Result<Poll, Problem> {
    if wrong_poll_token(issuer, headers).is_some() {
        return Err(Problem::unauthorized(
            "polling requires one of the tokens in `bundle.pollTokens`",
        ));
    }
    Poll::read(&issuer.publisher, headers, query)
}

fn enter(issuer: &Issuer, poll: &Poll) -> Option<Presence> {
    let worker = poll.worker.as_ref()?;
    let version = poll.held(issuer.publisher.current().version()).unwrap_or(0);
    Some(issuer.proxies.enter(&Contact {
        worker: worker.id,
        node: &worker.node,
        version,
        proven: poll.proven,
        protocol: poll.protocol,
        staleness: worker.staleness,
        pins: &worker.pins,
    }))
}

/// Waits for a newer version and answers the poll.
///
/// A worker is recorded before it is given a bundle. A replica that has just recorded a worker
/// refreshes its state before it answers. Both together ensure that no receipt is complete while a
/// worker that the receipt does not count is given an older version.
async fn answer(
    issuer: &Issuer,
    poll: &Poll,
    present: Option<&Presence>,
) -> Result<Response, Problem> {
    let held = poll.held(issuer.publisher.current().version());
    record(issuer, present, issuer.publisher.validity()).await?;
    let kind = hold(issuer, held, Duration::from_secs(poll.wait_s)).await?;
    let base = Base {
        version: held,
        protocol: poll.protocol,
    };
    let mut answer = issuer.publisher.answer(base)?;
    // The record reaches a minute ahead and is renewed during the wait, unless the database was
    // unavailable. After a new record the state was refreshed, so the bundle is made again.
    if record(issuer, present, answer.validity).await? {
        answer = issuer.publisher.answer(base)?;
    }
    if let Some(present) = present {
        present.gave(answer.validity);
    }
    issuer.metrics.bundles.increment(kind);
    Ok(respond(answer))
}

/// Ensures that the worker is recorded for a bundle with these times. Returns whether the record is
/// new; then the state was refreshed, too.
async fn record(
    issuer: &Issuer,
    present: Option<&Presence>,
    validity: Validity,
) -> Result<bool, SyncError> {
    let Some(present) = present else {
        return Ok(false);
    };
    let is_new = issuer
        .proxies
        .record(present.worker(), validity, &*issuer.store)
        .await?;
    if is_new {
        match issuer.publisher.refresh().await {
            // While rows are tampered with, the last confirmed state is given out, with an issue
            // time that stands still.
            Ok(_) | Err(StoreError::Tampered(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(is_new)
}

/// Returns whether a version must be accounted for. A version that the database lost may be lower
/// than the versions published since. Only a proof distinguishes it from a version that was never
/// published.
fn is_unknown(publisher: &Publisher, have: u64, proven: bool) -> bool {
    if proven {
        !publisher.accounts_for(have)
    } else {
        have > publisher.current().version()
    }
}

/// Accounts for a stated version that this replica does not know. A proof shows that an issuer with
/// the same master key published the version. The database is then queried, and has lost state if
/// it does not know the version. Without proof this only waits for a moment, since any caller can
/// state any version.
async fn catch_up(issuer: &Issuer, have: u64, proven: bool) -> Result<(), Problem> {
    let caught_up = if proven {
        let declared = issuer.publisher.catch_up(have).await;
        if declared == Ok(true) {
            // The incident made leased indices unsafe and retired the signing keys.
            issuer.indices.forget();
            issuer.keeper_wanted.notify_one();
        }
        declared.map(|_| ())
    } else {
        let mut versions = issuer.publisher.versions();
        let follows = versions.wait_for(|version| *version >= have);
        timeout_at(Instant::now() + AHEAD_PATIENCE, follows)
            .await
            .map(|_| ())
            .map_err(|_| SyncError::Ahead)
    };
    if caught_up == Err(SyncError::Ahead) {
        issuer.metrics.bundles.increment("ahead");
    }
    Ok(caught_up?)
}

/// Waits for a version other than the one that the proxy holds. Returns the kind of the answer, a
/// label of the metric.
async fn hold(issuer: &Issuer, have: Option<u64>, wait: Duration) -> Result<&'static str, Problem> {
    let deadline = Instant::now() + wait;
    let mut versions = issuer.publisher.versions();
    let waited = Some(*versions.borrow()) == have;
    let newer = versions.wait_for(|version| Some(*version) != have);
    // On shutdown every poll is answered at once.
    let came = tokio::select! {
        came = timeout_at(deadline, newer) => matches!(came, Ok(Ok(_))),
        () = issuer.ending.cancelled() => false,
    };
    // Answers to woken polls are spread over time. Polls that did not wait are not delayed.
    if came && waited {
        issuer.publisher.stagger().await;
    }
    Ok(match (came, have) {
        (false, _) if !issuer.publisher.is_fresh() => "stale",
        (false, _) => "heartbeat",
        (true, None) => "first",
        (true, Some(_)) => "change",
    })
}

fn respond(answer: Answer) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/jose"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, answer.bundle).into_response()
}

/// Returns the reason why a poll carries no known poll token; `None` if it carries one, or if no
/// poll tokens are configured.
fn wrong_poll_token(issuer: &Issuer, headers: &HeaderMap) -> Option<&'static str> {
    let known = &issuer.config.bundle.poll_tokens;
    if known.is_empty() {
        return None;
    }
    let value = match Authorization::of(headers) {
        Authorization::Absent => return Some("credentials-missing"),
        Authorization::Repeated => return Some("header-repeated"),
        Authorization::Value(value) => value,
    };
    let Some(token) = credentials_of(&value, "Bearer") else {
        return Some("header-malformed");
    };
    let presented = issuer.secrets.presented(token);
    // Every hash is compared, so that the response time does not tell which one matches.
    let matching = known.iter().filter(|hash| hash.matches(&presented)).count();
    (matching == 0).then_some("poll-token-wrong")
}
