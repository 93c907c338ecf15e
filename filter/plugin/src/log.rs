//! Log lines about single requests. They name key, issuer and `jti` (V25), but never contain the
//! token.

use std::cell::Cell;
use std::fmt::Write as _;
use std::time::Duration;

use meshseal_core::authn::{self, Verified};
use meshseal_core::decide::Omission;
use meshseal_core::rejection::Rejection;

/// Maximum length of untrusted text in a log line, in characters.
const MAX_FIELD_CHARS: usize = 64;

/// Returns the log line for a rejected request.
pub(crate) fn refused(rejection: Rejection, shadow: bool, token: Option<&str>) -> String {
    // Unverified: the token was rejected, so its claims only help to find its sender.
    let hints = token.and_then(authn::hints);
    let hinted = |read: fn(&authn::Hints) -> &Option<Box<str>>| {
        hints.as_ref().and_then(|hints| read(hints).as_deref())
    };
    let mut line = format!(
        "{} code={rejection}",
        if shadow { "would reject" } else { "rejected" }
    );
    if let Some(limit) = rejection.limit() {
        let _ = write!(line, " limit={limit}");
    }
    if let Some(setting) = setting(rejection) {
        let _ = write!(line, " setting={setting}");
    }
    for (name, value) in [
        ("iss", hinted(|hints| &hints.issuer)),
        ("kid", hinted(|hints| &hints.kid)),
        ("jti", hinted(|hints| &hints.jti)),
    ] {
        if let Some(value) = value {
            let _ = write!(line, " {name}={}", field(value));
        }
    }
    line
}

/// Returns the setting of `jwtRules[]` that controls a check, for checks that tokens of third-party
/// providers often fail.
fn setting(rejection: Rejection) -> Option<&'static str> {
    let settings = [
        (Rejection::TypeNotAllowed, "tokenTypes"),
        (Rejection::AlgorithmNotAllowed, "algorithms"),
        (Rejection::ClaimMissing, "requiredClaims,audienceClaim"),
        (Rejection::AudienceMismatch, "audiences"),
        (Rejection::TokenLifetimeTooLong, "maxLifetime"),
        (Rejection::ScopeMissing, "scopeClaims"),
        (Rejection::OutputUnsafe, "onUnsafe"),
    ];
    settings
        .into_iter()
        .find(|(of, _)| *of == rejection)
        .map(|(_, setting)| setting)
}

/// Returns the log line for an omitted output of an accepted token. It names the header and never
/// its value.
pub(crate) fn omitted(omission: &Omission<'_>, verified: &Verified, unlogged: u32) -> String {
    let Omission {
        header,
        reason,
        bytes,
    } = omission;
    let mut line = format!(
        "output omitted header={header} bytes={bytes} reason=\"{}\"",
        reason.text()
    );
    let claims = verified.claims();
    for (name, value) in [
        ("iss", claims.issuer()),
        ("kid", verified.kid()),
        ("jti", claims.jti()),
    ] {
        if let Some(value) = value {
            let _ = write!(line, " {name}={}", field(value));
        }
    }
    if unlogged > 0 {
        let _ = write!(line, " unlogged={unlogged}");
    }
    line
}

/// Minimum time between two lines of one kind.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Rate limiter for one kind of line, so that requests cannot flood the log.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    last: Cell<Option<Duration>>,
    unlogged: Cell<u32>,
}

impl Throttle {
    /// Returns the number of lines suppressed since the last one if a line may be written at `now`
    /// (monotonic time), else `None`.
    pub(crate) fn admit(&self, now: Duration) -> Option<u32> {
        let last = self.last.get();
        if last.is_none_or(|last| now.saturating_sub(last) >= LINE_EVERY) {
            self.last.set(Some(now));
            return Some(self.unlogged.take());
        }
        self.unlogged.set(self.unlogged.get().saturating_add(1));
        None
    }
}

/// Quotes untrusted text for a log line. Truncates it and escapes every character that could end
/// the quotes or the line.
pub(crate) fn field(text: &str) -> String {
    let mut end = text.char_indices().map(|(at, _)| at).skip(MAX_FIELD_CHARS);
    match end.next() {
        Some(end) => format!(
            "\"{}…\"",
            text.get(..end).unwrap_or_default().escape_default()
        ),
        None => format!("\"{}\"", text.escape_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshseal_core::base64url;

    fn token(header: &str, payload: &str) -> String {
        format!(
            "{}.{}.c2lnbmF0dXJl",
            base64url::encode(header.as_bytes()),
            base64url::encode(payload.as_bytes())
        )
    }

    #[test]
    fn rejection_line_identifies_token_without_its_text() {
        let token = token(
            r#"{"alg":"EdDSA","kid":"k1"}"#,
            r#"{"iss":"https://i","jti":"j1","sub":"secret"}"#,
        );
        let line = refused(Rejection::TokenExpired, false, Some(&token));
        assert_eq!(
            line,
            r#"rejected code=token-expired iss="https://i" kid="k1" jti="j1""#
        );
    }

    #[test]
    fn omits_unreadable_fields() {
        assert_eq!(
            refused(Rejection::TokenMalformed, true, Some("x")),
            "would reject code=token-malformed"
        );
        assert_eq!(
            refused(Rejection::TokenMissing, false, None),
            "rejected code=token-missing"
        );
    }

    #[test]
    fn names_limit_and_setting_of_a_check() {
        assert_eq!(
            refused(Rejection::TokenTooDeep, false, None),
            "rejected code=token-too-deep limit=32"
        );
        let line = refused(Rejection::TokenLifetimeTooLong, false, None);
        assert_eq!(
            line,
            "rejected code=token-lifetime-too-long setting=maxLifetime"
        );
    }

    #[test]
    fn throttle_counts_suppressed_lines() {
        let throttle = Throttle::default();
        let at = |seconds: u64| throttle.admit(Duration::from_secs(seconds));
        assert_eq!(
            [at(100), at(101), at(109), at(110), at(119), at(120)],
            [Some(0), None, None, Some(2), None, Some(1)]
        );
    }

    #[test]
    fn truncates_and_escapes_untrusted_text() {
        assert_eq!(field("a\"\nb"), r#""a\"\nb""#);
        assert_eq!(
            field(&"é".repeat(65)),
            format!("\"{}…\"", r"\u{e9}".repeat(64))
        );
    }
}
