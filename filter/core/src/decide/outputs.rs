//! Outputs of an accepted token: claims and payload as request headers for the upstream.
//!
//! The form follows Envoy's `jwt_authn`
//! (`source/extensions/filters/http/jwt_authn/authenticator.cc`): strings, numbers and booleans are
//! unchanged, objects and arrays are the standard base64 of their JSON, and the payload is the
//! token's own base64url.
//!
//! A claim is left out if a header cannot carry it unchanged: because of control characters (a line
//! break would start another header), blanks at either end (HTTP drops them, so that " admin" would
//! arrive as "admin"), or more bytes than the rule allows. `onUnsafe` decides whether the request
//! goes on. Each omitted output is counted and logged. A spoofed copy of the header is removed in
//! any case. Null and an empty string count as an absent claim.
//! not have the claim.

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use core::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::authn::{JwtRule, OnUnsafe, Verified};
use crate::json::{Kind, Value};

/// Outputs of a token, created once because all requests with the token get the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outputs {
    /// Values of the claims' headers, one per line in the order of the configuration. The line of a
    /// header that is not set is empty.
    values: Box<str>,
    /// True if the configured header of the payload is set.
    payload: bool,
    /// Number of omitted outputs.
    omitted: usize,
    /// True if one of the omitted outputs has `onUnsafe: REJECT`.
    rejects: bool,
}

/// An omitted output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Omission<'r> {
    /// Name of the header.
    pub header: &'r str,
    /// Reason, with the setting that would help.
    pub reason: OmissionReason,
    /// Length of the value in bytes.
    pub bytes: usize,
}

/// Reason for omitting an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OmissionReason {
    /// The value is longer than `outputMaxValueBytes`.
    ValueTooLong,
    /// The outputs together are longer than `outputMaxTotalBytes`.
    TotalTooLong,
    /// The value contains a control character.
    ControlCharacter,
    /// The value begins or ends with a blank.
    OuterBlank,
}

impl OmissionReason {
    /// Returns a description of the reason, with the setting that would help.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::ValueTooLong => "longer than outputMaxValueBytes",
            Self::TotalTooLong => "all outputs together are longer than outputMaxTotalBytes",
            Self::ControlCharacter => "contains a control character",
            Self::OuterBlank => "begins or ends with a blank",
        }
    }
}

