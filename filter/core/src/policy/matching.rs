//! Patterns as AuthorizationPolicy writes them: exact, `prefix*`, `*suffix`, `*`, and path templates with `{*}` and `{**}`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::normal::{bare_host, has_normal_segments, is_normal_host};

/// A pattern over one text.
pub trait Pattern: Sized {
    /// Whether the text matches.
    fn matches(&self, text: &str) -> bool;
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
    /// Whether this text passes.
    pub fn matches(&self, text: &str) -> bool {
        self.admits(text) && !self.excludes(text)
    }

    /// Whether `any` has a pattern for this text, or no say.
    pub fn admits(&self, text: &str) -> bool {
        self.any.is_empty() || self.any.iter().any(|pattern| pattern.matches(text))
    }

    /// Whether `none` has a pattern for this text.
    pub fn excludes(&self, text: &str) -> bool {
        self.none.iter().any(|pattern| pattern.matches(text))
    }

    /// Whether everything that `other` lets pass is sure to pass here too.
    pub fn covers(&self, other: &Self) -> bool {
        let admitted = |pattern: &P| self.any.iter().any(|ours| ours.covers(pattern));
        let any = self.any.is_empty() || (!other.any.is_empty() && other.any.iter().all(admitted));
        any && self.none.iter().all(|ours| other.none.iter().any(|theirs| theirs.covers(ours)))
    }
}

impl<P: Pattern> Match<P> {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    /// Whether `none` excludes all that `any` names.
    pub fn never_matches(&self) -> bool {
        !self.any.is_empty() && self.any.iter().all(|any| self.none.iter().any(|none| none.covers(any)))
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

    fn literal(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Present => "",
        }
    }
}

impl Pattern for Word {
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
            (Self::Prefix(prefix), Self::Exact(text) | Self::Prefix(text)) => text.starts_with(&**prefix),
            (Self::Suffix(suffix), Self::Exact(text) | Self::Suffix(text)) => text.ends_with(&**suffix),
            (Self::Exact(_) | Self::Prefix(_) | Self::Suffix(_), _) => false,
        }
    }
}

/// A host pattern: without case; a pattern without port matches any port, and the root's dot at the end of a host is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(Word);

impl Host {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let word = Word::parse(&text.to_ascii_lowercase())?;
        if word != Word::Present && !is_normal_host(word.literal()) {
            return Err("must be a host name or address, with or without port");
        }
        Ok(Self(word))
    }
}

impl Host {
    fn matches_bytes(&self, host: &[u8]) -> bool {
        let same =
            |part: Option<&[u8]>, literal: &str| part.is_some_and(|part| part.eq_ignore_ascii_case(literal.as_bytes()));
        match &self.0 {
            Word::Exact(exact) => same(Some(host), exact),
            Word::Prefix(prefix) => same(host.get(..prefix.len()), prefix),
            Word::Suffix(suffix) => same(host.len().checked_sub(suffix.len()).and_then(|at| host.get(at..)), suffix),
            Word::Present => !host.is_empty(),
        }
    }
}

impl Pattern for Host {
    fn matches(&self, text: &str) -> bool {
        self.matches_bytes(text.as_bytes()) || self.matches_bytes(bare_host(text).as_bytes())
    }

    fn covers(&self, other: &Self) -> bool {
        self.0.covers(&other.0)
    }
}

/// A path pattern: a [`Word`], or a template whose `{*}` is one segment and whose `{**}`, the last operator, is any rest.
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
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.contains(['{', '}']) {
            if !text.starts_with(['/', '*']) {
                return Err("must start with / or *");
            }
            let word = Word::parse(text)?;
            return if has_normal_segments(word.literal()) { Ok(Self::Word(word)) } else { Err(NEVER) };
        }
        let (head, tail) = match text.split_once("/{**}") {
            Some((head, tail)) => (head, Some(tail)),
            None => (text, None),
        };
        let rest = head.strip_prefix('/').or_else(|| head.is_empty().then_some("")).ok_or("must start with /")?;
        let segment = |segment: &str| match segment {
            "{*}" => Ok(None),
            literal if literal.contains(['*', '{', '}']) => {
                Err("in a template, {*} and {**} must be whole segments and * must not stand alone")
            }
            literal => Ok(Some(literal.into())),
        };
        let segments = if head.is_empty() { Ok(Vec::new()) } else { rest.split('/').map(segment).collect() };
        let plain = |tail: &&str| (tail.is_empty() || tail.starts_with('/')) && !tail.contains(['*', '{', '}']);
        if tail.as_ref().is_some_and(|tail| !plain(tail)) {
            return Err("{**} must be the last operator and a whole segment");
        }
        let literals =
            [Some(head), tail].into_iter().flatten().all(|part| has_normal_segments(&part.replace("{*}", "x")));
        let template = Template { head: segments?, tail: tail.map(Into::into) };
        if literals { Ok(Self::Template(template)) } else { Err(NEVER) }
    }
}

const NEVER: &str = "can never match: paths with //, dot segments, ?, #, ;, \\ or needless escapes are refused before rules are looked at";

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
            let Some(after) = rest.strip_prefix('/') else { return false };
            let end = after.find('/').unwrap_or(after.len());
            let (found, left) = after.split_at(end);
            let fits = segment.as_deref().map_or(!found.is_empty(), |literal| literal == found);
            if !fits {
                return false;
            }
            rest = left;
        }
        match &self.tail {
            None => rest.is_empty(),
            Some(tail) => rest.strip_prefix('/').is_some_and(|any| any.ends_with(&**tail)),
        }
    }

    /// The literal beginning that every match has.
    fn begins_with(&self, prefix: &str) -> bool {
        let mut left = prefix;
        for segment in &self.head {
            let Some(after) = left.strip_prefix('/') else { return left.is_empty() };
            let Some(literal) = segment.as_deref() else { return after.is_empty() };
            match after.strip_prefix(literal) {
                Some(more) => left = more,
                None => return literal.starts_with(after),
            }
        }
        left.is_empty() || (self.tail.is_some() && left == "/")
    }
}

impl Pattern for Path {
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
            (Self::Word(Word::Prefix(prefix)), Self::Template(template)) => template.begins_with(prefix),
            (Self::Template(template), Self::Word(Word::Exact(path))) => template.matches(path),
            (Self::Template(ours), Self::Template(theirs)) => ours == theirs,
            (Self::Word(_) | Self::Template(_), _) => false,
        }
    }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
