//! What an accepted token tells the upstream: claims and payload as request headers.
//!
//! As Envoy's `jwt_authn` does it (`source/extensions/filters/http/jwt_authn/authenticator.cc`): strings, numbers and booleans
//! as they are, objects and arrays as standard base64 of their JSON, the payload as the token's own base64url.
//!
//! A claim that cannot be a header value without changing its meaning on the way is left out, as if the token did not have it:
//! control characters (a line break would start a header of its own), blanks at either end (HTTP drops them, so that " admin"
//! would arrive as "admin"), nothing at all, or more than [`MAX_VALUE_BYTES`]. The spoofed copy is gone in any case.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshseal_core::config::JwtRule;
use meshseal_core::json::{Kind, Value};
use meshseal_core::validate::Verified;

/// Longest value of a claim header. Upstreams refuse requests whose headers exceed 8 KiB (nginx, Tomcat, Node.js).
pub(crate) const MAX_VALUE_BYTES: usize = 4 * 1024;

/// The headers that this token sets, in the order of the configuration.
pub(crate) fn headers<'a>(rule: &'a JwtRule, verified: &Verified, token: &str) -> Vec<(&'a str, String)> {
    let payload = rule.output_payload_to_header.as_deref().zip(token.split('.').nth(1).map(str::to_owned));
    let claims = rule.output_claim_to_headers.iter().filter_map(|output| {
        let value = verified.claims().get(&output.claim)?;
        Some((&*output.header, header_value(value)?))
    });
    payload.into_iter().chain(claims).collect()
}

fn header_value(value: Value<'_>) -> Option<String> {
    let text = match value.kind() {
        Kind::Null => None,
        Kind::String => value.as_str().map(str::to_owned),
        Kind::Bool | Kind::Number => Some(value.to_json()),
        Kind::Array | Kind::Object => Some(STANDARD.encode(value.to_json())),
    };
    text.filter(|text| is_safe(text))
}

fn is_safe(text: &str) -> bool {
    let bounded = !text.is_empty() && text.len() <= MAX_VALUE_BYTES;
    bounded && text.trim() == text && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshseal_core::json::{Budget, Document};

    fn value_of(json: &str) -> Option<String> {
        let document = Document::parse(json.as_bytes().to_vec(), Budget::TOKEN).unwrap();
        header_value(document.root())
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
    fn a_long_value_is_left_out() {
        assert!(value_of(&format!("\"{}\"", "a".repeat(MAX_VALUE_BYTES))).is_some());
        assert_eq!(value_of(&format!("\"{}\"", "a".repeat(MAX_VALUE_BYTES + 1))), None);
    }
}
