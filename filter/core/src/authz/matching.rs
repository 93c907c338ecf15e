//! Patterns of AuthorizationPolicy for methods and paths, including path templates with `{*}` and
//! `{**}`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::path::{Ends, EscapedSlashes, canonical_literal};
use crate::matcher::{Matcher, StringMatcher};

/// A path pattern: a [`StringMatcher`], or a template. In a template, `{*}` stands for one segment
/// and `{**}`, the last operator, for any rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatcher {
    /// A pattern without operators in braces.
    Plain(StringMatcher),
    /// A pattern with operators in braces.
    Template(PathTemplate),
}

/// Parsed template: the segments up to `{**}` or the end, and the literal text after `{**}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    /// Segments before `{**}`; `None` stands for `{*}`.
    head: Vec<Option<Box<str>>>,
    /// Literal text after `{**}`; `None` without `{**}`.
    tail: Option<Box<str>>,
}

impl PathMatcher {
    /// Parses a pattern. Its literal text may use the same escapes as a request path; characters
    /// beyond ASCII need none.
    ///
    /// # Errors
    /// The problem with the pattern.
    pub fn parse(text: &str, slashes: EscapedSlashes) -> Result<Self, &'static str> {
        if slashes == EscapedSlashes::Reject && text.to_ascii_lowercase().contains("%2f") {
            return Err(NEEDS_KEEP);
        }
        if text.contains(['{', '}']) {
            return PathTemplate::parse(text, slashes).map(Self::Template);
        }
        if !text.starts_with(['/', '*']) {
            return Err("must start with / or *");
        }
        canonical(&StringMatcher::parse(text)?, slashes).map(Self::Plain)
    }
}

impl PathTemplate {
    /// Parses a pattern with operators.
    fn parse(text: &str, slashes: EscapedSlashes) -> Result<Self, &'static str> {
        // Split at the last operator, then parse the segments before it.
        let (head, tail) = match text.split_once("/{**}") {
            Some((head, tail)) => (head, Some(tail)),
            None => (text, None),
        };
        let rest = head
            .strip_prefix('/')
            .or_else(|| head.is_empty().then_some(""))
            .ok_or("must start with /")?;
        // A template that starts with `/{**}` has no segments before it.
        let head: Vec<Option<Box<str>>> = if head.is_empty() {
            Vec::new()
        } else {
            rest.split('/')
                .map(|text| Self::segment(text, slashes))
                .collect::<Result<_, _>>()?
        };
        let plain_tail = tail.is_none_or(|tail| {
            (tail.is_empty() || tail.starts_with('/')) && !tail.contains(['*', '{', '}'])
        });
        if !plain_tail {
            return Err("{**} must be the last operator and a whole segment");
        }
        // Only the last segment of a path may be empty (a trailing slash).
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
            tail: tail
                .map(|tail| literal(tail, Ends::CLOSED, slashes))
                .transpose()?,
        })
    }

    /// Parses one segment before `{**}`; `None` stands for `{*}`.
    fn segment(text: &str, slashes: EscapedSlashes) -> Result<Option<Box<str>>, &'static str> {
        if text == "{*}" {
            Ok(None)
        } else if text.contains(['*', '{', '}']) {
            Err("in a template, {*} and {**} must be whole segments and * must not stand alone")
        } else {
            literal(text, Ends::CLOSED, slashes).map(Some)
        }
    }
}

/// Returns the canonical form of literal text, or an error if no canonical path can contain it.
fn literal(text: &str, ends: Ends, slashes: EscapedSlashes) -> Result<Box<str>, &'static str> {
    canonical_literal(text, ends, slashes)
        .map(|text| Box::from(&*text))
        .ok_or(NEVER)
}

/// Returns the same pattern with the canonical form of its literal text.
fn canonical(
    pattern: &StringMatcher,
    slashes: EscapedSlashes,
) -> Result<StringMatcher, &'static str> {
    Ok(match pattern {
        StringMatcher::Exact(text) => StringMatcher::Exact(literal(text, Ends::CLOSED, slashes)?),
        StringMatcher::Prefix(text) => {
            let ends = Ends {
                open_end: true,
                ..Ends::CLOSED
            };
            StringMatcher::Prefix(literal(text, ends, slashes)?)
        }
        StringMatcher::Suffix(text) => {
            let ends = Ends {
                open_start: true,
                ..Ends::CLOSED
            };
            StringMatcher::Suffix(literal(text, ends, slashes)?)
        }
        StringMatcher::Present => StringMatcher::Present,
    })
}

/// Message for a pattern that only matches paths without a canonical form.
const NEVER: &str = "can never match: paths with //, dot segments, \\, ; or %25, and escapes that \
    are incomplete, controls or not UTF-8, are rejected with 400 before rules apply; ?, # and \
    spaces must be escaped";

/// Message for a pattern with an escaped slash under [`EscapedSlashes::Reject`].
const NEEDS_KEEP: &str = "can never match: paths with %2F are rejected with 400 unless \
    pathWithEscapedSlashesAction is KEEP_UNCHANGED";

/// A pattern for methods, which HTTP compares case-sensitively.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodMatcher(StringMatcher);

impl MethodMatcher {
    /// Parses a pattern.
    ///
    /// # Errors
    /// The problem with the pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err("methods are case-sensitive; write it in capitals, such as GET");
        }
        StringMatcher::parse(text).map(Self)
    }
}

impl Matcher for MethodMatcher {
    type Subject<'s> = str;

    fn matches(&self, text: &str) -> bool {
        self.0.matches(text)
    }

    fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }
}

impl PathTemplate {
    /// Returns whether a canonical path matches.
    fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for segment in &self.head {
            let Some(after) = rest.strip_prefix('/') else {
                return false;
            };
            // A segment ends at the next slash or at the end of the path.
            let end = after.find('/').unwrap_or(after.len());
            let (found, left) = after.split_at(end);
            // `{*}` needs a non-empty segment.
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

    /// Returns whether every match starts with this text.
    fn begins_with(&self, prefix: &str) -> bool {
        let mut left = prefix;
        for segment in &self.head {
            // The prefix may end anywhere in a segment.
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
        // After `{**}` comes a slash, then any text.
        left.is_empty() || (self.tail.is_some() && left == "/")
    }
}

impl Matcher for PathMatcher {
    type Subject<'s> = str;

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Plain(word) => word.matches(text),
            Self::Template(template) => template.matches(text),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(ours), Self::Plain(theirs)) => ours.covers(theirs),
            (Self::Plain(StringMatcher::Present), Self::Template(_)) => true,
            (Self::Plain(StringMatcher::Prefix(prefix)), Self::Template(template)) => {
                template.begins_with(prefix)
            }
            (Self::Template(template), Self::Plain(StringMatcher::Exact(path))) => {
                template.matches(path)
            }
            (Self::Template(ours), Self::Template(theirs)) => ours == theirs,
            // Whether a prefix or suffix is covered by a template is not decided: `false` is safe.
            (Self::Plain(_) | Self::Template(_), _) => false,
        }
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
