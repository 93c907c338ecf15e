//! Parts of a request that may carry a token, according to the rules of all issuers.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::JwtRule;

/// Part of a request that may carry a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// A header, with a prefix before the token.
    Header { name: Box<str>, prefix: Box<str> },
    /// A cookie (RFC 6265 §4.2).
    Cookie(Box<str>),
    /// A query parameter.
    Param(Box<str>),
}

/// Headers that hold one value by definition (RFC 9110 §11.6.2, §11.7.2). A second value shows that
/// copies were joined. In every other header a comma separates items (§5.6.1), one of which may be
/// the token: a token never contains a comma.
const SINGLE: [&str; 2] = ["authorization", "proxy-authorization"];

impl TokenSource {
    /// Returns the sources that a rule names.
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

    /// Returns whether the source is a header whose items are separate values.
    fn is_list(&self) -> bool {
        matches!(self, Self::Header { name, .. } if !SINGLE.contains(&&**name))
    }
}

/// Token source and the rules that name it.
#[derive(Clone, Debug)]
pub(crate) struct SourceEntry {
    pub(crate) source: TokenSource,
    /// True for a header whose items are separate values.
    pub(crate) is_list: bool,
    /// Indices of the rules (`jwtRules[i]`) that name the source.
    pub(crate) rules: Vec<usize>,
    /// Longer prefixes of the same header. A value with one of them belongs to that source.
    pub(crate) longer_prefixes: Vec<Box<str>>,
}

/// Token sources of a configuration, without duplicates.
#[derive(Clone, Debug, Default)]
pub struct TokenSources(pub(crate) Vec<SourceEntry>);

impl TokenSources {
    /// Collects the sources of all rules.
    pub(super) fn of(rules: &[JwtRule]) -> Self {
        let mut entries: Vec<SourceEntry> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            // Rules that share a source share its entry, so that a token is found only once.
            for source in TokenSource::all_of(rule) {
                match entries.iter_mut().find(|entry| entry.source == source) {
                    Some(entry) => entry.rules.push(index),
                    None => entries.push(SourceEntry {
                        is_list: source.is_list(),
                        source,
                        rules: alloc::vec![index],
                        longer_prefixes: Vec::new(),
                    }),
                }
            }
        }
        let sources: Vec<TokenSource> = entries.iter().map(|entry| entry.source.clone()).collect();
        // Prefixes depend on the sources of other rules, so they are compared at the end.
        for entry in &mut entries {
            if let TokenSource::Header { name, prefix } = &entry.source {
                entry.longer_prefixes = longer_prefixes(&sources, name, prefix);
            }
        }
        Self(entries)
    }
}

/// Returns the prefixes of a header that are longer than one of them.
fn longer_prefixes(sources: &[TokenSource], header: &str, than: &str) -> Vec<Box<str>> {
    let longer = sources.iter().filter_map(|source| match source {
        TokenSource::Header { name, prefix } if **name == *header && prefix.len() > than.len() => {
            Some(prefix.clone())
        }
        TokenSource::Header { .. } | TokenSource::Cookie(_) | TokenSource::Param(_) => None,
    });
    longer.collect()
}
