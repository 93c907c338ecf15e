//! Error responses: RFC 6749 §5.2 for OAuth endpoints, RFC 9457 for all others. Only this file
//! turns errors into HTTP responses.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::bundle::SyncError;
use crate::keys::{RevokeError, SignerError};
use crate::revocation::Full;
use crate::store::StoreError;

/// Error response of an OAuth endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OAuthError {
    /// Kind of the error.
    pub kind: OAuthErrorKind,
    /// Description for developers: the parameter and the remedy. It never contains a secret.
    pub description: String,
}

/// Kinds of OAuth errors, each with an `error` code and a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OAuthErrorKind {
    /// RFC 6749 §5.2.
    InvalidRequest,
    /// The body is too large.
    TooLarge,
    /// RFC 6749 §5.2: 401, with a challenge (RFC 9110 §15.5.2).
    InvalidClient,
    /// RFC 6749 §5.2.
    UnauthorizedClient,
    /// RFC 6749 §5.2.
    UnsupportedGrantType,
    /// RFC 6749 §5.2.
    InvalidScope,
    /// RFC 8707 §2.
    InvalidTarget,
    /// RFC 6749 §4.1.2.1.
    UnsupportedResponseType,
    /// RFC 7009 §2.2.1.
    UnsupportedTokenType,
    /// RFC 9110 §15.5.9: the body did not arrive in time. The connection is closed.
    Timeout,
    /// RFC 6750 §3.1: an administrative request without the right to it.
    Forbidden,
    /// Too many requests from one peer.
    SlowDown,
    /// The database or a key is unavailable.
    Unavailable,
}

/// Returns the `error` code and the status.
impl OAuthErrorKind {
    const fn code(self) -> (&'static str, StatusCode) {
        match self {
            Self::InvalidRequest => ("invalid_request", StatusCode::BAD_REQUEST),
            Self::TooLarge => ("invalid_request", StatusCode::PAYLOAD_TOO_LARGE),
            Self::InvalidClient => ("invalid_client", StatusCode::UNAUTHORIZED),
            Self::UnauthorizedClient => ("unauthorized_client", StatusCode::BAD_REQUEST),
            Self::UnsupportedGrantType => ("unsupported_grant_type", StatusCode::BAD_REQUEST),
            Self::InvalidScope => ("invalid_scope", StatusCode::BAD_REQUEST),
            Self::InvalidTarget => ("invalid_target", StatusCode::BAD_REQUEST),
            Self::UnsupportedResponseType => ("unsupported_response_type", StatusCode::BAD_REQUEST),
            Self::Timeout => ("invalid_request", StatusCode::REQUEST_TIMEOUT),
            Self::UnsupportedTokenType => ("unsupported_token_type", StatusCode::BAD_REQUEST),
            Self::Forbidden => ("insufficient_scope", StatusCode::FORBIDDEN),
            Self::SlowDown => ("temporarily_unavailable", StatusCode::TOO_MANY_REQUESTS),
            Self::Unavailable => ("temporarily_unavailable", StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    /// Returns an error of this kind.
    #[must_use]
    pub fn because(self, description: impl Into<String>) -> OAuthError {
        OAuthError {
            kind: self,
            description: description.into(),
        }
    }
}

impl OAuthError {
    /// Returns the `error` code, for counters.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.kind.code().0
    }
}

/// Restricts a description to the characters that RFC 6749 §5.2 allows: %x20-21, %x23-5B, %x5D-7E.
fn allowed(description: &str) -> String {
    description
        .chars()
        .map(|letter| match letter {
            '"' => '\'',
            ' '..='~' if letter != '\\' => letter,
            _ => '?',
        })
        .collect()
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let (code, status) = self.kind.code();
        let body = json!({ "error": code, "error_description": allowed(&self.description) });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        // RFC 6749 §5.1: responses about tokens must not be cached.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self.kind {
            OAuthErrorKind::InvalidClient => {
                // RFC 9110 §15.5.2: a 401 response needs a challenge.
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"meshseal\", charset=\"UTF-8\""),
                );
            }
            OAuthErrorKind::Timeout => {
                // The rest of the body may still arrive on this connection.
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            OAuthErrorKind::SlowDown | OAuthErrorKind::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            OAuthErrorKind::InvalidRequest
            | OAuthErrorKind::TooLarge
            | OAuthErrorKind::UnauthorizedClient
            | OAuthErrorKind::UnsupportedGrantType
            | OAuthErrorKind::InvalidScope
            | OAuthErrorKind::InvalidTarget
            | OAuthErrorKind::UnsupportedResponseType
            | OAuthErrorKind::UnsupportedTokenType
            | OAuthErrorKind::Forbidden => {}
        }
        response
    }
}

