//! Ed25519 (RFC 8032, RFC 8037 §3.1), strict: small-order points and second forms of a signature are refused.
//!
//! Without tables ed25519-dalek verifies. With tables of the generator and of the negated key, what is left of
//! R = s·B + k·(−A) is additions; scalars stay dalek's, the field is fiat-crypto's (generated from a machine-checked proof),
//! whose 32-bit form suits WebAssembly. Its types tell `tight` limbs (after a carry) from `loose` ones (after a sum).

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::convert::Infallible;

use crypto_bigint::{Odd, U256};
use curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED;
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::VerifyingKey;
use fiat_crypto::curve25519_32 as fiat;
use fiat_crypto::curve25519_32::{fiat_25519_loose_field_element as Loose, fiat_25519_tight_field_element as Tight};
use jwt_compact::Algorithm;
use sha2::{Digest as _, Sha512};

use super::Fixed;
use super::window::{Group, Table};
use crate::alg::Alg;

const ZERO: Tight = Tight([0; 10]);
const ONE: Tight = Tight([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

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
    let mut sum = Loose([0; 10]);
    fiat::fiat_25519_add(&mut sum, a, b);
    sum
}

fn sub(a: &Tight, b: &Tight) -> Loose {
    let mut difference = Loose([0; 10]);
    fiat::fiat_25519_sub(&mut difference, a, b);
    difference
}

fn carry(a: &Loose) -> Tight {
    let mut carried = ZERO;
    fiat::fiat_25519_carry(&mut carried, a);
    carried
}

fn loose(a: &Tight) -> Loose {
    let mut relaxed = Loose([0; 10]);
    fiat::fiat_25519_relax(&mut relaxed, a);
    relaxed
}

fn to_bytes(a: &Tight) -> [u8; 32] {
    let mut bytes = [0; 32];
    fiat::fiat_25519_to_bytes(&mut bytes, a);
    bytes
}

/// Of bytes whose highest bit is 0.
fn from_bytes(bytes: &[u8; 32]) -> Tight {
    let mut number = ZERO;
    fiat::fiat_25519_from_bytes(&mut number, bytes);
    number
}

/// `None` for zero.
fn invert(a: &Tight) -> Option<Tight> {
    const PRIME: Odd<U256> =
        Odd::<U256>::from_be_hex("7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed");
    let inverse = U256::from_le_slice(&to_bytes(a)).invert_odd_mod_vartime(&PRIME).into_option()?;
    inverse.to_le_bytes().as_ref().try_into().ok().map(from_bytes)
}

/// a^((p − 5) / 8), that is a^(2^252 − 3): all bits of the exponent are one but the second.
fn root_power(a: &Tight) -> Tight {
    (0..252).rev().fold(ONE, |power, bit| {
        let power = square(&loose(&power));
        if bit == 1 { power } else { mul(&loose(&power), &loose(a)) }
    })
}

/// d = −121665/121666 (RFC 8032 §5.1), little-endian.
const D: [u8; 32] = [
    0xa3, 0x78, 0x59, 0x13, 0xca, 0x4d, 0xeb, 0x75, 0xab, 0xd8, 0x41, 0x41, 0x4d, 0x0a, 0x70, 0x00, 0x98, 0xe8, 0x79,
    0x77, 0x79, 0x40, 0xc7, 0x8c, 0x73, 0xfe, 0x6f, 0x2b, 0xee, 0x6c, 0x03, 0x52,
];

/// A square root of −1.
const ROOT_OF_MINUS_ONE: [u8; 32] = [
    0xb0, 0xa0, 0x0e, 0x4a, 0x27, 0x1b, 0xee, 0xc4, 0x78, 0xe4, 0x2f, 0xad, 0x06, 0x18, 0x43, 0x2f, 0xa7, 0xd7, 0xfb,
    0x3d, 0x99, 0x00, 0x4d, 0x2b, 0x0b, 0xdf, 0xc1, 0x4f, 0x80, 0x24, 0x83, 0x2b,
];

/// The y coordinates of the eight points whose order divides 8, as encoded, without the sign of x.
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
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// Y and sign bit of an encoding.
fn parts(encoded: &[u8; 32]) -> ([u8; 32], u8) {
    let mut y = *encoded;
    y[31] &= 0x7f;
    (y, encoded[31] >> 7)
}

/// A point in affine coordinates.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    x: Tight,
    y: Tight,
}

