//! Arithmetic modulo the primes of P-256, P-384 and P-521 for verification: public data only, in
//! variable time.
//!
//! The code suits machines that multiply 64 by 64 bits to 64 bits, such as WebAssembly, where a
//! widening multiplication takes three times as long. A number is a list of signed 64-bit limbs of
//! 28 or 29 bits, in Montgomery form. Columns of products are summed without carries ("product
//! scanning"). Each of these primes is −1 modulo a power of two larger than a limb, and sparse
//! above it (FIPS 186-5, SP 800-186 §3.2.1). Montgomery reduction therefore needs only shifts and
//! additions: the digit that makes a column vanish is the column's own low limb.
//!
//! These rules prevent an overflow of 64 bits:
//!
//! - [`Field::mul`], [`Field::square`] and [`Field::reduce`] return limbs from 0 to 2^width − 1
//!   (the highest limb is small and may be negative), and a value between −p and 3p.
//! - Sums and differences of two such results may be multiplied with each other. For P-256, at most
//!   one factor may be a sum.
//! - Any other factor must go through [`Field::reduce`] first.
//!
//! Unit tests check each product.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "indices are constants or run over the array's own length; limbs are multiplied and \
              added by wrapping operations"
)]

use crypto_bigint::{Odd, U256, U384, U576};

/// A prime field. Elements have several representations; [`Field::is_zero`] and [`Field::to_bytes`]
/// compare and return canonical values.
pub trait Field: Copy + core::fmt::Debug + PartialEq {
    /// Table form of an element.
    type Packed: Copy + core::fmt::Debug;
    /// Bytes of a canonical element.
    type Bytes: AsRef<[u8]>;
    /// Number of these bytes.
    const LENGTH: usize;
    /// The element 0.
    const ZERO: Self;
    /// The element 1.
    const ONE: Self;

    /// Reads an element; returns `None` for a number not below the prime, or of another length.
    fn from_bytes(big_endian: &[u8]) -> Option<Self>;
    /// Returns the canonical number, big-endian.
    fn to_bytes(self) -> Self::Bytes;
    /// Returns a · b.
    #[must_use]
    fn mul(&self, other: &Self) -> Self;
    /// Returns a².
    #[must_use]
    fn square(&self) -> Self;
    /// Returns a · b − c · d with one reduction. Factors must be results or differences of results.
    fn mul_sub(a: &Self, b: &Self, c: &Self, d: &Self) -> Self;
    /// Adds limb by limb, without carries.
    fn add(&self, other: &Self) -> Self;
    /// Subtracts limb by limb, without carries.
    fn sub(&self, other: &Self) -> Self;
    /// Multiplies by a small number limb by limb, without carries.
    fn times(&self, small: i64) -> Self;
    /// Returns the same element with limbs of normal size. Limbs may have up to 40 bits before.
    fn reduce(&self) -> Self;
    /// Returns whether the element is 0.
    fn is_zero(&self) -> bool;
    /// Returns the inverse; `None` for zero.
    fn invert(&self) -> Option<Self>;
    /// Converts to the table form.
    fn pack(&self) -> Self::Packed;
    /// Converts from the table form.
    fn unpack(packed: &Self::Packed) -> Self;
}

/// Returns `sum` plus the sum of aᵢ·bⱼ over i + j = K.
#[inline(always)]
const fn column<const N: usize, const K: usize>(a: &[i64; N], b: &[i64; N], mut sum: i64) -> i64 {
    let mut i = if K >= N { K + 1 - N } else { 0 };
    while i < N && i <= K {
        sum = sum.wrapping_add(a[i].wrapping_mul(b[K - i]));
        i += 1;
    }
    sum
}

/// Returns `sum` plus the sum of aᵢ·aⱼ over i + j = K. Each pair is multiplied once and doubled.
#[inline(always)]
const fn square_column<const N: usize, const K: usize>(a: &[i64; N], sum: i64) -> i64 {
    let mut i = if K >= N { K + 1 - N } else { 0 };
    let mut pairs = 0_i64;
    while 2 * i < K {
        pairs = pairs.wrapping_add(a[i].wrapping_mul(a[K - i]));
        i += 1;
    }
    let sum = sum.wrapping_add(pairs).wrapping_add(pairs);
    if K & 1 == 0 {
        sum.wrapping_add(a[K / 2].wrapping_mul(a[K / 2]))
    } else {
        sum
    }
}

