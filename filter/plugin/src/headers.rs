//! The headers of one request as they came, repetition included.

use meshseal_abi::Pairs;
use meshseal_core::policy::Request;
use meshseal_core::rejection::Rejection;
use smallvec::SmallVec;

/// All request headers, in order: a header map as the ABI lays it out, read where it lies.
#[derive(Clone, Debug, Default)]
pub struct RequestHeaders {
    map: Vec<u8>,
    /// A request is asked for a handful of them.
    places: SmallVec<[Place; LIKELY_HEADERS]>,
}

/// What a browser sends through a proxy; a request with more costs one allocation.
const LIKELY_HEADERS: usize = 24;

/// Where a name and its value are in the map: the value lies behind the name and its zero byte.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    name: u32,
    name_length: u32,
    value_length: u32,
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

impl RequestHeaders {
    /// Of a header map as the ABI lays it out.
    #[must_use]
    pub fn new(map: Vec<u8>) -> Self {
        let start = map.as_ptr().addr();
        // Of a map that wasm memory can hold.
        let short = |length: usize| u32::try_from(length).unwrap_or_default();
        let place = |(name, value): (&[u8], &[u8])| Place {
            name: short(name.as_ptr().addr().saturating_sub(start)),
            name_length: short(name.len()),
            value_length: short(value.len()),
        };
        let places = Pairs::of(&map).map(place).collect();
        Self { map, places }
    }

    /// The names of a length, with the value of each.
    fn named(&self, length: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fitting = self.places.iter().filter(move |place| u32::try_from(length) == Ok(place.name_length));
        fitting.filter_map(|place| {
            let number = |number: u32| usize::try_from(number).ok();
            let (name, rest) = self.map.get(number(place.name)?..)?.split_at_checked(number(place.name_length)?)?;
            Some((name, rest.get(1..)?.get(..number(place.value_length)?)?))
        })
    }

    /// Every value of a header, in order.
    pub(crate) fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let found = self.named(name.len()).filter(move |(key, _)| key.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value)
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

    /// The names in this request that an upstream may take for `name`: case does not matter, and CGI-like servers
    /// (PHP, WSGI, Rack) map `-` and `_` to the same variable.
    pub(crate) fn spellings<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h str> {
        let texts = self.named(name.len()).filter_map(|(key, _)| std::str::from_utf8(key).ok());
        texts.filter(move |key| same_variable(key, name))
    }

    /// What rules are matched against.
    ///
    /// # Errors
    /// [`Rejection::PathNotNormalized`] where method, host or path is not text at all; their form is core's to check.
    pub(crate) fn request(&self) -> Result<Request<'_>, Rejection> {
        let text = |name: &'static str| match self.once(name) {
            Occurrence::Absent => Ok(""),
            Occurrence::Once(value) => std::str::from_utf8(value).map_err(|_| Rejection::PathNotNormalized),
            Occurrence::Repeated => Err(Rejection::PathNotNormalized),
        };
        Ok(Request { method: text(":method")?, host: text(":authority")?, path: text(":path")? })
    }

    /// Whether this is a CORS preflight (Fetch standard, "CORS-preflight request").
    pub(crate) fn is_cors_preflight(&self) -> bool {
        self.once(":method") == Occurrence::Once(b"OPTIONS")
            && self.all("origin").next().is_some()
            && self.all("access-control-request-method").next().is_some()
    }

    /// Whether the caller speaks gRPC (gRPC over HTTP/2, "Content-Type").
    pub(crate) fn is_grpc(&self) -> bool {
        self.all("content-type").any(|value| value.starts_with(b"application/grpc"))
    }
}

fn same_variable(left: &str, right: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    left.bytes().map(fold).eq(right.bytes().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> RequestHeaders {
        RequestHeaders::new(meshseal_abi::header_map(pairs))
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
        let headers = headers(&[("x-user", "1"), ("X_User", "2"), ("x-user-id", "3"), ("xuser", "4")]);
        assert_eq!(headers.spellings("x-user").collect::<Vec<_>>(), ["x-user", "X_User"]);
    }

    #[test]
    fn a_path_that_is_not_text_is_refused() {
        let headers = RequestHeaders::new(meshseal_abi::header_map(&[(b":path", [b'/', 0xff])]));
        assert_eq!(headers.request().err(), Some(Rejection::PathNotNormalized));
    }

    #[test]
    fn a_preflight_has_method_origin_and_requested_method() {
        let full = [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "PUT")];
        assert!(headers(&full).is_cors_preflight());
        for at in 0..full.len() {
            let mut part = full.to_vec();
            part.remove(at);
            assert!(!headers(&part).is_cors_preflight(), "without {}", full[at].0);
        }
        assert!(!headers(&[(":method", "GET"), full[1], full[2]]).is_cors_preflight());
    }

    #[test]
    fn grpc_is_told_by_content_type() {
        assert!(headers(&[("content-type", "application/grpc+proto")]).is_grpc());
        assert!(!headers(&[("content-type", "application/json")]).is_grpc());
    }
}
