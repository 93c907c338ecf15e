//! String patterns as AuthorizationPolicy writes them: exact, `prefix*`, `*suffix`, `*`.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// A pattern over one part of a request or token.
pub trait Matcher: Sized {
    /// The part, in the form in which it is compared.
    type Subject<'s>: ?Sized;

    /// Returns whether the part matches.
    fn matches(&self, subject: &Self::Subject<'_>) -> bool;
    /// Whether everything that `other` matches is sure to match here too. `false` when unsure.
    fn covers(&self, other: &Self) -> bool;
}

/// `values` and `notValues`: one of `any` (or `any` is empty) and none of `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<P> {
    /// What may match; empty: everything.
    pub any: Vec<P>,
    /// What must not match.
    pub none: Vec<P>,
}

impl<P: Matcher + PartialEq> Match<P> {
    /// Returns whether `any` (if it has a pattern) matches, and `none` does not.
    pub fn matches(&self, subject: &P::Subject<'_>) -> bool {
        self.admits(subject) && !self.excludes(subject)
    }

    /// Returns whether `any` has a pattern for this, or no pattern at all.
    pub fn admits(&self, subject: &P::Subject<'_>) -> bool {
        self.any.is_empty() || self.any.iter().any(|pattern| pattern.matches(subject))
    }

    /// Returns whether `none` has a pattern for this.
    pub fn excludes(&self, subject: &P::Subject<'_>) -> bool {
        self.none.iter().any(|pattern| pattern.matches(subject))
    }

    /// Whether everything that `other` lets pass is sure to pass here too.
    pub fn covers(&self, other: &Self) -> bool {
        let admitted = |pattern: &P| self.any.iter().any(|ours| ours.covers(pattern));
        let any = self.any.is_empty() || (!other.any.is_empty() && other.any.iter().all(admitted));
        any && self
            .none
            .iter()
            .all(|ours| other.none.iter().any(|theirs| theirs.covers(ours)))
    }
}

impl<P: Matcher> Match<P> {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Whether `none` excludes all that `any` names.
    pub fn never_matches(&self) -> bool {
        !self.any.is_empty()
            && self
                .any
                .iter()
                .all(|any| self.none.iter().any(|none| none.covers(any)))
    }
}

/// Exact, `prefix*`, `*suffix` or `*` (anything that is not empty).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatcher {
    /// The very text.
    Exact(Box<str>),
    /// Text that starts so.
    Prefix(Box<str>),
    /// Text that ends so.
    Suffix(Box<str>),
    /// Any text but the empty one.
    Present,
}

impl StringMatcher {
    /// Reads a pattern; a `*` in the middle is a mistake that would otherwise match only itself.
    ///
    /// # Errors
    /// What is wrong with it.
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

    /// The literal text of the pattern.
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
