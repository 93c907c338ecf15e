//! DER encoding of public keys, certificates and ECDSA signatures (X.690 §10; RFC 5280 §4.1, RFC
//! 3279 §2.3), as far as provider keys and verification by the proxy need it.

use alloc::vec::Vec;

use crate::jose::alg::Family;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// Maximum overhead of two integers in a sequence: tags, lengths and sign bytes.
const MOST_AROUND_INTEGERS: usize = 16;

/// `AlgorithmIdentifier`s: rsaEncryption (RFC 8017 appendix A.1), id-ecPublicKey with its curve
/// (RFC 5480 §2.1.1).
const RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];
const P521: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x23,
];

/// Ed25519 (RFC 8410 §3).
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// `version` of a certificate: context-specific, constructed, number 0.
const VERSION: u8 = 0xa0;

/// A parsed `SubjectPublicKeyInfo`.
pub(crate) struct PublicKeyInfo<'d> {
    algorithm: &'d [u8],
    key: &'d [u8],
}

impl<'d> PublicKeyInfo<'d> {
    /// Parses all of `der`.
    pub(crate) fn read(der: &'d [u8]) -> Option<Self> {
        let mut whole = Reader(der);
        let key = Self::next(&mut whole)?;
        whole.0.is_empty().then_some(key)
    }

    /// Parses the next value.
    fn next(reader: &mut Reader<'d>) -> Option<Self> {
        let mut fields = Reader(reader.content(SEQUENCE)?);
        let algorithm = fields.element()?.whole;
        let key = fields.content(BIT_STRING)?;
        // The first byte of a bit string is its number of unused bits.
        match key.split_first() {
            Some((0, key)) if fields.0.is_empty() => Some(Self { algorithm, key }),
            _ => None,
        }
    }

    /// Returns the key type and the JWK parameters: `n` and `e`, `x` and `y`, or `x`. Returns
    /// `None` for unsupported key types.
    pub(crate) fn parameters(&self) -> Option<(Family, Vec<Vec<u8>>)> {
        let family = match self.algorithm {
            RSA => Family::Rsa,
            P256 => Family::P256,
            P384 => Family::P384,
            P521 => Family::P521,
            ED25519 => Family::Ed25519,
            _ => return None,
        };
        let parts = match family {
            Family::Rsa => {
                let mut whole = Reader(self.key);
                let mut numbers = Reader(whole.content(SEQUENCE)?);
                let parts = [numbers.unsigned()?, numbers.unsigned()?];
                (whole.0.is_empty() && numbers.0.is_empty())
                    .then_some(parts)?
                    .map(<[u8]>::to_vec)
                    .to_vec()
            }
            Family::Ed25519 => alloc::vec![self.key.to_vec()],
            Family::P256 | Family::P384 | Family::P521 | Family::Oct => {
                let (form, point) = self.key.split_first()?;
                let (x, y) = point.split_at_checked(point.len() / 2)?;
                // 4 marks an uncompressed point (SEC 1 §2.3.3).
                (*form == 4).then(|| alloc::vec![x.to_vec(), y.to_vec()])?
            }
        };
        Some((family, parts))
    }
}

/// Returns the public key of an X.509 certificate, without reading or verifying the other fields.
pub(crate) fn certified_key(certificate: &[u8]) -> Option<PublicKeyInfo<'_>> {
    let mut whole = Reader(certificate);
    let mut signed = Reader(whole.content(SEQUENCE)?);
    let mut fields = Reader(signed.content(SEQUENCE)?);
    // `version` is optional and comes before the serial number.
    let mut serial = fields.element()?;
    if serial.tag == VERSION {
        serial = fields.element()?;
    }
    // The next fields are signature, issuer, validity and subject.
    let sequences = (0..4).all(|_| fields.content(SEQUENCE).is_some());
    if serial.tag != INTEGER || !sequences || !whole.0.is_empty() {
        return None;
    }
    PublicKeyInfo::next(&mut fields)
}

/// A value with its tag.
struct Element<'d> {
    tag: u8,
    content: &'d [u8],
    whole: &'d [u8],
}

