//! The compact form of a JWS (RFC 7515 §7.1): three parts, one spelling (V1, V2).

use alloc::vec::Vec;

use crate::base64url::Decoded;
use crate::rejection::Rejection;
use crate::{base64url, bytes, limits};

/// The parts of a compact JWS, still encoded. Nothing in them is believed.
#[derive(Clone, Copy, Debug)]
pub struct Compact<'t> {
    /// Header and payload with the dot between them: what the signature covers.
    pub signing_input: &'t str,
    /// The encoded JOSE header.
    pub header: &'t str,
    /// The encoded payload.
    pub payload: &'t str,
    /// The encoded signature.
    pub signature: &'t str,
}

impl<'t> Compact<'t> {
    /// Splits a token. Characters are checked by the decoders, which accept one spelling only; a
    /// missing signature by [`Compact::decode_signature`], so that an `alg: none` is called by its
    /// name.
    ///
    /// # Errors
    /// [`Rejection::TokenTooLarge`], [`Rejection::TokenMalformed`].
    pub fn split(token: &'t str) -> Result<Self, Rejection> {
        if token.len() > limits::MAX_TOKEN_BYTES {
            return Err(Rejection::TokenTooLarge);
        }
        Self::split_unbounded(token).ok_or(Rejection::TokenMalformed)
    }

    /// Splits without a bound on the length: for bundles, which have their own.
    pub(crate) fn split_unbounded(token: &'t str) -> Option<Self> {
        let (signing_input, signature) = token.rsplit_once('.')?;
        let (header, payload) = signing_input.split_once('.')?;
        let three = !bytes::contains(payload.as_bytes(), b'.');
        let full = !header.is_empty() && !payload.is_empty();
        (three && full).then_some(Self {
            signing_input,
            header,
            payload,
            signature,
        })
    }

    /// The decoded payload.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] when it is not canonical base64url.
    pub fn decode_payload(&self) -> Result<Vec<u8>, Rejection> {
        base64url::decode(self.payload).ok_or(Rejection::TokenMalformed)
    }

    /// The decoded signature.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] when it is empty or not canonical base64url,
    /// [`Rejection::SignatureTooLong`] when it is longer than any key makes one.
    pub fn decode_signature(&self) -> Result<Signature, Rejection> {
        if self.signature.len() > MAX_SIGNATURE_SEGMENT_BYTES {
            return Err(Rejection::SignatureTooLong);
        }
        Decoded::of(self.signature)
            .filter(|bytes| !bytes.as_bytes().is_empty())
            .map(Signature)
            .ok_or(Rejection::TokenMalformed)
    }
}

/// Characters of the longest signature.
const MAX_SIGNATURE_SEGMENT_BYTES: usize = (limits::MAX_SIGNATURE_BYTES * 4).div_ceil(3);

/// A decoded signature: in place unless it is of RSA with more than 2048 bits.
#[derive(Clone, Debug)]
pub struct Signature(Decoded<258>);

impl Signature {
    /// The signature's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn only_three_full_parts_are_a_token() {
        for token in [
            "",
            ".",
            "..",
            "a.b",
            ".b.c",
            "a..c",
            "a.b.c.",
            "a.b.c.d.e",
            ".a.b.c",
            "a.b..c",
            "{\"payload\":\"a\"}",
        ] {
            assert_eq!(
                Compact::split(token).unwrap_err(),
                Rejection::TokenMalformed,
                "{token:?}"
            );
        }
        let parts = Compact::split("a.b.c").unwrap();
        assert_eq!(
            (
                parts.signing_input,
                parts.header,
                parts.payload,
                parts.signature
            ),
            ("a.b", "a", "b", "c")
        );
    }

    #[test]
    fn a_missing_signature_is_malformed() {
        assert_eq!(
            Compact::split("a.b.")
                .unwrap()
                .decode_signature()
                .unwrap_err(),
            Rejection::TokenMalformed
        );
    }

    #[test]
    fn the_length_is_bounded_before_anything_else() {
        let long = format!("a.b.{}", "c".repeat(limits::MAX_TOKEN_BYTES));
        assert_eq!(Compact::split(&long).unwrap_err(), Rejection::TokenTooLarge);
    }

    #[test]
    fn rejects_signature_longer_than_any_key() {
        let encoded = base64url::encode(&[7; limits::MAX_SIGNATURE_BYTES]);
        let token = format!("a.b.{encoded}");
        assert_eq!(
            Compact::split(&token)
                .unwrap()
                .decode_signature()
                .unwrap()
                .as_bytes(),
            [7; limits::MAX_SIGNATURE_BYTES]
        );
        let token = format!(
            "a.b.{}",
            base64url::encode(&[7; limits::MAX_SIGNATURE_BYTES + 1])
        );
        assert_eq!(
            Compact::split(&token)
                .unwrap()
                .decode_signature()
                .unwrap_err(),
            Rejection::SignatureTooLong
        );
    }
}
