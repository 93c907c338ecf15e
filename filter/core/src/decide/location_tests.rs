use alloc::string::ToString as _;
use alloc::vec;

use serde_json::{Value, json};

use super::*;
use crate::policy::Policy;
use crate::testing::{ISSUER, TestKey, inline_policy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn policy(rule: Value) -> Policy {
    inline_policy(&[&TestKey::new("a", 1)], rule, Value::Null)
}

fn sources(rule: Value) -> TokenSources {
    policy(rule).authn().token_sources().clone()
}

/// Returns the sources of a rule that names `authorization` once for each prefix.
fn sources_with_prefixes(prefixes: &[&str]) -> TokenSources {
    let headers: Value = prefixes
        .iter()
        .map(|prefix| json!({ "name": "authorization", "prefix": prefix }))
        .collect();
    sources(json!({ "fromHeaders": headers }))
}
fn headers<'t>(pairs: &[(&'t str, &'t str)]) -> Incoming<Vec<(&'t str, &'t str)>> {
    Incoming::new(pairs.to_vec())
}

/// Returns the token that is found, or the code of the rejection.
fn found(sources: &TokenSources, pairs: &[(&str, &str)], path: &str) -> String {
    match locate(sources, &headers(pairs), path) {
        Ok(located) if located.is_joined() => Rejection::TokenRepeated.code().to_owned(),
        Ok(located) => located.text().unwrap().to_owned(),
        Err(rejection) => rejection.code().to_owned(),
    }
}

#[test]
fn compares_scheme_without_case() {
    for value in ["Bearer t.o.k", "bearer t.o.k", "BEARER t.o.k"] {
        assert_eq!(
            found(&sources(json!({})), &[("authorization", value)], "/"),
            "t.o.k",
            "{value}"
        );
    }
}

#[test]
fn compares_other_prefixes_exactly() {
    let sources = sources(json!({ "fromHeaders": [{ "name": "x-token", "prefix": "jwt:" }] }));
    assert_eq!(found(&sources, &[("x-token", "jwt:t.o.k")], "/"), "t.o.k");
    assert_eq!(
        found(&sources, &[("x-token", "JWT:t.o.k")], "/"),
        "token-missing"
    );
}

#[test]
fn header_without_prefix_is_the_token() {
    let sources = sources(json!({ "fromHeaders": [{ "name": "x-token" }] }));
    assert_eq!(found(&sources, &[("x-token", "t.o.k")], "/"), "t.o.k");
    assert_eq!(found(&sources, &[("x-token", "")], "/"), "token-missing");
}

#[test]
fn ignores_other_schemes() {
    for value in ["Basic dTpw", "Bearer", "Bearertoken", "Bearer "] {
        assert_eq!(
            found(&sources(json!({})), &[("authorization", value)], "/"),
            "token-missing",
            "{value}"
        );
    }
}

#[test]
fn rejects_repeated_header_with_any_copies() {
    for second in ["Bearer t.o.k", "Basic dTpw", ""] {
        let pairs = [("authorization", "Bearer t.o.k"), ("authorization", second)];
        assert_eq!(
            found(&sources(json!({})), &pairs, "/"),
            "token-repeated",
            "{second}"
        );
    }
}

#[test]
fn rejects_copies_joined_by_the_proxy() {
    for value in [
        "Bearer t.o.k,Bearer t.o.k",
        "Basic dTpw, Bearer t.o.k",
        "Bearer t.o.k,Basic dTpw",
    ] {
        assert_eq!(
            found(&sources(json!({})), &[("authorization", value)], "/"),
            "token-repeated",
            "{value}"
        );
    }
    let digest = r#"Digest username="a", realm="b""#;
    assert_eq!(
        found(&sources(json!({})), &[("authorization", digest)], "/"),
        "token-missing"
    );
}

#[test]
fn rejects_bytes_that_are_not_utf8() {
    let headers = Incoming::new(vec![("authorization", b"Bearer \xff")]);
    let sources = sources(json!({}));
    assert_eq!(
        locate(&sources, &headers, "/").unwrap().text(),
        Err(Rejection::TokenMalformed)
    );
}

#[test]
fn finds_cookie_among_others_and_several_headers() {
    let sources = sources(json!({ "fromCookies": ["session"] }));
    assert_eq!(
        found(&sources, &[("cookie", "a=b; session=t.o.k;c=d")], "/"),
        "t.o.k"
    );
    assert_eq!(
        found(
            &sources,
            &[("cookie", "a=b"), ("cookie", "session=t.o.k")],
            "/"
        ),
        "t.o.k"
    );
    assert_eq!(
        found(
            &sources,
            &[("cookie", "Session=x; xsession=y; session")],
            "/"
        ),
        "token-missing"
    );
}

