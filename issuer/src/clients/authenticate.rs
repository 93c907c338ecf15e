//! Client authentication (RFC 6749 §2.3): exactly one method in each request. The response does
//! not tell why an authentication failed.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::assertion::{self, ASSERTION_TYPE, Asserted};
use super::{Client, ClientAuth, Presented, Registry, Replay, Replays, SecretHasher};
use crate::http::Form;

/// Longest `client_id` or secret in bytes; longer ones are rejected.
const MAX_CREDENTIAL_BYTES: usize = 512;

/// Error of a failed client authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The request does not use exactly one well-formed method.
    Malformed {
        /// Reason, for counters and logs.
        reason: &'static str,
        /// Description of the mistake, for the client.
        mistake: &'static str,
    },
    /// The credentials are wrong; with the reason, for counters and logs only.
    Refused(&'static str),
    /// The memory of used assertions is full, so a repeated one could not be detected.
    Overloaded,
    /// The assertion may have been used before the database lost state.
    BeforeIncident,
}

impl AuthError {
    const fn malformed(reason: &'static str, mistake: &'static str) -> Self {
        Self::Malformed { reason, mistake }
    }

    /// Returns the reason, for counters and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed { reason, .. } | Self::Refused(reason) => reason,
            Self::Overloaded => "assertions-overloaded",
            Self::BeforeIncident => "assertion-before-incident",
        }
    }
}

/// The `Authorization` header of a request.
#[derive(Clone, Debug)]
pub enum Authorization {
    /// No such header.
    Absent,
    /// Value of the only such header; empty if it is not visible ASCII.
    Value(String),
    /// Several such headers.
    Repeated,
}

impl Authorization {
    /// Reads the header (RFC 9110 §11.6.2).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            // A value that is not visible ASCII fails later as a header without credentials.
            (Some(value), None) => Self::Value(value.to_str().unwrap_or_default().to_owned()),
            (Some(_), Some(_)) => Self::Repeated,
        }
    }
}

/// Returns the credentials of a header value with this scheme. Schemes are case-insensitive and are
/// followed by one or more spaces (RFC 9110 §11.1, §11.4).
#[must_use]
pub fn credentials_of<'v>(value: &'v str, scheme: &str) -> Option<&'v str> {
    let (found, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim_matches(' ');
    (found.eq_ignore_ascii_case(scheme) && !credentials.is_empty()).then_some(credentials)
}

/// Client credentials of a request.
#[derive(Debug)]
pub enum Credentials<'r> {
    /// Secret, by `client_secret_basic` or `client_secret_post`.
    Secret {
        /// The unverified client id.
        client: String,
        /// Hashes of the secret.
        hash: Presented,
    },
    /// Assertion, by `private_key_jwt`.
    Assertion(&'r str),
}

