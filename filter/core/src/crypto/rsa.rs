//! RSASSA-PKCS1-v1_5 and RSASSA-PSS (RFC 8017, RFC 7518 §3.3 and §3.5): verification only, on
//! public data, in variable time.
//!
//! This file builds or decomposes the encoded message; [`super::montgomery`] contains the
//! arithmetic.

use alloc::borrow::Cow;
use core::convert::Infallible;

use jwt_compact::Algorithm;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::Variable;
use super::montgomery::{Bytes, Modulus};
use crate::jose::Alg;
use crate::limits;

/// Maximum public exponent, which bounds the work. Exponents in practice are 65537 or 3.
const MAX_EXPONENT: u64 = (1 << 33) - 1;

/// An RSA public key with the Montgomery constants of its modulus.
#[derive(Clone, Debug, PartialEq)]
pub struct RsaKey {
    modulus: Modulus,
    exponent: u64,
}

/// Reason why modulus and exponent are not an acceptable RSA key (V6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RsaProblem {
    /// The modulus has this unsupported number of bits.
    Size(usize),
    /// The modulus is even, or the exponent is even, below 3 or above [`MAX_EXPONENT`].
    Exponent,
}

impl RsaKey {
    /// Builds a key from modulus and exponent, both big-endian; leading zeros are ignored.
    pub(crate) fn new(n: &[u8], e: &[u8]) -> Result<Self, RsaProblem> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        let bits = bit_length(n);
        if !(limits::MIN_RSA_BITS..=limits::MAX_RSA_BITS).contains(&bits) {
            return Err(RsaProblem::Size(bits));
        }
        // An exponent of more than 8 bytes becomes 0, which is rejected below.
        let exponent = match e.len() {
            0..=8 => e
                .iter()
                .fold(0_u64, |value, byte| value << 8 | u64::from(*byte)),
            _ => 0,
        };
        if exponent & 1 == 0 || !(3..=MAX_EXPONENT).contains(&exponent) {
            return Err(RsaProblem::Exponent);
        }
        Ok(Self {
            modulus: Modulus::new(n, bits).ok_or(RsaProblem::Exponent)?,
            exponent,
        })
    }

    /// Computes s^e mod n (RFC 8017 §5.2.2, RSAVP1) in as many bytes as the modulus has. The
    /// signature must have the same length and be less than the modulus.
    fn recover<'o>(&self, signature: &[u8], out: &'o mut Bytes) -> Option<&'o mut [u8]> {
        if signature.len() != self.modulus.bits().div_ceil(8) {
            return None;
        }
        self.modulus.power(signature, self.exponent, out)
    }

    /// Verifies an RSASSA-PKCS1-v1_5 signature (RFC 8017 §8.2.2).
    fn verifies_pkcs1<D: Digest>(&self, prefix: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.recover(signature, &mut [0; _])
            .is_some_and(|encoded| is_pkcs1_encoding(encoded, prefix, &D::digest(message)))
    }

    /// Verifies an RSASSA-PSS signature (RFC 8017 §8.1.2).
    fn verifies_pss<D: Digest>(&self, message: &[u8], signature: &[u8]) -> bool {
        self.recover(signature, &mut [0; _]).is_some_and(|encoded| {
            pss_fits::<D>(&D::digest(message), encoded, self.modulus.bits()).is_some()
        })
    }
}

/// Strips the leading zeros of a big-endian number.
fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// Returns the length in bits of a number without leading zero bytes.
fn bit_length(bytes: &[u8]) -> usize {
    let unused = bytes
        .first()
        .map_or(0, |byte| usize::try_from(byte.leading_zeros()).unwrap_or(0));
    bytes.len().saturating_mul(8).saturating_sub(unused)
}

/// DER prefixes of `DigestInfo` up to the digest (RFC 8017 §9.2 note 1).
const SHA256_INFO: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];
const SHA384_INFO: &[u8] = &[
    0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
    0x00, 0x04, 0x30,
];
const SHA512_INFO: &[u8] = &[
    0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05,
    0x00, 0x04, 0x40,
];

/// Returns whether the encoded message is `00 01 FF … FF 00 DigestInfo` (RFC 8017 §9.2).
///
/// The one correct encoding is compared as a whole. Nothing is parsed, which rules out forgeries
/// against lenient parsers (Bleichenbacher 2006).
fn is_pkcs1_encoding(encoded: &[u8], prefix: &[u8], digest: &[u8]) -> bool {
    let info = prefix.iter().chain(digest);
    let padding = encoded
        .len()
        .checked_sub(info.clone().count())
        .and_then(|rest| rest.checked_sub(3));
    // RFC 8017 §9.2 requires at least 8 bytes of padding.
    let Some(padding) = padding.filter(|padding| *padding >= 8) else {
        return false;
    };
    let head = [0, 1]
        .iter()
        .chain(core::iter::repeat_n(&0xff, padding))
        .chain(&[0]);
    encoded.iter().eq(head.chain(info))
}

