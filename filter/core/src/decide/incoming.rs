//! Headers of one request as received, including repeated ones.

use alloc::vec::Vec;

use crate::authz::Request;
use crate::authz::host::DefaultPorts;
use crate::bytes;
use crate::rejection::Rejection;

/// Request headers as the host provides them.
pub trait HeaderMap {
    /// Returns name and value of each header in order. Repeated headers are repeated.
    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])>;
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> HeaderMap for Vec<(N, V)> {
    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

/// Request as received. A decision reads few of its headers.
#[derive(Debug)]
pub struct Incoming<H> {
    headers: H,
    /// Set of the lengths of all header names, as [`length_bit`]. Most names that a decision looks
    /// up have a length that no header has, so the headers need not be scanned.
    lengths: u64,
}

/// Returns the bit of a length; all long names share one bit.
fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

/// Number of occurrences of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occurrence<'h> {
    /// The header is absent.
    Absent,
    /// The header occurs once, with this value.
    Once(&'h [u8]),
    /// The header occurs more than once.
    Repeated,
}

impl<H: HeaderMap> Incoming<H> {
    /// Creates the request with these headers.
    #[must_use]
    pub fn new(headers: H) -> Self {
        // One pass over all names; most look-ups then need none.
        let mut lengths = 0;
        for (name, _) in headers.pairs() {
            lengths |= length_bit(name.len());
        }
        Self { headers, lengths }
    }

    /// Returns the headers whose names have this length.
    fn named(&self, length: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        let occurs = self.lengths & length_bit(length) != 0;
        let pairs = occurs.then(|| self.headers.pairs());
        pairs
            .into_iter()
            .flatten()
            .filter(move |(name, _)| name.len() == length)
    }

    /// Returns every value of a header, in order.
    pub(crate) fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.named(name.len())
            .filter(move |(key, _)| same_name(key, name))
            .map(|(_, value)| value)
    }

    /// Returns the value of a header, if the header occurs once.
    pub(crate) fn once<'h>(&'h self, name: &'h str) -> Occurrence<'h> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (None, _) => Occurrence::Absent,
            (Some(value), None) => Occurrence::Once(value),
            (Some(_), Some(_)) => Occurrence::Repeated,
        }
    }

    /// Returns the names in this request that an upstream may take for `name`: case does not
    /// matter, and CGI-like servers (PHP, WSGI, Rack) map `-` and `_` to the same variable.
    pub(crate) fn spellings<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h str> {
        let texts = self
            .named(name.len())
            .filter_map(|(key, _)| core::str::from_utf8(key).ok());
        texts.filter(move |key| same_variable(key, name))
    }

    /// Returns method, host and path.
    ///
    /// # Errors
    /// [`Rejection::PathNotNormalized`] or [`Rejection::HostMalformed`] if method, path or host is
    /// repeated or not UTF-8. Their form is checked later.
    pub fn request(&self) -> Result<Request<'_>, Rejection> {
        // One pass over the pseudo-headers, whose names start with a colon.
        let mut found: [Option<&[u8]>; 3] = [None; 3];
        for (key, value) in self
            .headers
            .pairs()
            .filter(|(key, _)| key.first() == Some(&b':'))
        {
            let names = [":method", ":authority", ":path"].iter().zip(&mut found);
            for (name, slot) in names.filter(|(name, _)| same_name(key, name)) {
                if slot.replace(value).is_some() {
                    // A repeated pseudo-header has two meanings.
                    return Err(if *name == ":authority" {
                        Rejection::HostMalformed
                    } else {
                        Rejection::PathNotNormalized
                    });
                }
            }
        }
        let [method, host, path] = found;
        Ok(Request {
            method: text(method).ok_or(Rejection::PathNotNormalized)?,
            host: text(host).ok_or(Rejection::HostMalformed)?,
            path: text(path).ok_or(Rejection::PathNotNormalized)?,
        })
    }

    /// Returns the ports that `:authority` without a port may mean.
    pub(crate) fn default_ports(&self) -> DefaultPorts {
        DefaultPorts::of(self.all(":scheme").chain(self.all("x-forwarded-proto")))
    }

    /// Returns whether this is a CORS preflight (Fetch standard, "CORS-preflight request").
    pub(crate) fn is_cors_preflight(&self, request: &Request<'_>) -> bool {
        request.method == "OPTIONS"
            && self.all("origin").next().is_some()
            && self.all("access-control-request-method").next().is_some()
    }

    /// Returns whether the caller uses gRPC (gRPC over HTTP/2, "Content-Type").
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.all("content-type")
            .any(|value| value.starts_with(b"application/grpc"))
    }
}

