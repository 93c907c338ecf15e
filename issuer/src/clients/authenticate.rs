//! Client authentication (RFC 6749 §2.3): exactly one method a request, and nothing said about why
//! it failed.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::assertion::{self, ASSERTION_TYPE, Asserted};
use super::{Client, ClientAuth, Presented, Registry, Replay, Replays, SecretHasher};
use crate::http::Form;

/// Longest `client_id` or secret that is looked at, in bytes.
const MAX_CREDENTIAL_BYTES: usize = 512;

/// Why a client was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The request is not one authentication.
    Malformed {
        /// The reason, for counters and logs.
        reason: &'static str,
        /// The mistake, for the caller.
        mistake: &'static str,
    },
    /// Not proven: the reason, for counters and logs only.
    Refused(&'static str),
    /// Too many assertions are in flight to tell old from new.
    Overloaded,
    /// The assertion may have been used before the database lost state.
    BeforeIncident,
}

impl AuthError {
    const fn malformed(reason: &'static str, mistake: &'static str) -> Self {
        Self::Malformed { reason, mistake }
    }

    /// The reason, for counters and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed { reason, .. } | Self::Refused(reason) => reason,
            Self::Overloaded => "assertions-overloaded",
            Self::BeforeIncident => "assertion-before-incident",
        }
    }
}

/// The Authorization field of a request.
#[derive(Clone, Debug)]
pub enum Authorization {
    /// None.
    Absent,
    /// Its value; empty if it is not text.
    Value(String),
    /// More than one.
    Repeated,
}

impl Authorization {
    /// Reads the field (RFC 9110 §11.6.2).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            // A value that is not text fails as a header without credentials.
            (Some(value), None) => Self::Value(value.to_str().unwrap_or_default().to_owned()),
            (Some(_), Some(_)) => Self::Repeated,
        }
    }
}

/// Returns the credentials of a field value with this scheme. Schemes are compared without case,
/// and one or more spaces follow them (RFC 9110 §11.1, §11.4).
#[must_use]
pub fn credentials_of<'v>(value: &'v str, scheme: &str) -> Option<&'v str> {
    let (found, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim_matches(' ');
    (found.eq_ignore_ascii_case(scheme) && !credentials.is_empty()).then_some(credentials)
}

/// What a request offers as proof.
#[derive(Debug)]
pub enum Credentials<'r> {
    /// `client_secret_basic` or `client_secret_post`.
    Secret {
        /// Who.
        client: String,
        /// The secret's hashes.
        hash: Presented,
    },
    /// `private_key_jwt`.
    Assertion(&'r str),
}

impl<'r> Credentials<'r> {
    /// Finds the one proof in a request.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] for several, [`AuthError::Refused`] for none, or a header that is
    /// not Basic credentials.
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
        if let Some(secret) = secret {
            let mistake = "`client_id` is missing beside `client_secret`";
            let client = claimed.ok_or(AuthError::malformed("client-id-missing", mistake))?;
            return Ok(Self::Secret {
                client: client.to_owned(),
                hash: hasher.presented(secret),
            });
        }
        let assertion = assertion.ok_or(AuthError::Refused("credentials-missing"))?;
        if form.get("client_assertion_type") != Some(ASSERTION_TYPE) {
            return Err(AuthError::malformed(
                "assertion-type-wrong",
                "`client_assertion_type` must be urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
        }
        if claimed.is_some() && assertion::claimed_client(assertion).as_deref() != claimed {
            return Err(AuthError::Refused("client-id-differs"));
        }
        Ok(Self::Assertion(assertion))
    }

    /// Who it says it is. Not proven.
    #[must_use]
    pub fn claimed(&self) -> Option<String> {
        match self {
            Self::Secret { client, .. } => Some(client.clone()),
            Self::Assertion(assertion) => assertion::claimed_client(assertion),
        }
    }

    /// Returns the client, if the proof holds, and the assertion whose use the database has yet to
    /// record.
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
                // Every secret is compared, so that time does not tell which.
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

/// What assertions are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Checks<'a> {
    /// The issuer identifier.
    pub issuer: &'a str,
    /// Leeway in seconds.
    pub skew_s: u64,
    /// Unix seconds.
    pub now: u64,
}

/// `Basic` credentials: id and secret are form-encoded before they are joined (RFC 6749 §2.3.1).
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

fn form_decode(text: &str) -> String {
    // Only the key half of `text=` is wanted; `&` and `=` in it would be encoded by whoever encodes
    // at all.
    let safe = text.replace('&', "%26").replace('=', "%3D");
    form_urlencoded::parse(safe.as_bytes())
        .next()
        .map(|(key, _)| key.into_owned())
        .unwrap_or_default()
}
