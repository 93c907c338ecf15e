//! Arithmetic modulo the primes of P-256, P-384 and P-521, for verification: public data only,
//! variable time.
//!
//! Written for machines that multiply 64 by 64 bits to 64, such as WebAssembly, where code for a
//! widening multiplication takes three times as long. A number is a list of signed limbs of 28 or
//! 29 bits in 64, in Montgomery form. Columns of products are summed without carries ("product
//! scanning"), and since each of these primes is −1 modulo a power of two beyond a limb and sparse
//! above it (FIPS 186-5, SP 800-186 §3.2.1), Montgomery's reduction takes shifts and additions
//! only: the digit that makes a column vanish is the column's own low limb.
//!
//! What keeps 64 bits from overflowing: [`Field::mul`], [`Field::square`] and [`Field::reduce`]
//! return limbs from 0 to 2^width − 1 (the highest is small and may be negative), and a value
//! between −p and 3p. Sums and differences of two such may be multiplied by sums and differences of
//! two such, except that P-256 wants one factor to be no sum; all else goes through
//! [`Field::reduce`] first. Unit tests check each product.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "indices are constants or run over the array's own length; limbs are multiplied and added by wrapping operations"
)]

use crypto_bigint::{Odd, U256, U384, U576};

/// A prime field. Elements are not unique until [`Field::is_zero`] or [`Field::to_bytes`] looks at
/// them.
pub trait Field: Copy + core::fmt::Debug + PartialEq {
    /// One element as tables keep it.
    type Packed: Copy + core::fmt::Debug;
    /// A canonical element as bytes.
    type Bytes: AsRef<[u8]>;
    /// How many bytes that is.
    const LENGTH: usize;
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;

    /// `None` for a number that is not below the prime, or another length.
    fn from_bytes(big_endian: &[u8]) -> Option<Self>;
    /// The canonical number, big-endian.
    fn to_bytes(self) -> Self::Bytes;
    /// a · b.
    #[must_use]
    fn mul(&self, other: &Self) -> Self;
    /// a².
    #[must_use]
    fn square(&self) -> Self;
    /// a · b − c · d with one reduction. Factors must be results or differences of results.
    fn mul_sub(a: &Self, b: &Self, c: &Self, d: &Self) -> Self;
    /// Limb by limb, without carries.
    fn add(&self, other: &Self) -> Self;
    /// Limb by limb, without carries.
    fn sub(&self, other: &Self) -> Self;
    /// Times a small number, limb by limb, without carries.
    fn times(&self, small: i64) -> Self;
    /// The same element with limbs of their own size again, for limbs of up to 40 bits.
    fn reduce(&self) -> Self;
    /// Whether it is 0.
    fn is_zero(&self) -> bool;
    /// `None` for zero.
    fn invert(&self) -> Option<Self>;
    /// For a table.
    fn pack(&self) -> Self::Packed;
    /// From a table.
    fn unpack(packed: &Self::Packed) -> Self;
}

/// The sum of aᵢ·bⱼ over i + j = K.
#[inline(always)]
const fn column<const N: usize, const K: usize>(a: &[i64; N], b: &[i64; N], mut sum: i64) -> i64 {
    let mut i = if K >= N { K + 1 - N } else { 0 };
    while i < N && i <= K {
        sum = sum.wrapping_add(a[i].wrapping_mul(b[K - i]));
        i += 1;
    }
    sum
}

/// The sum of aᵢ·aⱼ over i + j = K, each pair once and doubled.
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

/// For tests: that no column of these factors can leave 63 bits, whatever the signs, with room for
/// the reduction.
#[cfg(test)]
fn fits<const N: usize>(products: &[(&[i64; N], &[i64; N])]) -> bool {
    (0..2 * N - 1).all(|k| {
        let of = |a: &[i64; N], b: &[i64; N]| {
            let pairs = (0..N).filter(|i| (k + 1).saturating_sub(N) <= *i && *i <= k);
            pairs
                .map(|i| u128::from(a[i].unsigned_abs()) * u128::from(b[k - i].unsigned_abs()))
                .sum::<u128>()
        };
        products.iter().map(|(a, b)| of(a, b)).sum::<u128>() < (1 << 63) - (1 << 56)
    })
}

