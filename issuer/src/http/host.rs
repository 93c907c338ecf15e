//! The Host field of a request (RFC 9112 §3.2, RFC 3986 §3.2.2).

use std::net::Ipv6Addr;

use axum::http::{HeaderMap, Version, header};

/// Returns whether a request has the one valid Host field that its version requires.
pub(super) fn is_valid(version: Version, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => version < Version::HTTP_11,
        (Some(value), None) => value.to_str().is_ok_and(is_authority),
        (Some(_), Some(_)) => false,
    }
}

/// Returns whether a string is a host with an optional port. User information is not allowed.
fn is_authority(text: &str) -> bool {
    let (is_host, port) = match text.strip_prefix('[') {
        // An IPv6 address in brackets.
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            let port = if port.is_empty() {
                Some("")
            } else {
                port.strip_prefix(':')
            };
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        // A name or an IPv4 address.
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            (
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
                Some(port),
            )
        }
    };
    is_host && port.is_some_and(is_port)
}

/// Returns whether a string is a port number. RFC 3986 §3.2.3 allows an empty one.
fn is_port(port: &str) -> bool {
    // `parse` alone would accept a sign.
    port.is_empty()
        || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_one_host_with_optional_port() {
        for text in [
            "issuer",
            "issuer.example",
            "issuer.example:8080",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:8080",
            "a_b:",
            "a.",
        ] {
            assert!(is_authority(text), "{text}");
        }
    }

    #[test]
    fn rejects_malformed_hosts() {
        for text in [
            "", ":80", "a:80:80", "a::80", "a:80]", "a:65536", "a:+1", "a b", "u@a", "a/b", "a,b",
            "[::1", "[::1]80", "[a]", "::1", "a\u{e9}",
        ] {
            assert!(!is_authority(text), "{text}");
        }
    }

    #[test]
    fn requires_the_field_from_http_1_1() {
        assert!(is_valid(Version::HTTP_10, &HeaderMap::new()));
        assert!(!is_valid(Version::HTTP_11, &HeaderMap::new()));
    }
}