impl Affine {
    /// RFC 8032 §5.1.3: x = √((y² − 1)/(d·y² + 1)). `None` if there is no such point.
    fn decompress(encoded: &[u8; 32]) -> Option<Self> {
        let (y, sign) = parts(encoded);
        let y = from_bytes(&y);
        let yy = square(&loose(&y));
        let u = carry(&sub(&yy, &ONE));
        let v = carry(&add(&mul(&loose(&yy), &loose(&from_bytes(&D))), &ONE));
        let (u, v) = (loose(&u), loose(&v));
        let v3 = loose(&mul(&loose(&square(&v)), &v));
        let v7 = loose(&mul(&loose(&square(&v3)), &v));
        let root = loose(&root_power(&mul(&u, &v7)));
        let mut x = mul(&loose(&mul(&u, &v3)), &root);
        let (found, wanted) = (to_bytes(&mul(&v, &loose(&square(&loose(&x))))), carry(&u));
        if found == to_bytes(&carry(&sub(&ZERO, &wanted))) {
            x = mul(&loose(&x), &loose(&from_bytes(&ROOT_OF_MINUS_ONE)));
        } else if found != to_bytes(&wanted) {
            return None;
        }
        let point = Self { x, y };
        Some(if to_bytes(&x)[0] & 1 == sign { point } else { point.negated() })
    }

    fn negated(&self) -> Self {
        Self { x: carry(&sub(&ZERO, &self.x)), y: self.y }
    }

    fn entry(&self) -> Entry {
        // 1/2 = (p + 1)/2 = 2^254 − 9.
        let half = {
            let mut half = [0xff; 32];
            (half[0], half[31]) = (0xf7, 0x3f);
            loose(&from_bytes(&half))
        };
        let xy = mul(&loose(&self.x), &loose(&self.y));
        Entry {
            half_sum: mul(&add(&self.y, &self.x), &half),
            half_difference: mul(&sub(&self.y, &self.x), &half),
            dxy: mul(&loose(&xy), &loose(&from_bytes(&D))),
        }
    }
}

/// What an addition wants of a point: (y + x)/2, (y − x)/2, d·x·y. The halves spare a doubling of Z (coordinates are
/// projective: what comes out is a fourth of the formula's).
#[derive(Clone, Copy)]
pub(super) struct Entry {
    half_sum: Tight,
    half_difference: Tight,
    dxy: Tight,
}

/// A sum in extended coordinates: x = X/Z, y = Y/Z, x·y = T/Z.
#[derive(Clone, Copy)]
pub(super) struct Extended {
    x: Tight,
    y: Tight,
    z: Tight,
    t: Tight,
}

impl Extended {
    fn of(e: &Loose, f: &Loose, g: &Loose, h: &Loose) -> Self {
        Self { x: mul(e, f), y: mul(g, h), z: mul(f, g), t: mul(e, h) }
    }

    /// RFC 8032 §5.1.2, given 1/Z.
    fn encode(&self) -> Option<[u8; 32]> {
        let inverse = loose(&invert(&self.z)?);
        let mut encoded = to_bytes(&mul(&loose(&self.y), &inverse));
        encoded[31] |= to_bytes(&mul(&loose(&self.x), &inverse))[0] << 7;
        Some(encoded)
    }
}

/// The Edwards curve −x² + y² = 1 + d·x²·y². Its addition law has no exceptions (d is no square).
#[derive(Clone, Copy)]
pub(super) struct Edwards;

impl Group for Edwards {
    type Point = Affine;
    type Entry = Entry;
    type Sum = Extended;
    const BITS: usize = 253;
    const NEUTRAL: Extended = Extended { x: ZERO, y: ONE, z: ONE, t: ZERO };

    fn multiples(base: &Affine, count: usize) -> Option<(Vec<Entry>, Affine)> {
        let step = base.entry();
        let mut sums = Vec::with_capacity(count.checked_add(1)?);
        let mut sum = Self::NEUTRAL;
        for _ in 0..count {
            sum = Self::add(&sum, &step, false);
            sums.push(sum);
        }
        sums.push(Self::double(&sum));
        let points = to_affine(&sums)?;
        let (next, points) = points.split_last()?;
        Some((points.iter().map(Affine::entry).collect(), *next))
    }

