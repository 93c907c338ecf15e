//! Revocation requests (RFC 7009 §2.1), extended by `jti`, keys and groups.

use super::{EpochKind, EpochRecord};
use crate::config::{MAX_TOKEN_LIFE_S, check_name};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::Form;

/// Longest time in seconds that a caller may wait for proxies to confirm.
const MAX_WAIT_S: u64 = 60;

/// Object of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One token, given itself.
    Token(String),
    /// One token, given by its `jti`.
    Jti(String),
    /// All tokens that a key signed, given by its `kid`. The key is taken out of use.
    Key(String),
    /// All tokens of a group that were issued before a time.
    Group {
        /// Kind of group.
        kind: EpochKind,
        /// Name of the group; empty for [`EpochKind::All`].
        name: String,
        /// Tokens with a lower `iat` are revoked (Unix seconds).
        before: u64,
    },
}

/// A well-formed revocation request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeRequest {
    /// Object of the revocation.
    pub target: Target,
    /// Seconds to wait for proxies to confirm; `None` for an immediate answer.
    pub wait_s: Option<u64>,
}

impl RevokeRequest {
    /// Reads the parameters. `now` is the latest `iat` that a token issued by now may have.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn read(form: &Form, now: u64) -> Result<Self, OAuthError> {
        let groups = [
            ("subject", EpochKind::Subject),
            ("client", EpochKind::Client),
            ("session", EpochKind::Session),
            ("grant", EpochKind::Grant),
            ("all", EpochKind::All),
        ];
        let single = [
            form.get("token")
                .map(|token| Target::Token(token.to_owned())),
            form.get("jti").map(|jti| Target::Jti(jti.to_owned())),
            form.get("key").map(|kid| Target::Key(kid.to_owned())),
        ];
        // Each iterator below is asked for one target more than allowed, to detect a second one.
        let mut single = single.into_iter().flatten();
        let mut named = groups
            .iter()
            .filter_map(|(name, kind)| form.get(name).map(|value| (*name, *kind, value)));
        let group = named.next();
        let wait_s = number(form, "wait")?;
        if wait_s.is_some_and(|wait_s| wait_s > MAX_WAIT_S) {
            return Err(invalid(format!(
                "`wait` may be at most {MAX_WAIT_S} seconds"
            )));
        }
        let before = number(form, "issued_before")?;
        // Exactly one target; `issued_before` limits groups only.
        let target = match (single.next(), single.next(), group, named.next()) {
            (Some(_), None, None, None) if before.is_some() => {
                return Err(invalid(
                    "`issued_before` goes with a group, not with `token`, `jti` or `key`",
                ));
            }
            (Some(target), None, None, None) => target,
            (None, None, Some((name, kind, value)), None) => {
                group_target(name, kind, value, before, now)?
            }
            _ => {
                return Err(invalid(
                    "name exactly one of `token`, `jti`, `key`, `subject`, `client`, `session`, \
                     `grant`, `all`",
                ));
            }
        };
        Ok(Self { target, wait_s })
    }
}

/// Reads the target of a request that names a group.
fn group_target(
    parameter: &str,
    kind: EpochKind,
    value: &str,
    before: Option<u64>,
    now: u64,
) -> Result<Target, OAuthError> {
    let name = match (kind, value) {
        (EpochKind::All, "true") => String::new(),
        (EpochKind::All, _) => return Err(invalid("`all` must be true")),
        (_, name) => {
            check_name(name).map_err(|message| invalid(format!("`{parameter}` {message}")))?;
            name.to_owned()
        }
    };
    // Tokens issued in the present second are revoked, too, so the bound is one second later.
    let latest = now.saturating_add(1);
    let before = before.unwrap_or(latest);
    if before > latest {
        return Err(invalid(
            "`issued_before` is in the future and would revoke tokens that are not issued yet; \
             omit it to revoke all tokens issued so far",
        ));
    }
    Ok(Target::Group { kind, name, before })
}

/// Returns the epoch of a group. It is kept for the longest lifetime of any token, since the
/// configured lifetimes may have been longer when the tokens were issued.
pub(super) fn epoch(kind: EpochKind, name: String, before: u64) -> EpochRecord {
    EpochRecord {
        kind,
        name,
        before,
        expires_at: before.saturating_add(MAX_TOKEN_LIFE_S),
    }
}

/// Reads a parameter in seconds.
fn number(form: &Form, name: &str) -> Result<Option<u64>, OAuthError> {
    form.get(name)
        .map(|text| {
            text.parse()
                .map_err(|_| invalid(format!("`{name}` must be a whole number of seconds")))
        })
        .transpose()
}

fn invalid(message: impl Into<String>) -> OAuthError {
    OAuthErrorKind::InvalidRequest.because(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<RevokeRequest, OAuthError> {
        RevokeRequest::read(&Form::parse(body.as_bytes()).unwrap(), 1_000)
    }

    #[test]
    fn requires_exactly_one_target() {
        for body in [
            "",
            "wait=5",
            "token=x&subject=y",
            "subject=a&client=b",
            "all=true&subject=a",
            "all=yes",
            "token=x&issued_before=1",
            "token=x&jti=y",
            "jti=x&key=y",
            "key=x&subject=y",
            "jti=x&issued_before=1",
        ] {
            assert_eq!(
                read(body).unwrap_err().kind,
                OAuthErrorKind::InvalidRequest,
                "{body}"
            );
        }
        assert_eq!(read("token=x").unwrap().target, Target::Token("x".into()));
    }

    #[test]
    fn group_defaults_to_tokens_until_now() {
        let group = |before| Target::Group {
            kind: EpochKind::Subject,
            name: "alice".into(),
            before,
        };
        assert_eq!(read("subject=alice").unwrap().target, group(1_001));
        assert_eq!(
            read("subject=alice&issued_before=900").unwrap().target,
            group(900)
        );
        assert!(
            read("subject=alice&issued_before=1002").is_err(),
            "would revoke future tokens"
        );
    }

    #[test]
    fn rejects_long_or_malformed_wait() {
        assert_eq!(read("all=true&wait=60").unwrap().wait_s, Some(60));
        for body in ["all=true&wait=61", "all=true&wait=-1", "all=true&wait=soon"] {
            assert!(read(body).is_err(), "{body}");
        }
    }
}
