//! Ed25519 (RFC 8032, RFC 8037 §3.1) with strict rules: small-order points and alternative forms of
//! a signature are rejected.
//!
//! Verification computes R = s·B + k·(−A), with or without tables of the generator and of the
//! negated key. The field arithmetic is fiat-crypto's, generated from a machine-checked proof. It
//! has ten limbs for WebAssembly, whose products have 64 bits, and five limbs for processors with
//! products of 128 bits. Its types distinguish `tight` limbs (after a carry) from `loose` limbs
//! (after a sum).

use alloc::borrow::Cow;
use core::convert::Infallible;
use core::fmt;

use crypto_bigint::{NonZero, Odd, U256, U512};
use fiat::{fiat_25519_loose_field_element as Loose, fiat_25519_tight_field_element as Tight};
#[cfg(not(target_pointer_width = "64"))]
use fiat_crypto::curve25519_32 as fiat;
#[cfg(target_pointer_width = "64")]
use fiat_crypto::curve25519_64 as fiat;
use jwt_compact::Algorithm;
use sha2::{Digest as _, Sha512};

use super::Fixed;
use super::window::{Group, Table, sum_of_two};
use crate::jose::Alg;

/// Number of limbs of a field element.
const LIMBS: usize = if cfg!(target_pointer_width = "64") {
    5
} else {
    10
};
const ZERO: Tight = Tight([0; LIMBS]);
const ONE: Tight = {
    let mut one = ZERO;
    one.0[0] = 1;
    one
};

// The wrappers below give fiat-crypto's functions return values in place of out parameters.
fn mul(a: &Loose, b: &Loose) -> Tight {
    let mut product = ZERO;
    fiat::fiat_25519_carry_mul(&mut product, a, b);
    product
}

fn square(a: &Loose) -> Tight {
    let mut product = ZERO;
    fiat::fiat_25519_carry_square(&mut product, a);
    product
}

fn add(a: &Tight, b: &Tight) -> Loose {
    let mut sum = Loose([0; LIMBS]);
    fiat::fiat_25519_add(&mut sum, a, b);
    sum
}

fn sub(a: &Tight, b: &Tight) -> Loose {
    let mut difference = Loose([0; LIMBS]);
    fiat::fiat_25519_sub(&mut difference, a, b);
    difference
}

fn carry(a: &Loose) -> Tight {
    let mut carried = ZERO;
    fiat::fiat_25519_carry(&mut carried, a);
    carried
}

fn loose(a: &Tight) -> Loose {
    let mut relaxed = Loose([0; LIMBS]);
    fiat::fiat_25519_relax(&mut relaxed, a);
    relaxed
}

fn to_bytes(a: &Tight) -> [u8; 32] {
    let mut bytes = [0; 32];
    fiat::fiat_25519_to_bytes(&mut bytes, a);
    bytes
}

/// Reads bytes whose highest bit is 0.
fn from_bytes(bytes: &[u8; 32]) -> Tight {
    let mut number = ZERO;
    fiat::fiat_25519_from_bytes(&mut number, bytes);
    number
}

/// Inverts an element; returns `None` for zero.
fn invert(a: &Tight) -> Option<Tight> {
    const PRIME: Odd<U256> = Odd::<U256>::from_be_hex(
        "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed",
    );
    let inverse = U256::from_le_slice(&to_bytes(a))
        .invert_odd_mod_vartime(&PRIME)
        .into_option()?;
    inverse
        .to_le_bytes()
        .as_ref()
        .try_into()
        .ok()
        .map(from_bytes)
}

/// Computes a^((p − 5) / 8), that is a^(2^252 − 3): all bits of the exponent are one except bit 1.
fn root_power(a: &Tight) -> Tight {
    (0..252).rev().fold(ONE, |power, bit| {
        let power = square(&loose(&power));
        if bit == 1 {
            power
        } else {
            mul(&loose(&power), &loose(a))
        }
    })
}

