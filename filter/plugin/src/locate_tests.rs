use super::*;
use crate::host::fake::FakeHost;
use crate::testing::{TestKey, inline_config};
use serde_json::{Value, json};

fn places(rule: Value) -> Places {
    let config = inline_config(&[&TestKey::new("a", 1)], rule, json!({}));
    Places::of(&Policy::from_json(&config).unwrap())
}

fn headers(pairs: &[(&str, &str)]) -> RequestHeaders {
    RequestHeaders::new(meshseal_abi::header_map(pairs))
}

/// The token found, or the code of the rejection that it leads to.
fn found(places: &Places, pairs: &[(&str, &str)], path: &str) -> String {
    match places.locate(&headers(pairs), path) {
        Ok(located) if located.is_joined() => Rejection::TokenRepeated.code().to_owned(),
        Ok(located) => located.text().unwrap().to_owned(),
        Err(rejection) => rejection.code().to_owned(),
    }
}

#[test]
fn the_scheme_is_compared_without_case() {
    for value in ["Bearer t.o.k", "bearer t.o.k", "BEARER t.o.k"] {
        assert_eq!(found(&places(json!({})), &[("authorization", value)], "/"), "t.o.k", "{value}");
    }
}

#[test]
fn a_prefix_that_is_no_scheme_is_compared_exactly() {
    let places = places(json!({ "fromHeaders": [{ "name": "x-token", "prefix": "jwt:" }] }));
    assert_eq!(found(&places, &[("x-token", "jwt:t.o.k")], "/"), "t.o.k");
    assert_eq!(found(&places, &[("x-token", "JWT:t.o.k")], "/"), "token-missing");
}

#[test]
fn a_header_without_prefix_is_the_token() {
    let places = places(json!({ "fromHeaders": [{ "name": "x-token" }] }));
    assert_eq!(found(&places, &[("x-token", "t.o.k")], "/"), "t.o.k");
    assert_eq!(found(&places, &[("x-token", "")], "/"), "token-missing");
}

#[test]
fn another_scheme_is_no_token() {
    for value in ["Basic dTpw", "Bearer", "Bearertoken", "Bearer "] {
        assert_eq!(found(&places(json!({})), &[("authorization", value)], "/"), "token-missing", "{value}");
    }
}

#[test]
fn a_repeated_header_refuses_the_request_whatever_the_copies_hold() {
    for second in ["Bearer t.o.k", "Basic dTpw", ""] {
        let pairs = [("authorization", "Bearer t.o.k"), ("authorization", second)];
        assert_eq!(found(&places(json!({})), &pairs, "/"), "token-repeated", "{second}");
    }
}

#[test]
fn a_repeated_header_that_the_proxy_has_joined_refuses_the_request_too() {
    for value in ["Bearer t.o.k,Bearer t.o.k", "Basic dTpw, Bearer t.o.k", "Bearer t.o.k,Basic dTpw"] {
        assert_eq!(found(&places(json!({})), &[("authorization", value)], "/"), "token-repeated", "{value}");
    }
    let digest = r#"Digest username="a", realm="b""#;
    assert_eq!(found(&places(json!({})), &[("authorization", digest)], "/"), "token-missing");
}

#[test]
fn bytes_that_are_no_text_are_no_token() {
    let headers = RequestHeaders::new(meshseal_abi::header_map(&[("authorization", b"Bearer \xff")]));
    let places = places(json!({}));
    assert_eq!(places.locate(&headers, "/").unwrap().text(), Err(Rejection::TokenMalformed));
}

#[test]
fn a_cookie_is_found_among_others_and_over_several_headers() {
    let places = places(json!({ "fromCookies": ["session"] }));
    assert_eq!(found(&places, &[("cookie", "a=b; session=t.o.k;c=d")], "/"), "t.o.k");
    assert_eq!(found(&places, &[("cookie", "a=b"), ("cookie", "session=t.o.k")], "/"), "t.o.k");
    assert_eq!(found(&places, &[("cookie", "Session=x; xsession=y; session")], "/"), "token-missing");
}

#[test]
fn a_cookie_that_is_there_twice_refuses_the_request() {
    let places = places(json!({ "fromCookies": ["session"] }));
    assert_eq!(found(&places, &[("cookie", "session=t.o.k; session=t.o.k")], "/"), "token-repeated");
    assert_eq!(found(&places, &[("cookie", "session=t.o.k"), ("cookie", "session=")], "/"), "token-repeated");
}

#[test]
fn the_query_is_not_read_unless_a_parameter_is_named() {
    assert_eq!(found(&places(json!({})), &[], "/?access_token=t.o.k"), "token-missing");
}

#[test]
fn a_query_parameter_is_found_under_any_spelling_of_its_name() {
    let places = places(json!({ "fromParams": ["access_token"] }));
    assert_eq!(found(&places, &[], "/a?x=1&access_token=t.o.k&y"), "t.o.k");
    assert_eq!(found(&places, &[], "/a?access%5ftoken=t.o.k"), "t.o.k");
    assert_eq!(found(&places, &[], "/a?access_token=t.o.k&%61ccess_token=other"), "token-repeated");
    assert_eq!(found(&places, &[], "/access_token=t.o.k?xaccess_token=1&access_token%zz=2"), "token-missing");
}

#[test]
fn two_places_with_a_token_refuse_the_request() {
    let places = places(json!({
        "fromHeaders": [{ "name": "authorization", "prefix": "Bearer " }], "fromCookies": ["session"], "fromParams": ["t"],
    }));
    let header = ("authorization", "Bearer t.o.k");
    assert_eq!(found(&places, &[header], "/"), "t.o.k");
    assert_eq!(found(&places, &[header, ("cookie", "session=t.o.k")], "/"), "token-repeated");
    assert_eq!(found(&places, &[header], "/?t=t.o.k"), "token-repeated");
    assert_eq!(found(&places, &[("cookie", "session=t.o.k")], "/?t=t.o.k"), "token-repeated");
}

/// The named header after the token was taken out of the place where it was found.
fn removed(rule: Value, pairs: &[(&str, &str)], name: &str) -> Option<String> {
    let (host, places) = (FakeHost::new(), places(rule));
    host.request(1, pairs);
    let headers = headers(pairs);
    let path = headers.request().unwrap().path;
    remove(places.locate(&headers, path).unwrap().place, &headers, &host);
    host.header(1, name)
}

#[test]
fn a_header_is_taken_out_whole() {
    assert_eq!(removed(json!({}), &[("authorization", "Bearer t.o.k")], "authorization"), None);
}

#[test]
fn a_cookie_is_taken_out_and_the_others_stay() {
    let rule = || json!({ "fromCookies": ["session"] });
    assert_eq!(removed(rule(), &[("cookie", "a=b; session=t.o.k; c=d")], "cookie").as_deref(), Some("a=b; c=d"));
    assert_eq!(removed(rule(), &[("cookie", "a=b"), ("cookie", "session=t.o.k")], "cookie").as_deref(), Some("a=b"));
    assert_eq!(removed(rule(), &[("cookie", "session=t.o.k")], "cookie"), None);
}

#[test]
fn a_query_parameter_is_taken_out_and_the_others_stay_as_they_were() {
    let path = |path| removed(json!({ "fromParams": ["t"] }), &[(":path", path)], ":path").unwrap();
    assert_eq!(path("/a?x=%20&t=t.o.k&y"), "/a?x=%20&y");
    assert_eq!(path("/a?t=t.o.k"), "/a");
}