/// Verifies the encoding of RFC 8017 §9.1.2 with a salt as long as the hash; returns `Some` if it
/// is consistent. `encoded` is as long as the modulus (§8.1.2) and is unmasked in place.
fn pss_fits<D: Digest>(digest: &[u8], encoded: &mut [u8], modulus_bits: usize) -> Option<()> {
    let hash_length = <D as Digest>::output_size();
    let bits = modulus_bits.checked_sub(1)?;
    let length = bits.div_ceil(8);
    // If the modulus has 8k + 1 bits, an extra byte precedes the encoding and must be zero.
    let (front, encoded) = encoded.split_at_mut_checked(encoded.len().checked_sub(length)?)?;
    let (block, rest) =
        encoded.split_at_mut_checked(length.checked_sub(hash_length)?.checked_sub(1)?)?;
    let (hash, trailer) = rest.split_at_checked(hash_length)?;
    // The signed encoding has zeros in the unused bits of its first byte. After unmasking, these
    // bits are cleared.
    let unused = length.checked_mul(8)?.checked_sub(bits)?;
    let used = 0xff_u8.checked_shr(u32::try_from(unused).ok()?)?;
    if front.iter().any(|byte| *byte != 0) || trailer != [0xbc] || block.first()? & !used != 0 {
        return None;
    }
    // Step 7 to 9: unmask the data block.
    block
        .iter_mut()
        .zip(mgf1::<D>(hash))
        .for_each(|(byte, mask)| *byte ^= mask);
    if let Some(first) = block.first_mut() {
        *first &= used;
    }
    // Step 10: the data block is zeros, a one, and the salt.
    let (padding, salt) = block.split_at_checked(block.len().checked_sub(hash_length)?)?;
    let (one, zeros) = padding.split_last()?;
    if *one != 1 || zeros.iter().any(|byte| *byte != 0) {
        return None;
    }
    // Steps 12 to 14: recompute the hash with the recovered salt.
    let expected = D::new()
        .chain_update([0; 8])
        .chain_update(digest)
        .chain_update(salt)
        .finalize();
    (expected.as_slice() == hash).then_some(())
}

/// Returns the mask of RFC 8017 appendix B.2.1 as an iterator without end.
fn mgf1<D: Digest>(seed: &[u8]) -> impl Iterator<Item = u8> {
    (0_u32..).flat_map(move |counter| {
        D::new()
            .chain_update(seed)
            .chain_update(counter.to_be_bytes())
            .finalize()
    })
}

/// RSASSA-PKCS1-v1_5 and RSASSA-PSS (RFC 7518 §3.3, §3.5); the salt is as long as the hash.
pub(crate) struct Rsa(pub(crate) Alg);

impl Algorithm for Rsa {
    type SigningKey = Infallible;
    type VerifyingKey = RsaKey;
    type Signature = Variable;

    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.0.name())
    }

    fn sign(&self, key: &Infallible, _message: &[u8]) -> Self::Signature {
        match *key {}
    }

    fn verify_signature(
        &self,
        signature: &Self::Signature,
        key: &Self::VerifyingKey,
        message: &[u8],
    ) -> bool {
        let signature = signature.bytes();
        match self.0 {
            Alg::Rs256 => key.verifies_pkcs1::<Sha256>(SHA256_INFO, message, signature),
            Alg::Rs384 => key.verifies_pkcs1::<Sha384>(SHA384_INFO, message, signature),
            Alg::Rs512 => key.verifies_pkcs1::<Sha512>(SHA512_INFO, message, signature),
            Alg::Ps256 => key.verifies_pss::<Sha256>(message, signature),
            Alg::Ps384 => key.verifies_pss::<Sha384>(message, signature),
            Alg::Ps512 => key.verifies_pss::<Sha512>(message, signature),
            // INVARIANT: keys of other algorithms never reach this code; they verify nothing.
            Alg::Es256
            | Alg::Es384
            | Alg::Es512
            | Alg::EdDsa
            | Alg::Hs256
            | Alg::Hs384
            | Alg::Hs512 => false,
        }
    }
}

#[cfg(test)]
#[path = "rsa_tests.rs"]
mod tests;