/// Returns the text of a header value. An absent one is empty.
fn text(value: Option<&[u8]>) -> Option<&str> {
    core::str::from_utf8(value.unwrap_or_default()).ok()
}

/// Returns whether two header names are equal. Proxies send lower case, so that is tried first.
#[inline]
fn same_name(key: &[u8], name: &str) -> bool {
    key.len() == name.len()
        && (bytes::equal(key, name.as_bytes()) || key.eq_ignore_ascii_case(name.as_bytes()))
}

/// Returns whether a CGI-like server maps two names to the same variable.
fn same_variable(left: &str, right: &str) -> bool {
    left.bytes().map(fold).eq(right.bytes().map(fold))
}

/// Maps all bytes that a CGI-like server treats alike to one.
fn fold(byte: u8) -> u8 {
    if byte == b'_' {
        b'-'
    } else {
        byte.to_ascii_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn headers<'t>(pairs: &[(&'t str, &'t str)]) -> Incoming<Vec<(&'t str, &'t str)>> {
        Incoming::new(pairs.to_vec())
    }

    #[test]
    fn repeated_headers_are_reported() {
        let headers = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(headers.once("a"), Occurrence::Repeated);
        assert_eq!(headers.once("b"), Occurrence::Once(b"2"));
        assert_eq!(headers.once("c"), Occurrence::Absent);
    }

    #[test]
    fn finds_every_spelling_of_a_header() {
        let headers = headers(&[
            ("x-user", "1"),
            ("X_User", "2"),
            ("x-user-id", "3"),
            ("xuser", "4"),
        ]);
        assert_eq!(
            headers.spellings("x-user").collect::<Vec<_>>(),
            ["x-user", "X_User"]
        );
    }

    #[test]
    fn rejects_repeated_path_in_any_spelling() {
        for name in [":path", ":Path"] {
            let repeated = headers(&[(":path", "/a"), (":method", "GET"), (name, "/b")]);
            assert_eq!(repeated.request().err(), Some(Rejection::PathNotNormalized));
        }
    }

    #[test]
    fn rejects_path_that_is_not_utf8() {
        let headers = Incoming::new(alloc::vec![(":path", [b'/', 0xff])]);
        assert_eq!(headers.request().err(), Some(Rejection::PathNotNormalized));
    }

    #[test]
    fn preflight_has_method_origin_and_requested_method() {
        let full = [
            (":method", "OPTIONS"),
            ("origin", "https://a"),
            ("access-control-request-method", "PUT"),
        ];
        let is_preflight = |pairs: &[(&str, &str)]| {
            let headers = headers(pairs);
            headers.is_cors_preflight(&headers.request().unwrap())
        };
        assert!(is_preflight(&full));
        for at in 0..full.len() {
            let mut part = full.to_vec();
            part.remove(at);
            assert!(!is_preflight(&part), "without {}", full[at].0);
        }
        assert!(!is_preflight(&[(":method", "GET"), full[1], full[2]]));
    }

    #[test]
    fn recognizes_grpc_by_content_type() {
        assert!(headers(&[("content-type", "application/grpc+proto")]).is_grpc());
        assert!(!headers(&[("content-type", "application/json")]).is_grpc());
    }
}
