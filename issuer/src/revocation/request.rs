//! What somebody wants revoked (RFC 7009 §2.1, and our groups beside it).

use super::{EpochKind, EpochRecord};
use crate::config::{MAX_TOKEN_LIFE_S, check_name};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::Form;

/// Longest time in seconds that a caller may wait for proxies to confirm.
const MAX_WAIT_S: u64 = 60;

/// What to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One token.
    Token(String),
    /// One token that is no longer at hand, by its `jti`.
    Jti(String),
    /// All tokens that a key signed, by its `kid`. The key is taken out of use.
    Key(String),
    /// All tokens of a group issued before a time (Unix seconds).
    Group {
        /// Which sort of group.
        kind: EpochKind,
        /// Which group; empty for all.
        name: String,
        /// A token with `iat` less than this is revoked.
        before: u64,
    },
}

/// A request to revoke, well formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeRequest {
    /// What.
    pub target: Target,
    /// Seconds to wait for proxies to confirm; `None` for an answer at once.
    pub wait_s: Option<u64>,
}

impl RevokeRequest {
    /// Reads the parameters. `now` is the latest date that a token may have by now.
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
                    "name exactly one of `token`, `jti`, `key`, `subject`, `client`, `session`, `grant`, `all`",
                ));
            }
        };
        Ok(Self { target, wait_s })
    }
}

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
    // Tokens of this very second are meant too.
    let latest = now.saturating_add(1);
    let before = before.unwrap_or(latest);
    if before > latest {
        return Err(invalid(
            "`issued_before` lies in the future; tokens issued from now on would be dead",
        ));
    }
    Ok(Target::Group { kind, name, before })
}

/// The epoch for a group. It is kept for as long as any token may live: older ones were issued
/// under other settings.
pub(super) fn epoch(kind: EpochKind, name: String, before: u64) -> EpochRecord {
    EpochRecord {
        kind,
        name,
        before,
        expires_at: before.saturating_add(MAX_TOKEN_LIFE_S),
    }
}

fn number(form: &Form, name: &str) -> Result<Option<u64>, OAuthError> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| invalid(format!("`{name}` must be a whole number of seconds")))
    };
    form.get(name).map(parse).transpose()
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
    fn exactly_one_target() {
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
    fn a_group_without_a_time_means_everything_up_to_now_this_second_too() {
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
            "would kill tokens of the future"
        );
    }

    #[test]
    fn waiting_is_bounded() {
        assert_eq!(read("all=true&wait=60").unwrap().wait_s, Some(60));
        for body in ["all=true&wait=61", "all=true&wait=-1", "all=true&wait=soon"] {
            assert!(read(body).is_err(), "{body}");
        }
    }
}
