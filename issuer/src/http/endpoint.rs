//! What OAuth endpoints take from a request, and the order in which a caller is made to prove itself: cheap checks first.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::time::timeout;

use super::connection::Peer;
use super::form::{Form, MAX_BODY_BYTES};
use crate::clients::{AuthError, Checks, Client, Credentials};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::issuer::Issuer;

/// A form, and what the caller proves itself with.
pub(crate) struct OAuthRequest {
    pub(crate) form: Form,
    pub(crate) caller: Caller,
}

/// Who calls, before anything is proven.
pub(crate) struct Caller {
    authorization: Option<String>,
    source: IpAddr,
}

impl Caller {
    /// From the headers and the connection.
    pub(crate) fn of(headers: &HeaderMap, source: IpAddr) -> Result<Self, OAuthError> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let authorization = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(value), None) => match value.to_str() {
                Ok(value) => Some(value.to_owned()),
                Err(_) => {
                    return Err(OAuthErrorKind::InvalidClient { basic: true }.because("client authentication failed"));
                }
            },
            (Some(_), Some(_)) => {
                return Err(OAuthErrorKind::InvalidRequest.because("more than one Authorization header"));
            }
        };
        Ok(Self { authorization, source })
    }
}

/// Where a request comes from; unspecified when it did not come over our own server.
pub(crate) fn source_of(request: &Request) -> IpAddr {
    request.extensions().get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0)
}

/// Longest wait for a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(10);

impl<S: Sync> FromRequest<S> for OAuthRequest {
    type Rejection = OAuthError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, OAuthError> {
        let invalid = |message: &str| OAuthErrorKind::InvalidRequest.because(message);
        if request.uri().query().is_some() {
            return Err(invalid("parameters belong in the body, not in the URL (RFC 6749 §2.3.1)"));
        }
        let caller = Caller::of(request.headers(), source_of(&request))?;
        let json = match media_type(request.headers()) {
            Some("application/x-www-form-urlencoded") => false,
            Some("application/json") if request.uri().path().starts_with("/admin/") => true,
            None if request.uri().path().starts_with("/admin/") => false,
            _ => return Err(invalid("content-type must be application/x-www-form-urlencoded")),
        };
        let too_large = |_| OAuthErrorKind::TooLarge.because(format!("the body is longer than {MAX_BODY_BYTES} bytes"));
        // A body that never comes must not hold a connection for ever.
        let body = timeout(BODY_WITHIN, to_bytes(request.into_body(), MAX_BODY_BYTES)).await;
        let body = body.map_err(|_| invalid("the body took longer than 10 seconds"))?.map_err(too_large)?;
        let form = if json { Form::from_json(&body) } else { Form::parse(&body) };
        Ok(Self { form: form.map_err(|error| invalid(&error.to_string()))?, caller })
    }
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim())
}

/// Makes a caller prove that it is a client (I32: what is cheap comes first).
pub(crate) fn authenticate<'i>(
    issuer: &'i Arc<Issuer>,
    caller: &Caller,
    form: &Form,
) -> Result<&'i Client, OAuthError> {
    let now_ms = issuer.clock.steady_ms();
    let credentials = Credentials::find(caller.authorization.as_deref(), form);
    let claimed = credentials.as_ref().ok().and_then(Credentials::claimed).unwrap_or_default();
    let source = (caller.source, claimed.as_str());
    if issuer.failures.is_blocked(source, now_ms) {
        return Err(OAuthErrorKind::SlowDown.because("too many failed authentications from this address"));
    }
    let checks =
        Checks { issuer: &issuer.config.issuer, skew_s: issuer.config.tokens.clock_skew_s, now: issuer.clock.now() };
    let verified = credentials.and_then(|credentials| credentials.verify(&issuer.registry, &issuer.replays, &checks));
    let client = verified.map_err(|error| match error {
        AuthError::Malformed(reason) => OAuthErrorKind::InvalidRequest.because(reason),
        AuthError::Refused { basic } => {
            issuer.failures.failed(source, now_ms);
            OAuthErrorKind::InvalidClient { basic }.because("client authentication failed")
        }
        AuthError::Overloaded => OAuthErrorKind::Unavailable.because("too many client assertions at a time; try again"),
    })?;
    if issuer.registry.admit(&client.id, now_ms) {
        return Ok(client);
    }
    Err(OAuthErrorKind::SlowDown.because("this client makes more requests than it may in a second"))
}

/// A document with an entity tag: 304 when the caller has it (RFC 9110 §13.1.2).
pub(crate) fn etagged(headers: &HeaderMap, body: Bytes, etag: &str, cache_control: &str) -> Response {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let known = known.flat_map(|list| list.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    let unchanged = { known }.any(|tag| tag == etag || tag == "*");
    let mut response = if unchanged { StatusCode::NOT_MODIFIED.into_response() } else { body.into_response() };
    let answer = response.headers_mut();
    answer.remove(header::CONTENT_TYPE);
    for (name, value) in [(header::ETAG, etag), (header::CACHE_CONTROL, cache_control)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.insert(name, value);
        }
    }
    if !unchanged {
        answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}
