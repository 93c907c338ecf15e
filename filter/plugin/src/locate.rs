//! Finds the token of a request in the places that the configuration names, and takes it out again.
//!
//! A request carries one token in one place (RFC 6750 §2, RFC 9700 §4.3.2): a second one, or a repeated header that may carry
//! one, refuses it, so that no two parties can read different tokens from the same request (V18).
//!
//! `Authorization: Basic …` is no token: where `Bearer ` is looked for, such a request has none.

use meshseal_core::bytes;
use meshseal_core::config::JwtRule;
use meshseal_core::policy::Policy;
use meshseal_core::rejection::Rejection;

use crate::headers::{Occurrence, RequestHeaders};
use crate::host::Host;

/// A place where tokens are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A header; the token follows the prefix.
    Header { name: Box<str>, prefix: Box<str> },
    /// A cookie (RFC 6265 §4.2).
    Cookie(Box<str>),
    /// A query parameter.
    Param(Box<str>),
}

impl Place {
    fn all_of(rule: &JwtRule) -> impl Iterator<Item = Self> + '_ {
        let headers =
            rule.from_headers.iter().map(|from| Self::Header { name: from.name.clone(), prefix: from.prefix.clone() });
        let cookies = rule.from_cookies.iter().cloned().map(Self::Cookie);
        headers.chain(cookies).chain(rule.from_params.iter().cloned().map(Self::Param))
    }
}

/// Every place of a policy, each once, with the rules (`jwtRules[i]`) that look there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Vec<(Place, Vec<usize>)>);

/// A token and where it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    /// As it came, not validated in any way.
    token: &'a [u8],
    /// Where it was found.
    pub(crate) place: &'a Place,
    /// The rules that look there: a token is only good where its issuer's rule expects it.
    pub(crate) rules: &'a [usize],
}

impl<'a> Located<'a> {
    /// The bytes, to be compared with those of tokens that are known to be good.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.token
    }

    /// The text of a token that is not known.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] for what is not text.
    pub(crate) fn text(&self) -> Result<&'a str, Rejection> {
        std::str::from_utf8(self.token).map_err(|_| Rejection::TokenMalformed)
    }

    /// Whether these are the copies of a header that Envoy has joined with commas, as it does with some headers, `authorization`
    /// among them, before a filter sees them. No token has a comma.
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.place, Place::Header { .. }) && bytes::contains(self.token, b',')
    }
}

impl Places {
    pub(crate) fn of(policy: &Policy) -> Self {
        let mut places: Vec<(Place, Vec<usize>)> = Vec::new();
        for (rule, jwt_rule) in policy.jwt_rules().iter().enumerate() {
            for place in Place::all_of(jwt_rule) {
                match places.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, rules)) => rules.push(rule),
                    None => places.push((place, vec![rule])),
                }
            }
        }
        Self(places)
    }

    /// Finds the one token of the request.
    ///
    /// # Errors
    /// [`Rejection::TokenMissing`], [`Rejection::TokenRepeated`].
    pub(crate) fn locate<'a>(&'a self, headers: &'a RequestHeaders, path: &'a str) -> Result<Located<'a>, Rejection> {
        let mut found = None;
        for (place, rules) in &self.0 {
            if let Some(token) = find(place, headers, path)? {
                if found.is_some() {
                    return Err(Rejection::TokenRepeated);
                }
                found = Some((token, place, rules));
            }
        }
        let (token, place, rules) = found.ok_or(Rejection::TokenMissing)?;
        Ok(Located { token, place, rules })
    }
}

fn find<'a>(place: &'a Place, headers: &'a RequestHeaders, path: &'a str) -> Result<Option<&'a [u8]>, Rejection> {
    match place {
        Place::Header { name, prefix } => match headers.once(name) {
            Occurrence::Absent => Ok(None),
            Occurrence::Once(value) => header_value(value, prefix),
            Occurrence::Repeated => Err(Rejection::TokenRepeated),
        },
        Place::Cookie(name) => {
            let crumbs = headers.all("cookie").flat_map(crumbs);
            only(crumbs.filter_map(|crumb| crumb_value(crumb, name.as_bytes())))
        }
        Place::Param(name) => only(params(path).filter_map(|param| param_value(param, name)).map(str::as_bytes)),
    }
}