/// Reader for a sequence of values.
struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    /// Reads the next value; returns `None` at the end and for anything but DER.
    fn element(&mut self) -> Option<Element<'d>> {
        let all = self.0;
        let (tag, rest) = all.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match *first {
            short @ ..=0x7f => (usize::from(short), rest),
            0x81 => rest
                .split_first()
                .map(|(length, rest)| (usize::from(*length), rest))?,
            0x82 => rest
                .split_first_chunk()
                .map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
            _ => return None,
        };
        // DER requires the shortest form of the length.
        let shortest = match *first {
            0x81 => length >= 0x80,
            0x82 => length >= 0x100,
            _ => true,
        };
        // A length beyond the end of the input is an error, never a panic.
        let (content, rest) = rest.split_at_checked(length).filter(|_| shortest)?;
        let whole = all.get(..all.len().saturating_sub(rest.len()))?;
        self.0 = rest;
        Some(Element {
            tag: *tag,
            content,
            whole,
        })
    }

    /// Reads the content of the next value, which must have this tag.
    fn content(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.element()
            .filter(|element| element.tag == tag)
            .map(|element| element.content)
    }

    /// Reads a positive integer without its sign byte.
    fn unsigned(&mut self) -> Option<&'d [u8]> {
        match self.content(INTEGER)? {
            [0, number @ ..] if number.first().is_some_and(|byte| byte & 0x80 != 0) => Some(number),
            number if number.first().is_some_and(|byte| (1..0x80).contains(byte)) => Some(number),
            _ => None,
        }
    }
}

/// Builds the `SubjectPublicKeyInfo` of a key with these two JWK parameters: `n` and `e`, or `x`
/// and `y`. Returns `None` for other key types.
pub(crate) fn subject_public_key_info(family: Family, one: &[u8], two: &[u8]) -> Option<Vec<u8>> {
    let (algorithm, key) = match family {
        Family::Rsa => (RSA, integers(one, two)),
        // 4 marks an uncompressed point (SEC 1 §2.3.3).
        Family::P256 => (P256, [&[4], one, two].concat()),
        Family::P384 => (P384, [&[4], one, two].concat()),
        Family::P521 => (P521, [&[4], one, two].concat()),
        Family::Ed25519 | Family::Oct => return None,
    };
    // The zero says that no bit of the last byte is unused.
    Some(value(
        SEQUENCE,
        &[algorithm, &value(BIT_STRING, &[&[0], &key])],
    ))
}

/// Converts a JWS signature, which is r and s in equal halves (RFC 7518 §3.4), to an
/// `Ecdsa-Sig-Value`. Returns `None` for an odd length.
#[must_use]
pub fn ecdsa_signature(signature: &[u8]) -> Option<Vec<u8>> {
    let half = signature.len() / 2;
    let (r, s) = signature
        .split_at_checked(half)
        .filter(|(r, s)| r.len() == s.len())?;
    Some(integers(r, s))
}

/// Encodes a sequence of two integers in one allocation.
fn integers(one: &[u8], two: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        one.len()
            .saturating_add(two.len())
            .saturating_add(MOST_AROUND_INTEGERS),
    );
    integer(&mut out, one);
    integer(&mut out, two);
    // The header is appended and rotated to the front, so that the content needs no second buffer.
    let length = out.len();
    tag_and_length(&mut out, SEQUENCE, length);
    out.rotate_left(length);
    out
}

/// Encodes an unsigned number in the fewest bytes, with a zero byte before a leading one bit.
fn integer(out: &mut Vec<u8>, number: &[u8]) {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if number.first().is_none_or(|byte| byte & 0x80 != 0) {
        &[0]
    } else {
        &[]
    };
    tag_and_length(out, INTEGER, sign.len().saturating_add(number.len()));
    out.extend_from_slice(sign);
    out.extend_from_slice(number);
}

/// Encodes a value of concatenated parts.
fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts
        .iter()
        .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let mut out = Vec::new();
    tag_and_length(&mut out, tag, length);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// Encodes a tag and a length in its shortest form.
fn tag_and_length(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            let bytes = bytes.get(zeros..).unwrap_or_default();
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(0));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn integers_are_minimal_and_nonnegative() {
        for (number, der) in [
            (&[0x7f][..], &[2, 1, 0x7f][..]),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[0, 0, 1], &[2, 1, 1]),
            (&[0, 0x81], &[2, 2, 0, 0x81]),
            (&[0, 0], &[2, 1, 0]),
        ] {
            let mut out = Vec::new();
            integer(&mut out, number);
            assert_eq!(out, der);
        }
    }

    #[test]
    fn ecdsa_signature_encodes_two_integers() {
        assert_eq!(
            ecdsa_signature(&[0, 5, 0x90, 1]).unwrap(),
            [0x30, 8, 2, 1, 5, 2, 3, 0, 0x90, 1]
        );
        assert_eq!(ecdsa_signature(&[1, 2, 3]), None);
    }

    #[test]
    fn long_lengths_use_length_bytes() {
        assert_eq!(value(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(value(4, &[&[7; 300]])[..4], [4, 0x82, 1, 44]);
    }
}
