//! Request parsing and client authentication for OAuth endpoints. Cheap checks come first.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use tokio::time::timeout;

use super::connection::Peer;
use super::form::{Form, FormError, MAX_BODY_BYTES};
use crate::clients::{AuthError, Authorization, Checks, Client, Credentials, Failure};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::issuer::Issuer;

/// A form and the credentials of its caller.
pub(crate) struct OAuthRequest {
    pub(crate) form: Form,
    pub(crate) caller: Caller,
}

/// Form parameters that authenticate a client.
const PROOFS: [&str; 4] = [
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
];

/// The caller of an endpoint, not authenticated yet.
pub(crate) struct Caller {
    authorization: Authorization,
    source: IpAddr,
    endpoint: &'static str,
}

impl Caller {
    /// Reads the caller from the headers and the connection of a request.
    pub(crate) fn of(request: &Request) -> Self {
        Self {
            authorization: Authorization::of(request.headers()),
            source: source_of(request),
            endpoint: endpoint(request.uri().path()),
        }
    }

    /// Counts and logs that this caller failed to authenticate.
    fn failed(&self, issuer: &Issuer, client: &str, reason: &'static str) {
        let failure = Failure {
            endpoint: self.endpoint,
            source: self.source,
            client,
            reason,
        };
        issuer.failures.note(
            failure,
            &issuer.registry,
            &issuer.metrics,
            issuer.clock.steady_ms(),
        );
    }
}

/// Returns the endpoint's name in counters and logs.
fn endpoint(path: &str) -> &'static str {
    match path {
        "/token" => "token",
        "/introspect" => "introspect",
        "/revoke" => "revoke",
        _ => "admin",
    }
}

/// Returns the source address of a request; the unspecified address if the request did not arrive
/// through this server, as in tests.
fn source_of(request: &Request) -> IpAddr {
    request
        .extensions()
        .get::<Peer>()
        .map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0)
}

/// Longest wait for a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

impl FromRequest<Arc<Issuer>> for OAuthRequest {
    type Rejection = OAuthError;

    async fn from_request(request: Request, issuer: &Arc<Issuer>) -> Result<Self, OAuthError> {
        // Credentials in a URL would end up in access logs.
        if request.uri().query().is_some() {
            return Err(invalid(
                "parameters belong in the body, not in the URL (RFC 6749, section 2.3.1)",
            ));
        }
        // Choose the parser by the media type; only `/admin/` accepts JSON.
        let caller = Caller::of(&request);
        let json = match media_type(request.headers()) {
            Some(media) if media.eq_ignore_ascii_case("application/x-www-form-urlencoded") => false,
            Some(media)
                if media.eq_ignore_ascii_case("application/json")
                    && request.uri().path().starts_with("/admin/") =>
            {
                true
            }
            None if request.uri().path().starts_with("/admin/") => false,
            _ => {
                return Err(invalid(
                    "content-type must be application/x-www-form-urlencoded",
                ));
            }
        };
        // A body that never arrives must not hold the connection forever.
        let body = timeout(BODY_WITHIN, to_bytes(request.into_body(), MAX_BODY_BYTES))
            .await
            .map_err(|_| OAuthErrorKind::Timeout.because("the body took longer than 10 seconds"))?
            .map_err(body_error)?;
        let form = if json {
            Form::from_json(&body)
        } else {
            Form::parse(&body)
        };
        let form = form.map_err(|error| {
            // A repeated credential counts as a failed authentication.
            if matches!(&error, FormError::Repeated(name) if PROOFS.contains(&name.as_str())) {
                caller.failed(issuer, "", "parameter-repeated");
            }
            // RFC 8707 §2 allows several resources, but a token is for one service.
            if error == FormError::Repeated("resource".to_owned()) {
                return OAuthErrorKind::InvalidTarget
                    .because("`resource` is given twice; request one service at a time");
            }
            invalid(&error.to_string())
        })?;
        Ok(Self { form, caller })
    }
}

fn invalid(message: &str) -> OAuthError {
    OAuthErrorKind::InvalidRequest.because(message)
}

