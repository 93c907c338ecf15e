//! The messages of Envoy's foreign function `verify_signature`
//! (`source/extensions/common/wasm/ext/verify_signature.proto`), in protobuf's encoding.

use super::HostSignature;

/// Asks the proxy; `None` if it has no such function or no answer. Natively there is no proxy.
#[must_use]
pub fn verify_signature(signature: &HostSignature<'_>) -> Option<bool> {
    meshseal_abi::call_foreign_function(
        "verify_signature",
        |out| write_arguments(out, signature),
        result,
    )
}

/// `VerifySignatureArguments`: hash_function = 1, public_key = 2, signature = 3, text = 4, all of
/// wire type 2 (length and bytes).
fn write_arguments(out: &mut Vec<u8>, signature: &HostSignature<'_>) {
    let fields = [
        signature.hash.as_bytes(),
        signature.spki,
        signature.signature,
        signature.text,
    ];
    out.reserve(fields.iter().map(|field| field.len() + 6).sum());
    for (tag, field) in [0x0a, 0x12, 0x1a, 0x22].into_iter().zip(fields) {
        out.push(tag);
        varint(out, field.len());
        out.extend_from_slice(field);
    }
}

/// `VerifySignatureResult`: `bool result = 1` comes first if it is true, and is left out if it is
/// false.
fn result(message: &[u8]) -> bool {
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
        let mut bytes = Vec::new();
        write_arguments(
            &mut bytes,
            &HostSignature {
                hash: "sha256",
                spki: &[1, 2],
                signature: &[],
                text: &text,
            },
        );
        let mut expected = b"\x0a\x06sha256\x12\x02\x01\x02\x1a\x00\x22\xac\x02".to_vec();
        expected.extend(text);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn only_a_result_that_says_so_is_a_yes() {
        assert!(result(&[0x08, 0x01]));
        for no in [
            &[][..],
            &[0x08],
            &[0x08, 0x00],
            &[0x12, 0x02, 0x08, 0x01],
            &[0x10, 0x01],
        ] {
            assert!(!result(no), "{no:?}");
        }
    }
}