    /// "madd-2008-hwcd-3" of the Explicit-Formulas Database, g1p/twisted/extended-1: 7 products.
    fn add(sum: &Extended, entry: &Entry, negative: bool) -> Extended {
        let (plus, minus) = if negative {
            (&entry.half_difference, &entry.half_sum)
        } else {
            (&entry.half_sum, &entry.half_difference)
        };
        let a = mul(&sub(&sum.y, &sum.x), &loose(minus));
        let b = mul(&add(&sum.y, &sum.x), &loose(plus));
        let c = mul(&loose(&sum.t), &loose(&entry.dxy));
        let (less, more) = (sub(&sum.z, &c), add(&sum.z, &c));
        let (f, g) = if negative { (&more, &less) } else { (&less, &more) };
        Extended::of(&sub(&b, &a), f, g, &add(&b, &a))
    }

    /// "dbl-2008-hwcd", with a = −1.
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
}

/// With one inversion for all (Montgomery's trick).
fn to_affine(sums: &[Extended]) -> Option<Vec<Affine>> {
    let mut products = Vec::with_capacity(sums.len());
    let mut product = ONE;
    for sum in sums {
        products.push(product);
        product = mul(&loose(&product), &loose(&sum.z));
    }
    let mut inverse = invert(&product)?;
    let mut points = Vec::with_capacity(sums.len());
    for (sum, before) in sums.iter().zip(products).rev() {
        let z = loose(&mul(&loose(&inverse), &loose(&before)));
        inverse = mul(&loose(&inverse), &loose(&sum.z));
        points.push(Affine { x: mul(&loose(&sum.x), &z), y: mul(&loose(&sum.y), &z) });
    }
    points.reverse();
    Some(points)
}

/// An empty table of the negated key; `None` for a key of small order, which verifies nothing.
pub(super) fn key_table(key: &VerifyingKey, width: u32) -> Option<Table<Edwards>> {
    if key.is_weak() {
        return None;
    }
    Affine::decompress(key.as_bytes()).map(|point| Table::new(point.negated(), width))
}

pub(super) fn generator_table(width: u32) -> Option<Table<Edwards>> {
    Affine::decompress(ED25519_BASEPOINT_COMPRESSED.as_bytes()).map(|point| Table::new(point, width))
}

/// Tables of the generator and of a negated key.
pub(super) type Tables<'t> = (&'t Table<Edwards>, &'t Table<Edwards>);

/// The verdict of `verify_strict`. That R decodes is left out: it is compared with a sum's encoding, which does.
fn verify(key: &VerifyingKey, tables: Tables<'_>, message: &[u8], signature: &[u8; 64]) -> Option<()> {
    let (r, s) = signature.split_at_checked(32)?;
    let (r, s): ([u8; 32], [u8; 32]) = (r.try_into().ok()?, s.try_into().ok()?);
    let s = Scalar::from_canonical_bytes(s).into_option()?;
    if SMALL_ORDER.contains(&parts(&r).0) {
        return None;
    }
    let hash = Sha512::new().chain_update(r).chain_update(key.as_bytes()).chain_update(message).finalize();
    let k = Scalar::from_bytes_mod_order_wide(&hash.into());
    let (generator, negated_key) = tables;
    let sum = negated_key.add_multiple(generator.add_multiple(Edwards::NEUTRAL, s.as_bytes()), k.as_bytes());
    (sum.encode()? == r).then_some(())
}

/// `EdDSA` with Ed25519.
pub(super) struct EdDsa<'t>(pub(super) Option<Tables<'t>>);

impl Algorithm for EdDsa<'_> {
    type SigningKey = Infallible;
    type VerifyingKey = VerifyingKey;
    type Signature = Fixed<64>;

    fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(Alg::EdDsa.name())
    }

    fn sign(&self, key: &Infallible, _message: &[u8]) -> Self::Signature {
        match *key {}
    }

    fn verify_signature(&self, signature: &Self::Signature, key: &Self::VerifyingKey, message: &[u8]) -> bool {
        match self.0 {
            Some(tables) => verify(key, tables, message, &signature.0).is_some(),
            None => key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok(),
        }
    }
}

#[cfg(test)]
#[path = "ed25519_tests.rs"]
mod tests;
