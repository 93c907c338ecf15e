use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn path(pattern: &str) -> PathMatcher {
    PathMatcher::parse(pattern, EscapedSlashes::Reject)
        .unwrap_or_else(|message| panic!("{pattern}: {message}"))
}

#[test]
fn patterns_match_as_in_authorization_policy() {
    for (pattern, yes, no) in [
        ("GET", &["GET"][..], &["get", "GETS", ""][..]),
        ("ab*", &["ab", "abc"], &["a", "xab"]),
        ("*yz", &["yz", "xyz"], &["y", "yzx"]),
        ("*", &["a"], &[""]),
    ] {
        let word = StringMatcher::parse(pattern).unwrap();
        assert!(yes.iter().all(|text| word.matches(text)), "{pattern}");
        assert!(!no.iter().any(|text| word.matches(text)), "{pattern}");
    }
    assert!(
        StringMatcher::parse("a*b").is_err()
            && StringMatcher::parse("*a*").is_err()
            && StringMatcher::parse("**").is_err()
    );
}

/// Examples from Istio's AuthorizationPolicy reference (`Operation.paths`).
#[test]
fn path_templates_match_as_istio_documents_them() {
    for (pattern, yes, no) in [
        (
            "/foo/{*}",
            &["/foo/bar"][..],
            &["/foo/bar/baz", "/foo/", "/foo"][..],
        ),
        (
            "/foo/{**}/",
            &["/foo/bar/", "/foo/bar/baz/", "/foo//"],
            &["/foo/bar", "/foo"],
        ),
        (
            "/foo/{*}/bar/{**}",
            &["/foo/buzz/bar/", "/foo/buzz/bar/baz", "/foo/x/bar/y/z"],
            &["/foo/bar/baz", "/foo/x/y/bar/z", "/foo/x/bar"],
        ),
        ("/{**}", &["/", "/a/b"], &[""]),
        ("/{*}/x", &["/a/x"], &["//x", "/a/b/x", "/a/x/"]),
    ] {
        let template = path(pattern);
        for text in yes {
            assert!(template.matches(text), "{pattern} should match {text}");
        }
        for text in no {
            assert!(!template.matches(text), "{pattern} should not match {text}");
        }
    }
}

#[test]
fn rejects_templates_that_istio_rejects() {
    for pattern in [
        "/*/baz/{*}",
        "/**/baz/{*}",
        "/{**}/foo/{*}",
        "/foo/{*}.txt",
        "/foo/{a}",
        "/foo/{**}.txt",
        "foo/{*}",
        "/a//{*}",
        "/../{**}",
        "/a?b",
        "/a//b",
        "/x/../y",
        "/%2f",
        "/a;b",
        "/{**}{**}",
        "{*}",
        "/{",
    ] {
        assert!(
            PathMatcher::parse(pattern, EscapedSlashes::Reject).is_err(),
            "{pattern}"
        );
    }
}

#[test]
fn covers_only_when_certain() {
    for (wide, narrow) in [
        ("/*", "/a"),
        ("/a*", "/ab*"),
        ("*", "/x/{*}"),
        ("/a/*", "/a/{*}"),
        ("/a/{*}", "/a/b"),
        ("*.png", "/x.png"),
        ("/a/{**}", "/a/{**}"),
        ("/a/*", "/a/{**}"),
    ] {
        assert!(path(wide).covers(&path(narrow)), "{wide} covers {narrow}");
    }
    for (not_wide, other) in [
        ("/a", "/*"),
        ("/ab*", "/a*"),
        ("/a/{*}", "/a/*"),
        ("/a*", "*a"),
        ("/abc*", "/a/{*}"),
        ("/a/bc*", "/a/b/{*}"),
        ("/a/b*", "/a/{*}"),
    ] {
        assert!(
            !path(not_wide).covers(&path(other)),
            "{not_wide} does not cover {other}"
        );
    }
}

proptest::proptest! {
    /// A covered pattern must match whenever the other does. Otherwise a legitimate rule would be
    /// rejected as one that never decides.
    #[test]
    fn covered_pattern_implies_match(a in 0..12_usize, b in 0..12_usize,
        text in "/[ab]{0,2}(/[ab]{0,2}){0,2}") {
        let patterns = ["/", "/*", "/a*", "*b", "*", "/a", "/a/b", "/{*}", "/{**}", "/a/{*}",
            "/a/{**}", "/{*}/b"];
        let (a, b) = (path(patterns[a]), path(patterns[b]));
        if a.covers(&b) && b.matches(&text) {
            proptest::prop_assert!(a.matches(&text), "{:?} {:?} {}", a, b, text);
        }
    }
}