/// A field whose prime is 2^top plus the given terms minus 1; a term is ± 2^(width · limb + shift).
macro_rules! prime_field {
    ($(#[$doc:meta])* $name:ident: $limbs:literal limbs of $width:literal bits, $length:literal bytes,
     $uint:ident $prime:literal,
     2^($top:literal, $top_shift:literal) $($sign:ident 2^($limb:literal, $shift:literal))*,
     low [$($low:literal)*], high [$($high:literal)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name([i64; $limbs]);

        impl $name {
            const MASK: i64 = (1 << $width) - 1;
            /// The prime.
            const P: [i64; $limbs] = {
                let mut p = [0_i64; $limbs];
                p[0] = -1;
                p[$top] = 1 << $top_shift;
                $(p[$limb] = p[$limb].$sign(1 << $shift);)*
                Self(p).carried().0
            };
            /// R² modulo the prime, R = 2^(width · limbs): twice as many doublings of 1.
            const SQUARE_OF_R: Self = {
                let mut value = Self::UNIT;
                let mut doublings = 0;
                while doublings < 2 * $limbs * $width {
                    value = value.plus(value).reduced();
                    doublings += 1;
                }
                value
            };
            /// The number 1, not in Montgomery form: a product with it takes another number out of
            /// that form.
            const UNIT: Self = {
                let mut unit = [0; $limbs];
                unit[0] = 1;
                Self(unit)
            };

            /// What the digits of a reduction so far, each times the prime, add to column K; the −1
            /// is the caller's.
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

            /// Takes as many primes away as the highest limb tells of, then carries.
            #[inline(always)]
            const fn reduced(self) -> Self {
                let mut limbs = self.0;
                let primes = limbs[$top] >> $top_shift;
                limbs[$top] = limbs[$top].wrapping_sub(primes << $top_shift);
                $(limbs[$limb] = limbs[$limb].wrapping_sub(0_i64.$sign(primes << $shift));)*
                limbs[0] = limbs[0].wrapping_add(primes);
                Self(limbs).carried()
            }

            /// The one representative from 0 to p − 1, still in Montgomery form if it was.
            fn canonical(self) -> Self {
                // The first time may leave a little below zero or above 2^(top); the second leaves
                // 0 to 2^(top), below 2p.
                let value = self.reduced().reduced();
                let less = value.sub(&Self(Self::P)).carried();
                if less.0[$limbs - 1] < 0 { value } else { less }
            }

            fn from_number(bytes: &[u8]) -> Self {
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
                let (mut digits, mut limbs, mut sum) = ([0_i64; $limbs], [0_i64; $limbs], 0_i64);
                $(
                    sum = Self::fold::<$low>(&digits, column::<$limbs, $low>(&self.0, &other.0, sum));
                    // The prime's −1 takes the digit away again: what is left is the carry.
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
                // A multiple k·p with |k| ≤ 1024 (all that ever occurs is far smaller) is −k modulo
                // 2^width.
                (self.0[0].wrapping_add(1024) & Self::MASK) <= 2048 && self.canonical() == Self::ZERO
            }

            fn invert(&self) -> Option<Self> {
                const PRIME: Odd<$uint> = Odd::<$uint>::from_be_hex($prime);
                let mut padded = [0; $uint::BYTES];
                padded[$uint::BYTES - $length..].copy_from_slice(&self.to_bytes());
                let inverse = $uint::from_be_slice(&padded).invert_odd_mod_vartime(&PRIME).into_option()?;
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
    U384 "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
    2^(13, 20) wrapping_sub 2^(4, 16) wrapping_sub 2^(3, 12) wrapping_add 2^(1, 4),
    low [0 1 2 3 4 5 6 7 8 9 10 11 12 13], high [0 1 2 3 4 5 6 7 8 9 10 11 12]
}

prime_field! {
    /// 2^521 − 1; R = 2^532.
    P521: 19 limbs of 28 bits, 66 bytes,
    U576 "00000000000001ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    2^(18, 17),
    low [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18], high [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17]
}

#[cfg(test)]
#[path = "field_tests.rs"]
mod tests;
