//! What an accepted token tells the upstream: claims and payload as request headers.
//!
//! As Envoy's `jwt_authn` does it (`source/extensions/filters/http/jwt_authn/authenticator.cc`): strings, numbers and booleans
//! as they are, objects and arrays as standard base64 of their JSON, the payload as the token's own base64url.
//!
//! A claim that cannot be a header value without changing its meaning on the way is left out, as if the token did not have it:
//! control characters (a line break would start a header of its own), blanks at either end (HTTP drops them, so that " admin"
//! would arrive as "admin"), nothing at all, or more than [`MAX_VALUE_BYTES`]. The spoofed copy is gone in any case.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshseal_core::config::JwtRule;
use meshseal_core::json::{Kind, Value};
use meshseal_core::validate::Verified;

/// Longest value of a claim header. Upstreams refuse requests whose headers exceed 8 KiB (nginx, Tomcat, Node.js).
pub(crate) const MAX_VALUE_BYTES: usize = 4 * 1024;

/// The values of a rule's claim headers, one a line in the order of the configuration; an empty line where the token has none.
/// They hold for every request that brings the token, so they are made once.
pub(crate) fn claim_values(rule: &JwtRule, verified: &Verified) -> Box<str> {
    let claims = rule.output_claim_to_headers.iter().map(|output| verified.claims().get(&output.claim));
    let most = claims.clone().map(|claim| claim.map_or(0, length) + 1);
    let mut lines = String::with_capacity(most.sum::<usize>().saturating_sub(1));
    for (at, claim) in claims.enumerate() {
        if at > 0 {
            lines.push('\n');
        }
        if let Some(value) = claim {
            push_header_value(&mut lines, value);
        }
    }
    lines.into()
}

/// The headers that a token sets: the payload as it came, and the claims.
pub(crate) fn headers<'a>(
    rule: &'a JwtRule,
    claim_values: &'a str,
    token: &'a [u8],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let payload = |name| Some((name, std::str::from_utf8(token.split(|byte| *byte == b'.').nth(1)?).ok()?));
    let payload = rule.output_payload_to_header.as_deref().and_then(payload);
    let names = rule.output_claim_to_headers.iter().map(|output| &*output.header);
    payload.into_iter().chain(names.zip(claim_values.split('\n')).filter(|(_, value)| !value.is_empty()))
}

/// Bytes of the header value.
fn length(value: Value<'_>) -> usize {
    match value.kind() {
        Kind::Null => 0,
        Kind::String => value.as_str().map_or(0, str::len).min(MAX_VALUE_BYTES),
        Kind::Bool | Kind::Number => json_length(value),
        Kind::Array | Kind::Object => json_length(value).div_ceil(3) * 4,
    }
}

fn json_length(value: Value<'_>) -> usize {
    struct Counter(usize);

    impl fmt::Write for Counter {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }

    let mut counter = Counter(0);
    write!(counter, "{value}").map_or(0, |()| counter.0)
}

/// Appends the value as a header carries it; nothing if none can.
fn push_header_value(out: &mut String, value: Value<'_>) {
    let start = out.len();
    match value.kind() {
        Kind::Null => {}
        Kind::String => out.push_str(value.as_str().unwrap_or_default()),
        // A String takes everything.
        Kind::Bool | Kind::Number => write!(out, "{value}").unwrap_or_default(),
        Kind::Array | Kind::Object => STANDARD.encode_string(value.to_string(), out),
    }
    if !out.get(start..).is_some_and(is_safe) {
        out.truncate(start);
    }
}

fn is_safe(text: &str) -> bool {
    let bounded = !text.is_empty() && text.len() <= MAX_VALUE_BYTES;
    bounded && text.trim() == text && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, TestKey, inline_config, token};
    use meshseal_core::json::{Budget, Document};
    use meshseal_core::policy::Policy;
    use meshseal_core::trust::Trust;
    use meshseal_core::validate::validate;
    use serde_json::json;

    fn value_of(json: &str) -> Option<String> {
        let document = Document::lent(json, Budget::TOKEN).unwrap();
        let mut line = String::from("before");
        push_header_value(&mut line, document.root());
        assert!(line.len() == "before".len() || line.len() == "before".len() + length(document.root()), "{line}");
        line.strip_prefix("before").filter(|value| !value.is_empty()).map(ToOwned::to_owned)
    }

    #[test]
    fn scalars_are_written_as_they_are() {
        assert_eq!(value_of(r#""Zoë, R&D""#).as_deref(), Some("Zoë, R&D"));
        assert_eq!(value_of("18446744073709551615").as_deref(), Some("18446744073709551615"));
        assert_eq!(value_of("-1.5").as_deref(), Some("-1.5"));
        assert_eq!(value_of("true").as_deref(), Some("true"));
    }

    #[test]
    fn lists_and_objects_are_base64_of_their_json() {
        assert_eq!(value_of(r#"[ "a", 1 ]"#), Some(STANDARD.encode(r#"["a",1]"#)));
        assert_eq!(value_of(r#"{"a":{"b":null}}"#), Some(STANDARD.encode(r#"{"a":{"b":null}}"#)));
    }

    #[test]
    fn what_a_header_cannot_carry_unchanged_is_left_out() {
        for json in
            [r#""a\r\nx-admin: 1""#, r#""a\u0000""#, r#""a\u0085b""#, r#"" admin""#, r#""admin\t""#, r#""""#, "null"]
        {
            assert_eq!(value_of(json), None, "{json}");
        }
    }

    #[test]
    fn each_claim_goes_to_its_own_header_whichever_of_them_the_token_has() {
        let outputs = json!({ "outputPayloadToHeader": "x-payload", "outputClaimToHeaders": [
            { "header": "x-none", "claim": "none" }, { "header": "x-sub", "claim": "sub" },
            { "header": "x-broken", "claim": "broken" }, { "header": "x-n", "claim": "n" }, { "header": "x-also-none", "claim": "gone" },
        ]});
        let key = TestKey::new("a", 1);
        let policy = Policy::from_json(&inline_config(&[&key], outputs, json!({}))).unwrap();
        let token = token(&key, json!({ "n": 7, "broken": "a\nb" }));
        let verified = validate(&token, &policy, &Trust::new(), START).unwrap();
        let values = claim_values(&policy.jwt_rules()[0], &verified);
        let set: Vec<_> = headers(&policy.jwt_rules()[0], &values, token.as_bytes()).collect();
        assert_eq!(set, [("x-payload", token.split('.').nth(1).unwrap()), ("x-sub", "checkout"), ("x-n", "7")]);
    }

    #[test]
    fn a_long_value_is_left_out() {
        assert!(value_of(&format!("\"{}\"", "a".repeat(MAX_VALUE_BYTES))).is_some());
        assert_eq!(value_of(&format!("\"{}\"", "a".repeat(MAX_VALUE_BYTES + 1))), None);
    }
}
