use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns whether the pattern matches; `None` if the authority is rejected.
fn matches(pattern: &str, authority: &str) -> Option<bool> {
    let pattern =
        HostMatcher::parse(pattern).unwrap_or_else(|message| panic!("{pattern}: {message}"));
    Authority::parse(authority).map(|authority| pattern.matches(&authority))
}

#[test]
fn host_matches_in_every_notation() {
    for (pattern, authorities) in [
        (
            "Admin.example",
            &[
                "admin.example",
                "ADMIN.EXAMPLE",
                "admin.example.",
                "admin.example:80",
                "admin.example.:443",
                "admin.example:",
            ][..],
        ),
        ("admin.example.", &["admin.example", "admin.example."]),
        (
            "10.0.0.1",
            &[
                "10.0.0.1",
                "10.0.0.1:80",
                "[::ffff:10.0.0.1]",
                "[::FFFF:a00:1]:80",
            ],
        ),
        (
            "[2001:db8::1]",
            &[
                "[2001:db8::1]",
                "[2001:DB8:0:0::0001]:8443",
                "[2001:0db8:0000:0000:0000:0000:0.0.0.1]",
            ],
        ),
        ("[0:0:0:0:0:0:0:1]", &["[::1]"]),
        ("*.example.com", &["a.example.com", "A.B.Example.COM.:80"]),
        ("api.*", &["API.example", "api.example:80"]),
        ("a.example:80", &["a.example:80", "a.example.:0080"]),
        ("*:8443", &["a.example:8443", "[::1]:8443"]),
        ("*.example:80", &["a.example:80"]),
        ("*", &["a", "[::1]:1", "10.0.0.1"]),
    ] {
        for authority in authorities {
            assert_eq!(
                matches(pattern, authority),
                Some(true),
                "{pattern} {authority}"
            );
        }
    }
}

#[test]
fn host_pattern_excludes_other_hosts() {
    for (pattern, authority) in [
        ("api.example.com", "api.example.com.evil"),
        ("*.example.com", "example.com"),
        ("a.example:80", "a.example:81"),
        ("a.example:8080", "a.example"),
        ("*:8443", "a.example"),
        ("[::1]", "[::2]"),
        ("[::1]", "0.0.0.1"),
        ("api.*", "ap"),
        ("*1", "[::1]"),
    ] {
        assert_eq!(
            matches(pattern, authority),
            Some(false),
            "{pattern} {authority}"
        );
    }
}

/// Returns whether a pattern certainly matches an authority, and whether it may match, under the
/// schemes that a request states.
fn under(schemes: &[&str], pattern: &str, authority: &str) -> [bool; 2] {
    let pattern = HostMatcher::parse(pattern).unwrap();
    let mut authority = Authority::parse(authority).unwrap();
    authority.set_default_ports(DefaultPorts::of(
        schemes.iter().map(|scheme| scheme.as_bytes()),
    ));
    [pattern.matches(&authority), pattern.may_match(&authority)]
}

#[test]
fn absent_port_is_default_of_scheme() {
    for (pattern, authority) in [
        ("a.example:443", "a.example"),
        ("*:443", "[::1]"),
        ("*.example:443", "a.example:"),
        ("[::1]:443", "[::1]"),
    ] {
        assert_eq!(
            under(&["https"], pattern, authority),
            [true, true],
            "{pattern} {authority}"
        );
        assert_eq!(
            under(&["HTTPS", "https"], pattern, authority),
            [true, true],
            "{pattern} {authority}"
        );
        assert_eq!(
            under(&["http"], pattern, authority),
            [false, false],
            "{pattern} {authority}"
        );
        // The client chooses `:scheme`, so it alone is not decisive.
        for unsure in [
            &[][..],
            &["http", "https"],
            &["https", "http"],
            &["https,http"],
            &["ftp"],
            &[""],
        ] {
            assert_eq!(
                under(unsure, pattern, authority),
                [false, true],
                "{pattern} {authority} {unsure:?}"
            );
        }
    }
    assert_eq!(under(&["http"], "a.example:80", "a.example"), [true, true]);
    assert_eq!(
        under(&["https"], "a.example:443", "a.example:8443"),
        [false, false],
        "a named port counts"
    );
    assert_eq!(
        under(&["https"], "a.example:443", "b.example"),
        [false, false]
    );
    assert_eq!(under(&[], "a.example", "a.example"), [true, true]);
}

/// Rejected authorities (RFC 3986 §3.2.2); the last ones are IPv4 addresses for inet_aton.
#[test]
fn rejects_authority_of_another_form() {
    let long = "a".repeat(254);
    for authority in [
        "",
        ":80",
        ".",
        "a..",
        "a..b",
        ".a",
        "a:80:80",
        "a::80",
        "a:80]",
        "a:-1",
        "a:+80",
        "a:65536",
        "a:8x",
        "u@a",
        "u:p@a",
        "a/",
        "a?",
        "a#",
        "a b",
        "a%2eb",
        "%61",
        "a,b",
        "a\u{e4}",
        "[",
        "[]",
        "[::1",
        "::1",
        "[::1]80",
        "[::1]:80:80",
        "[[::1]]",
        "[fe80::1%25eth0]",
        "[v1.a]",
        "[127.0.0.1]",
        "127.1",
        "010.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "1.2.3.4.5",
        "256.0.0.1",
        "a.0x",
        "a.7",
        &long,
    ] {
        assert_eq!(Authority::parse(authority), None, "{authority}");
    }
}

#[test]
fn rejects_host_pattern_that_never_matches() {
    for pattern in [
        "a:80:80",
        "a..b",
        "a b",
        "u@a",
        "a*b",
        "*a*",
        "**",
        "*.",
        "a.example:*",
        "[fd00:*",
        "*::1]",
        "[::1",
        "::1",
        "127.1",
        "*:x",
        "*..a",
        ".a*",
        "a%2eb",
        "a/",
    ] {
        assert!(HostMatcher::parse(pattern).is_err(), "{pattern}");
    }
}

proptest::proptest! {
    #[test]
    fn covered_host_matches(a in 0..14_usize, b in 0..14_usize, c in 0..10_usize) {
        let patterns = [
            "*", "a.test", "a.test:80", "*.test", "*.test:80", "*:80", "a.*", "[::1]", "[::1]:80",
            "10.0.0.1", "10.*", "*test",
            "b.a.test", "[::2]",
        ];
        let hosts = [
            "a.test", "a.test:80", "b.a.test:80", "b.a.test", "[::1]", "[::1]:80", "10.0.0.1:80",
            "10.0.0.1", "x", "[::2]:81",
        ];
        let (a, b) = (HostMatcher::parse(patterns[a]).unwrap(),
            HostMatcher::parse(patterns[b]).unwrap());
        let host = Authority::parse(hosts[c]).unwrap();
        if a.covers(&b) && b.matches(&host) {
            proptest::prop_assert!(a.matches(&host), "{:?} {:?} {:?}", a, b, host);
        }
    }
}