/// Returns whether no column of these products can exceed 63 bits for any signs, with space for the
/// reduction. For tests only.
#[cfg(test)]
fn fits<const N: usize>(products: &[(&[i64; N], &[i64; N])]) -> bool {
    (0..2 * N - 1).all(|k| {
        let columns = products.iter().map(|(a, b)| {
            (0..N)
                .filter(|i| (k + 1).saturating_sub(N) <= *i && *i <= k)
                .map(|i| u128::from(a[i].unsigned_abs()) * u128::from(b[k - i].unsigned_abs()))
                .sum::<u128>()
        });
        columns.sum::<u128>() < (1 << 63) - (1 << 56)
    })
}

/// Defines a field with the prime 2^top plus the given terms minus 1; a term is ± 2^(width · limb +
/// shift).
macro_rules! prime_field {
    ($(#[$doc:meta])* $name:ident: $limbs:literal limbs of $width:literal bits,
     $length:literal bytes,
     $uint:ident $prime:literal,
     2^($top:literal, $top_shift:literal) $($sign:ident 2^($limb:literal, $shift:literal))*,
     low [$($low:literal)*], high [$($high:literal)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name([i64; $limbs]);

        impl $name {
            const MASK: i64 = (1 << $width) - 1;
            /// Limbs of the prime.
            const P: [i64; $limbs] = {
                let mut p = [0_i64; $limbs];
                p[0] = -1;
                p[$top] = 1 << $top_shift;
                $(p[$limb] = p[$limb].$sign(1 << $shift);)*
                Self(p).carried().0
            };
            /// R² modulo the prime, with R = 2^(width · limbs), by repeated doubling of 1.
            const SQUARE_OF_R: Self = {
                let mut value = Self::UNIT;
                let mut doublings = 0;
                while doublings < 2 * $limbs * $width {
                    value = value.plus(value).reduced();
                    doublings += 1;
                }
                value
            };
            /// The number 1 outside of Montgomery form. A product with it converts the other factor
            /// out of that form.
            const UNIT: Self = {
                let mut unit = [0; $limbs];
                unit[0] = 1;
                Self(unit)
            };

            /// Adds to column K the products of the reduction's digits and the prime. The caller
            /// accounts for the prime's −1.
            #[inline(always)]
            const fn fold<const K: usize>(digits: &[i64; $limbs], mut sum: i64) -> i64 {
                $(if K >= $limb && K - $limb < $limbs {
                    sum = sum.$sign(digits[K - $limb] << $shift);
                })*
                if K >= $top && K - $top < $limbs {
                    sum = sum.wrapping_add(digits[K - $top] << $top_shift);
                }
                sum
            }

            /// Adds limb by limb, without carries.
            #[inline(always)]
            const fn plus(self, other: Self) -> Self {
                let mut sum = self.0;
                let mut i = 0;
                while i < $limbs {
                    sum[i] = sum[i].wrapping_add(other.0[i]);
                    i += 1;
                }
                Self(sum)
            }

            /// Propagates carries; every limb but the highest is then from 0 to 2^width − 1.
            #[inline(always)]
            const fn carried(self) -> Self {
                let mut limbs = self.0;
                let mut i = 0;
                while i < $limbs - 1 {
                    limbs[i + 1] = limbs[i + 1].wrapping_add(limbs[i] >> $width);
                    limbs[i] &= Self::MASK;
                    i += 1;
                }
                Self(limbs)
            }

            /// Subtracts the multiple of the prime that the highest limb indicates, then carries.
            #[inline(always)]
            const fn reduced(self) -> Self {
                let mut limbs = self.0;
                let primes = limbs[$top] >> $top_shift;
                limbs[$top] = limbs[$top].wrapping_sub(primes << $top_shift);
                $(limbs[$limb] = limbs[$limb].wrapping_sub(0_i64.$sign(primes << $shift));)*
                limbs[0] = limbs[0].wrapping_add(primes);
                Self(limbs).carried()
            }

            /// Returns the representative from 0 to p − 1, in Montgomery form if the input was.
            fn canonical(self) -> Self {
                // After the first reduction, the value may be slightly below zero or above 2^(top).
                // After the second it is from 0 to 2^(top), which is below 2p.
                let value = self.reduced().reduced();
                let less = value.sub(&Self(Self::P)).carried();
                if less.0[$limbs - 1] < 0 { value } else { less }
            }

            /// Splits a big-endian number into limbs.
            fn from_number(bytes: &[u8]) -> Self {
                // `held` collects bytes from the lowest until they fill a limb.
                let mut limbs = [0_i64; $limbs];
                let (mut held, mut bits, mut at) = (0_i64, 0, 0);
                for byte in bytes.iter().rev() {
                    held |= i64::from(*byte) << bits;
                    bits += 8;
                    if bits >= $width && at < $limbs {
                        limbs[at] = held & Self::MASK;
                        (held, bits, at) = (held >> $width, bits - $width, at + 1);
                    }
                }
                if at < $limbs {
                    limbs[at] = held;
                }
                Self(limbs)
            }
        }

        impl Field for $name {
            type Packed = [i32; $limbs];
            type Bytes = [u8; $length];
            const LENGTH: usize = $length;
            const ZERO: Self = Self([0; $limbs]);
            const ONE: Self = {
                // R modulo the prime.
                let mut value = Self::UNIT;
                let mut doublings = 0;
                while doublings < $limbs * $width {
                    value = value.plus(value).reduced();
                    doublings += 1;
                }
                value
            };

            fn from_bytes(big_endian: &[u8]) -> Option<Self> {
                if big_endian.len() != $length {
                    return None;
                }
                let number = Self::from_number(big_endian);
                // INVARIANT: only canonical numbers enter the field, so encodings are unique.
                let below = number.sub(&Self(Self::P)).carried().0[$limbs - 1] < 0;
                below.then(|| number.mul(&Self::SQUARE_OF_R))
            }

            fn to_bytes(self) -> [u8; $length] {
                let mut bytes = [0; $length];
                let mut limbs = self.mul(&Self::UNIT).canonical().0.into_iter();
                let (mut held, mut bits) = (0_i64, 0);
                for byte in bytes.iter_mut().rev() {
                    if bits < 8 {
                        held |= limbs.next().unwrap_or(0) << bits;
                        bits += $width;
                    }
                    [*byte, ..] = held.to_le_bytes();
                    (held, bits) = (held >> 8, bits - 8);
                }
                bytes
            }

            #[inline]
            fn mul(&self, other: &Self) -> Self {
                #[cfg(test)]
                assert!(fits(&[(&self.0, &other.0)]), "{self:?} * {other:?}");
                // Low half: choose the digits of the reduction. High half: collect the result.
                let (mut digits, mut limbs, mut sum) = ([0_i64; $limbs], [0_i64; $limbs], 0_i64);
                $(
                    sum = column::<$limbs, $low>(&self.0, &other.0, sum);
                    sum = Self::fold::<$low>(&digits, sum);
                    // The prime's −1 cancels the digit; the carry remains.
                    digits[$low] = sum & Self::MASK;
                    sum >>= $width;
                )*
                $(
                    sum = column::<$limbs, { $limbs + $high }>(&self.0, &other.0, sum);
                    sum = Self::fold::<{ $limbs + $high }>(&digits, sum);
                    limbs[$high] = sum & Self::MASK;
                    sum >>= $width;
                )*
                limbs[$limbs - 1] = sum;
                Self(limbs)
            }

            #[inline]
            fn square(&self) -> Self {
                #[cfg(test)]
                assert!(fits(&[(&self.0, &self.0)]), "{self:?} squared");
                let (mut digits, mut limbs, mut sum) = ([0_i64; $limbs], [0_i64; $limbs], 0_i64);
                $(
                    sum = Self::fold::<$low>(&digits, square_column::<$limbs, $low>(&self.0, sum));
                    digits[$low] = sum & Self::MASK;
                    sum >>= $width;
                )*
                $(
                    sum = square_column::<$limbs, { $limbs + $high }>(&self.0, sum);
                    sum = Self::fold::<{ $limbs + $high }>(&digits, sum);
                    limbs[$high] = sum & Self::MASK;
                    sum >>= $width;
                )*
                limbs[$limbs - 1] = sum;
                Self(limbs)
            }

            #[inline]
            fn mul_sub(a: &Self, b: &Self, c: &Self, d: &Self) -> Self {
                #[cfg(test)]
                assert!(fits(&[(&a.0, &b.0), (&c.0, &d.0)]), "{a:?} * {b:?} - {c:?} * {d:?}");
                let c = Self::ZERO.sub(c);
                let (mut digits, mut limbs, mut sum) = ([0_i64; $limbs], [0_i64; $limbs], 0_i64);
                $(
                    sum = column::<$limbs, $low>(&a.0, &b.0, sum);
                    sum = Self::fold::<$low>(&digits, column::<$limbs, $low>(&c.0, &d.0, sum));
                    digits[$low] = sum & Self::MASK;
                    sum >>= $width;
                )*
                $(
                    sum = column::<$limbs, { $limbs + $high }>(&a.0, &b.0, sum);
                    sum = column::<$limbs, { $limbs + $high }>(&c.0, &d.0, sum);
                    sum = Self::fold::<{ $limbs + $high }>(&digits, sum);
                    limbs[$high] = sum & Self::MASK;
                    sum >>= $width;
                )*
                limbs[$limbs - 1] = sum;
                Self(limbs)
            }

            #[inline]
            fn add(&self, other: &Self) -> Self {
                self.plus(*other)
            }

            #[inline]
            fn sub(&self, other: &Self) -> Self {
                let mut limbs = self.0;
                limbs.iter_mut().zip(&other.0).for_each(|(a, b)| *a = a.wrapping_sub(*b));
                Self(limbs)
            }

            #[inline]
            fn times(&self, small: i64) -> Self {
                Self(self.0.map(|limb| limb.wrapping_mul(small)))
            }

            #[inline]
            fn reduce(&self) -> Self {
                self.reduced()
            }

            fn is_zero(&self) -> bool {
                // A multiple k·p is −k modulo 2^width. |k| ≤ 1024 is far more than occurs, so this
                // test excludes almost every nonzero value cheaply.
                let may_be_zero = (self.0[0].wrapping_add(1024) & Self::MASK) <= 2048;
                may_be_zero && self.canonical() == Self::ZERO
            }

            fn invert(&self) -> Option<Self> {
                const PRIME: Odd<$uint> = Odd::<$uint>::from_be_hex($prime);
                let mut padded = [0; $uint::BYTES];
                padded[$uint::BYTES - $length..].copy_from_slice(&self.to_bytes());
                let inverse = $uint::from_be_slice(&padded)
                    .invert_odd_mod_vartime(&PRIME)
                    .into_option()?;
                Self::from_bytes(inverse.to_be_bytes().as_ref().get($uint::BYTES - $length..)?)
            }

            fn pack(&self) -> Self::Packed {
                let limbs = self.reduced().0;
                #[cfg(test)]
                assert!(limbs.iter().all(|limb| i32::try_from(*limb).is_ok()), "{self:?}");
                limbs.map(|limb| i32::try_from(limb).unwrap_or_default())
            }

            #[inline]
            fn unpack(packed: &Self::Packed) -> Self {
                Self(packed.map(i64::from))
            }
        }
    };
}

prime_field! {
    /// 2^256 − 2^224 + 2^192 + 2^96 − 1; R = 2^261.
    P256: 9 limbs of 29 bits, 32 bytes,
    U256 "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
    2^(8, 24) wrapping_sub 2^(7, 21) wrapping_add 2^(6, 18) wrapping_add 2^(3, 9),
    low [0 1 2 3 4 5 6 7 8], high [0 1 2 3 4 5 6 7]
}

prime_field! {
    /// 2^384 − 2^128 − 2^96 + 2^32 − 1; R = 2^392.
    P384: 14 limbs of 28 bits, 48 bytes,
    U384 "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe\
        ffffffff0000000000000000ffffffff",
    2^(13, 20) wrapping_sub 2^(4, 16) wrapping_sub 2^(3, 12) wrapping_add 2^(1, 4),
    low [0 1 2 3 4 5 6 7 8 9 10 11 12 13], high [0 1 2 3 4 5 6 7 8 9 10 11 12]
}

prime_field! {
    /// 2^521 − 1; R = 2^532.
    P521: 19 limbs of 28 bits, 66 bytes,
    U576 "00000000000001ffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    2^(18, 17),
    low [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18],
    high [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17]
}

#[cfg(test)]
#[path = "field_tests.rs"]
mod tests;
