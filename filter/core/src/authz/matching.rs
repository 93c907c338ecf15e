//! Patterns of methods and paths as AuthorizationPolicy writes them, path templates with `{*}` and
//! `{**}` included.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::path::{Ends, EscapedSlashes, canonical_literal};
use crate::matcher::{Matcher, StringMatcher};

/// A path pattern: a [`StringMatcher`], or a template whose `{*}` is one segment and whose `{**}`, the last
/// operator, is any rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatcher {
    /// Without operators in braces.
    Plain(StringMatcher),
    /// With operators.
    Template(PathTemplate),
}

/// Segments up to `{**}` or the end, and the literal text after `{**}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    /// `None` is `{*}`.
    head: Vec<Option<Box<str>>>,
    /// After `{**}`; `None` without one.
    tail: Option<Box<str>>,
}

impl PathMatcher {
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
            return PathTemplate::parse(text, slashes).map(Self::Template);
        }
        if !text.starts_with(['/', '*']) {
            return Err("must start with / or *");
        }
        canonical(&StringMatcher::parse(text)?, slashes).map(Self::Plain)
    }
}

impl PathTemplate {
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

/// Returns the same pattern over the canonical form of its literal text.
fn canonical(
    pattern: &StringMatcher,
    slashes: EscapedSlashes,
) -> Result<StringMatcher, &'static str> {
    let read = |text: &str, ends| {
        canonical_literal(text, ends, slashes)
            .map(|text| Box::from(&*text))
            .ok_or(NEVER)
    };
    Ok(match pattern {
        StringMatcher::Exact(text) => StringMatcher::Exact(read(text, Ends::CLOSED)?),
        StringMatcher::Prefix(text) => StringMatcher::Prefix(read(
            text,
            Ends {
                open_end: true,
                ..Ends::CLOSED
            },
        )?),
        StringMatcher::Suffix(text) => StringMatcher::Suffix(read(
            text,
            Ends {
                open_start: true,
                ..Ends::CLOSED
            },
        )?),
        StringMatcher::Present => StringMatcher::Present,
    })
}

const NEVER: &str = "can never match: paths with //, dot segments, \\, ; or %25, and escapes that are incomplete, \
    controls or not UTF-8, are rejected with 400 before rules apply; ?, # and blanks must be escaped";

const NEEDS_KEEP: &str = "can never match: paths with %2F are rejected with 400 unless pathWithEscapedSlashesAction is \
    KEEP_UNCHANGED";

/// A method: with case, as HTTP has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodMatcher(StringMatcher);

impl MethodMatcher {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err("methods are compared with case: write it in capitals, such as GET");
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
            (Self::Plain(_) | Self::Template(_), _) => false,
        }
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
