//! What an accepted token tells the upstream: claims and payload as request headers.
//!
//! As Envoy's `jwt_authn` does it (`source/extensions/filters/http/jwt_authn/authenticator.cc`):
//! strings, numbers and booleans as they are, objects and arrays as standard base64 of their JSON,
//! the payload as the token's own base64url.
//!
//! A claim is left out if it cannot be a header value without changing its meaning on the way:
//! control characters (a line break would start a header of its own), blanks at either end (HTTP
//! drops them, so that " admin" would arrive as "admin"), or more bytes than the rule allows.
//! `onUnsafe` decides whether the request goes on; each output that was left out is counted and
//! logged. The spoofed copy is gone in any case. Null and an empty string are as if the token did
//! not have the claim.

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use core::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::authn::{JwtRule, OnUnsafe, Verified};
use crate::json::{Kind, Value};

/// Outputs of a token. They hold for every request that brings it, so they are made once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outputs {
    /// Values of the claims' headers, one a line in the order of the configuration; an empty line
    /// for a header that is not set.
    values: Box<str>,
    /// Whether the payload's header is set, where one is configured.
    payload: bool,
    /// Outputs that were left out.
    omitted: usize,
    /// Whether one of them has `onUnsafe: REJECT`.
    rejects: bool,
}

/// An output that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Omission<'r> {
    /// Name of the header.
    pub header: &'r str,
    /// OmissionReason, with the setting that would help.
    pub reason: OmissionReason,
    /// Length of the value in bytes.
    pub bytes: usize,
}

/// OmissionReason why an output is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OmissionReason {
    /// Longer than `outputMaxValueBytes`.
    ValueTooLong,
    /// The outputs together are longer than `outputMaxTotalBytes`.
    TotalTooLong,
    /// A control character.
    ControlCharacter,
    /// A blank at the beginning or the end.
    OuterBlank,
}

impl OmissionReason {
    /// Returns the reason in words, with the setting that would help.
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
    /// Makes the outputs of a token; what is left out goes to `omit`.
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
        let claims = rule
            .output_claim_to_headers
            .iter()
            .map(|output| (output, verified.claims().get(&output.claim)));
        let claims =
            claims.map(|(output, claim)| (output, claim.map(|value| (value, length(value)))));
        let fits = |length: usize| {
            if length > rule.output_max_value_bytes {
                0
            } else {
                length
            }
        };
        let most = claims.clone().map(|(_, claim)| {
            claim
                .map_or(0, |(_, length)| fits(length))
                .saturating_add(1)
        });
        let mut lines =
            String::with_capacity(most.fold(0_usize, usize::saturating_add).saturating_sub(1));
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

    /// The headers that a token sets: the payload as it came, and the claims.
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

    /// Number of outputs that were left out.
    pub(crate) fn omitted(&self) -> usize {
        self.omitted
    }

    /// Whether the token must be rejected for an output that was left out.
    pub(crate) fn rejects(&self) -> bool {
        self.rejects
    }

    /// Bytes on the heap, for memory budgets.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.values.len()
    }
}

/// The encoded payload of a token.
fn payload_of(token: &[u8]) -> Option<&str> {
    core::str::from_utf8(token.split(|byte| *byte == b'.').nth(1)?).ok()
}

/// Bytes of the header value; 0 for a claim that counts as absent.
fn length(value: Value<'_>) -> usize {
    match value.kind() {
        Kind::Null => 0,
        Kind::String => value.as_str().map_or(0, str::len),
        Kind::Bool | Kind::Number => json_length(value),
        Kind::Array | Kind::Object => json_length(value).div_ceil(3).saturating_mul(4),
    }
}

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

/// Appends the value as a header carries it; nothing if none can.
fn push_header_value(out: &mut String, value: Value<'_>) -> Result<(), OmissionReason> {
    let start = out.len();
    match value.kind() {
        Kind::Null => {}
        Kind::String => out.push_str(value.as_str().unwrap_or_default()),
        // A String takes everything.
        Kind::Bool | Kind::Number => write!(out, "{value}").unwrap_or_default(),
        Kind::Array | Kind::Object => STANDARD.encode_string(value.to_string(), out),
    }
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