/// A header without the prefix has no token, unless a copy that was joined to it has (see [`Located::is_joined`]).
fn header_value<'v>(value: &'v [u8], prefix: &str) -> Result<Option<&'v [u8]>, Rejection> {
    let token = |value: &'v [u8]| after_prefix(value, prefix).filter(|token| !token.is_empty());
    if let Some(token) = token(value) {
        return Ok(Some(token));
    }
    let mut copies = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if copies.any(|copy| token(copy).is_some()) { Err(Rejection::TokenRepeated) } else { Ok(None) }
}

/// A token that is there twice is no token, even if both copies agree: the next reader may take the other one.
fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, Rejection> {
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Rejection::TokenRepeated),
        (Some(value), None) => Ok(Some(value).filter(|value| !value.is_empty())),
        (None, None) => Ok(None),
    }
}

/// A prefix that ends with a space is an authentication scheme, whose case does not matter (RFC 7235 §2.1).
fn after_prefix<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(prefix.len())?;
    let matches =
        if prefix.ends_with(' ') { head.eq_ignore_ascii_case(prefix.as_bytes()) } else { head == prefix.as_bytes() };
    matches.then_some(rest)
}

fn crumbs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn crumb_value<'c>(crumb: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    let at = crumb.iter().position(|byte| *byte == b'=')?;
    let (key, value) = crumb.split_at_checked(at)?;
    (key.trim_ascii_end() == name).then(|| value.get(1..).unwrap_or_default().trim_ascii_start())
}

fn params(path: &str) -> impl Iterator<Item = &str> {
    path.split_once('?').map(|(_, query)| query).unwrap_or_default().split('&')
}

/// The name is compared as an upstream would read it, with escapes resolved, so that no second spelling slips through. The value
/// is not: a token needs no escapes, and the validator refuses one that has them.
fn param_value<'p>(param: &'p str, name: &str) -> Option<&'p str> {
    let (key, value) = param.split_once('=').unwrap_or((param, ""));
    unescaped(key).eq(name.bytes()).then_some(value)
}

fn unescaped(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        if let [b'%', high, low, tail @ ..] = rest
            && let (Some(high), Some(low)) = (char::from(*high).to_digit(16), char::from(*low).to_digit(16))
        {
            rest = tail;
            return u8::try_from(high << 4 | low).ok();
        }
        let (first, tail) = rest.split_first()?;
        rest = tail;
        Some(*first)
    })
}

/// Takes the token out of the request: the whole header, the cookie, or the query parameter.
pub(crate) fn remove(place: &Place, headers: &RequestHeaders, host: &impl Host) {
    match place {
        Place::Header { name, .. } => host.remove_request_header(name),
        Place::Cookie(name) => {
            let kept: Vec<&[u8]> = headers
                .all("cookie")
                .flat_map(crumbs)
                .filter(|crumb| crumb_value(crumb, name.as_bytes()).is_none())
                .collect();
            // Cookies that are not text cannot be written back through the host; they go with the token.
            match std::str::from_utf8(&kept.join(&b"; "[..])) {
                Ok(cookies) if !cookies.is_empty() => host.set_request_header("cookie", cookies),
                Ok(_) | Err(_) => host.remove_request_header("cookie"),
            }
        }
        Place::Param(name) => {
            let path = headers.request().map_or("", |request| request.path);
            let kept: Vec<&str> = params(path).filter(|param| param_value(param, name).is_none()).collect();
            let bare = path.split_once('?').map_or(path, |(bare, _)| bare);
            let query = kept.join("&");
            let path = if query.is_empty() { bare.to_owned() } else { format!("{bare}?{query}") };
            host.set_request_header(":path", &path);
        }
    }
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
