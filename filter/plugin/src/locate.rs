//! Finds the token of a request in the places that the configuration names, and takes it out again.
//!
//! A request carries one token (RFC 6750 §2, RFC 9700 §4.3.2). The same token in two configured
//! places is one token. Two different tokens, or a place that holds more than one, refuse the
//! request, so that no two parties can read different tokens from it (V18). Each item of a list
//! header that has the prefix counts.
//!
//! `Authorization: Basic …` is no token: where `Bearer ` is looked for, such a request has none.

use meshseal_core::authn::JwtRule;
use meshseal_core::bytes;
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

/// Headers that hold one value by definition (RFC 9110 §11.6.2, §11.7.2). A second one is the mark
/// of joined copies. In every other header a comma separates items (§5.6.1), one of which may be
/// the token: no token has a comma.
const SINGLE: [&str; 2] = ["authorization", "proxy-authorization"];

impl Place {
    fn all_of(rule: &JwtRule) -> impl Iterator<Item = Self> + '_ {
        let headers = rule.from_headers.iter().map(|from| Self::Header {
            name: from.name.clone(),
            prefix: from.prefix.clone(),
        });
        let cookies = rule.from_cookies.iter().cloned().map(Self::Cookie);
        headers
            .chain(cookies)
            .chain(rule.from_params.iter().cloned().map(Self::Param))
    }
}

/// A place, and what the configuration says about it.
#[derive(Clone, Debug)]
struct Entry {
    place: Place,
    /// Whether the place is a header whose items are separate values.
    list: bool,
    /// The rules (`jwtRules[i]`) that look there.
    rules: Vec<usize>,
    /// Longer prefixes of the same header. A value that has one of them belongs to that place.
    longer: Vec<Box<str>>,
}

/// Every place of a policy, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Vec<Entry>);

/// A token and where it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    /// As it came, not validated in any way.
    token: &'a [u8],
    first: &'a Entry,
    /// Whether other places hold it, too.
    repeated: bool,
    places: &'a Places,
    headers: &'a RequestHeaders,
    path: &'a str,
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

    /// Whether these are the copies of a header that Envoy has joined with commas, as it does with
    /// some headers, `authorization` among them, before a filter sees them. No token has a comma.
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.first.place, Place::Header { .. })
            && !self.first.list
            && bytes::contains(self.token, b',')
    }

    /// Returns whether a rule looks where the token is: a token is only good where its issuer's
    /// rule expects it.
    pub(crate) fn is_expected_by(&self, rule: usize) -> bool {
        self.holders().any(|entry| entry.rules.contains(&rule))
    }

    /// The places that hold the token.
    fn holders(&self) -> impl Iterator<Item = &'a Entry> {
        let Self {
            token,
            first,
            headers,
            path,
            ..
        } = *self;
        let others = if self.repeated { &*self.places.0 } else { &[] };
        let holds = move |entry: &&Entry| {
            find(entry, headers, path).is_ok_and(|found| found == Some(token))
        };
        std::iter::once(first).chain(
            others
                .iter()
                .filter(|entry| entry.place != first.place)
                .filter(holds),
        )
    }

    /// Takes the token out of the request, wherever it is. False if the proxy refuses: the request
    /// must not go on then.
    #[must_use]
    pub(crate) fn remove(&self, host: &impl Host) -> bool {
        let mut path = None;
        for entry in self.holders() {
            let removed = match &entry.place {
                Place::Header { name, .. } if entry.list => {
                    let is_token =
                        |item: &[u8]| self.holders().any(|holder| holder.is_item(name, item));
                    replace(host, name, cut(self.headers.all(name), b',', is_token))
                }
                Place::Header { name, .. } => host.remove_request_header(name),
                Place::Cookie(_) => {
                    let is_token =
                        |crumb: &[u8]| self.holders().any(|holder| holder.is_crumb(crumb));
                    replace(
                        host,
                        "cookie",
                        cut(self.headers.all("cookie"), b';', is_token),
                    )
                }
                Place::Param(name) => {
                    path = Some(without_param(path.as_deref().unwrap_or(self.path), name));
                    true
                }
            };
            if !removed {
                return false;
            }
        }
        path.is_none_or(|path| host.set_request_header(":path", path.as_bytes()))
    }
}