impl From<StoreError> for OAuthError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(full) => full.into(),
            StoreError::Conflict => {
                OAuthErrorKind::Unavailable.because("the state keeps changing; try again")
            }
            StoreError::Unavailable(ref outage) => {
                // The log gets the driver's message, the client only the class.
                tracing::warn!(%error, "answered 503");
                let what = outage.reason.summary();
                OAuthErrorKind::Unavailable
                    .because(format!("the issuer's database {what}; try again"))
            }
            StoreError::Tampered(_) => {
                // The names of rows stay in the log.
                tracing::error!(%error, "answered 503");
                OAuthErrorKind::Unavailable
                    .because("the issuer's database was tampered with; see its log")
            }
        }
    }
}

impl From<Full> for OAuthError {
    fn from(full: Full) -> Self {
        match full {
            Full::Proxies => {
                // Only an operator can make space, so this is an error of the issuer.
                tracing::error!("{full}");
                OAuthErrorKind::Unavailable.because(format!("{full}; revoke by client, or `all`"))
            }
            Full::Client => OAuthErrorKind::SlowDown.because(format!(
                "{full} (`limits.revokedTokensPerClient`); \
                 wait until some expire, or have an administrator revoke by client"
            )),
        }
    }
}

impl From<RevokeError> for OAuthError {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::Unknown => OAuthErrorKind::InvalidRequest
                .because("no key has this `kid`; `meshseal keys list` shows all keys"),
            RevokeError::NotPinned(risk) => OAuthErrorKind::InvalidRequest.because(format!(
                "{risk}. Pin it first (meshseal keys pins), or add --force: \
                 then these proxies stop when their bundle ends"
            )),
            RevokeError::Store(error) => error.into(),
            RevokeError::Generate(error) => {
                tracing::error!(%error, "no key to replace the revoked one");
                OAuthErrorKind::Unavailable
                    .because("no key could be generated to replace it; try again")
            }
        }
    }
}

impl From<SignerError> for OAuthError {
    fn from(error: SignerError) -> Self {
        tracing::error!(%error, "answered 503");
        OAuthErrorKind::Unavailable.because("the issuer cannot sign now; try again")
    }
}

/// Error response of any other endpoint (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
}

impl Problem {
    /// 400: the request is wrong.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "Bad request",
            detail: detail.into(),
        }
    }

    /// 401: the request needs a bearer token.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            title: "Unauthorized",
            detail: detail.into(),
        }
    }

    /// 404: the resource does not exist.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            title: "Not found",
            detail: detail.into(),
        }
    }

    /// 409: the request does not fit the state.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            title: "Conflict",
            detail: detail.into(),
        }
    }

    /// 503: try again.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            title: "Unavailable",
            detail: detail.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // A proxy or gateway may wait this long instead of failing at once.
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"meshseal\""),
            );
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "answered 503");
        match error {
            StoreError::Unavailable(outage) => Self::unavailable(format!(
                "the issuer's database {}; try again",
                outage.reason.summary()
            )),
            StoreError::Conflict | StoreError::Full(_) => {
                Self::unavailable("the issuer's database does not answer; try again")
            }
            StoreError::Tampered(_) => {
                Self::unavailable("the issuer's database was tampered with; see its log")
            }
        }
    }
}

impl From<SyncError> for Problem {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Store(error) => error.into(),
            SyncError::Ahead => {
                Self::conflict("`have` is newer than anything this issuer published")
            }
            SyncError::Expired => Self::unavailable(
                "the issuer has not reached its database for longer than `bundle.notAfter`",
            ),
            SyncError::Signer(error) => {
                tracing::error!(%error, "answered 503");
                Self::unavailable("the issuer cannot sign bundles now; try again")
            }
        }
    }
}