/// Returns the OAuth error for a body that could not be read.
fn body_error(error: axum::Error) -> OAuthError {
    if std::error::Error::source(&error).is_some_and(|source| source.is::<LengthLimitError>()) {
        return OAuthErrorKind::TooLarge
            .because(format!("the body is longer than {MAX_BODY_BYTES} bytes"));
    }
    invalid("the body is truncated or malformed")
}

/// Returns the media type of a request without its parameters.
fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

/// Authenticates the caller as a client. [`crate::clients::Failures`] limits failed attempts.
pub(crate) async fn authenticate<'i>(
    issuer: &'i Arc<Issuer>,
    caller: &Caller,
    form: &Form,
) -> Result<&'i Client, OAuthError> {
    let now_ms = issuer.clock.steady_ms();
    // Find the credentials and the client id that they claim.
    let credentials = Credentials::find(&caller.authorization, form, &issuer.secrets);
    let claimed = match &credentials {
        Ok(credentials) => credentials.claimed(),
        Err(_) => form.get("client_id").map(str::to_owned),
    };
    let claimed = claimed.unwrap_or_default();
    let exceeded = issuer.failures.is_exceeded(caller.source, &claimed, now_ms);
    let refuse = |error: AuthError| {
        caller.failed(issuer, &claimed, error.reason());
        refusal(error, exceeded)
    };
    // Signatures are expensive: after too many failures, assertions wait in a queue that uses at
    // most half of the cores.
    let turn = match &credentials {
        Ok(Credentials::Assertion(_)) if exceeded => issuer.failures.turn().await,
        _ => None,
    };
    // Verify the credentials, then the client's request rate.
    let checks = Checks {
        issuer: &issuer.config.issuer,
        skew_s: issuer.config.tokens.clock_skew_s,
        now: issuer.clock.read().proof_s(),
    };
    let memory = &issuer.assertions.memory;
    let verified =
        credentials.and_then(|credentials| credentials.verify(&issuer.registry, memory, &checks));
    drop(turn);
    let (client, asserted) = verified.map_err(refuse)?;
    if !issuer.registry.admit(&client.id, now_ms) {
        return Err(OAuthErrorKind::SlowDown
            .because("this client exceeds limits.requestsPerSecond; send fewer requests"));
    }
    if let Some(asserted) = asserted {
        // INVARIANT: the use of an assertion is recorded before the client counts as authenticated.
        // During an outage of the database, fail at once instead of queueing for attempts to write.
        issuer.require_fresh()?;
        let recorded = issuer.assertions.record(issuer, asserted).await?;
        recorded.map_err(refuse)?;
    }
    Ok(client)
}

/// Returns the answer to a caller that failed to authenticate. `exceeded` means that its address
/// and client have failed too often.
fn refusal(error: AuthError, exceeded: bool) -> OAuthError {
    match error {
        AuthError::Malformed { mistake, .. } => OAuthErrorKind::InvalidRequest.because(mistake),
        AuthError::Refused(_) if exceeded => OAuthErrorKind::SlowDown
            .because("client authentication failed too often from this address; wait and retry"),
        AuthError::Refused(_) => {
            OAuthErrorKind::InvalidClient.because("client authentication failed")
        }
        AuthError::Overloaded => {
            OAuthErrorKind::Unavailable.because("too many client assertions at once; try again")
        }
        AuthError::BeforeIncident => OAuthErrorKind::Unavailable.because(
            "the issuer's database lost state a moment ago; try again with a new client assertion",
        ),
    }
}

/// Returns a document with an entity tag, or 304 if the caller already has it (RFC 9110 §13.1.2).
pub(crate) fn etagged(
    headers: &HeaderMap,
    body: Bytes,
    etag: &str,
    cache_control: &str,
) -> Response {
    // If-None-Match may be repeated, and each field may hold a list. Comparison is weak.
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let known = known
        .flat_map(|list| list.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"));
    let unchanged = { known }.any(|tag| tag == etag || tag == "*");
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        body.into_response()
    };
    let answer = response.headers_mut();
    answer.remove(header::CONTENT_TYPE);
    for (name, value) in [(header::ETAG, etag), (header::CACHE_CONTROL, cache_control)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.insert(name, value);
        }
    }
    if !unchanged {
        answer.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
    }
    response
}
