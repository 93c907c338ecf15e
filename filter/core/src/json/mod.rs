//! Strict JSON for all external input: UTF-8, unique member names at every depth (RFC 7515 §4, RFC
//! 7519 §4), bounded depth and size (V3). In a large object of a signed bundle, the bundle's reader
//! compares the names.
//!
//! serde_json implements the grammar. A [`Document`] is a flat list of nodes in one allocation
//! beside the text. Strings stay in the text unless they contain escapes.

mod read;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use crate::limits;

/// Limits for a document.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Maximum nesting; a scalar has depth 0.
    pub depth: u8,
    /// Maximum number of values and member names together.
    pub nodes: usize,
    /// Maximum number of members of one object.
    pub members: usize,
    /// Treatment of repeated member names.
    pub repeats: Repeats,
}

/// Treatment of an object with two members of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// The document is rejected.
    Refused,
    /// The object is marked: [`Value::repeats_name`], [`Value::contains_repeats`].
    Noted,
    /// The document is rejected for a small object. The document's reader compares the names of
    /// large ones.
    LeftToReader,
}

impl Budget {
    /// Limits for the parts of a token.
    pub const TOKEN: Self = Self::of(limits::MAX_TOKEN_NODES);
    /// Limits for a key set, in which one faulty key must not invalidate the others.
    pub const JWKS: Self = Self {
        repeats: Repeats::Noted,
        ..Self::of(limits::MAX_JWKS_NODES)
    };
    /// Limits for the content of a trust bundle: all epochs of all kinds, and keys.
    pub const BUNDLE: Self = Self {
        members: limits::MAX_EPOCHS,
        // The reader builds maps from the epochs anyway, which detects repeated names.
        repeats: Repeats::LeftToReader,
        ..Self::of(limits::MAX_BUNDLE_NODES)
    };
    /// Limits for a plugin configuration.
    pub const CONFIG: Self = Self::of(limits::MAX_CONFIG_NODES);

    const fn of(nodes: usize) -> Self {
        Self {
            depth: limits::MAX_JSON_DEPTH,
            nodes,
            members: nodes,
            repeats: Repeats::Refused,
        }
    }
}

/// Reason why a text is not a valid document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not UTF-8.
    Encoding,
    /// Not JSON; line and column locate the error.
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
    },
    /// An object has two members of the same name.
    DuplicateName,
    /// Nested deeper than the [`Budget`] allows.
    TooDeep,
    /// More values or members than the [`Budget`] allows.
    TooBig,
}

impl fmt::Display for JsonError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding => out.write_str("not UTF-8"),
            Self::Syntax { line, column } => {
                write!(out, "not JSON at line {line}, column {column}")
            }
            Self::DuplicateName => out.write_str("an object has two members of the same name"),
            Self::TooDeep => out.write_str("nested too deeply"),
            Self::TooBig => out.write_str("too large"),
        }
    }
}

impl core::error::Error for JsonError {}

/// A strict JSON text, owned or borrowed, with the positions of its values.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    text: Cow<'t, str>,
    unescaped: String,
    nodes: Vec<Node>,
    /// Objects that repeat a member name, if the budget notes them.
    repeated: Vec<usize>,
}

/// One value or member name. `end` is the index after the last node of this value.
#[derive(Clone, Copy, Debug)]
struct Node {
    kind: NodeKind,
    end: usize,
}

/// Type of a node, with its value.
#[derive(Clone, Copy, Debug)]
enum NodeKind {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    /// A number other than a 64-bit integer in its shortest form; the span is its place in the
    /// text.
    Decimal(Span),
    /// A string without escapes: its span in the text.
    Plain(Span),
    /// A string with escapes: its span in `unescaped`.
    Escaped(Span),
    Array,
    /// An object; its children alternate between names and values.
    Object,
}

/// Range of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: usize,
    end: usize,
}