impl Places {
    pub(crate) fn of(policy: &Policy) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for (rule, jwt_rule) in policy.authn().jwt_rules().iter().enumerate() {
            for place in Place::all_of(jwt_rule) {
                match entries.iter_mut().find(|entry| entry.place == place) {
                    Some(entry) => entry.rules.push(rule),
                    None => {
                        let list = matches!(&place, Place::Header { name, .. } if !SINGLE.iter().any(|single| **name == **single));
                        entries.push(Entry {
                            place,
                            list,
                            rules: vec![rule],
                            longer: Vec::new(),
                        });
                    }
                }
            }
        }
        let places: Vec<Place> = entries.iter().map(|entry| entry.place.clone()).collect();
        for entry in &mut entries {
            let Place::Header {
                name: ours,
                prefix: short,
            } = &entry.place
            else {
                continue;
            };
            let longer = places.iter().filter_map(|place| match place {
                Place::Header { name, prefix } if name == ours && prefix.len() > short.len() => {
                    Some(prefix.clone())
                }
                Place::Header { .. } | Place::Cookie(_) | Place::Param(_) => None,
            });
            entry.longer = longer.collect();
        }
        Self(entries)
    }

    /// Finds the one token of the request.
    ///
    /// # Errors
    /// [`Rejection::TokenMissing`], [`Rejection::TokenRepeated`].
    pub(crate) fn locate<'a>(
        &'a self,
        headers: &'a RequestHeaders,
        path: &'a str,
    ) -> Result<Located<'a>, Rejection> {
        let mut found: Option<Located<'a>> = None;
        for entry in &self.0 {
            let Some(token) = find(entry, headers, path)? else {
                continue;
            };
            match &mut found {
                None => {
                    found = Some(Located {
                        token,
                        first: entry,
                        repeated: false,
                        places: self,
                        headers,
                        path,
                    });
                }
                Some(located) if located.token == token => located.repeated = true,
                Some(_) => return Err(Rejection::TokenRepeated),
            }
        }
        found.ok_or(Rejection::TokenMissing)
    }
}

impl Entry {
    /// The token in a header's value, or in one item of it.
    fn value_in<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        let Place::Header { prefix, .. } = &self.place else {
            return None;
        };
        let token = after_prefix(value, prefix).filter(|token| !token.is_empty())?;
        let of_another = self
            .longer
            .iter()
            .any(|longer| after_prefix(value, longer).is_some());
        (!of_another).then_some(token)
    }

    /// Returns whether an item of a list header is the token of this place.
    fn is_item(&self, header: &str, item: &[u8]) -> bool {
        matches!(&self.place, Place::Header { name, .. } if **name == *header)
            && self.value_in(item).is_some()
    }

    /// Returns whether a cookie-pair is the token of this place.
    fn is_crumb(&self, crumb: &[u8]) -> bool {
        matches!(&self.place, Place::Cookie(name) if crumb_value(crumb, name.as_bytes()).is_some())
    }
}

fn find<'a>(
    entry: &'a Entry,
    headers: &'a RequestHeaders,
    path: &'a str,
) -> Result<Option<&'a [u8]>, Rejection> {
    match &entry.place {
        Place::Header { name, .. } if entry.list => {
            let items = headers
                .all(name)
                .flat_map(|value| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
            only(items.filter_map(|item| entry.value_in(item)))
        }
        Place::Header { name, .. } => match headers.once(name) {
            Occurrence::Absent => Ok(None),
            Occurrence::Once(value) => header_value(entry, value),
            Occurrence::Repeated => Err(Rejection::TokenRepeated),
        },
        Place::Cookie(name) => {
            let crumbs = headers.all("cookie").flat_map(crumbs);
            only(crumbs.filter_map(|crumb| crumb_value(crumb, name.as_bytes())))
        }
        Place::Param(name) => only(
            params(path)
                .filter_map(|param| param_value(param, name))
                .map(str::as_bytes),
        ),
    }
}

