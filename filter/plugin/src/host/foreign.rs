//! The messages of Envoy's foreign function `verify_signature`
//! (`source/extensions/common/wasm/ext/verify_signature.proto`), in protobuf's encoding.

use super::HostSignature;

/// The function's name.
pub(super) const VERIFY_SIGNATURE: &str = "verify_signature";

/// `VerifySignatureArguments`: hash_function = 1, public_key = 2, signature = 3, text = 4, all of wire type 2 (length and bytes).
pub(super) fn arguments(signature: &HostSignature<'_>) -> Vec<u8> {
    let fields = [signature.hash.as_bytes(), signature.spki, signature.signature, signature.text];
    let mut out = Vec::with_capacity(fields.iter().map(|field| field.len() + 6).sum());
    for (tag, field) in [0x0a, 0x12, 0x1a, 0x22].into_iter().zip(fields) {
        out.push(tag);
        varint(&mut out, field.len());
        out.extend_from_slice(field);
    }
    out
}

/// `VerifySignatureResult`: `bool result = 1` comes first if it is true, and is left out if it is false.
pub(super) fn result(message: &[u8]) -> bool {
    message.starts_with(&[0x08, 0x01])
}

fn varint(out: &mut Vec<u8>, mut number: usize) {
    while let low @ 0x80.. = number {
        out.push(u8::try_from(low & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_four_fields_with_their_lengths() {
        let text = [7; 300];
        let bytes = arguments(&HostSignature { hash: "sha256", spki: &[1, 2], signature: &[], text: &text });
        let mut expected = b"\x0a\x06sha256\x12\x02\x01\x02\x1a\x00\x22\xac\x02".to_vec();
        expected.extend(text);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn only_a_result_that_says_so_is_a_yes() {
        assert!(result(&[0x08, 0x01]));
        for no in [&[][..], &[0x08], &[0x08, 0x00], &[0x12, 0x02, 0x08, 0x01], &[0x10, 0x01]] {
            assert!(!result(no), "{no:?}");
        }
    }
}
