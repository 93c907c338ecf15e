//! Strict JSON for everything that comes from outside: UTF-8, unique member names at every depth
//! (RFC 7515 §4, RFC 7519 §4), bounded depth and size (V3). In a signed bundle, whose reader
//! compares all names anyway, only those of small objects are compared.
//!
//! serde_json does the grammar; a [`Document`] is the flat list of what it read, in one allocation
//! beside the text itself. Strings stay where they are in the text unless they carry escapes.

mod read;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use crate::limits;

/// How much a document may hold.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Deepest nesting; a scalar has depth 0.
    pub depth: u8,
    /// Most values and member names together.
    pub nodes: usize,
    /// Most members of one object.
    pub members: usize,
    /// What becomes of a repeated member name.
    pub repeats: Repeats,
}

/// What becomes of an object two of whose members have the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// The document is refused.
    Refused,
    /// It is noted: [`Value::repeats_name`], [`Value::contains_repeats`].
    Noted,
    /// The document is refused for a small object; the reader compares the names of large ones.
    LeftToReader,
}

impl Budget {
    /// For the parts of a token.
    pub const TOKEN: Self = Self::of(limits::MAX_TOKEN_NODES);
    /// For a key set, of which one faulty key spoils no other.
    pub const JWKS: Self = Self {
        repeats: Repeats::Noted,
        ..Self::of(limits::MAX_JWKS_NODES)
    };
    /// For the content of a trust bundle: all epochs of all kinds, and keys.
    pub const BUNDLE: Self = Self {
        members: limits::MAX_EPOCHS,
        repeats: Repeats::LeftToReader,
        ..Self::of(limits::MAX_BUNDLE_NODES)
    };
    /// For a plugin configuration.
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

/// Why a text is not a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not UTF-8.
    Encoding,
    /// Not JSON: the line and column (in bytes, from 1) where that shows.
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

/// A strict JSON text, its own or lent to it, and the places of its values.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    text: Cow<'t, str>,
    unescaped: String,
    nodes: Vec<Node>,
    /// Objects that repeat a member name, if those are noted.
    repeated: Vec<usize>,
}

/// `end` is the index after the last node of this value.
#[derive(Clone, Copy, Debug)]
struct Node {
    kind: NodeKind,
    end: usize,
}

#[derive(Clone, Copy, Debug)]
enum NodeKind {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    /// A number that is no 64-bit integer in its shortest spelling: in the text, as it was written.
    Decimal(Span),
    /// In the text.
    Plain(Span),
    /// Had escapes: in `unescaped`.
    Escaped(Span),
    Array,
    /// Name, value, name, value …
    Object,
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: usize,
    end: usize,
}

impl<'t> Document<'t> {
    /// Reads a whole text.
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
            text: Cow::Owned(text),
            unescaped,
            nodes,
            repeated,
        })
    }

    /// Reads a whole text that stays where it is.
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

    /// The outermost value.
    #[must_use]
    pub fn root(&self) -> Value<'_> {
        Value {
            document: self,
            at: 0,
        }
    }

    /// The value at an index that [`Value::index`] gave for this very document.
    #[must_use]
    pub fn value(&self, index: usize) -> Value<'_> {
        Value {
            document: self,
            at: index,
        }
    }

    /// The JSON text as it came.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The nearest floating-point number.
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
    fn node(self) -> Node {
        // An index that is not of this document reads as null: never a trap.
        self.document.nodes.get(self.at).copied().unwrap_or(Node {
            kind: NodeKind::Null,
            end: self.at,
        })
    }

    /// This value's place in its document.
    #[must_use]
    pub fn index(self) -> usize {
        self.at
    }

    /// The JSON type.
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

    /// Whether two members of this object have the same name, in a document that notes those.
    #[must_use]
    pub fn repeats_name(self) -> bool {
        self.document.repeated.contains(&self.at)
    }

    /// Whether this or an object inside it repeats a member name, in a document that notes those.
    #[must_use]
    pub fn contains_repeats(self) -> bool {
        let inside = self.at..self.node().end;
        self.document
            .repeated
            .iter()
            .any(|object| inside.contains(object))
    }

    /// The text of a string.
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

    /// `true` or `false`.
    #[must_use]
    pub fn as_bool(self) -> Option<bool> {
        if let NodeKind::Bool(value) = self.node().kind {
            Some(value)
        } else {
            None
        }
    }

    /// A whole number that is not negative.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        if let NodeKind::Unsigned(value) = self.node().kind {
            Some(value)
        } else {
            None
        }
    }

    /// Any number.
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

    /// A NumericDate (RFC 7519 §2) in whole seconds: fractions are cut off. Dates before 1970 and
    /// beyond 2^53 are none.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "everything that is not a date"
    )]
    pub fn as_numeric_date(self) -> Option<u64> {
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

    /// The member of an object.
    #[must_use]
    pub fn get(self, name: &str) -> Option<Value<'d>> {
        self.members()
            .find(|(member, _)| *member == name)
            .map(|(_, value)| value)
    }

    /// The members of an object, in the order of the text; of anything else none.
    pub fn members(self) -> impl Iterator<Item = (&'d str, Value<'d>)> {
        let mut children = self.children(NodeKind::is_object);
        core::iter::from_fn(move || Some((children.next()?.as_str()?, children.next()?)))
    }

    /// The elements of an array; of anything else none.
    pub fn items(self) -> impl Iterator<Item = Value<'d>> {
        self.children(NodeKind::is_array)
    }

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
            next = child.node().end.max(next.saturating_add(1));
            Some(child)
        })
    }
}

/// Compact JSON, in the order of the text, with the digits of the text.
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

fn write_string(text: &str, out: &mut impl fmt::Write) -> fmt::Result {
    let quoted = serde_json::to_string(text).map_err(|_| fmt::Error)?;
    out.write_str(&quoted)
}

#[cfg(test)]
mod tests;