impl<'r> Credentials<'r> {
    /// Finds the credentials of a request.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] for several methods, [`AuthError::Refused`] for no method or for a
    /// header without Basic credentials.
    pub fn find(
        authorization: &Authorization,
        form: &'r Form,
        hasher: &SecretHasher,
    ) -> Result<Self, AuthError> {
        let authorization = match authorization {
            Authorization::Absent => None,
            Authorization::Value(value) => Some(value.as_str()),
            Authorization::Repeated => {
                return Err(AuthError::malformed(
                    "header-repeated",
                    "more than one Authorization header",
                ));
            }
        };
        // Exactly one method (RFC 6749 §2.3).
        let (secret, assertion) = (form.get("client_secret"), form.get("client_assertion"));
        let methods = [
            authorization.is_some(),
            secret.is_some(),
            assertion.is_some(),
        ];
        if methods.iter().filter(|used| **used).count() > 1 {
            return Err(AuthError::malformed(
                "methods-several",
                "use exactly one client authentication method",
            ));
        }
        // client_secret_basic.
        let claimed = form.get("client_id");
        if let Some(header) = authorization {
            let (client, hash) =
                basic(header, hasher).ok_or(AuthError::Refused("header-malformed"))?;
            if claimed.is_some_and(|claimed| claimed != client) {
                let mistake = "`client_id` differs from the Authorization header";
                return Err(AuthError::malformed("client-id-differs", mistake));
            }
            return Ok(Self::Secret { client, hash });
        }
        // client_secret_post.
        if let Some(secret) = secret {
            let mistake = "`client_id` is missing beside `client_secret`";
            let client = claimed.ok_or(AuthError::malformed("client-id-missing", mistake))?;
            return Ok(Self::Secret {
                client: client.to_owned(),
                hash: hasher.presented(secret),
            });
        }
        // private_key_jwt.
        let assertion = assertion.ok_or(AuthError::Refused("credentials-missing"))?;
        if form.get("client_assertion_type") != Some(ASSERTION_TYPE) {
            return Err(AuthError::malformed(
                "assertion-type-wrong",
                "`client_assertion_type` must be \
                 urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
        }
        if claimed.is_some() && assertion::claimed_client(assertion).as_deref() != claimed {
            return Err(AuthError::Refused("client-id-differs"));
        }
        Ok(Self::Assertion(assertion))
    }

    /// Returns the unverified client id.
    #[must_use]
    pub fn claimed(&self) -> Option<String> {
        match self {
            Self::Secret { client, .. } => Some(client.clone()),
            Self::Assertion(assertion) => assertion::claimed_client(assertion),
        }
    }

    /// Verifies the credentials. Returns the client, and the assertion, if one was used: the caller
    /// must record its use in the database before it treats the client as authenticated.
    ///
    /// # Errors
    /// [`AuthError::Refused`], [`AuthError::Overloaded`].
    pub(crate) fn verify<'c>(
        &self,
        registry: &'c Registry,
        replays: &Replays,
        checks: &Checks<'_>,
    ) -> Result<(&'c Client, Option<Asserted>), AuthError> {
        match self {
            Self::Secret { client, hash } => {
                let client = registry.get(client).ok_or(UNKNOWN)?;
                let ClientAuth::Secrets(secrets) = &client.auth else {
                    return Err(WRONG_METHOD);
                };
                // Every secret is compared, so that the response time does not tell which matches.
                let matching = secrets.iter().filter(|secret| secret.matches(hash)).count();
                if matching > 0 {
                    Ok((client, None))
                } else {
                    Err(AuthError::Refused("secret-wrong"))
                }
            }
            Self::Assertion(assertion) => {
                let id = assertion::claimed_client(assertion)
                    .ok_or(AuthError::Refused("assertion-malformed"))?;
                let client = registry.get(&id).ok_or(UNKNOWN)?;
                let ClientAuth::Keys(keys) = &client.auth else {
                    return Err(WRONG_METHOD);
                };
                let (issuer, skew_s, now) = (checks.issuer, checks.skew_s, checks.now);
                let asserted = assertion::check(
                    assertion,
                    &id,
                    keys,
                    issuer,
                    skew_s,
                    now,
                    registry.verifier(),
                );
                let asserted = asserted.map_err(AuthError::Refused)?;
                // Last, so that an invalid assertion takes no memory.
                match replays.use_once(&id, &asserted.once, checks.now) {
                    Replay::Fresh => Ok((client, Some(asserted))),
                    Replay::Seen => Err(REPLAYED),
                    Replay::Full => Err(AuthError::Overloaded),
                }
            }
        }
    }
}

const UNKNOWN: AuthError = AuthError::Refused("client-unknown");
/// Failure of an assertion that was used before.
pub(super) const REPLAYED: AuthError = AuthError::Refused("assertion-replayed");
const WRONG_METHOD: AuthError = AuthError::Refused("method-wrong");

/// Parameters for the validation of assertions.
#[derive(Clone, Copy, Debug)]
pub struct Checks<'a> {
    /// The issuer identifier, which must be the only audience.
    pub issuer: &'a str,
    /// Allowed clock skew in seconds.
    pub skew_s: u64,
    /// Present time (Unix seconds).
    pub now: u64,
}

/// Reads `Basic` credentials. Id and secret are form-encoded before they are joined (RFC 6749
/// §2.3.1).
fn basic(header: &str, hasher: &SecretHasher) -> Option<(String, Presented)> {
    let encoded = credentials_of(header, "Basic")?;
    if encoded.len() > 4 * MAX_CREDENTIAL_BYTES {
        return None;
    }
    let joined = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (client, secret) = joined.split_once(':')?;
    let (client, secret) = (form_decode(client), form_decode(secret));
    let fits = client.len() <= MAX_CREDENTIAL_BYTES && secret.len() <= MAX_CREDENTIAL_BYTES;
    fits.then(|| (client, hasher.presented(&secret)))
}

/// Decodes a form-encoded text.
fn form_decode(text: &str) -> String {
    // The parser splits at `&` and `=`. A client that encodes would have encoded them; a client
    // that does not encode may have them in its secret. Encoding them keeps both intact.
    let safe = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(safe.as_bytes())
        .next()
        .map(|(key, _)| key.into_owned())
        .unwrap_or_default()
}
