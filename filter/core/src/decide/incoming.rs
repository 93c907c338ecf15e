//! The headers of one request as they came, repetition included.

use alloc::vec::Vec;

use crate::authz::Request;
use crate::authz::host::DefaultPorts;
use crate::bytes;
use crate::rejection::Rejection;

/// Request headers as a host hands them over.
pub trait HeaderMap {
    /// Returns name and value of each header in order, repeated ones repeated.
    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])>;
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> HeaderMap for Vec<(N, V)> {
    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }
}

/// A request as it came. A decision reads a handful of its headers.
#[derive(Debug)]
pub struct Incoming<H> {
    headers: H,
    /// The lengths of names, as [`length_bit`]: most names that a decision reads have a length that
    /// no header has.
    lengths: u64,
}

/// A bit for each length; the longest share one.
fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

/// How often a header occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occurrence<'h> {
    /// Not at all.
    Absent,
    /// Once, with this value.
    Once(&'h [u8]),
    /// More than once.
    Repeated,
}

impl<H: HeaderMap> Incoming<H> {
    /// Returns the request with these headers.
    #[must_use]
    pub fn new(headers: H) -> Self {
        let mut lengths = 0;
        for (name, _) in headers.pairs() {
            lengths |= length_bit(name.len());
        }
        Self { headers, lengths }
    }

    /// The names of a length, with the value of each.
    fn named(&self, length: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        let occurs = self.lengths & length_bit(length) != 0;
        let pairs = occurs.then(|| self.headers.pairs());
        pairs
            .into_iter()
            .flatten()
            .filter(move |(name, _)| name.len() == length)
    }

    /// Every value of a header, in order.
    pub(crate) fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.named(name.len())
            .filter(move |(key, _)| same_name(key, name))
            .map(|(_, value)| value)
    }

    /// The value of a header, if it is not repeated.
    pub(crate) fn once<'h>(&'h self, name: &'h str) -> Occurrence<'h> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (None, _) => Occurrence::Absent,
            (Some(value), None) => Occurrence::Once(value),
            (Some(_), Some(_)) => Occurrence::Repeated,
        }
    }

    /// The names in this request that an upstream may take for `name`: case does not matter, and
    /// CGI-like servers (PHP, WSGI, Rack) map `-` and `_` to the same variable.
    pub(crate) fn spellings<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h str> {
        let texts = self
            .named(name.len())
            .filter_map(|(key, _)| core::str::from_utf8(key).ok());
        texts.filter(move |key| same_variable(key, name))
    }

    /// What rules are matched against.
    ///
    /// # Errors
    /// [`Rejection::PathNotNormalized`] or [`Rejection::HostMalformed`] where method, path or host
    /// is repeated or not UTF-8; core checks their form.
    pub fn request(&self) -> Result<Request<'_>, Rejection> {
        let mut found: [Option<&[u8]>; 3] = [None; 3];
        for (key, value) in self
            .headers
            .pairs()
            .filter(|(key, _)| key.first() == Some(&b':'))
        {
            let names = [":method", ":authority", ":path"].iter().zip(&mut found);
            for (name, place) in names.filter(|(name, _)| same_name(key, name)) {
                if place.replace(value).is_some() {
                    return Err(if *name == ":authority" {
                        Rejection::HostMalformed
                    } else {
                        Rejection::PathNotNormalized
                    });
                }
            }
        }
        let text = |value: Option<_>, rejection| {
            core::str::from_utf8(value.unwrap_or_default()).map_err(|_| rejection)
        };
        let [method, host, path] = found;
        Ok(Request {
            method: text(method, Rejection::PathNotNormalized)?,
            host: text(host, Rejection::HostMalformed)?,
            path: text(path, Rejection::PathNotNormalized)?,
        })
    }

    /// Ports that `:authority` without port may stand for.
    pub(crate) fn default_ports(&self) -> DefaultPorts {
        DefaultPorts::of(self.all(":scheme").chain(self.all("x-forwarded-proto")))
    }

    /// Whether this is a CORS preflight (Fetch standard, "CORS-preflight request").
    pub(crate) fn is_cors_preflight(&self, request: &Request<'_>) -> bool {
        request.method == "OPTIONS"
            && self.all("origin").next().is_some()
            && self.all("access-control-request-method").next().is_some()
    }

    /// Whether the caller speaks gRPC (gRPC over HTTP/2, "Content-Type").
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.all("content-type")
            .any(|value| value.starts_with(b"application/grpc"))
    }
}

/// Names as proxies spell them are the rule, others the exception.
#[inline]
fn same_name(key: &[u8], name: &str) -> bool {
    let spelled = |key: &[u8]| {
        bytes::equal(key, name.as_bytes()) || key.eq_ignore_ascii_case(name.as_bytes())
    };
    key.len() == name.len() && spelled(key)
}

fn same_variable(left: &str, right: &str) -> bool {
    let fold = |byte: u8| {
        if byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    left.bytes().map(fold).eq(right.bytes().map(fold))
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
    fn repetition_shows() {
        let headers = headers(&[("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(headers.once("a"), Occurrence::Repeated);
        assert_eq!(headers.once("b"), Occurrence::Once(b"2"));
        assert_eq!(headers.once("c"), Occurrence::Absent);
    }

    #[test]
    fn spellings_that_an_upstream_folds_into_one_are_found() {
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
    fn a_second_path_is_refused_however_it_is_spelled() {
        for name in [":path", ":Path"] {
            let repeated = headers(&[(":path", "/a"), (":method", "GET"), (name, "/b")]);
            assert_eq!(repeated.request().err(), Some(Rejection::PathNotNormalized));
        }
    }

    #[test]
    fn a_path_that_is_not_text_is_refused() {
        let headers = Incoming::new(alloc::vec![(":path", [b'/', 0xff])]);
        assert_eq!(headers.request().err(), Some(Rejection::PathNotNormalized));
    }

    #[test]
    fn a_preflight_has_method_origin_and_requested_method() {
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
    fn grpc_is_told_by_content_type() {
        assert!(headers(&[("content-type", "application/grpc+proto")]).is_grpc());
        assert!(!headers(&[("content-type", "application/json")]).is_grpc());
    }
}