#[test]
fn rejects_repeated_cookie() {
    let sources = sources(json!({ "fromCookies": ["session"] }));
    assert_eq!(
        found(&sources, &[("cookie", "session=t.o.k; session=t.o.k")], "/"),
        "token-repeated"
    );
    assert_eq!(
        found(
            &sources,
            &[("cookie", "session=t.o.k"), ("cookie", "session=")],
            "/"
        ),
        "token-repeated"
    );
}

#[test]
fn reads_query_only_for_configured_parameters() {
    assert_eq!(
        found(&sources(json!({})), &[], "/?access_token=t.o.k"),
        "token-missing"
    );
}

#[test]
fn finds_query_parameter_in_any_spelling() {
    let sources = sources(json!({ "fromParams": ["access_token"] }));
    assert_eq!(found(&sources, &[], "/a?x=1&access_token=t.o.k&y"), "t.o.k");
    assert_eq!(found(&sources, &[], "/a?access%5ftoken=t.o.k"), "t.o.k");
    assert_eq!(
        found(&sources, &[], "/a?access_token=t.o.k&%61ccess_token=other"),
        "token-repeated"
    );
    assert_eq!(
        found(
            &sources,
            &[],
            "/access_token=t.o.k?xaccess_token=1&access_token%zz=2"
        ),
        "token-missing"
    );
}

#[test]
fn same_token_in_two_sources_is_one() {
    let sources = sources(json!({
        "fromHeaders": [{ "name": "authorization", "prefix": "Bearer " }],
        "fromCookies": ["session"],
        "fromParams": ["t"],
    }));
    let header = ("authorization", "Bearer t.o.k");
    assert_eq!(found(&sources, &[header], "/"), "t.o.k");
    assert_eq!(
        found(
            &sources,
            &[header, ("cookie", "session=t.o.k")],
            "/?t=t.o.k"
        ),
        "t.o.k"
    );
    for (cookie, path) in [
        ("session=x", "/"),
        ("session=x", "/?t=t.o.k"),
        ("session=t.o.k", "/?t=x"),
        ("session=\"t.o.K\"", "/"),
    ] {
        assert_eq!(
            found(&sources, &[header, ("cookie", cookie)], path),
            "token-repeated",
            "{cookie} {path}"
        );
    }
}

#[test]
fn accepts_several_spaces_after_scheme() {
    for value in ["Bearer  t.o.k", "bearer     t.o.k"] {
        assert_eq!(
            found(&sources(json!({})), &[("authorization", value)], "/"),
            "t.o.k",
            "{value}"
        );
    }
    for value in ["Bearer\tt.o.k", "Bearer   "] {
        assert_eq!(
            found(&sources(json!({})), &[("authorization", value)], "/"),
            "token-missing",
            "{value:?}"
        );
    }
}

#[test]
fn longest_prefix_determines_the_source() {
    for order in [["", "Bearer "], ["Bearer ", ""]] {
        for value in ["t.o.k", "Bearer t.o.k", "bearer  t.o.k"] {
            assert_eq!(
                found(
                    &sources_with_prefixes(&order),
                    &[("authorization", value)],
                    "/"
                ),
                "t.o.k",
                "{order:?} {value}"
            );
        }
    }
    for value in ["Bearer t.o.k, t.o.x", "t.o.x, Bearer t.o.k", "t.o.k, t.o.k"] {
        assert_eq!(
            found(
                &sources_with_prefixes(&["", "Bearer "]),
                &[("authorization", value)],
                "/"
            ),
            "token-repeated",
            "{value}"
        );
    }
    let nested = sources_with_prefixes(&["Bearer ", "Bearer v2:"]);
    assert_eq!(
        found(&nested, &[("authorization", "Bearer v2:t.o.k")], "/"),
        "t.o.k"
    );
}

/// Two rules read the same header, each with its own prefix.
#[test]
fn prefix_determines_the_rule() {
    let rule = json!({
        "issuer": ISSUER,
        "audiences": ["orders"],
        "jwks": { "keys": [TestKey::new("a", 1).jwk()] },
    });
    let mut config = json!({ "jwtRules": [rule] });
    let mut other = config["jwtRules"][0].clone();
    other["issuer"] = json!("https://other.example");
    other["fromHeaders"] = json!([{ "name": "authorization" }]);
    config["jwtRules"].as_array_mut().unwrap().push(other);
    let policy = crate::config::read_policy(&config.to_string()).unwrap();
    let sources = policy.authn().token_sources();
    for (value, rules) in [("Bearer t.o.k", [true, false]), ("t.o.k", [false, true])] {
        let headers = headers(&[("authorization", value)]);
        let located = locate(sources, &headers, "/").unwrap();
        assert_eq!(located.bytes(), b"t.o.k");
        assert_eq!(
            [0, 1].map(|rule| located.is_expected_by(rule)),
            rules,
            "{value}"
        );
    }
}

