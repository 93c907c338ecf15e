//! Patterns as AuthorizationPolicy writes them: exact, `prefix*`, `*suffix`, `*`, and path
//! templates with `{*}` and `{**}`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::normal::{Ends, EscapedSlashes, canonical_literal};

/// A pattern over one part of a request or token.
pub trait Pattern: Sized {
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

impl<P: Pattern + PartialEq> Match<P> {
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

impl<P: Pattern> Match<P> {
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
pub enum Word {
    /// The very text.
    Exact(Box<str>),
    /// Text that starts so.
    Prefix(Box<str>),
    /// Text that ends so.
    Suffix(Box<str>),
    /// Any text but the empty one.
    Present,
}

impl Word {
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

    /// The same pattern over the canonical form of its literal text.
    fn canonical(&self, slashes: EscapedSlashes) -> Result<Self, &'static str> {
        let read = |text: &str, ends| {
            canonical_literal(text, ends, slashes)
                .map(|text| Box::from(&*text))
                .ok_or(NEVER)
        };
        Ok(match self {
            Self::Exact(text) => Self::Exact(read(text, Ends::CLOSED)?),
            Self::Prefix(text) => Self::Prefix(read(
                text,
                Ends {
                    open_end: true,
                    ..Ends::CLOSED
                },
            )?),
            Self::Suffix(text) => Self::Suffix(read(
                text,
                Ends {
                    open_start: true,
                    ..Ends::CLOSED
                },
            )?),
            Self::Present => Self::Present,
        })
    }

    fn literal(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Present => "",
        }
    }
}

impl Pattern for Word {
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

/// A path pattern: a [`Word`], or a template whose `{*}` is one segment and whose `{**}`, the last
/// operator, is any rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// Without operators in braces.
    Word(Word),
    /// With operators.
    Template(Template),
}

/// Segments up to `{**}` or the end, and the literal text after `{**}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// `None` is `{*}`.
    head: Vec<Option<Box<str>>>,
    /// After `{**}`; `None` without one.
    tail: Option<Box<str>>,
}

impl Path {
    /// Reads a pattern. Its literal text may be spelled in any way that a request path may, and
    /// beyond ASCII as it is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, slashes: EscapedSlashes) -> Result<Self, &'static str> {
        if slashes == EscapedSlashes::Reject && text.to_ascii_lowercase().contains("%2f") {
            return Err(NEEDS_KEEP);
        }
        if text.contains(['{', '}']) {
            return Template::parse(text, slashes).map(Self::Template);
        }
        if !text.starts_with(['/', '*']) {
            return Err("must start with / or *");
        }
        Word::parse(text)?.canonical(slashes).map(Self::Word)
    }
}

impl Template {
    fn parse(text: &str, slashes: EscapedSlashes) -> Result<Self, &'static str> {
        let (head, tail) = match text.split_once("/{**}") {
            Some((head, tail)) => (head, Some(tail)),
            None => (text, None),
        };
        let rest = head
            .strip_prefix('/')
            .or_else(|| head.is_empty().then_some(""))
            .ok_or("must start with /")?;
        let canonical = |literal: &str| {
            canonical_literal(literal, Ends::CLOSED, slashes)
                .map(|text| Box::<str>::from(&*text))
                .ok_or(NEVER)
        };
        let segment = |segment: &str| match segment {
            "{*}" => Ok(None),
            literal if literal.contains(['*', '{', '}']) => {
                Err("in a template, {*} and {**} must be whole segments and * must not stand alone")
            }
            literal => canonical(literal).map(Some),
        };
        let head: Vec<Option<Box<str>>> = if head.is_empty() {
            Vec::new()
        } else {
            rest.split('/').map(segment).collect::<Result<_, _>>()?
        };
        let plain = |tail: &&str| {
            (tail.is_empty() || tail.starts_with('/')) && !tail.contains(['*', '{', '}'])
        };
        if tail.as_ref().is_some_and(|tail| !plain(tail)) {
            return Err("{**} must be the last operator and a whole segment");
        }
        // Only the last segment of a path may be empty.
        let inner = head.len().saturating_sub(usize::from(tail.is_none()));
        if head
            .iter()
            .take(inner)
            .any(|segment| segment.as_deref() == Some(""))
        {
            return Err(NEVER);
        }
        Ok(Self {
            head,
            tail: tail.map(canonical).transpose()?,
        })
    }
}

const NEVER: &str = "can never match: paths with //, dot segments, \\, ; or %25, and escapes that are incomplete, \
    controls or not UTF-8, are rejected with 400 before rules apply; ?, # and blanks must be escaped";

const NEEDS_KEEP: &str = "can never match: paths with %2F are rejected with 400 unless pathWithEscapedSlashesAction is \
    KEEP_UNCHANGED";

/// A method: with case, as HTTP has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(Word);

impl Method {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err("methods are compared with case: write it in capitals, such as GET");
        }
        Word::parse(text).map(Self)
    }
}

impl Pattern for Method {
    type Subject<'s> = str;

    fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }

    fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }
}

impl Template {
    fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for segment in &self.head {
            let Some(after) = rest.strip_prefix('/') else {
                return false;
            };
            let end = after.find('/').unwrap_or(after.len());
            let (found, left) = after.split_at(end);
            let fits = segment
                .as_deref()
                .map_or(!found.is_empty(), |literal| literal == found);
            if !fits {
                return false;
            }
            rest = left;
        }
        match &self.tail {
            None => rest.is_empty(),
            Some(tail) => rest
                .strip_prefix('/')
                .is_some_and(|any| any.ends_with(&**tail)),
        }
    }

    /// The literal beginning that every match has.
    fn begins_with(&self, prefix: &str) -> bool {
        let mut left = prefix;
        for segment in &self.head {
            let Some(after) = left.strip_prefix('/') else {
                return left.is_empty();
            };
            let Some(literal) = segment.as_deref() else {
                return after.is_empty();
            };
            match after.strip_prefix(literal) {
                Some(more) => left = more,
                None => return literal.starts_with(after),
            }
        }
        left.is_empty() || (self.tail.is_some() && left == "/")
    }
}

impl Pattern for Path {
    type Subject<'s> = str;

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Word(word) => word.matches(text),
            Self::Template(template) => template.matches(text),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Word(ours), Self::Word(theirs)) => ours.covers(theirs),
            (Self::Word(Word::Present), Self::Template(_)) => true,
            (Self::Word(Word::Prefix(prefix)), Self::Template(template)) => {
                template.begins_with(prefix)
            }
            (Self::Template(template), Self::Word(Word::Exact(path))) => template.matches(path),
            (Self::Template(ours), Self::Template(theirs)) => ours == theirs,
            (Self::Word(_) | Self::Template(_), _) => false,
        }
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
