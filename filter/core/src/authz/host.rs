//! Hosts: parsed authorities (RFC 3986 §3.2) and the patterns over them.

use alloc::borrow::Cow;
use alloc::format;
use core::net::{Ipv4Addr, Ipv6Addr};

use crate::limits;
use crate::matcher::{Matcher, StringMatcher};

/// A parsed authority: one host and at most one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    name: HostName<Cow<'a, str>>,
    port: Option<u16>,
    /// What an absent port may stand for.
    defaults: DefaultPorts,
}

/// Ports that an authority without port may stand for: those of the schemes that the request may
/// have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultPorts {
    http: bool,
    https: bool,
}

impl DefaultPorts {
    /// Those of a request whose scheme is not known.
    pub const UNKNOWN: Self = Self {
        http: true,
        https: true,
    };

    /// Those of the schemes that a request states: `:scheme`, which a client may choose, and
    /// `x-forwarded-proto`. If the two differ, either may be right.
    pub fn of<'v>(schemes: impl Iterator<Item = &'v [u8]>) -> Self {
        let mut ports = Self {
            http: false,
            https: false,
        };
        for scheme in schemes {
            let [http, https] =
                ["http", "https"].map(|name| scheme.eq_ignore_ascii_case(name.as_bytes()));
            ports.http |= http || !https;
            ports.https |= https || !http;
        }
        if ports.http || ports.https {
            ports
        } else {
            Self::UNKNOWN
        }
    }

    fn may_be(self, port: u16) -> bool {
        (self.http && port == 80) || (self.https && port == 443)
    }

    fn is(self, port: u16) -> bool {
        self.may_be(port) && self.http != self.https
    }
}

/// A registered name or IPv4 address as text, or an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostName<T> {
    /// In any case, without the root's dot.
    Text(T),
    V6(Ipv6Addr),
}

impl<'a> Authority<'a> {
    /// Parses `:authority`. `None` for user information, escapes, zone identifiers, IPvFuture,
    /// empty labels, numbers that some resolvers take for an IPv4 address, and a port that is no
    /// number up to 65535.
    ///
    /// An empty port counts as absent (RFC 3986 §3.2.3), and an IPv4-mapped IPv6 address as the
    /// IPv4 address.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (name, port) = if let Some(literal) = text.strip_prefix('[') {
            let (address, port) = literal.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (
                address
                    .to_ipv4_mapped()
                    .map_or(HostName::V6(address), |mapped| {
                        HostName::Text(format!("{mapped}").into())
                    }),
                port,
            )
        } else {
            let (name, port) = split_port(text);
            (HostName::Text(Cow::Borrowed(registered_name(name)?)), port)
        };
        let port = match port.strip_prefix(':') {
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        Some(Self {
            name,
            port,
            defaults: DefaultPorts::UNKNOWN,
        })
    }

    pub(super) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    pub(super) fn set_default_ports(&mut self, ports: DefaultPorts) {
        self.defaults = ports;
    }
}

fn split_port(text: &str) -> (&str, &str) {
    text.find(':').map_or((text, ""), |at| text.split_at(at))
}

/// Returns whether the host of an authority is longer than a name may be.
pub(super) fn is_too_long(text: &str) -> bool {
    let (name, _) = split_port(text);
    name.strip_suffix('.').unwrap_or(name).len() > limits::MAX_HOST_BYTES
}

/// Returns a name without the root's dot. Letters, digits, `-` and `_`: the characters of host
/// names in use.
fn registered_name(text: &str) -> Option<&str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| !label.is_empty() && is_name_text(label);
    let plain = name.len() <= limits::MAX_HOST_BYTES && name.split('.').all(label);
    // `127.1`, `0x7f.1` and `2130706433` are addresses for inet_aton and for URL parsers of
    // browsers.
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let digits = hexadecimal.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = digits || last.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (!number || name.parse::<Ipv4Addr>().is_ok())).then_some(name)
}

fn is_name_text(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A host pattern. Case does not matter. A pattern without port matches any port, or none; one with
/// a port matches requests that name that port, or name none and whose scheme has that default
/// port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMatcher {
    name: HostName<StringMatcher>,
    port: Option<u16>,
}