impl Outputs {
    /// Creates the outputs of a token. Each omitted one is passed to `omit`.
    pub(crate) fn of<'r>(
        rule: &'r JwtRule,
        verified: &Verified,
        token: &str,
        mut omit: impl FnMut(Omission<'r>),
    ) -> Self {
        let mut made = Self {
            payload: true,
            ..Self::default()
        };
        let mut left = rule.output_max_total_bytes;
        let mut omit = |omission: Omission<'r>, on_unsafe: OnUnsafe| {
            made.omitted = made.omitted.saturating_add(1);
            made.rejects |= on_unsafe == OnUnsafe::Reject;
            omit(omission);
        };
        // The payload.
        if let Some(header) = rule.output_payload_to_header.as_deref() {
            let bytes = payload_of(token.as_bytes()).map_or(0, str::len);
            match left.checked_sub(header.len().saturating_add(bytes)) {
                Some(rest) => left = rest,
                None => {
                    made.payload = false;
                    omit(
                        Omission {
                            header,
                            reason: OmissionReason::TotalTooLong,
                            bytes,
                        },
                        rule.on_unsafe,
                    );
                }
            }
        }
        // The claims, with the lengths of their values.
        let claims = rule.output_claim_to_headers.iter().map(|output| {
            let value = verified.claims().get(&output.claim);
            (output, value.map(|value| (value, length(value))))
        });
        // One line for each header; the buffer is allocated once.
        let capacity = claims.clone().fold(0_usize, |sum, (_, claim)| {
            let length = claim.map_or(0, |(_, length)| length);
            let is_kept = length <= rule.output_max_value_bytes;
            sum.saturating_add(if is_kept { length } else { 0 })
                .saturating_add(1)
        });
        let mut lines = String::with_capacity(capacity.saturating_sub(1));
        for (at, (output, claim)) in claims.enumerate() {
            if at > 0 {
                lines.push('\n');
            }
            let Some((value, bytes)) = claim.filter(|(_, bytes)| *bytes > 0) else {
                continue;
            };
            let rest = left.checked_sub(output.header.len().saturating_add(bytes));
            let pushed = match rest {
                _ if bytes > rule.output_max_value_bytes => Err(OmissionReason::ValueTooLong),
                None => Err(OmissionReason::TotalTooLong),
                Some(_) => push_header_value(&mut lines, value),
            };
            // An omitted value does not count against the total.
            match (pushed, rest) {
                (Ok(()), Some(rest)) => left = rest,
                (Ok(()), None) => {}
                (Err(reason), _) => omit(
                    Omission {
                        header: &output.header,
                        reason,
                        bytes,
                    },
                    output.on_unsafe,
                ),
            }
        }
        Self {
            values: lines.into(),
            ..made
        }
    }

    /// Returns the headers that a token sets: the unchanged payload, and the claims.
    pub(crate) fn headers<'a>(
        &'a self,
        rule: &'a JwtRule,
        token: &'a [u8],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let payload = rule
            .output_payload_to_header
            .as_deref()
            .filter(|_| self.payload);
        let payload = payload.and_then(|name| Some((name, payload_of(token)?)));
        let names = rule
            .output_claim_to_headers
            .iter()
            .map(|output| &*output.header);
        payload.into_iter().chain(
            names
                .zip(self.values.split('\n'))
                .filter(|(_, value)| !value.is_empty()),
        )
    }

    /// Returns the number of omitted outputs.
    pub(crate) fn omitted(&self) -> usize {
        self.omitted
    }

    /// Returns whether the token must be rejected because of an omitted output.
    pub(crate) fn rejects(&self) -> bool {
        self.rejects
    }

    /// Returns the bytes on the heap, for memory budgets.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.values.len()
    }
}

/// Returns the encoded payload of a token.
fn payload_of(token: &[u8]) -> Option<&str> {
    core::str::from_utf8(token.split(|byte| *byte == b'.').nth(1)?).ok()
}

/// Returns the length of the header value; 0 for a claim that counts as absent.
fn length(value: Value<'_>) -> usize {
    match value.kind() {
        Kind::Null => 0,
        Kind::String => value.as_str().map_or(0, str::len),
        Kind::Bool | Kind::Number => json_length(value),
        Kind::Array | Kind::Object => json_length(value).div_ceil(3).saturating_mul(4),
    }
}

/// Returns the length of a value's JSON without writing it.
fn json_length(value: Value<'_>) -> usize {
    struct Length(usize);

    impl fmt::Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.saturating_add(text.len());
            Ok(())
        }
    }

    let mut length = Length(0);
    write!(length, "{value}").map_or(0, |()| length.0)
}

/// Appends the header value of a claim, or nothing if a header cannot carry it.
fn push_header_value(out: &mut String, value: Value<'_>) -> Result<(), OmissionReason> {
    let start = out.len();
    match value.kind() {
        Kind::Null => {}
        Kind::String => out.push_str(value.as_str().unwrap_or_default()),
        // Writing to a String cannot fail.
        Kind::Bool | Kind::Number => write!(out, "{value}").unwrap_or_default(),
        Kind::Array | Kind::Object => STANDARD.encode_string(value.to_string(), out),
    }
    // A line break would begin another header, and HTTP drops outer blanks.
    let text = out.get(start..).unwrap_or_default();
    let unsafe_for = if text.chars().any(char::is_control) {
        Some(OmissionReason::ControlCharacter)
    } else {
        (text.trim() != text).then_some(OmissionReason::OuterBlank)
    };
    unsafe_for.map_or(Ok(()), |reason| {
        out.truncate(start);
        Err(reason)
    })
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