/// The curve constant d = −121665/121666 (RFC 8032 §5.1), little-endian.
const D: [u8; 32] = [
    0xa3, 0x78, 0x59, 0x13, 0xca, 0x4d, 0xeb, 0x75, 0xab, 0xd8, 0x41, 0x41, 0x4d, 0x0a, 0x70, 0x00,
    0x98, 0xe8, 0x79, 0x77, 0x79, 0x40, 0xc7, 0x8c, 0x73, 0xfe, 0x6f, 0x2b, 0xee, 0x6c, 0x03, 0x52,
];

/// A square root of −1, little-endian.
const ROOT_OF_MINUS_ONE: [u8; 32] = [
    0xb0, 0xa0, 0x0e, 0x4a, 0x27, 0x1b, 0xee, 0xc4, 0x78, 0xe4, 0x2f, 0xad, 0x06, 0x18, 0x43, 0x2f,
    0xa7, 0xd7, 0xfb, 0x3d, 0x99, 0x00, 0x4d, 0x2b, 0x0b, 0xdf, 0xc1, 0x4f, 0x80, 0x24, 0x83, 0x2b,
];

/// Encoded y coordinates of the eight points whose order divides 8, without the sign of x.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        minus_one
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

/// Splits an encoding into y and the sign bit of x.
fn parts(encoded: &[u8; 32]) -> ([u8; 32], u8) {
    let mut y = *encoded;
    y[31] &= 0x7f;
    (y, encoded[31] >> 7)
}

/// A point in affine coordinates.
#[derive(Clone, Copy)]
pub(crate) struct Affine {
    x: Tight,
    y: Tight,
}

impl Affine {
    /// Decompresses a point (RFC 8032 §5.1.3): x = √((y² − 1)/(d·y² + 1)). Returns `None` if no
    /// such point exists.
    fn decompress(encoded: &[u8; 32]) -> Option<Self> {
        let (y, sign) = parts(encoded);
        let y = from_bytes(&y);
        let yy = square(&loose(&y));
        let u = carry(&sub(&yy, &ONE));
        let v = carry(&add(&mul(&loose(&yy), &loose(&from_bytes(&D))), &ONE));
        let (u, v) = (loose(&u), loose(&v));
        // Candidate root: (u/v)^((p+3)/8) = u·v³·(u·v⁷)^((p−5)/8).
        let v3 = loose(&mul(&loose(&square(&v)), &v));
        let v7 = loose(&mul(&loose(&square(&v3)), &v));
        let root = loose(&root_power(&mul(&u, &v7)));
        let mut x = mul(&loose(&mul(&u, &v3)), &root);
        let (found, wanted) = (to_bytes(&mul(&v, &loose(&square(&loose(&x))))), carry(&u));
        // If v·x² = −u, the root is x·√−1; if v·x² = u, it is x; otherwise u/v is not a square.
        if found == to_bytes(&carry(&sub(&ZERO, &wanted))) {
            x = mul(&loose(&x), &loose(&from_bytes(&ROOT_OF_MINUS_ONE)));
        } else if found != to_bytes(&wanted) {
            return None;
        }
        let point = Self { x, y };
        Some(if to_bytes(&x)[0] & 1 == sign {
            point
        } else {
            point.negated()
        })
    }

    /// Returns (−x, y).
    fn negated(&self) -> Self {
        Self {
            x: carry(&sub(&ZERO, &self.x)),
            y: self.y,
        }
    }
}

/// A point in the form that an addition needs: (y + x)/2, (y − x)/2, d·x·y.
///
/// The halves save a doubling of Z. Coordinates are projective, so the result may be a fourth of
/// the formula's.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    half_sum: Tight,
    half_difference: Tight,
    dxy: Tight,
}

/// A point in extended coordinates, as sums produce it: x = X/Z, y = Y/Z, x·y = T/Z.
#[derive(Clone, Copy)]
pub(crate) struct Extended {
    x: Tight,
    y: Tight,
    z: Tight,
    t: Tight,
}

impl Extended {
    /// Builds a point from the four factors with which the formulas end.
    fn of(e: &Loose, f: &Loose, g: &Loose, h: &Loose) -> Self {
        Self {
            x: mul(e, f),
            y: mul(g, h),
            z: mul(f, g),
            t: mul(e, h),
        }
    }

