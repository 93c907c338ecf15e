//! The compact serialization of a JWS (RFC 7515 §7.1): three parts in one canonical encoding (V1,
//! V2).

use alloc::vec::Vec;

use crate::base64url::Decoded;
use crate::rejection::Rejection;
use crate::{base64url, bytes, limits};

/// Parts of a compact JWS, still encoded and unverified.
#[derive(Clone, Copy, Debug)]
pub struct Compact<'t> {
    /// Header and payload with the dot between them: the signed bytes.
    pub signing_input: &'t str,
    /// The encoded JOSE header.
    pub header: &'t str,
    /// The encoded payload.
    pub payload: &'t str,
    /// The encoded signature.
    pub signature: &'t str,
}

impl<'t> Compact<'t> {
    /// Splits a token.
    ///
    /// The decoders check the characters and accept one canonical encoding only.
    /// [`Compact::decode_signature`] detects a missing signature, so that an `alg: none` token is
    /// rejected for its algorithm.
    ///
    /// # Errors
    /// [`Rejection::TokenTooLarge`], [`Rejection::TokenMalformed`].
    pub fn split(token: &'t str) -> Result<Self, Rejection> {
        // The length is checked before any other work.
        if token.len() > limits::MAX_TOKEN_BYTES {
            return Err(Rejection::TokenTooLarge);
        }
        Self::split_unbounded(token).ok_or(Rejection::TokenMalformed)
    }

    /// Splits without a limit on the length, for bundles, which have their own limit.
    pub(crate) fn split_unbounded(token: &'t str) -> Option<Self> {
        let (signing_input, signature) = token.rsplit_once('.')?;
        let (header, payload) = signing_input.split_once('.')?;
        // `rsplit_once` and `split_once` find two dots; a third one can only be inside the payload.
        let three = !bytes::contains(payload.as_bytes(), b'.');
        let full = !header.is_empty() && !payload.is_empty();
        (three && full).then_some(Self {
            signing_input,
            header,
            payload,
            signature,
        })
    }

    /// Returns the decoded payload.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] when it is not canonical base64url.
    pub fn decode_payload(&self) -> Result<Vec<u8>, Rejection> {
        base64url::decode(self.payload).ok_or(Rejection::TokenMalformed)
    }

    /// Returns the decoded signature.
    ///
    /// # Errors
    /// [`Rejection::TokenMalformed`] when it is empty or not canonical base64url,
    /// [`Rejection::SignatureTooLong`] when it is longer than the signature of any supported key.
    pub fn decode_signature(&self) -> Result<Signature, Rejection> {
        // The length is checked on the encoded form, before anything is decoded.
        if self.signature.len() > MAX_SIGNATURE_SEGMENT_BYTES {
            return Err(Rejection::SignatureTooLong);
        }
        Decoded::of(self.signature)
            .filter(|bytes| !bytes.as_bytes().is_empty())
            .map(Signature)
            .ok_or(Rejection::TokenMalformed)
    }
}

/// Maximum length of an encoded signature in characters.
const MAX_SIGNATURE_SEGMENT_BYTES: usize = (limits::MAX_SIGNATURE_BYTES * 4).div_ceil(3);

/// Decoded signature, stored inline unless it is an RSA signature of more than 2048 bits.
#[derive(Clone, Debug)]
pub struct Signature(Decoded<258>);

impl Signature {
    /// Returns the bytes of the signature.
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
    fn accepts_exactly_three_nonempty_parts() {
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
    fn rejects_missing_signature() {
        assert_eq!(
            Compact::split("a.b.")
                .unwrap()
                .decode_signature()
                .unwrap_err(),
            Rejection::TokenMalformed
        );
    }

    #[test]
    fn checks_length_first() {
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