impl HostMatcher {
    /// Reads a pattern: `*`, or a host, `prefix*` or `*suffix`, each with or without port.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self {
                name: HostName::Text(StringMatcher::Present),
                port: None,
            });
        }
        let lower = text.to_ascii_lowercase();
        if let Some(prefix) = lower.strip_suffix('*') {
            let plain = prefix.split('.').all(is_name_text)
                && !prefix.starts_with('.')
                && !prefix.contains("..");
            return if plain {
                Ok(Self {
                    name: HostName::Text(StringMatcher::Prefix(prefix.into())),
                    port: None,
                })
            } else {
                Err(PREFIX)
            };
        }
        if let Some(suffix) = lower.strip_prefix('*') {
            return Self::suffix(suffix);
        }
        let Authority { name, port, .. } = Authority::parse(&lower).ok_or(WRONG)?;
        let name = match name {
            HostName::Text(text) => HostName::Text(StringMatcher::Exact(text.into_owned().into())),
            HostName::V6(address) => HostName::V6(address),
        };
        Ok(Self { name, port })
    }

    fn suffix(suffix: &str) -> Result<Self, &'static str> {
        // A letter in front makes a whole authority of it.
        let whole = format!("x{suffix}");
        let Some(Authority {
            name: HostName::Text(name),
            port,
            ..
        }) = Authority::parse(&whole)
        else {
            return Err(WRONG);
        };
        let word = match name.get(1..).filter(|name| !name.is_empty()) {
            Some(name) => StringMatcher::Suffix(name.into()),
            None => StringMatcher::Present,
        };
        if word == StringMatcher::Present && port.is_none() {
            Err(WRONG)
        } else {
            Ok(Self {
                name: HostName::Text(word),
                port,
            })
        }
    }

    pub(super) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Returns whether the authority matches under one of the default ports that it may have.
    pub(super) fn may_match(&self, authority: &Authority<'_>) -> bool {
        let port = |port: u16| {
            authority
                .port
                .map_or_else(|| authority.defaults.may_be(port), |named| named == port)
        };
        self.port.is_none_or(port) && self.matches_name(authority)
    }

    fn matches_name(&self, authority: &Authority<'_>) -> bool {
        match (&self.name, &authority.name) {
            (HostName::Text(StringMatcher::Present), _) => true,
            (HostName::Text(word), HostName::Text(text)) => matches_caseless(word, text),
            (HostName::V6(ours), HostName::V6(theirs)) => ours == theirs,
            (HostName::Text(_), HostName::V6(_)) | (HostName::V6(_), HostName::Text(_)) => false,
        }
    }
}

const WRONG: &str =
    "must be a host name, an IPv4 address or an IPv6 address in brackets, with at most one port";

const PREFIX: &str = "must be the beginning of a host name, without port; a host without port matches every port, and IPv6 \
    addresses are compared as a whole";

impl Matcher for HostMatcher {
    type Subject<'s> = Authority<'s>;

    /// Under every default port that the authority may have.
    fn matches(&self, authority: &Authority<'_>) -> bool {
        let port = |port: u16| {
            authority
                .port
                .map_or_else(|| authority.defaults.is(port), |named| named == port)
        };
        self.port.is_none_or(port) && self.matches_name(authority)
    }

    fn covers(&self, other: &Self) -> bool {
        let name = match (&self.name, &other.name) {
            (HostName::Text(StringMatcher::Present), _) => true,
            (HostName::Text(ours), HostName::Text(theirs)) => ours.covers(theirs),
            (HostName::V6(ours), HostName::V6(theirs)) => ours == theirs,
            (HostName::Text(_), HostName::V6(_)) | (HostName::V6(_), HostName::Text(_)) => false,
        };
        name && (self.port.is_none() || self.port == other.port)
    }
}

/// The pattern is in lower case.
fn matches_caseless(word: &StringMatcher, text: &str) -> bool {
    let text = text.as_bytes();
    let same = |part: Option<&[u8]>, literal: &str| {
        part.is_some_and(|part| part.eq_ignore_ascii_case(literal.as_bytes()))
    };
    match word {
        StringMatcher::Exact(exact) => same(Some(text), exact),
        StringMatcher::Prefix(prefix) => same(text.get(..prefix.len()), prefix),
        StringMatcher::Suffix(suffix) => same(
            text.len()
                .checked_sub(suffix.len())
                .and_then(|at| text.get(at..)),
            suffix,
        ),
        StringMatcher::Present => true,
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