#[test]
fn token_is_one_websocket_protocol() {
    let sources = sources(
        json!({ "fromHeaders": [{ "name": "sec-websocket-protocol", "prefix": "bearer." }] }),
    );
    let ask = |values: &[&str]| {
        let pairs: Vec<_> = values
            .iter()
            .map(|value| ("sec-websocket-protocol", *value))
            .collect();
        found(&sources, &pairs, "/")
    };
    assert_eq!(ask(&["graphql-ws, bearer.t.o.k"]), "t.o.k");
    assert_eq!(ask(&["bearer.t.o.k,a,b"]), "t.o.k");
    assert_eq!(ask(&["a", "b, bearer.t.o.k"]), "t.o.k");
    assert_eq!(ask(&["a, b", "c"]), "token-missing");
    assert_eq!(ask(&["bearer.t.o.k, bearer.t.o.k"]), "token-repeated");
    assert_eq!(ask(&["bearer.t.o.k", "bearer.x"]), "token-repeated");
}

#[test]
fn token_is_one_item_of_any_list_header() {
    let sources = sources(
        json!({ "fromHeaders": [{ "name": "x-tokens", "prefix": "jwt:" }, { "name": "x-bare" }] }),
    );
    for value in [
        "a, jwt:t.o.k",
        "jwt:t.o.k,a",
        "a, , jwt:t.o.k , b",
        "jwt:t.o.k",
    ] {
        assert_eq!(
            found(&sources, &[("x-tokens", value)], "/"),
            "t.o.k",
            "{value}"
        );
    }
    assert_eq!(
        found(
            &sources,
            &[("x-tokens", "a"), ("x-tokens", "jwt:t.o.k")],
            "/"
        ),
        "t.o.k"
    );
    for value in ["jwt:t.o.k, jwt:x", "jwt:t.o.k, jwt:t.o.k"] {
        assert_eq!(
            found(&sources, &[("x-tokens", value)], "/"),
            "token-repeated",
            "{value}"
        );
    }
    assert_eq!(
        found(
            &sources,
            &[("x-tokens", "jwt:t.o.k"), ("x-tokens", "jwt:x")],
            "/"
        ),
        "token-repeated"
    );
    assert_eq!(
        found(&sources, &[("x-bare", "t.o.k, x")], "/"),
        "token-repeated",
        "each item is one without prefix"
    );
    assert_eq!(
        found(&sources, &[("x-tokens", "a, t.o.k")], "/"),
        "token-missing"
    );
}

#[test]
fn proxy_authorization_is_not_a_list() {
    let sources =
        sources(json!({ "fromHeaders": [{ "name": "proxy-authorization", "prefix": "Bearer " }] }));
    let ask = |value| found(&sources, &[("proxy-authorization", value)], "/");
    assert_eq!(
        [ask("Basic dTpw, Bearer t.o.k"), ask("Bearer t.o.k,x")],
        ["token-repeated"; 2]
    );
}

#[test]
fn removes_quotes_around_cookie() {
    let sources = sources(json!({ "fromCookies": ["session"] }));
    assert_eq!(
        found(&sources, &[("cookie", "a=1; session=\"t.o.k\"; b=2")], "/"),
        "t.o.k"
    );
    assert_eq!(
        found(&sources, &[("cookie", "session=\"\"")], "/"),
        "token-missing"
    );
    assert_eq!(
        found(&sources, &[("cookie", "session=\"t.o.k")], "/"),
        "\"t.o.k"
    );
}

/// Returns the named header (one byte per character) after the token was removed from every source
/// that held it.
fn removed(rule: Value, pairs: &[(&str, &str)], name: &str) -> Option<String> {
    let sources = sources(rule);
    let pairs: Vec<(String, Vec<u8>)> = pairs
        .iter()
        .map(|(name, value)| {
            let bytes = value
                .chars()
                .map(|char| u8::try_from(u32::from(char)).unwrap());
            ((*name).to_owned(), bytes.collect())
        })
        .collect();
    let mut left = pairs.clone();
    let headers = Incoming::new(pairs);
    let path = headers.request().unwrap().path;
    let located = locate(&sources, &headers, path).unwrap();
    let removed = located.remove(&mut |edit| {
        let (HeaderEdit::Remove(name) | HeaderEdit::Set(name, _)) = edit else {
            return false;
        };
        let first = left.iter().position(|(key, _)| key == name);
        left.retain(|(key, _)| key != name);
        if let (HeaderEdit::Set(name, value), Some(at)) = (edit, first) {
            left.insert(at.min(left.len()), (name.to_owned(), value));
        }
        true
    });
    assert!(removed);
    let left = left.into_iter().find(|(key, _)| key == name);
    left.map(|(_, value)| value.into_iter().map(char::from).collect())
}