    /// Encodes the point (RFC 8032 §5.1.2); inverts Z.
    fn encode(&self) -> Option<[u8; 32]> {
        let inverse = loose(&invert(&self.z)?);
        let mut encoded = to_bytes(&mul(&loose(&self.y), &inverse));
        encoded[31] |= to_bytes(&mul(&loose(&self.x), &inverse))[0] << 7;
        Some(encoded)
    }
}

/// The Edwards curve −x² + y² = 1 + d·x²·y². Its addition law is complete, because d is not a
/// square.
#[derive(Clone, Copy)]
pub(crate) struct Edwards;

impl Group for Edwards {
    type Point = Affine;
    type Entry = Entry;
    type Sum = Extended;
    type Element = Tight;
    const BITS: usize = 253;
    const NEUTRAL: Extended = Extended {
        x: ZERO,
        y: ONE,
        z: ONE,
        t: ZERO,
    };
    const ONE: Tight = ONE;

    fn entry(point: &Affine) -> Entry {
        // 1/2 = (p + 1)/2 = 2^254 − 9.
        let half = {
            let mut half = [0xff; 32];
            (half[0], half[31]) = (0xf7, 0x3f);
            loose(&from_bytes(&half))
        };
        let xy = mul(&loose(&point.x), &loose(&point.y));
        Entry {
            half_sum: mul(&add(&point.y, &point.x), &half),
            half_difference: mul(&sub(&point.y, &point.x), &half),
            dxy: mul(&loose(&xy), &loose(&from_bytes(&D))),
        }
    }

    /// Adds by "madd-2008-hwcd-3" of the Explicit-Formulas Database, g1p/twisted/extended-1: 7
    /// products.
    fn add(sum: &Extended, entry: &Entry, negative: bool) -> Extended {
        // The negative of (x, y) is (−x, y), which swaps sum and difference and negates d·x·y.
        let (plus, minus) = if negative {
            (&entry.half_difference, &entry.half_sum)
        } else {
            (&entry.half_sum, &entry.half_difference)
        };
        let a = mul(&sub(&sum.y, &sum.x), &loose(minus));
        let b = mul(&add(&sum.y, &sum.x), &loose(plus));
        let c = mul(&loose(&sum.t), &loose(&entry.dxy));
        let (less, more) = (sub(&sum.z, &c), add(&sum.z, &c));
        let (f, g) = if negative {
            (&more, &less)
        } else {
            (&less, &more)
        };
        Extended::of(&sub(&b, &a), f, g, &add(&b, &a))
    }

    /// Doubles by "dbl-2008-hwcd" with a = −1.
    fn double(sum: &Extended) -> Extended {
        let a = square(&loose(&sum.x));
        let b = square(&loose(&sum.y));
        let zz = square(&loose(&sum.z));
        let h = carry(&add(&a, &b));
        let e = sub(&h, &square(&add(&sum.x, &sum.y)));
        let g = carry(&sub(&a, &b));
        let f = add(&carry(&add(&zz, &zz)), &g);
        Extended::of(&e, &f, &loose(&g), &loose(&h))
    }

    fn denominator(sum: &Extended) -> Tight {
        sum.z
    }

    fn product(a: &Tight, b: &Tight) -> Tight {
        mul(&loose(a), &loose(b))
    }

    fn invert(element: &Tight) -> Option<Tight> {
        invert(element)
    }

    fn point(sum: &Extended, inverse: &Tight) -> Affine {
        let inverse = loose(inverse);
        Affine {
            x: mul(&loose(&sum.x), &inverse),
            y: mul(&loose(&sum.y), &inverse),
        }
    }
}

/// Coordinates of the generator (RFC 8032 §5.1), little-endian.
const GENERATOR: ([u8; 32], [u8; 32]) = (
    [
        0x1a, 0xd5, 0x25, 0x8f, 0x60, 0x2d, 0x56, 0xc9, 0xb2, 0xa7, 0x25, 0x95, 0x60, 0xc7, 0x2c,
        0x69, 0x5c, 0xdc, 0xd6, 0xfd, 0x31, 0xe2, 0xa4, 0xc0, 0xfe, 0x53, 0x6e, 0xcd, 0xd3, 0x36,
        0x69, 0x21,
    ],
    {
        let mut y = [0x66; 32];
        y[0] = 0x58;
        y
    },
);