impl<'t> Document<'t> {
    /// Reads a text and takes ownership of it.
    ///
    /// # Errors
    /// [`JsonError`] when it is not strict JSON or over the budget.
    pub fn parse(bytes: Vec<u8>, budget: Budget) -> Result<Self, JsonError> {
        let text = String::from_utf8(bytes).map_err(|_| JsonError::Encoding)?;
        let read::Read {
            nodes,
            unescaped,
            repeated,
            ..
        } = read::document(&text, budget)?;
        Ok(Self {
            // The nodes hold offsets, not references, so moving the text is safe.
            text: Cow::Owned(text),
            unescaped,
            nodes,
            repeated,
        })
    }

    /// Reads a text that the document borrows.
    ///
    /// # Errors
    /// [`JsonError`] when it is not strict JSON or over the budget.
    pub fn lent(text: &'t str, budget: Budget) -> Result<Self, JsonError> {
        let read::Read {
            nodes,
            unescaped,
            repeated,
            ..
        } = read::document(text, budget)?;
        Ok(Self {
            text: Cow::Borrowed(text),
            unescaped,
            nodes,
            repeated,
        })
    }

    /// Returns the outermost value.
    #[must_use]
    pub fn root(&self) -> Value<'_> {
        Value {
            document: self,
            at: 0,
        }
    }

    /// Returns the value at an index that [`Value::index`] returned for this document.
    #[must_use]
    pub fn value(&self, index: usize) -> Value<'_> {
        Value {
            document: self,
            at: index,
        }
    }

    /// Returns the JSON text in its original form.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the nearest floating-point number.
    fn decimal(&self, span: Span) -> Option<f64> {
        serde_json::from_str(self.text.get(span.start..span.end)?).ok()
    }
}

/// One value of a document.
#[derive(Clone, Copy)]
pub struct Value<'d> {
    document: &'d Document<'d>,
    at: usize,
}

