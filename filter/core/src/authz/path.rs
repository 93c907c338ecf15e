//! The canonical form in which paths are compared (RFC 3986 §6.2.2).
//!
//! The canonical form of a path is the text that an upstream reads after it has resolved the
//! escapes. Every notation of a path therefore gets the same decision. A path that two servers may
//! read differently has no canonical form.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

/// Handling of `%2F` in paths, with the words of Envoy's `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// `REJECT_REQUEST`: a path with `%2F` has no canonical form.
    #[default]
    Reject,
    /// `KEEP_UNCHANGED`: `%2F` is a normal character of its segment.
    Keep,
}

/// Character that stands for an escaped slash in a canonical path. No other input maps to it,
/// because escaped control characters are rejected.
pub const ESCAPED_SLASH: char = '\u{1f}';

/// Bytes that servers interpret before or after they resolve escapes: `\` as `/`, `;` as the start
/// of parameters, `?` and `#` as the end of the path.
const SPECIAL: &[u8] = b"\\;?#";

/// Returns the canonical form of a request path (without query), or `None` if servers may interpret
/// the path in different ways.
///
/// Borrows the path if it contains no escapes.
pub(super) fn canonical_path(path: &str, slashes: EscapedSlashes) -> Option<Cow<'_, str>> {
    let plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !SPECIAL.contains(&byte));
    // `*` is the target of `OPTIONS *` (RFC 9112 §3.2.4).
    if !plain || !(path.starts_with('/') || path == "*") {
        return None;
    }
    let text = resolved(path, slashes)?;
    // Some servers strip a trailing slash, which an escaped slash would become.
    (has_plain_segments(&text, Ends::CLOSED) && !text.ends_with(ESCAPED_SLASH)).then_some(text)
}

/// Ends of a literal text at which a segment may continue. The text of a pattern `prefix*` is open
/// at its end, that of `*suffix` at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) open_start: bool,
    pub(super) open_end: bool,
}

impl Ends {
    pub(super) const CLOSED: Self = Self {
        open_start: false,
        open_end: false,
    };
}

/// Returns the canonical form of a pattern's literal text, or `None` if no canonical path can
/// contain it.
///
/// Characters beyond ASCII need no escapes.
pub(super) fn canonical_literal(
    literal: &str,
    ends: Ends,
    slashes: EscapedSlashes,
) -> Option<Cow<'_, str>> {
    if literal
        .chars()
        .any(|char| char.is_control() || char.is_whitespace() || "\\;?#".contains(char))
    {
        return None;
    }
    let text = resolved(literal, slashes)?;
    let ended = ends.open_end || !text.ends_with(ESCAPED_SLASH);
    (ended && has_plain_segments(&text, ends)).then_some(text)
}

/// Resolves escapes. Returns `None` for an incomplete escape, for octets that are not UTF-8, and
/// for characters that would be ambiguous without their escape.
fn resolved(text: &str, slashes: EscapedSlashes) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = if *first == b'%' {
            escape(tail, slashes)?
        } else {
            (*first, tail)
        };
        bytes.push(byte);
        rest = tail;
    }
    let text = String::from_utf8(bytes).ok()?;
    // A control character may end the path for a server, and would forge `ESCAPED_SLASH`.
    let controls = text
        .chars()
        .any(|char| char.is_control() && char != ESCAPED_SLASH);
    (!controls).then_some(Cow::Owned(text))
}

/// Decodes the two digits after a `%`. Returns the octet and the remaining text.
fn escape(after: &[u8], slashes: EscapedSlashes) -> Option<(u8, &[u8])> {
    let [high, low, tail @ ..] = after else {
        return None;
    };
    let (high, low) = (
        char::from(*high).to_digit(16)?,
        char::from(*low).to_digit(16)?,
    );
    let octet = u8::try_from(high << 4 | low).ok()?;
    let octet = match (octet, slashes) {
        (b'/', EscapedSlashes::Keep) => u8::try_from(ESCAPED_SLASH).ok()?,
        // A second decoder would continue after an escaped `%`. The others separate segments or
        // parameters for some servers.
        (b'/' | b'\\' | b';' | b'%', _) => return None,
        (octet, _) if octet.is_ascii_control() => return None,
        (octet, _) => octet,
    };
    Some((octet, tail))
}

/// Returns whether no segment is `.` or `..`, and no segment between two separators is empty.
/// Escaped slashes count as separators, because some servers treat them so.
fn has_plain_segments(text: &str, ends: Ends) -> bool {
    let mut segments = text
        .as_bytes()
        .split(|byte| *byte == b'/' || char::from(*byte) == ESCAPED_SLASH)
        .peekable();
    let mut first = true;
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let plain = match segment {
            // At an open end, `.` may be a part of a longer segment.
            b"." | b".." => (first && ends.open_start) || (last && ends.open_end),
            // An empty first segment precedes the leading slash; an empty last one follows a slash.
            b"" => first || last,
            _ => true,
        };
        if !plain {
            return false;
        }
        first = false;
    }
    true
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