/// Order of the generator: 2^252 + 27742317777372353535851937790883648493.
const ORDER: NonZero<U256> = NonZero::<U256>::new_unwrap(U256::from_be_hex(
    "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed",
));

/// Returns the generator.
fn generator() -> Affine {
    Affine {
        x: from_bytes(&GENERATOR.0),
        y: from_bytes(&GENERATOR.1),
    }
}

/// An Ed25519 public key: its encoding, and its negated point for the verification equation.
#[derive(Clone)]
pub struct EdKey {
    encoded: [u8; 32],
    negated: Affine,
}

/// Reason why 32 bytes are not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EdProblem {
    /// The bytes do not encode a point of the curve.
    NoPoint,
    /// The order of the point divides 8: such a key accepts forged signatures.
    SmallOrder,
}

impl EdKey {
    /// Decodes a key. Only the canonical encoding of RFC 8032 §5.1.2 is accepted.
    pub(crate) fn new(encoded: &[u8; 32]) -> Result<Self, EdProblem> {
        let point = Affine::decompress(encoded).ok_or(EdProblem::NoPoint)?;
        // Checked on the decoded y, so that no other encoding bypasses the check.
        if SMALL_ORDER.contains(&to_bytes(&point.y)) {
            return Err(EdProblem::SmallOrder);
        }
        // A y at or above the prime has a second encoding.
        if to_bytes(&point.y) != parts(encoded).0 {
            return Err(EdProblem::NoPoint);
        }
        Ok(Self {
            encoded: *encoded,
            negated: point.negated(),
        })
    }

    /// Returns an empty table of the negated key's multiples.
    pub(crate) fn table(&self, width: u32) -> Table<Edwards> {
        Table::new(self.negated, width)
    }

    /// Returns an empty table of the generator's multiples.
    pub(crate) fn generator_table(width: u32) -> Table<Edwards> {
        Table::new(generator(), width)
    }
}

impl PartialEq for EdKey {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl fmt::Debug for EdKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("EdKey").field(&self.encoded).finish()
    }
}

/// Tables of the generator and of a negated key, both complete.
pub(crate) type Tables<'t> = (&'t Table<Edwards>, &'t Table<Edwards>);

/// Verifies a signature by the rules of ed25519-dalek's `verify_strict`; returns `Some` if it is
/// valid.
///
/// R is not decoded, because it is compared with the encoding of a point.
fn verify(
    key: &EdKey,
    tables: Option<Tables<'_>>,
    message: &[u8],
    signature: &[u8; 64],
) -> Option<()> {
    let (r, s) = signature.split_at_checked(32)?;
    let (r, s): ([u8; 32], [u8; 32]) = (r.try_into().ok()?, s.try_into().ok()?);
    // s at or above the order would make signatures malleable (RFC 8032 §8.4).
    if U256::from_le_slice(&s) >= *ORDER || SMALL_ORDER.contains(&parts(&r).0) {
        return None;
    }
    // k = SHA-512(R ‖ A ‖ M) modulo the order (RFC 8032 §5.1.7).
    let hash = Sha512::new()
        .chain_update(r)
        .chain_update(key.encoded)
        .chain_update(message)
        .finalize();
    let k = U512::from_le_slice(&hash).rem_vartime(&ORDER).to_le_bytes();
    // s·B − k·A.
    let sum = match tables {
        Some((generator, negated_key)) => {
            negated_key.add_multiple(generator.add_multiple(Edwards::NEUTRAL, &s), k.as_ref())
        }
        None => sum_of_two::<Edwards>([(&generator(), &s), (&key.negated, k.as_ref())])?,
    };
    (sum.encode()? == r).then_some(())
}

/// `EdDSA` with Ed25519.
pub(crate) struct EdDsa<'t>(pub(crate) Option<Tables<'t>>);

impl Algorithm for EdDsa<'_> {
    type SigningKey = Infallible;
    type VerifyingKey = EdKey;
    type Signature = Fixed<64>;

    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(Alg::EdDsa.name())
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
        verify(key, self.0, message, &signature.0).is_some()
    }
}

#[cfg(test)]
#[path = "ed25519_tests.rs"]
mod tests;