/// The JSON type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl<'d> Value<'d> {
    /// Returns the value's node.
    fn node(self) -> Node {
        // An index of another document reads as null instead of panicking.
        self.document.nodes.get(self.at).copied().unwrap_or(Node {
            kind: NodeKind::Null,
            end: self.at,
        })
    }

    /// Returns this value's index in its document.
    #[must_use]
    pub fn index(self) -> usize {
        self.at
    }

    /// Returns the JSON type.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self.node().kind {
            NodeKind::Null => Kind::Null,
            NodeKind::Bool(_) => Kind::Bool,
            NodeKind::Unsigned(_) | NodeKind::Signed(_) | NodeKind::Decimal(_) => Kind::Number,
            NodeKind::Plain(_) | NodeKind::Escaped(_) => Kind::String,
            NodeKind::Array => Kind::Array,
            NodeKind::Object => Kind::Object,
        }
    }

    /// Returns whether two members of this object have the same name, if the document's budget
    /// notes repetitions.
    #[must_use]
    pub fn repeats_name(self) -> bool {
        self.document.repeated.contains(&self.at)
    }

    /// Returns whether this value or an object inside it repeats a member name, if the document's
    /// budget notes repetitions.
    #[must_use]
    pub fn contains_repeats(self) -> bool {
        // The nodes of a value and of its descendants are contiguous.
        let inside = self.at..self.node().end;
        self.document
            .repeated
            .iter()
            .any(|object| inside.contains(object))
    }

    /// Returns the content of a string.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything that is not a string"
    )]
    pub fn as_str(self) -> Option<&'d str> {
        match self.node().kind {
            NodeKind::Plain(span) => self.document.text.get(span.start..span.end),
            NodeKind::Escaped(span) => self.document.unescaped.get(span.start..span.end),
            _ => None,
        }
    }

    /// Returns the value of a boolean.
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        if let NodeKind::Bool(value) = self.node().kind {
            Some(value)
        } else {
            None
        }
    }

    /// Returns a non-negative integer.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        if let NodeKind::Unsigned(value) = self.node().kind {
            Some(value)
        } else {
            None
        }
    }

    /// Returns any number.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything that is not a number"
    )]
    pub fn as_number(self) -> Option<serde_json::Number> {
        match self.node().kind {
            NodeKind::Unsigned(value) => Some(value.into()),
            NodeKind::Signed(value) => Some(value.into()),
            NodeKind::Decimal(span) => serde_json::Number::from_f64(self.document.decimal(span)?),
            _ => None,
        }
    }

    /// Returns a NumericDate (RFC 7519 §2) in whole seconds, without its fraction. Returns `None`
    /// for dates before 1970 or beyond 2^53.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything that is not a date"
    )]
    pub fn as_numeric_date(self) -> Option<u64> {
        // Up to 2^53, `f64` represents every second exactly.
        const LATEST: u64 = 1 << 53;
        let seconds = match self.node().kind {
            NodeKind::Unsigned(value) => value,
            #[expect(
                clippy::as_conversions,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturating by definition; the range is checked below"
            )]
            NodeKind::Decimal(span) => {
                self.document.decimal(span).filter(|value| *value >= 0.0)? as u64
            }
            _ => return None,
        };
        (seconds <= LATEST).then_some(seconds)
    }

    /// Returns the member of this name, if this is an object.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Value<'d>> {
        self.members()
            .find(|(member, _)| *member == name)
            .map(|(_, value)| value)
    }

    /// Returns the members of an object in the order of the text; nothing for any other value.
    pub fn members(self) -> impl Iterator<Item = (&'d str, Value<'d>)> {
        // Names and values alternate.
        let mut children = self.children(NodeKind::is_object);
        core::iter::from_fn(move || Some((children.next()?.as_str()?, children.next()?)))
    }

    /// Returns the elements of an array; nothing for any other value.
    pub fn items(self) -> impl Iterator<Item = Value<'d>> {
        self.children(NodeKind::is_array)
    }

    /// Returns the direct children if the node satisfies `parent`.
    fn children(self, parent: fn(NodeKind) -> bool) -> impl Iterator<Item = Value<'d>> {
        let node = self.node();
        let mut next = self.at.saturating_add(1);
        core::iter::from_fn(move || {
            if !parent(node.kind) || next >= node.end {
                return None;
            }
            let child = Value {
                document: self.document,
                at: next,
            };
            // Skips the descendants. `max` guarantees progress.
            next = child.node().end.max(next.saturating_add(1));
            Some(child)
        })
    }
}

/// Writes compact JSON in the order of the text, with the digits of the text.
impl fmt::Display for Value<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node().kind {
            NodeKind::Null => out.write_str("null"),
            NodeKind::Bool(value) => write!(out, "{value}"),
            NodeKind::Unsigned(value) => write!(out, "{value}"),
            NodeKind::Signed(value) => write!(out, "{value}"),
            NodeKind::Decimal(span) => out.write_str(
                self.document
                    .text
                    .get(span.start..span.end)
                    .unwrap_or_default(),
            ),
            NodeKind::Plain(_) | NodeKind::Escaped(_) => {
                write_string(self.as_str().unwrap_or_default(), out)
            }
            NodeKind::Array => {
                out.write_char('[')?;
                for (at, item) in self.items().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    item.fmt(out)?;
                }
                out.write_char(']')
            }
            NodeKind::Object => {
                out.write_char('{')?;
                for (at, (name, value)) in self.members().enumerate() {
                    if at > 0 {
                        out.write_char(',')?;
                    }
                    write_string(name, out)?;
                    out.write_char(':')?;
                    value.fmt(out)?;
                }
                out.write_char('}')
            }
        }
    }
}

impl NodeKind {
    fn is_object(self) -> bool {
        matches!(self, Self::Object)
    }

    fn is_array(self) -> bool {
        matches!(self, Self::Array)
    }
}

/// Writes a string with JSON escapes.
fn write_string(text: &str, out: &mut impl fmt::Write) -> fmt::Result {
    // serde_json escapes exactly the characters that JSON requires.
    let quoted = serde_json::to_string(text).map_err(|_| fmt::Error)?;
    out.write_str(&quoted)
}

#[cfg(test)]
mod tests;
