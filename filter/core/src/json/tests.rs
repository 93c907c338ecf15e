use super::*;
use alloc::string::ToString as _;
use alloc::{format, vec};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn parse(text: &str) -> Result<Document<'static>, JsonError> {
    Document::parse(text.as_bytes().to_vec(), Budget::TOKEN)
}

#[test]
fn rejects_repeated_names_in_any_form() {
    for text in [
        r#"{"a":1,"a":2}"#,
        r#"{"x":{"b":1,"c":2,"b":1}}"#,
        r#"[{"a":[1],"\u0061":0}]"#,
        r#"{"":1,"":2}"#,
    ] {
        assert_eq!(parse(text).unwrap_err(), JsonError::DuplicateName, "{text}");
    }
    assert!(parse(r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}"#).is_ok());
}

#[test]
fn notes_repeated_names_on_request() {
    fn note(text: &str) -> [bool; 3] {
        let document = Document::lent(text, Budget::JWKS).unwrap();
        let [first, second] = ["a", "b"].map(|name| document.root().get(name).unwrap());
        [
            document.root().repeats_name(),
            first.contains_repeats(),
            second.contains_repeats(),
        ]
    }
    let many: Vec<String> = (0..=read::SMALL_OBJECT)
        .map(|at| format!("\"m{at}\":1,"))
        .collect();
    assert_eq!(
        note(r#"{"a":[{"x":1}],"b":{"x":1,"y":{"x":1}}}"#),
        [false; 3]
    );
    assert_eq!(
        note(r#"{"a":[{"x":1},{"x":1,"y":[],"\u0078":2}],"b":{}}"#),
        [false, true, false]
    );
    assert_eq!(
        note(r#"{"a":0,"b":{"y":{"x":1,"x":2},"z":1}}"#),
        [false, false, true]
    );
    assert_eq!(
        note(&format!(r#"{{"a":0,"b":{{{}"m0":2}}}}"#, many.concat())),
        [false, false, true]
    );
    assert_eq!(note(r#"{"a":0,"b":0,"a":{"x":1}}"#), [true, false, false]);
}

#[test]
fn large_object_needs_unique_names() {
    fn object(names: &[String]) -> String {
        let members: Vec<String> = names.iter().map(|name| format!("\"{name}\":1")).collect();
        format!("{{{}}}", members.join(","))
    }
    let names: Vec<String> = (0..2 * read::SMALL_OBJECT)
        .map(|at| format!("claim_{at}"))
        .collect();
    assert!(parse(&object(&names)).is_ok());
    for name in &names {
        let repeated: Vec<String> = names.iter().chain([name]).cloned().collect();
        assert_eq!(
            parse(&object(&repeated)).unwrap_err(),
            JsonError::DuplicateName,
            "{name}"
        );
    }
}

#[test]
fn rejects_invalid_json_with_its_position() {
    assert_eq!(
        Document::parse(vec![b'"', 0xff, b'"'], Budget::TOKEN).unwrap_err(),
        JsonError::Encoding
    );
    for text in [
        "",
        "{",
        "{} {}",
        "{'a':1}",
        "[1,]",
        "nul",
        "\u{feff}{}",
        "\"\n\"",
        r#""\ud800""#,
        "01",
        "+1",
        "NaN",
        "[1e999,01]",
        "[1e999e9]",
        "[01e999]",
        "[1.e999]",
        "[1e+]",
        "[--1e999]",
        "[1e999",
    ] {
        assert!(
            matches!(parse(text).unwrap_err(), JsonError::Syntax { .. }),
            "{text:?}"
        );
    }
    assert_eq!(
        parse("{\n \"a\": x}").unwrap_err(),
        JsonError::Syntax { line: 2, column: 7 }
    );
}

#[test]
fn depth_and_values_are_bounded() {
    fn array(count: usize) -> String {
        format!("[{}0]", "0,".repeat(count - 1))
    }
    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }
    let deepest = usize::from(limits::MAX_JSON_DEPTH);
    assert!(parse(&nested(deepest)).is_ok());
    assert_eq!(parse(&nested(deepest + 1)).unwrap_err(), JsonError::TooDeep);
    assert_eq!(parse(&nested(100_000)).unwrap_err(), JsonError::TooDeep);
    assert!(parse(&array(limits::MAX_TOKEN_NODES - 1)).is_ok());
    assert_eq!(
        parse(&array(limits::MAX_TOKEN_NODES)).unwrap_err(),
        JsonError::TooBig
    );
}

#[test]
fn only_size_limits_token_structure() {
    fn members(count: usize) -> String {
        (0..count)
            .map(|at| format!("\"{at:x}\":0"))
            .collect::<Vec<_>>()
            .join(",")
    }
    let payload = limits::MAX_TOKEN_BYTES / 4 * 3;
    for text in [
        format!("[{}0]", "0,".repeat(payload / 2 - 2)),
        format!("{{\"a\":{{{}}}}}", members(payload / 8)),
        format!("[{}{{}}]", "{},".repeat(payload / 3 - 2)),
        format!("[{}\"\"]", "\"\",".repeat(payload / 3 - 2)),
    ] {
        assert!(
            text.len() <= payload && text.len() > payload / 4 * 3,
            "{}",
            text.len()
        );
        assert!(
            parse(&text).is_ok(),
            "{:?} {}",
            parse(&text).err(),
            &text[..40]
        );
    }
}

/// Counts the accesses to names, because time would depend on the machine.
#[test]
fn finding_repeats_costs_n_log_n() {
    let count = 2_048_usize;
    let prefix = "p".repeat(40);
    type Order = fn(usize, usize) -> usize;
    let orders: [Order; 5] = [
        |at, _| at,
        |at, count| count - at,
        |at, count| {
            if at < count / 2 {
                at
            } else {
                count - at + count
            }
        },
        |at, count| at.wrapping_mul(2_654_435_761) % (count * 4),
        |at, count| (at % 2) * count + at,
    ];
    for (which, order) in orders.iter().enumerate() {
        let names: Vec<String> = (0..count)
            .map(|at| format!("{prefix}{:06}", order(at, count)))
            .collect();
        let looked_at = core::cell::Cell::new(0_usize);
        let mut items: Vec<usize> = (0..count).collect();
        let repeats = read::has_repeats(&mut items, |at: usize| {
            looked_at.set(looked_at.get() + 1);
            names[at].as_str()
        });
        let unique: alloc::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(repeats, unique.len() < count, "{which}");
        assert!(looked_at.get() < 64 * count, "{which}: {}", looked_at.get());
    }
}

#[test]
fn numbers_keep_the_digits_that_were_signed() {
    for number in [
        "36893488147419103233",
        "-9223372036854775809",
        "1e3",
        "1E+3",
        "1.0",
        "-0",
        "-0.0",
        "0.10",
        "1e-7",
        "123456789012345678901234567890.5",
        "1e999",
        "-1.50E+400",
        &"9".repeat(400),
    ] {
        let text = format!("{{\"7\\\"8\":[-1,{number},\"9\",2],\"x\":{number}}}");
        let document = parse(&text).unwrap();
        assert_eq!(document.root().to_string(), text);
        assert_eq!(document.root().get("x").unwrap().to_string(), number);
    }
}

#[test]
fn numeric_dates_are_seconds_from_1970() {
    fn date(text: &str) -> Option<u64> {
        parse(text).unwrap().root().as_numeric_date()
    }
    assert_eq!(date("1700000000"), Some(1_700_000_000));
    assert_eq!(date("1.7e9"), Some(1_700_000_000));
    assert_eq!(date("1700000000.9"), Some(1_700_000_000));
    for text in [
        "-1",
        "-0.5",
        "1e300",
        "1e999",
        "18446744073709551615",
        "\"1700000000\"",
        "true",
        "null",
        "[1]",
    ] {
        assert_eq!(date(text), None, "{text}");
    }
}

#[test]
fn finds_members_after_nesting_and_escapes() {
    let document = parse(r#"{"a":[1,{"x":2}],"b\n":"c\"d","e":{"f":-3,"g":null}}"#).unwrap();
    let root = document.root();
    assert_eq!(root.get("b\n").and_then(Value::as_str), Some("c\"d"));
    assert_eq!(
        root.get("e").and_then(|e| e.get("g")).map(Value::kind),
        Some(Kind::Null)
    );
    assert_eq!(root.get("x").map(Value::kind), None);
    assert_eq!(root.get("a").unwrap().items().count(), 2);
}

/// Generates compact JSON texts with numbers in every notation.
fn any_spelling() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?",
        "\"([a-z0-9.,:{}e-]|\\\\[\"\\\\n]){0,6}\"",
        "true|false|null",
    ];
    leaf.prop_recursive(3, 30, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5)
                .prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::btree_map("[a-z0-9]{1,4}", inner, 0..5).prop_map(|members| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(name, value)| format!("\"{name}\":{value}"))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        "\\PC{0,6}".prop_map(Into::into),
        "[\"\\\\\n\t]{0,3}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::btree_map("\\PC{0,4}", inner, 0..5)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn reads_what_serde_json_reads(value in any_json()) {
        let document = parse(&value.to_string()).unwrap();
        prop_assert_eq!(document.root().to_string(), value.to_string());
    }

    #[test]
    fn writes_the_digits_that_it_read(text in any_spelling()) {
        prop_assert_eq!(parse(&text).unwrap().root().to_string(), text);
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        drop(Document::parse(bytes, Budget::TOKEN));
    }
}
