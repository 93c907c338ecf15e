//! What an accepted token tells the upstream: claims and payload as request headers.
//!
//! As Envoy's `jwt_authn` does it (`source/extensions/filters/http/jwt_authn/authenticator.cc`):
//! strings, numbers and booleans as they are, objects and arrays as standard base64 of their JSON,
//! the payload as the token's own base64url.
//!
//! A claim is left out if it cannot be a header value without changing its meaning on the way:
//! control characters (a line break would start a header of its own), blanks at either end (HTTP
//! drops them, so that " admin" would arrive as "admin"), or more bytes than the rule allows.
//! `onUnsafe` decides whether the request goes on; each output that was left out is counted and
//! logged. The spoofed copy is gone in any case. Null and an empty string are as if the token did
//! not have the claim.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshseal_core::authn::{JwtRule, OnUnsafe, Verified};
use meshseal_core::json::{Kind, Value};

/// Outputs of a token. They hold for every request that brings it, so they are made once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outputs {
    /// Values of the claims' headers, one a line in the order of the configuration; an empty line
    /// for a header that is not set.
    values: Box<str>,
    /// Whether the payload's header is set, where one is configured.
    payload: bool,
    /// Outputs that were left out.
    omitted: usize,
    /// Whether one of them has `onUnsafe: REJECT`.
    rejects: bool,
}

/// An output that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Omission<'r> {
    /// Name of the header.
    pub(crate) header: &'r str,
    /// Reason, with the setting that would help.
    pub(crate) reason: Reason,
    /// Length of the value in bytes.
    pub(crate) bytes: usize,
}

/// Reason why an output is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Longer than `outputMaxValueBytes`.
    ValueTooLong,
    /// The outputs together are longer than `outputMaxTotalBytes`.
    TotalTooLong,
    /// A control character.
    ControlCharacter,
    /// A blank at the beginning or the end.
    OuterBlank,
}

impl Reason {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::ValueTooLong => "longer than outputMaxValueBytes",
            Self::TotalTooLong => "all outputs together are longer than outputMaxTotalBytes",
            Self::ControlCharacter => "contains a control character",
            Self::OuterBlank => "begins or ends with a blank",
        }
    }
}

impl Outputs {
    /// Makes the outputs of a token; what is left out goes to `omit`.
    pub(crate) fn of<'r>(
        rule: &'r JwtRule,
        verified: &Verified,
        token: &str,
        mut omit: impl FnMut(Omission<'r>),
    ) -> Self {
        let mut made = Self {
            payload: true,
            ..Self::default()
        };
        let mut left = rule.output_max_total_bytes;
        let mut omit = |omission: Omission<'r>, on_unsafe: OnUnsafe| {
            made.omitted += 1;
            made.rejects |= on_unsafe == OnUnsafe::Reject;
            omit(omission);
        };
        if let Some(header) = rule.output_payload_to_header.as_deref() {
            let bytes = payload_of(token.as_bytes()).map_or(0, str::len);
            match left.checked_sub(header.len() + bytes) {
                Some(rest) => left = rest,
                None => {
                    made.payload = false;
                    omit(
                        Omission {
                            header,
                            reason: Reason::TotalTooLong,
                            bytes,
                        },
                        rule.on_unsafe,
                    );
                }
            }
        }
        let claims = rule
            .output_claim_to_headers
            .iter()
            .map(|output| (output, verified.claims().get(&output.claim)));
        let claims =
            claims.map(|(output, claim)| (output, claim.map(|value| (value, length(value)))));
        let fits = |length: usize| {
            if length > rule.output_max_value_bytes {
                0
            } else {
                length
            }
        };
        let most = claims
            .clone()
            .map(|(_, claim)| claim.map_or(0, |(_, length)| fits(length)) + 1);
        let mut lines = String::with_capacity(most.sum::<usize>().saturating_sub(1));
        for (at, (output, claim)) in claims.enumerate() {
            if at > 0 {
                lines.push('\n');
            }
            let Some((value, bytes)) = claim.filter(|(_, bytes)| *bytes > 0) else {
                continue;
            };
            let rest = left.checked_sub(output.header.len() + bytes);
            let pushed = match rest {
                _ if bytes > rule.output_max_value_bytes => Err(Reason::ValueTooLong),
                None => Err(Reason::TotalTooLong),
                Some(_) => push_header_value(&mut lines, value),
            };
            match (pushed, rest) {
                (Ok(()), Some(rest)) => left = rest,
                (Ok(()), None) => {}
                (Err(reason), _) => omit(
                    Omission {
                        header: &output.header,
                        reason,
                        bytes,
                    },
                    output.on_unsafe,
                ),
            }
        }
        Self {
            values: lines.into(),
            ..made
        }
    }

    /// The headers that a token sets: the payload as it came, and the claims.
    pub(crate) fn headers<'a>(
        &'a self,
        rule: &'a JwtRule,
        token: &'a [u8],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let payload = rule
            .output_payload_to_header
            .as_deref()
            .filter(|_| self.payload);
        let payload = payload.and_then(|name| Some((name, payload_of(token)?)));
        let names = rule
            .output_claim_to_headers
            .iter()
            .map(|output| &*output.header);
        payload.into_iter().chain(
            names
                .zip(self.values.split('\n'))
                .filter(|(_, value)| !value.is_empty()),
        )
    }

    /// Number of outputs that were left out.
    pub(crate) fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether the token must be rejected for an output that was left out.
    pub(crate) fn rejects(&self) -> bool {
        self.rejects
    }

    /// Bytes on the heap, for memory budgets.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.values.len()
    }
}

