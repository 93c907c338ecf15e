//! Reads a text into the nodes of a [`Document`](super::Document): serde_json's grammar with our
//! limits.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::{Budget, JsonError, Node, NodeKind, Repeats, Span};
use crate::limits;

/// Minimum size of a name or value in practice, with quotes and commas. It sizes the node list, so
/// that one allocation suffices.
const LEAST_BYTES_A_NODE: usize = 6;

/// Reads the nodes of a text and the data that belongs to them.
pub(super) fn document(text: &str, budget: Budget) -> Result<Read, JsonError> {
    // serde_json rejects numbers beyond the range of `f64`, which JSON allows: retry without them.
    let read = read(text, budget).or_else(|error| match error {
        JsonError::Syntax { .. } => self::read(&within_range(text).ok_or(error)?, budget),
        JsonError::Encoding | JsonError::DuplicateName | JsonError::TooDeep | JsonError::TooBig => {
            Err(error)
        }
    });
    let mut read = read?;
    if read.decimals {
        place_decimals(&mut read.nodes, text);
    }
    Ok(read)
}

/// Result of reading a text.
pub(super) struct Read {
    pub(super) nodes: Vec<Node>,
    /// Contents of the strings that had escapes.
    pub(super) unescaped: String,
    /// Objects that repeat a member name, if the budget notes them.
    pub(super) repeated: Vec<usize>,
    /// True if the text has a number that must be located again.
    decimals: bool,
}

/// Reads a text once, with serde_json as it is.
fn read(text: &str, budget: Budget) -> Result<Read, JsonError> {
    // The capacity is bounded: a large key set grows the list on demand.
    let likely = text
        .len()
        .div_ceil(LEAST_BYTES_A_NODE)
        .min(limits::MAX_TOKEN_NODES);
    let nodes = Vec::with_capacity(likely);
    let mut builder = Builder {
        text,
        budget,
        nodes,
        unescaped: String::new(),
        decimals: false,
        order: Vec::new(),
        repeated: Vec::new(),
        fault: None,
    };
    let mut source = serde_json::Deserializer::from_str(text);
    let read = AnyValue {
        builder: &mut builder,
        depth: 0,
    }
    .deserialize(&mut source)
    .and_then(|()| source.end());
    match read {
        Ok(()) => {
            let Builder {
                nodes,
                unescaped,
                decimals,
                repeated,
                ..
            } = builder;
            Ok(Read {
                nodes,
                unescaped,
                repeated,
                decimals,
            })
        }
        Err(error) => {
            let syntax = JsonError::Syntax {
                line: error.line(),
                column: error.column(),
                // serde_json reports a violated limit as a custom error; `fault` has the cause.
            };
            Err(builder.fault.unwrap_or(syntax))
        }
    }
}

/// Replaces the numbers beyond the range of `f64` with zeros; returns `None` if the text has none.
///
/// INVARIANT: only numbers of JSON's grammar are replaced, by numbers of the same length. The
/// result is JSON if and only if the original is, and everything else keeps its offset.
fn within_range(text: &str) -> Option<String> {
    let mut tamed = text.as_bytes().to_vec();
    let mut changed = false;
    for Span { start, end } in (Numbers {
        text: text.as_bytes(),
        at: 0,
    }) {
        let number = text.get(start..end)?;
        if is_number(number) && serde_json::from_str::<f64>(number).is_err() {
            tamed.get_mut(start..end)?.fill(b'0');
            // The shortest such number is 1e309, so it has space for the dot.
            *tamed.get_mut(start.saturating_add(1))? = b'.';
            changed = true;
        }
    }
    if changed {
        String::from_utf8(tamed).ok()
    } else {
        None
    }
}

/// Returns whether the text is a JSON number (RFC 8259 §6).
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text
        .split_once(['e', 'E'])
        .map_or((text, None), |(head, tail)| (head, Some(tail)));
    let (whole, fraction) = mantissa
        .split_once('.')
        .map_or((mantissa, None), |(head, tail)| (head, Some(tail)));
    let shortest = is_digits(whole) && (whole.len() == 1 || !whole.starts_with('0'));
    let exponent = exponent.map(|exponent| exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    shortest && fraction.is_none_or(is_digits) && exponent.is_none_or(is_digits)
}

/// Returns whether the text is one or more decimal digits.
fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Sets the span of each decimal. serde_json does not report it, so the numbers are located again.
///
/// INVARIANT: each number of the text is one node, in the same order.
fn place_decimals(nodes: &mut [Node], text: &str) {
    let mut found = Numbers {
        text: text.as_bytes(),
        at: 0,
    };
    for node in nodes {
        match &mut node.kind {
            NodeKind::Unsigned(_) | NodeKind::Signed(_) => drop(found.next()),
            NodeKind::Decimal(span) => *span = found.next().unwrap_or_default(),
            NodeKind::Null
            | NodeKind::Bool(_)
            | NodeKind::Plain(_)
            | NodeKind::Escaped(_)
            | NodeKind::Array
            | NodeKind::Object => {}
        }
    }
}

