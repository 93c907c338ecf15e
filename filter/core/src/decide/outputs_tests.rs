use alloc::borrow::ToOwned as _;
use alloc::vec;
use alloc::vec::Vec;

use serde_json::json;

use super::*;
use crate::authn::Trust;
use crate::authn::validate;
use crate::json::{Budget, Document};
use crate::testing::{NOW, TestKey, claims as claims_with, inline_policy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

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
        .map(str::to_owned)
}

#[test]
fn writes_scalars_unchanged() {
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
fn encodes_arrays_and_objects_as_base64() {
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
fn omits_values_that_headers_cannot_carry() {
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
type Omitted = Vec<(String, OmissionReason, usize)>;

/// Returns the headers of a token with these claims under a rule with these settings, the omitted
/// outputs, and whether the token is rejected.
fn outputs(rule: serde_json::Value, claims: serde_json::Value) -> (Headers, Omitted, bool) {
    let key = TestKey::new("a", 1);
    let policy = inline_policy(&[&key], rule, json!(null));
    let token = key.token(&claims_with(claims));
    let verified = validate(&token, policy.authn(), &Trust::new(), NOW).unwrap();
    let (rule, mut omitted) = (&policy.authn().jwt_rules()[0], Vec::new());
    let outputs = Outputs::of(rule, &verified, &token, |omission| {
        omitted.push((omission.header.to_owned(), omission.reason, omission.bytes));
    });
    assert_eq!(outputs.omitted(), omitted.len());
    (
        outputs
            .headers(rule, token.as_bytes())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        omitted,
        outputs.rejects(),
    )
}

#[test]
fn sets_each_claim_in_its_own_header() {
    let rule = json!({
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [
            claim("x-none", "none"),
            claim("x-sub", "sub"),
            claim("x-broken", "broken"),
            claim("x-n", "n"),
            claim("x-also-none", "gone"),
            claim("x-empty", "empty"),
        ],
    });
    let (set, omitted, rejects) = outputs(rule, json!({ "n": 7, "broken": "a\nb", "empty": "" }));
    let names: Vec<&str> = set.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-payload", "x-sub", "x-n"]);
    assert_eq!((set[1].1.as_str(), set[2].1.as_str()), ("checkout", "7"));
    assert_eq!(
        omitted,
        [("x-broken".to_owned(), OmissionReason::ControlCharacter, 3)]
    );
    assert!(!rejects);
}

#[test]
fn brackets_address_claims_with_dots() {
    let rule = json!({ "outputClaimToHeaders": [
        claim("x-ns", "[kubernetes.io][namespace]"),
        claim("x-tenant", "[https://shop.example/tenant]"),
        claim("x-nested", "a.b"),
    ]});
    let claims = json!({
        "kubernetes.io": { "namespace": "shop" },
        "https://shop.example/tenant": "t1",
        "a": { "b": 1 },
        "a.b": 2,
    });
    let set = outputs(rule, claims).0;
    let values: Vec<&str> = set.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["shop", "t1", "1"]);
}

#[test]
fn omits_long_outputs_by_setting() {
    let lengths = |changes: serde_json::Value, a: usize, b: usize| {
        let mut rule = json!({ "outputClaimToHeaders": [claim("x-a", "a"), claim("x-b", "b")] });
        crate::testing::merge(&mut rule, changes);
        let claims = json!({ "a": "a".repeat(a), "b": "b".repeat(b) });
        let (set, omitted, rejects) = outputs(rule, claims);
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
        (vec![1], vec![(OmissionReason::ValueTooLong, 4097)])
    );
    assert_eq!(
        lengths(json!({ "outputMaxValueBytes": 5000 }), 5000, 1),
        (vec![5000, 1], vec![])
    );
    let total = json!({ "outputMaxTotalBytes": 26 });
    assert_eq!(lengths(total.clone(), 10, 10), (vec![10, 10], vec![]));
    assert_eq!(
        lengths(total.clone(), 10, 11),
        (vec![10], vec![(OmissionReason::TotalTooLong, 11)])
    );
    // An omitted value does not count against the total.
    assert_eq!(
        lengths(total, 30, 20),
        (vec![20], vec![(OmissionReason::TotalTooLong, 30)])
    );
}

#[test]
fn payload_counts_toward_the_total() {
    let rule = json!({
        "outputPayloadToHeader": "x-payload",
        "outputMaxTotalBytes": 100,
        "onUnsafe": "REJECT",
        "outputClaimToHeaders": [claim("x-sub", "sub")],
    });
    let (set, omitted, rejects) = outputs(rule, json!({}));
    assert_eq!(set, [("x-sub".to_owned(), "checkout".to_owned())]);
    assert_eq!(
        (omitted[0].0.as_str(), omitted[0].1, rejects),
        ("x-payload", OmissionReason::TotalTooLong, true)
    );
}

#[test]
fn output_overrides_on_unsafe_of_rule() {
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