/// A header without the prefix has no token, unless a copy that was joined to it has (see
/// [`Located::is_joined`]).
fn header_value<'v>(entry: &Entry, value: &'v [u8]) -> Result<Option<&'v [u8]>, Rejection> {
    if let Some(token) = entry.value_in(value) {
        return Ok(Some(token));
    }
    let mut copies = value
        .split(|byte| *byte == b',')
        .skip(1)
        .map(<[u8]>::trim_ascii);
    if copies.any(|copy| entry.value_in(copy).is_some()) {
        Err(Rejection::TokenRepeated)
    } else {
        Ok(None)
    }
}

/// A token that is twice in one place is no token, even if both copies agree: the next reader may
/// take the other one.
fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, Rejection> {
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Rejection::TokenRepeated),
        (Some(value), None) => Ok(Some(value).filter(|value| !value.is_empty())),
        (None, None) => Ok(None),
    }
}

/// A prefix that ends with a space is an authentication scheme, whose case does not matter (RFC
/// 9110 §11.1). One or more spaces separate it from the token (RFC 6750 §2.1).
fn after_prefix<'v>(value: &'v [u8], prefix: &str) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(prefix.len())?;
    let matches = if prefix.ends_with(' ') {
        head.eq_ignore_ascii_case(prefix.as_bytes())
    } else {
        head == prefix.as_bytes()
    };
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    matches.then(|| rest.get(spaces..).unwrap_or_default())
}

fn crumbs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn crumb_value<'c>(crumb: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    let at = crumb.iter().position(|byte| *byte == b'=')?;
    let (key, value) = crumb.split_at_checked(at)?;
    (key.trim_ascii_end() == name)
        .then(|| unquoted(value.get(1..).unwrap_or_default().trim_ascii_start()))
}

/// A cookie's value may stand in quotes, which are not part of it (RFC 6265 §4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
}

fn params(path: &str) -> impl Iterator<Item = &str> {
    path.split_once('?')
        .map(|(_, query)| query)
        .unwrap_or_default()
        .split('&')
}

/// The name is compared as an upstream would read it, with escapes resolved, so that no second
/// spelling slips through. The value is not: a token needs no escapes, and the validator refuses
/// one that has them.
fn param_value<'p>(param: &'p str, name: &str) -> Option<&'p str> {
    let (key, value) = param.split_once('=').unwrap_or((param, ""));
    unescaped(key).eq(name.bytes()).then_some(value)
}

fn unescaped(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        if let [b'%', high, low, tail @ ..] = rest
            && let (Some(high), Some(low)) = (
                char::from(*high).to_digit(16),
                char::from(*low).to_digit(16),
            )
        {
            rest = tail;
            return u8::try_from(high << 4 | low).ok();
        }
        let (first, tail) = rest.split_first()?;
        rest = tail;
        Some(*first)
    })
}

/// The values of a list header or cookie header without the parts that are the token. All other
/// bytes stay as they are; several headers become one, as Envoy joins them.
fn cut<'v>(
    values: impl Iterator<Item = &'v [u8]>,
    separator: u8,
    is_token: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let mut kept = Vec::new();
    for value in values {
        let parts: Vec<&[u8]> = value
            .split(|byte| *byte == separator)
            .filter(|part| !is_token(part.trim_ascii()))
            .collect();
        let value = parts.join(&separator);
        let value = value.trim_ascii();
        if !value.is_empty() {
            if !kept.is_empty() {
                kept.extend([separator, b' ']);
            }
            kept.extend_from_slice(value);
        }
    }
    kept
}

fn replace(host: &impl Host, name: &str, value: Vec<u8>) -> bool {
    if value.is_empty() {
        host.remove_request_header(name)
    } else {
        host.set_request_header(name, &value)
    }
}

fn without_param(path: &str, name: &str) -> String {
    let kept: Vec<&str> = params(path)
        .filter(|param| param_value(param, name).is_none())
        .collect();
    let bare = path.split_once('?').map_or(path, |(bare, _)| bare);
    let query = kept.join("&");
    if query.is_empty() {
        bare.to_owned()
    } else {
        format!("{bare}?{query}")
    }
}

#[cfg(test)]
#[path = "locate_tests.rs"]
mod tests;