/// The encoded payload of a token.
fn payload_of(token: &[u8]) -> Option<&str> {
    std::str::from_utf8(token.split(|byte| *byte == b'.').nth(1)?).ok()
}

/// Bytes of the header value; 0 for a claim that counts as absent.
fn length(value: Value<'_>) -> usize {
    match value.kind() {
        Kind::Null => 0,
        Kind::String => value.as_str().map_or(0, str::len),
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
fn push_header_value(out: &mut String, value: Value<'_>) -> Result<(), Reason> {
    let start = out.len();
    match value.kind() {
        Kind::Null => {}
        Kind::String => out.push_str(value.as_str().unwrap_or_default()),
        // A String takes everything.
        Kind::Bool | Kind::Number => write!(out, "{value}").unwrap_or_default(),
        Kind::Array | Kind::Object => STANDARD.encode_string(value.to_string(), out),
    }
    let text = out.get(start..).unwrap_or_default();
    let unsafe_for = if text.chars().any(char::is_control) {
        Some(Reason::ControlCharacter)
    } else {
        (text.trim() != text).then_some(Reason::OuterBlank)
    };
    unsafe_for.map_or(Ok(()), |reason| {
        out.truncate(start);
        Err(reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, TestKey, inline_config, token};
    use meshseal_core::authn::Trust;
    use meshseal_core::authn::validate;
    use meshseal_core::json::{Budget, Document};
    use serde_json::json;

    fn value_of(json: &str) -> Option<String> {
        let document = Document::lent(json, Budget::TOKEN).unwrap();
        let mut line = String::from("before");
        let _ = push_header_value(&mut line, document.root());
        assert!(
            line.len() == "before".len() || line.len() == "before".len() + length(document.root()),
            "{line}"
        );
        line.strip_prefix("before")
            .filter(|value| !value.is_empty())
            .map(ToOwned::to_owned)
    }

    #[test]
    fn scalars_are_written_as_they_are() {
        assert_eq!(value_of(r#""Zoë, R&D""#).as_deref(), Some("Zoë, R&D"));
        assert_eq!(
            value_of("18446744073709551615").as_deref(),
            Some("18446744073709551615")
        );
        assert_eq!(value_of("-1.50").as_deref(), Some("-1.50"));
        assert_eq!(
            value_of("36893488147419103233").as_deref(),
            Some("36893488147419103233")
        );
        assert_eq!(value_of("true").as_deref(), Some("true"));
    }

    #[test]
    fn lists_and_objects_are_base64_of_their_json() {
        assert_eq!(
            value_of(r#"[ "a", 1 ]"#),
            Some(STANDARD.encode(r#"["a",1]"#))
        );
        assert_eq!(
            value_of(r#"{"a":{"b":null}}"#),
            Some(STANDARD.encode(r#"{"a":{"b":null}}"#))
        );
    }

    #[test]
    fn what_a_header_cannot_carry_unchanged_is_left_out() {
        for json in [
            r#""a\r\nx-admin: 1""#,
            r#""a\u0000""#,
            r#""a\u0085b""#,
            r#"" admin""#,
            r#""admin\t""#,
            r#""""#,
            "null",
        ] {
            assert_eq!(value_of(json), None, "{json}");
        }
    }

    fn claim(header: &str, claim: &str) -> serde_json::Value {
        json!({ "header": header, "claim": claim })
    }

    type Headers = Vec<(String, String)>;
    type Omitted = Vec<(String, Reason, usize)>;

    /// The headers of a token with these claims under a rule with these settings, and what is left
    /// out.
    fn outputs(rule: serde_json::Value, claims: serde_json::Value) -> (Headers, Omitted, bool) {
        let key = TestKey::new("a", 1);
        let policy =
            meshseal_core::config::read_policy(&inline_config(&[&key], rule, json!({}))).unwrap();
        let token = token(&key, claims);
        let verified = validate(&token, policy.authn(), &Trust::new(), START).unwrap();
        let (rule, mut omitted) = (&policy.authn().jwt_rules()[0], Vec::new());
        let outputs = Outputs::of(rule, &verified, &token, |omission| {
            omitted.push((omission.header.to_owned(), omission.reason, omission.bytes));
        });
        assert_eq!(outputs.omitted(), omitted.len());
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        (
            outputs.headers(rule, token.as_bytes()).map(own).collect(),
            omitted,
            outputs.rejects(),
        )
    }

    #[test]
    fn each_claim_goes_to_its_own_header_whichever_of_them_the_token_has() {
        let rule = json!({ "outputPayloadToHeader": "x-payload", "outputClaimToHeaders": [
            claim("x-none", "none"), claim("x-sub", "sub"), claim("x-broken", "broken"), claim("x-n", "n"), claim("x-also-none", "gone"),
            claim("x-empty", "empty"),
        ]});
        let (set, omitted, rejects) =
            outputs(rule, json!({ "n": 7, "broken": "a\nb", "empty": "" }));
        let names: Vec<&str> = set.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-payload", "x-sub", "x-n"]);
        assert_eq!((set[1].1.as_str(), set[2].1.as_str()), ("checkout", "7"));
        assert_eq!(
            omitted,
            [("x-broken".to_owned(), Reason::ControlCharacter, 3)]
        );
        assert!(!rejects);
    }

    #[test]
    fn claims_with_dots_are_addressed_in_brackets() {
        let rule = json!({ "outputClaimToHeaders": [
            claim("x-ns", "[kubernetes.io][namespace]"), claim("x-tenant", "[https://shop.example/tenant]"), claim("x-nested", "a.b"),
        ]});
        let claims = json!({
            "kubernetes.io": { "namespace": "shop" }, "https://shop.example/tenant": "t1", "a": { "b": 1 }, "a.b": 2,
        });
        let set = outputs(rule, claims).0;
        let values: Vec<&str> = set.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["shop", "t1", "1"]);
    }

    #[test]
    fn long_outputs_are_left_out_by_the_setting() {
        let rule = |changes: serde_json::Value| {
            let mut rule =
                json!({ "outputClaimToHeaders": [claim("x-a", "a"), claim("x-b", "b")] });
            meshseal_core::testing::merge(&mut rule, changes);
            rule
        };
        let claims = |a: usize, b: usize| json!({ "a": "a".repeat(a), "b": "b".repeat(b) });
        let lengths = |changes: serde_json::Value, a: usize, b: usize| {
            let (set, omitted, rejects) = outputs(rule(changes), claims(a, b));
            assert!(!rejects);
            let set = set
                .into_iter()
                .map(|(_, value)| value.len())
                .collect::<Vec<_>>();
            (
                set,
                omitted
                    .into_iter()
                    .map(|(_, reason, bytes)| (reason, bytes))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(lengths(json!({}), 4096, 4096), (vec![4096, 4096], vec![]));
        assert_eq!(
            lengths(json!({}), 4097, 1),
            (vec![1], vec![(Reason::ValueTooLong, 4097)])
        );
        assert_eq!(
            lengths(json!({ "outputMaxValueBytes": 5000 }), 5000, 1),
            (vec![5000, 1], vec![])
        );
        let total = json!({ "outputMaxTotalBytes": 26 });
        assert_eq!(lengths(total.clone(), 10, 10), (vec![10, 10], vec![]));
        assert_eq!(
            lengths(total.clone(), 10, 11),
            (vec![10], vec![(Reason::TotalTooLong, 11)])
        );
        // What is left out takes no part of the total.
        assert_eq!(
            lengths(total, 30, 20),
            (vec![20], vec![(Reason::TotalTooLong, 30)])
        );
    }

    #[test]
    fn payload_counts_against_the_total() {
        let rule = json!({ "outputPayloadToHeader": "x-payload", "outputMaxTotalBytes": 100, "onUnsafe": "REJECT",
            "outputClaimToHeaders": [claim("x-sub", "sub")] });
        let (set, omitted, rejects) = outputs(rule, json!({}));
        assert_eq!(set, [("x-sub".to_owned(), "checkout".to_owned())]);
        assert_eq!(
            (omitted[0].0.as_str(), omitted[0].1, rejects),
            ("x-payload", Reason::TotalTooLong, true)
        );
    }

    #[test]
    fn an_output_overrides_the_rule_on_unsafe() {
        for (rule, output, rejects) in [
            ("OMIT", None, false),
            ("REJECT", None, true),
            ("OMIT", Some("REJECT"), true),
            ("REJECT", Some("OMIT"), false),
        ] {
            let mut claim = claim("x-a", "a");
            output
                .into_iter()
                .for_each(|output| claim["onUnsafe"] = output.into());
            let config = json!({ "onUnsafe": rule, "outputClaimToHeaders": [claim] });
            assert_eq!(
                outputs(config.clone(), json!({ "a": " x" })).2,
                rejects,
                "{rule} {output:?}"
            );
            assert!(!outputs(config, json!({ "a": "x" })).2);
        }
    }
}