/// Iterator over the numbers of a text, which must be valid JSON.
struct Numbers<'t> {
    text: &'t [u8],
    at: usize,
}

impl Iterator for Numbers<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let mut in_string = false;
        loop {
            let step = match (*self.text.get(self.at)?, in_string) {
                (b'"', _) => {
                    in_string = !in_string;
                    1
                }
                // An escape takes two bytes, so an escaped quote does not end the string.
                (b'\\', true) => 2,
                (b'-' | b'0'..=b'9', false) => break,
                _ => 1,
            };
            self.at = self.at.saturating_add(step);
        }
        let start = self.at;
        while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = self.text.get(self.at) {
            self.at = self.at.saturating_add(1);
        }
        Some(Span {
            start,
            end: self.at,
        })
    }
}

/// Nodes built while serde_json reads the text.
struct Builder<'t> {
    text: &'t str,
    budget: Budget,
    nodes: Vec<Node>,
    unescaped: String,
    /// True if the text has a number that must be located again.
    decimals: bool,
    /// Scratch space for [`Builder::compare_names`], so that all large objects share one
    /// allocation.
    order: Vec<usize>,
    repeated: Vec<usize>,
    /// Error to report in place of serde_json's.
    fault: Option<JsonError>,
}

impl Builder<'_> {
    /// Stops serde_json and records the error to report.
    fn refuse<T, E: de::Error>(&mut self, fault: JsonError) -> Result<T, E> {
        self.fault = Some(fault);
        Err(E::custom("refused"))
    }

    /// Appends a node, unless the budget is used up.
    fn push<E: de::Error>(&mut self, kind: NodeKind) -> Result<usize, E> {
        let at = self.nodes.len();
        if at >= self.budget.nodes {
            return self.refuse(JsonError::TooBig);
        }
        self.nodes.push(Node {
            kind,
            end: at.saturating_add(1),
        });
        Ok(at)
    }

    /// Ends an array or object after its last child.
    fn close(&mut self, at: usize) {
        let end = self.nodes.len();
        if let Some(node) = self.nodes.get_mut(at) {
            node.end = end;
        }
    }

    /// Returns the node of a string without escapes.
    fn plain(&self, text: &str) -> NodeKind {
        // serde_json lends slices of the text that it reads, so the distance between the addresses
        // is the offset.
        let start = text
            .as_ptr()
            .addr()
            .saturating_sub(self.text.as_ptr().addr());
        NodeKind::Plain(Span {
            start,
            end: start.saturating_add(text.len()),
        })
    }

    /// Returns the content of a string node.
    fn string(&self, at: usize) -> Option<&str> {
        match self.nodes.get(at)?.kind {
            NodeKind::Plain(span) => self.text.get(span.start..span.end),
            NodeKind::Escaped(span) => self.unescaped.get(span.start..span.end),
            NodeKind::Null
            | NodeKind::Bool(_)
            | NodeKind::Unsigned(_)
            | NodeKind::Signed(_)
            | NodeKind::Decimal(_)
            | NodeKind::Array
            | NodeKind::Object => None,
        }
    }

    /// Checks a large object for two members of the same name.
    fn compare_names<E: de::Error>(&mut self, object: usize) -> Result<(), E> {
        let mut order = core::mem::take(&mut self.order);
        order.clear();
        let end = self.nodes.get(object).map_or(0, |node| node.end);
        // Collects the nodes of the names: each name is followed by its value.
        let mut at = object.saturating_add(1);
        while at < end {
            order.push(at);
            at = self
                .nodes
                .get(at.saturating_add(1))
                .map_or(end, |value| value.end);
        }
        let repeats = has_repeats(&mut order, |at| self.string(at).unwrap_or_default());
        self.order = order;
        if repeats {
            self.repeated(object)
        } else {
            Ok(())
        }
    }

    /// Records or rejects an object with two members of the same name.
    fn repeated<E: de::Error>(&mut self, object: usize) -> Result<(), E> {
        if self.budget.repeats != Repeats::Noted {
            return self.refuse(JsonError::DuplicateName);
        }
        // Each object is listed once, however many names it repeats.
        if self.repeated.last() != Some(&object) {
            self.repeated.push(object);
        }
        Ok(())
    }

    /// Returns whether the unfinished object at `object` has a member of this name.
    fn has_member(&self, object: usize, name: &str) -> bool {
        let end = self.nodes.get(object).map_or(0, |node| node.end);
        let mut at = object.saturating_add(1);
        while at < end {
            if self.string(at) == Some(name) {
                return true;
            }
            let value = at.saturating_add(1);
            at = self.nodes.get(value).map_or(end, |node| node.end);
        }
        false
    }

    /// Stores the content of a string with escapes and returns its node.
    fn escaped(&mut self, text: &str) -> NodeKind {
        let start = self.unescaped.len();
        self.unescaped.push_str(text);
        NodeKind::Escaped(Span {
            start,
            end: self.unescaped.len(),
        })
    }
}