#[test]
fn removes_token_from_every_source() {
    let rule = json!({
        "fromHeaders": [{ "name": "x-token" }],
        "fromCookies": ["session"],
        "fromParams": ["t", "u"],
    });
    let pairs = [
        (":path", "/?t=t.o.k&a&u=t.o.k"),
        ("x-token", "t.o.k"),
        ("cookie", "a=b; session=t.o.k"),
    ];
    assert_eq!(removed(rule.clone(), &pairs, "x-token"), None);
    assert_eq!(
        removed(rule.clone(), &pairs, "cookie").as_deref(),
        Some("a=b")
    );
    assert_eq!(removed(rule, &pairs, ":path").as_deref(), Some("/?a"));
}

/// Two sources in one header are removed by one edit.
#[test]
fn removes_token_from_shared_header() {
    let cookies = json!({ "fromCookies": ["a", "b"] });
    assert_eq!(
        removed(
            cookies,
            &[("cookie", "a=t.o.k; c=d; b=\"t.o.k\"")],
            "cookie"
        )
        .as_deref(),
        Some("c=d")
    );
    let protocols = json!({ "fromHeaders": [
        { "name": "sec-websocket-protocol", "prefix": "bearer." },
        { "name": "sec-websocket-protocol", "prefix": "jwt." },
    ]});
    let pairs = [("sec-websocket-protocol", "jwt.t.o.k, mqtt, bearer.t.o.k")];
    assert_eq!(
        removed(protocols, &pairs, "sec-websocket-protocol").as_deref(),
        Some("mqtt")
    );
}

#[test]
fn other_cookies_keep_their_bytes() {
    for (cookie, left) in [
        (
            "sid=42; theme=gr\u{fc}n; session=t.o.k",
            "sid=42; theme=gr\u{fc}n",
        ),
        ("session=t.o.k; theme=gr\u{fc}n", "theme=gr\u{fc}n"),
        (
            "a=\"x y\";b;  session = \"t.o.k\" ;; c=  \u{ff}",
            "a=\"x y\";b;; c=  \u{ff}",
        ),
        ("a=1;session=t.o.k;b=2;", "a=1;b=2;"),
        ("session=t.o.k;", ""),
    ] {
        let left = Some(left).filter(|left| !left.is_empty());
        assert_eq!(
            removed(
                json!({ "fromCookies": ["session"] }),
                &[("cookie", cookie)],
                "cookie"
            )
            .as_deref(),
            left,
            "{cookie}"
        );
    }
}

#[test]
fn other_protocols_keep_their_order() {
    let rule =
        json!({ "fromHeaders": [{ "name": "sec-websocket-protocol", "prefix": "bearer." }] });
    let left = |value| {
        removed(
            rule.clone(),
            &[("sec-websocket-protocol", value)],
            "sec-websocket-protocol",
        )
    };
    assert_eq!(
        left("graphql-ws, bearer.t.o.k").as_deref(),
        Some("graphql-ws")
    );
    assert_eq!(left("bearer.t.o.k,b , a").as_deref(), Some("b , a"));
    assert_eq!(left("b,bearer.t.o.k, a").as_deref(), Some("b, a"));
    assert_eq!(left("bearer.t.o.k"), None);
    let tokens = json!({ "fromHeaders": [{ "name": "x-tokens", "prefix": "jwt:" }] });
    let pairs = [("x-tokens", "a, jwt:t.o.k, b")];
    assert_eq!(removed(tokens, &pairs, "x-tokens").as_deref(), Some("a, b"));
}

#[test]
fn removes_header_completely() {
    assert_eq!(
        removed(
            json!({}),
            &[("authorization", "Bearer t.o.k")],
            "authorization"
        ),
        None
    );
}

#[test]
fn removes_cookie_and_keeps_others() {
    let rule = json!({ "fromCookies": ["session"] });
    assert_eq!(
        removed(
            rule.clone(),
            &[("cookie", "a=b; session=t.o.k; c=d")],
            "cookie"
        )
        .as_deref(),
        Some("a=b; c=d")
    );
    assert_eq!(
        removed(
            rule.clone(),
            &[("cookie", "a=b"), ("cookie", "session=t.o.k")],
            "cookie"
        )
        .as_deref(),
        Some("a=b")
    );
    assert_eq!(
        removed(rule, &[("cookie", "session=t.o.k")], "cookie"),
        None
    );
}

#[test]
fn removes_query_parameter_and_keeps_others() {
    let path = |path| removed(json!({ "fromParams": ["t"] }), &[(":path", path)], ":path").unwrap();
    assert_eq!(path("/a?x=%20&t=t.o.k&y"), "/a?x=%20&y");
    assert_eq!(path("/a?t=t.o.k"), "/a");
}
