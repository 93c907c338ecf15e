//! Strict base64url (RFC 7515 §2): no padding, no other characters, unused bits zero (V2), so that
//! a token has exactly one encoding.

use alloc::string::String;
use alloc::vec::Vec;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Decodes a string; returns `None` unless it is the canonical encoding.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Decodes into `out` and returns the filled part; `None` if the string is not canonical or `out`
/// is too small.
#[must_use]
pub fn decode_into<'o>(text: &str, out: &'o mut [u8]) -> Option<&'o [u8]> {
    let filled = URL_SAFE_NO_PAD.decode_slice(text, out).ok()?;
    out.get(..filled)
}

/// Decoded bytes: stored inline up to `SHORT` bytes, on the heap otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Decoded<const SHORT: usize> {
    short: [u8; SHORT],
    long: Vec<u8>,
    length: usize,
}

impl<const SHORT: usize> Decoded<SHORT> {
    /// Decodes a string; returns `None` unless it is the canonical encoding.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let mut short = [0; SHORT];
        // The decoder wants space for three bytes for each group, even an incomplete one.
        if text.len().div_ceil(4).saturating_mul(3) <= SHORT {
            let length = decode_into(text, &mut short)?.len();
            return Some(Self {
                short,
                long: Vec::new(),
                length,
            });
        }
        let long = decode(text)?;
        Some(Self {
            short,
            length: long.len(),
            long,
        })
    }

    /// Returns the decoded bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        let bytes = if self.long.is_empty() {
            &self.short
        } else {
            &*self.long
        };
        bytes.get(..self.length).unwrap_or_default()
    }
}

/// Encodes without padding.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn rfc_7515_appendix_c() {
        assert_eq!(encode(&[3, 236, 255, 224, 193]), "A-z_4ME");
        assert_eq!(decode("A-z_4ME"), Some(alloc::vec![3, 236, 255, 224, 193]));
    }

    #[test]
    fn rejects_other_encodings() {
        // "AA" is one zero byte; "AB" differs in an unused bit only.
        for text in [
            "AB", "AA==", "AA=", "A", "A-z/4ME", "A z_4ME", "AA\n", "AA.", "ÄA",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn decodes_short_and_long_text_alike() {
        for length in 0..20_u8 {
            let bytes: Vec<u8> = (0..length).collect();
            assert_eq!(Decoded::<9>::of(&encode(&bytes)).unwrap().as_bytes(), bytes);
        }
        for text in ["AB", "AAAAAAAAAAAAAAAAAAAAAB"] {
            assert!(Decoded::<9>::of(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn accepts_canonical_encoding_only(text in "[A-Za-z0-9_=/+-]{0,40}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text.to_string());
            }
        }
    }
}