/// Returns whether two items have the same name.
///
/// Sorting takes n log n comparisons for any names. An attacker can make a hash table slow by its
/// choice of names, but not this.
pub(super) fn has_repeats<'n>(items: &mut [usize], name: impl Fn(usize) -> &'n str) -> bool {
    items.sort_unstable_by(|a, b| name(*a).cmp(name(*b)));
    items
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if name(*a) == name(*b)))
}

/// Visitor that reads any value and appends its nodes.
struct AnyValue<'b, 't> {
    builder: &'b mut Builder<'t>,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_, '_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl AnyValue<'_, '_> {
    /// Returns the depth of the children, unless it exceeds the budget.
    fn deeper<E: de::Error>(&mut self) -> Result<u8, E> {
        if self.depth >= self.builder.budget.depth {
            return self.builder.refuse(JsonError::TooDeep);
        }
        Ok(self.depth.saturating_add(1))
    }
}

impl<'de> Visitor<'de> for AnyValue<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.builder.push(NodeKind::Null).map(drop)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.builder.push(NodeKind::Bool(value)).map(drop)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.builder.push(NodeKind::Unsigned(value)).map(drop)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.builder.push(NodeKind::Signed(value)).map(drop)
    }

    // The value is not kept: it may be imprecise, and the digits stay available in the text.
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.builder.decimals = true;
        self.builder
            .push(NodeKind::Decimal(Span::default()))
            .map(drop)
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        let kind = self.builder.plain(text);
        self.builder.push(kind).map(drop)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let kind = self.builder.escaped(text);
        self.builder.push(kind).map(drop)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let at = self.builder.push(NodeKind::Array)?;
        while items
            .next_element_seed(AnyValue {
                builder: &mut *self.builder,
                depth,
            })?
            .is_some()
        {}
        self.builder.close(at);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let at = self.builder.push(NodeKind::Object)?;
        // The budget is checked for each member, before its value is read.
        let mut count: usize = 0;
        let mut seen = Seen::default();
        while members
            .next_key_seed(Name {
                builder: &mut *self.builder,
                object: at,
                count,
                seen: &mut seen,
            })?
            .is_some()
        {
            count = count.saturating_add(1);
            if count > self.builder.budget.members {
                return self.builder.refuse(JsonError::TooBig);
            }
            members.next_value_seed(AnyValue {
                builder: &mut *self.builder,
                depth,
            })?;
            // [`Builder::has_member`] needs the end of the object so far.
            self.builder.close(at);
        }
        if count > SMALL_OBJECT && self.builder.budget.repeats != Repeats::LeftToReader {
            self.builder.compare_names(at)?;
        }
        Ok(())
    }
}

/// Maximum number of members whose names are compared while they are read, without an allocation.
/// Most objects are smaller.
pub(super) const SMALL_OBJECT: usize = 32;

/// Visitor that reads a member's name and checks whether the object already has it.
struct Name<'b, 't> {
    builder: &'b mut Builder<'t>,
    object: usize,
    /// Number of members that the object has before this one.
    count: usize,
    seen: &'b mut Seen,
}

/// Set of the name classes, of 256, that occurred in an object.
///
/// A name of a new class is a new name and need not be compared with the others. For names chosen
/// to share one class, [`SMALL_OBJECT`] bounds the cost.
#[derive(Default)]
struct Seen([u64; 4]);

impl Seen {
    /// Adds the class of a name; returns whether it was present.
    fn insert(&mut self, name: &str) -> bool {
        // FNV-1a (draft-eastlake-fnv), folded to its low byte.
        let hash = name.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let class = hash ^ hash >> 16;
        let (word, bit) = (class >> 6 & 3, class & 63);
        // INVARIANT: `word` is below 4. An impossible index costs one needless comparison.
        let Some(word) = usize::try_from(word)
            .ok()
            .and_then(|word| self.0.get_mut(word))
        else {
            return true;
        };
        let before = *word >> bit & 1 == 1;
        *word |= 1 << bit;
        before
    }
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_, '_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a member name")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<(), E> {
        let kind = self.builder.plain(text);
        self.add(kind, text)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let kind = self.builder.escaped(text);
        self.add(kind, text)
    }
}

impl Name<'_, '_> {
    /// Appends the name, after a check for repetition in a small object.
    fn add<E: de::Error>(self, kind: NodeKind, text: &str) -> Result<(), E> {
        if self.count < SMALL_OBJECT
            && self.seen.insert(text)
            && self.builder.has_member(self.object, text)
        {
            self.builder.repeated(self.object)?;
        }
        self.builder.push(kind).map(drop)
    }
}
