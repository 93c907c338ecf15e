//! Finds the token of a request in the configured sources, and removes it.
//!
//! A request carries one token (RFC 6750 §2, RFC 9700 §4.3.2). The same token in two configured
//! sources is one token. Two different tokens, or a source that holds more than one, reject the
//! request, so that no two parties can read different tokens from it (V18). Each item of a list
//! header that has the prefix counts.
//!
//! `Authorization: Basic …` is not a token: for the prefix `Bearer `, such a request has none.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::HeaderEdit;
use super::incoming::{HeaderMap, Incoming, Occurrence};
use crate::authn::{SourceEntry, TokenSource, TokenSources};
use crate::bytes;
use crate::rejection::Rejection;

/// Token with its source in the request.
#[derive(Debug)]
pub struct Located<'a, H> {
    /// Bytes as received, not validated.
    token: &'a [u8],
    first: &'a SourceEntry,
    /// True if other sources may hold it, too.
    repeated: bool,
    sources: &'a TokenSources,
    incoming: &'a Incoming<H>,
    path: &'a str,
}

impl<H> Clone for Located<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for Located<'_, H> {}

impl<'a, H: HeaderMap> Located<'a, H> {
    /// Returns the bytes, for comparison with those of verified tokens.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.token
    }

    /// Returns the text of the unverified token.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] for bytes that are not UTF-8.
    pub fn text(&self) -> Result<&'a str, Rejection> {
        core::str::from_utf8(self.token).map_err(|_| Rejection::TokenMalformed)
    }

    /// Returns whether the token is several copies of a header that Envoy joined with commas, as it
    /// does with `authorization` and some others before the filter receives them. A token never
    /// contains a comma.
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.first.source, TokenSource::Header { .. })
            && !self.first.is_list
            && bytes::contains(self.token, b',')
    }

    /// Returns whether a rule names a source of the token. A token is accepted only from the
    /// sources that its issuer's rule names.
    pub(crate) fn is_expected_by(&self, rule: usize) -> bool {
        self.holders().any(|entry| entry.rules.contains(&rule))
    }

    /// Returns the sources that hold the token.
    fn holders(&self) -> impl Iterator<Item = &'a SourceEntry> {
        let Self {
            token,
            first,
            incoming,
            path,
            ..
        } = *self;
        // Most requests have one copy of the token, so the other sources need not be searched.
        let others = if self.repeated { &*self.sources.0 } else { &[] };
        let others = others
            .iter()
            .filter(|entry| entry.source != first.source)
            .filter(move |entry| {
                find(entry, incoming, path).is_ok_and(|found| found == Some(token))
            });
        core::iter::once(first).chain(others)
    }

    /// Removes the token by edits of the request headers. Returns false as soon as an edit fails;
    /// the request must not go on then.
    pub(crate) fn remove(&self, edit: &mut dyn FnMut(HeaderEdit<'_>) -> bool) -> bool {
        let mut path = None;
        // Each edit starts from the original headers, so it removes every copy in its header.
        for entry in self.holders() {
            let removed = match &entry.source {
                TokenSource::Header { name, .. } if entry.is_list => {
                    let kept = cut(self.incoming.all(name), b',', |item| {
                        self.holders().any(|holder| holder.is_item(name, item))
                    });
                    edit(replacement(name, kept))
                }
                TokenSource::Header { name, .. } => edit(HeaderEdit::Remove(name)),
                TokenSource::Cookie(_) => {
                    let kept = cut(self.incoming.all("cookie"), b';', |pair| {
                        self.holders().any(|holder| holder.is_cookie(pair))
                    });
                    edit(replacement("cookie", kept))
                }
                TokenSource::Param(name) => {
                    // Several parameters may hold the token: continue from the last result.
                    path = Some(without_param(path.as_deref().unwrap_or(self.path), name));
                    true
                }
            };
            if !removed {
                return false;
            }
        }
        path.is_none_or(|path| edit(HeaderEdit::Set(":path", path.into_bytes())))
    }
}

/// Finds the only token of the request.
///
/// # Errors
/// [`Rejection::TokenMissing`], [`Rejection::TokenRepeated`].
pub fn locate<'a, H: HeaderMap>(
    sources: &'a TokenSources,
    incoming: &'a Incoming<H>,
    path: &'a str,
) -> Result<Located<'a, H>, Rejection> {
    let mut found: Option<Located<'a, H>> = None;
    // All sources are searched, because a second token must be found.
    for entry in &sources.0 {
        let Some(token) = find(entry, incoming, path)? else {
            continue;
        };
        match &mut found {
            None => {
                found = Some(Located {
                    token,
                    first: entry,
                    repeated: false,
                    sources,
                    incoming,
                    path,
                });
            }
            Some(located) if located.token == token => located.repeated = true,
            // Two different tokens: another reader could choose the other one.
            Some(_) => return Err(Rejection::TokenRepeated),
        }
    }
    found.ok_or(Rejection::TokenMissing)
}

