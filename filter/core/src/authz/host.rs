//! Hosts: parsed authorities (RFC 3986 §3.2) and their patterns.

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
    /// Ports that an absent port may stand for.
    defaults: DefaultPorts,
}

/// Default ports that an authority without port may stand for, from the schemes that the request
/// may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultPorts {
    http: bool,
    https: bool,
}

impl DefaultPorts {
    /// Ports of a request whose scheme is unknown.
    pub const UNKNOWN: Self = Self {
        http: true,
        https: true,
    };

    /// Returns the ports of the schemes that a request states: `:scheme`, which a client may
    /// choose, and `x-forwarded-proto`. If the two differ, either may be right.
    pub fn of<'v>(schemes: impl Iterator<Item = &'v [u8]>) -> Self {
        let mut ports = Self {
            http: false,
            https: false,
        };
        for scheme in schemes {
            let [http, https] =
                ["http", "https"].map(|name| scheme.eq_ignore_ascii_case(name.as_bytes()));
            // An unknown scheme may have either port.
            ports.http |= http || !https;
            ports.https |= https || !http;
        }
        if ports.http || ports.https {
            ports
        } else {
            Self::UNKNOWN
        }
    }

    /// Returns whether an absent port may stand for this port.
    fn may_be(self, port: u16) -> bool {
        (self.http && port == 80) || (self.https && port == 443)
    }

    /// Returns whether an absent port certainly stands for this port.
    fn is(self, port: u16) -> bool {
        self.may_be(port) && self.http != self.https
    }
}

/// A registered name or IPv4 address as a string, or an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostName<T> {
    /// Name or IPv4 address in upper or lower case, without a trailing dot.
    Text(T),
    /// IPv6 address.
    V6(Ipv6Addr),
}

impl<'a> Authority<'a> {
    /// Parses `:authority`.
    ///
    /// Returns `None` for user information, escapes, zone identifiers, IPvFuture and empty labels,
    /// for numbers that some resolvers interpret as an IPv4 address, and for a port that is not a
    /// number up to 65535.
    ///
    /// An empty port counts as absent (RFC 3986 §3.2.3), and an IPv4-mapped IPv6 address as the
    /// IPv4 address.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        // Brackets enclose an IPv6 address.
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

    /// Returns whether the authority names a port.
    pub(super) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Sets the ports that an absent port may stand for.
    pub(super) fn set_default_ports(&mut self, ports: DefaultPorts) {
        self.defaults = ports;
    }
}

/// Splits at the first colon; the second part starts with it.
fn split_port(text: &str) -> (&str, &str) {
    text.find(':').map_or((text, ""), |at| text.split_at(at))
}

/// Returns whether the host of an authority exceeds the maximum length of a name.
pub(super) fn is_too_long(text: &str) -> bool {
    let (name, _) = split_port(text);
    name.strip_suffix('.').unwrap_or(name).len() > limits::MAX_HOST_BYTES
}

/// Returns a valid name without its trailing dot. Valid characters are letters, digits, `-` and
/// `_`, as in host names in use.
fn registered_name(text: &str) -> Option<&str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let plain = name.len() <= limits::MAX_HOST_BYTES
        && name
            .split('.')
            .all(|label| !label.is_empty() && is_name_text(label));
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

/// A case-insensitive host pattern.
///
/// A pattern without port matches with any port or none. A pattern with a port matches requests
/// that name that port, and requests without port whose scheme has that default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMatcher {
    name: HostName<StringMatcher>,
    port: Option<u16>,
}

impl HostMatcher {
    /// Parses a pattern: `*`, or a host, `prefix*` or `*suffix`, each with or without port.
    ///
    /// # Errors
    /// The problem with the pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self {
                name: HostName::Text(StringMatcher::Present),
                port: None,
            });
        }
        let lower = text.to_ascii_lowercase();
        // A prefix cannot have a port: the port would follow the `*`.
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
        // The pattern is stored in lower case, for the caseless comparison.
        let name = match name {
            HostName::Text(text) => HostName::Text(StringMatcher::Exact(text.into_owned().into())),
            HostName::V6(address) => HostName::V6(address),
        };
        Ok(Self { name, port })
    }

    /// Parses the part after a leading `*`.
    fn suffix(suffix: &str) -> Result<Self, &'static str> {
        // A letter in front turns the suffix into a complete authority.
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
        // `*` alone was handled before, so this is `*.` or similar.
        if word == StringMatcher::Present && port.is_none() {
            Err(WRONG)
        } else {
            Ok(Self {
                name: HostName::Text(word),
                port,
            })
        }
    }

    /// Returns whether the pattern names a port.
    pub(super) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Returns whether the pattern matches with at least one of the ports that the authority may
    /// have.
    pub(super) fn may_match(&self, authority: &Authority<'_>) -> bool {
        let port_matches = match (self.port, authority.port) {
            (None, _) => true,
            (Some(ours), Some(named)) => ours == named,
            (Some(ours), None) => authority.defaults.may_be(ours),
        };
        port_matches && self.matches_name(authority)
    }

    /// Returns whether the name of the authority matches.
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

const PREFIX: &str = "must be the beginning of a host name, without port; a host without port \
    matches every port, and IPv6 addresses are compared as a whole";

impl Matcher for HostMatcher {
    type Subject<'s> = Authority<'s>;

    /// Returns whether the pattern matches with every port that the authority may have.
    fn matches(&self, authority: &Authority<'_>) -> bool {
        let port_matches = match (self.port, authority.port) {
            (None, _) => true,
            (Some(ours), Some(named)) => ours == named,
            (Some(ours), None) => authority.defaults.is(ours),
        };
        port_matches && self.matches_name(authority)
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

/// Compares without case. INVARIANT: the pattern is in lower case.
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
