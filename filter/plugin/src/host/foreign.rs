//! Client of Envoy's foreign function `verify_signature`. Its messages are encoded in protobuf
//! (`source/extensions/common/wasm/ext/verify_signature.proto`).

use super::HostSignature;

/// Verifies a signature with the proxy's cryptography. Returns `None` if the proxy has no such
/// function or gives no answer, and in native builds, which run without a proxy.
#[must_use]
pub fn verify_signature(signature: &HostSignature<'_>) -> Option<bool> {
    meshseal_abi::call_foreign_function(
        "verify_signature",
        |out| write_arguments(out, signature),
        result,
    )
}

/// Encodes a `VerifySignatureArguments`: hash_function = 1, public_key = 2, signature = 3,
/// text = 4, all of wire type 2 (length-delimited).
fn write_arguments(out: &mut Vec<u8>, signature: &HostSignature<'_>) {
    let fields = [
        signature.hash.as_bytes(),
        signature.spki,
        signature.signature,
        signature.text,
    ];
    // One byte for the tag and at most five for the length.
    out.reserve(fields.iter().map(|field| field.len() + 6).sum());
    for (tag, field) in [0x0a, 0x12, 0x1a, 0x22].into_iter().zip(fields) {
        out.push(tag);
        varint(out, field.len());
        out.extend_from_slice(field);
    }
}

/// Decodes a `VerifySignatureResult`. Its `bool result = 1` comes first if true; protobuf omits it
/// if false.
fn result(message: &[u8]) -> bool {
    message.starts_with(&[0x08, 0x01])
}

/// Appends a number as a protobuf varint: seven bits per byte, lowest first.
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
    fn encodes_arguments_as_four_length_delimited_fields() {
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
    fn accepts_only_explicit_true_result() {
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