impl SourceEntry {
    /// Returns the token in a header's value, or in one item of it.
    fn value_in<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        let TokenSource::Header { prefix, .. } = &self.source else {
            return None;
        };
        let token = after_prefix(value, prefix).filter(|token| !token.is_empty())?;
        // The value belongs to the source with the longest matching prefix.
        let of_another = self
            .longer_prefixes
            .iter()
            .any(|longer| after_prefix(value, longer).is_some());
        (!of_another).then_some(token)
    }

    /// Returns whether an item of a list header is the token of this source.
    fn is_item(&self, header: &str, item: &[u8]) -> bool {
        matches!(&self.source, TokenSource::Header { name, .. } if **name == *header)
            && self.value_in(item).is_some()
    }

    /// Returns whether a cookie-pair is the token of this source.
    fn is_cookie(&self, pair: &[u8]) -> bool {
        let TokenSource::Cookie(name) = &self.source else {
            return false;
        };
        cookie_value(pair, name.as_bytes()).is_some()
    }
}

/// Returns the token that a source holds.
fn find<'a, H: HeaderMap>(
    entry: &'a SourceEntry,
    incoming: &'a Incoming<H>,
    path: &'a str,
) -> Result<Option<&'a [u8]>, Rejection> {
    match &entry.source {
        TokenSource::Header { name, .. } if entry.is_list => {
            let items = incoming
                .all(name)
                .flat_map(|value| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
            only(items.filter_map(|item| entry.value_in(item)))
        }
        TokenSource::Header { name, .. } => match incoming.once(name) {
            Occurrence::Absent => Ok(None),
            Occurrence::Once(value) => header_value(entry, value),
            // Even equal copies are rejected: readers may disagree on the one that counts.
            Occurrence::Repeated => Err(Rejection::TokenRepeated),
        },
        TokenSource::Cookie(name) => {
            let cookie_pairs = incoming.all("cookie").flat_map(cookie_pairs);
            only(cookie_pairs.filter_map(|pair| cookie_value(pair, name.as_bytes())))
        }
        TokenSource::Param(name) => only(
            params(path)
                .filter_map(|param| param_value(param, name))
                .map(str::as_bytes),
        ),
    }
}

/// Returns the token in the value of a header with one value. Without the prefix the header has no
/// token, unless a copy that was joined to it has one (see [`Located::is_joined`]).
fn header_value<'v>(entry: &SourceEntry, value: &'v [u8]) -> Result<Option<&'v [u8]>, Rejection> {
    if let Some(token) = entry.value_in(value) {
        return Ok(Some(token));
    }
    // The first copy has no token; look at those that Envoy joined to it.
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

/// Returns the only value. Two values are rejected even if they are equal: another reader may
/// distinguish them.
fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, Rejection> {
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Rejection::TokenRepeated),
        (Some(value), None) => Ok(Some(value).filter(|value| !value.is_empty())),
        (None, None) => Ok(None),
    }
}

/// Returns the value after a prefix. A prefix that ends with a space is an authentication scheme,
/// whose case does not matter (RFC 9110 §11.1). One or more spaces separate it from the token (RFC
/// 6750 §2.1).
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

/// Returns the cookie-pairs of a header (RFC 6265 §4.2.1).
fn cookie_pairs(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

/// Returns the value of a cookie-pair with this name.
fn cookie_value<'c>(pair: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    let (key, value) = pair.split_at_checked(at)?;
    (key.trim_ascii_end() == name)
        .then(|| unquoted(value.get(1..).unwrap_or_default().trim_ascii_start()))
}

/// Removes the quotes around a cookie's value, which are not part of it (RFC 6265 §4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""))
        .unwrap_or(value)
}

/// Returns the query parameters of a path.
fn params(path: &str) -> impl Iterator<Item = &str> {
    path.split_once('?')
        .map(|(_, query)| query)
        .unwrap_or_default()
        .split('&')
}

/// Returns the value of a query parameter with this name. The name is compared with escapes
/// resolved, as an upstream reads it, so that no other spelling evades the check. The value keeps
/// its escapes: a token needs none, and validation rejects one that has them.
fn param_value<'p>(param: &'p str, name: &str) -> Option<&'p str> {
    let (key, value) = param.split_once('=').unwrap_or((param, ""));
    unescaped(key).eq(name.bytes()).then_some(value)
}

/// Resolves percent-escapes. Invalid ones stay as they are.
fn unescaped(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text.as_bytes();
    core::iter::from_fn(move || {
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

/// Returns the values of a list header or cookie header without the parts that are the token. All
/// other bytes stay as they are. Several headers become one, as Envoy joins them.
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

/// Returns the edit that sets a header, or removes it if the value is empty.
fn replacement<'n>(name: &'n str, value: Vec<u8>) -> HeaderEdit<'n> {
    if value.is_empty() {
        HeaderEdit::Remove(name)
    } else {
        HeaderEdit::Set(name, value)
    }
}

/// Returns a path without the query parameters of this name.
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
#[path = "location_tests.rs"]
mod tests;
