//! String patterns of AuthorizationPolicy: exact, `prefix*`, `*suffix`, `*`.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// A pattern for one part of a request or token.
pub trait Matcher: Sized {
    /// The part of the request or token, in the form in which it is compared.
    type Subject<'s>: ?Sized;

    /// Returns whether the part matches.
    fn matches(&self, subject: &Self::Subject<'_>) -> bool;
    /// Returns whether every subject that `other` matches certainly matches here too. Returns
    /// `false` when uncertain.
    fn covers(&self, other: &Self) -> bool;
}

/// `values` and `notValues`: a subject matches if it matches a pattern of `any` (or `any` is empty)
/// and no pattern of `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<P> {
    /// Patterns of which one must match; empty matches everything.
    pub any: Vec<P>,
    /// Patterns that must not match.
    pub none: Vec<P>,
}

impl<P: Matcher + PartialEq> Match<P> {
    /// Returns whether the subject is admitted and not excluded.
    pub fn matches(&self, subject: &P::Subject<'_>) -> bool {
        self.admits(subject) && !self.excludes(subject)
    }

    /// Returns whether a pattern of `any` matches, or `any` is empty.
    pub fn admits(&self, subject: &P::Subject<'_>) -> bool {
        self.any.is_empty() || self.any.iter().any(|pattern| pattern.matches(subject))
    }

    /// Returns whether a pattern of `none` matches.
    pub fn excludes(&self, subject: &P::Subject<'_>) -> bool {
        self.none.iter().any(|pattern| pattern.matches(subject))
    }

    /// Returns whether every subject that passes `other` certainly passes here too.
    pub fn covers(&self, other: &Self) -> bool {
        let any = self.any.is_empty()
            || (!other.any.is_empty()
                && other
                    .any
                    .iter()
                    .all(|pattern| self.any.iter().any(|ours| ours.covers(pattern))));
        // `other` must exclude at least the subjects excluded here; a narrower exclusion fails.
        any && self
            .none
            .iter()
            .all(|ours| other.none.iter().any(|theirs| theirs.covers(ours)))
    }
}

impl<P: Matcher> Match<P> {
    /// Returns whether both lists are empty.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Returns whether `none` excludes everything that `any` admits.
    pub fn never_matches(&self) -> bool {
        !self.any.is_empty()
            && self
                .any
                .iter()
                .all(|any| self.none.iter().any(|none| none.covers(any)))
    }
}

/// A string pattern: exact, `prefix*`, `*suffix` or `*` (any non-empty string).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatcher {
    /// Matches this string only.
    Exact(Box<str>),
    /// Matches strings that start with this text.
    Prefix(Box<str>),
    /// Matches strings that end with this text.
    Suffix(Box<str>),
    /// Matches every string but the empty one.
    Present,
}

impl StringMatcher {
    /// Parses a pattern. A `*` in the middle is an error, because it would silently match only
    /// itself.
    ///
    /// # Errors
    /// The problem with the pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let word = match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
            ("*", ..) => Self::Present,
            (_, Some(suffix), None) => Self::Suffix(suffix.into()),
            (_, None, Some(prefix)) => Self::Prefix(prefix.into()),
            _ => Self::Exact(text.into()),
        };
        if word.literal().contains('*') {
            return Err("one * is allowed, at the beginning or at the end");
        }
        Ok(word)
    }

    /// Returns the literal text of the pattern.
    pub(crate) fn literal(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Present => "",
        }
    }
}

impl Matcher for StringMatcher {
    type Subject<'s> = str;

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == &**exact,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Present => !text.is_empty(),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, _) => *other == Self::Present || !other.literal().is_empty(),
            (Self::Exact(_), Self::Exact(_)) => self == other,
            (Self::Prefix(prefix), Self::Exact(text) | Self::Prefix(text)) => {
                text.starts_with(&**prefix)
            }
            (Self::Suffix(suffix), Self::Exact(text) | Self::Suffix(text)) => {
                text.ends_with(&**suffix)
            }
            (Self::Exact(_) | Self::Prefix(_) | Self::Suffix(_), _) => false,
        }
    }
}
