//! Modular powers with an odd modulus of 2048 to 8192 bits, for RSA signatures: public data only,
//! in variable time.
//!
//! The method is Montgomery multiplication (P. Montgomery, "Modular multiplication without trial
//! division", 1985) by columns ("product scanning", Koç, Acar, Kaliski 1996). WebAssembly
//! multiplies 64 by 64 bits to 64 bits and has no carry flag, so numbers have limbs of 28 or 26
//! bits. A whole column of products then fits into 64 bits, and each column needs only one carry.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use crate::limits;

/// Maximum number of 28-bit limbs for which two columns of products fit into 64 bits: 2 · 110 ·
/// 2^56 < 2^64. This suffices for RSA-3072.
const MOST_WIDE_LIMBS: usize = 110;

/// Limbs of the longest modulus: [`limits::MAX_RSA_BITS`] and two spare bits in limbs of 26 bits,
/// rounded up to an even number.
const MOST_LIMBS: usize = (limits::MAX_RSA_BITS + 2).div_ceil(26).next_multiple_of(2);

/// Buffer as long as the longest modulus.
pub(super) type Bytes = [u8; limits::MAX_SIGNATURE_BYTES];

/// An odd modulus and its Montgomery constants.
///
/// R = 2^(width · limbs) is more than four times the modulus. Results below twice the modulus
/// therefore stay below it without a subtraction after each product.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Modulus {
    /// Little-endian limbs, an even number of them.
    limbs: Vec<u32>,
    /// R² mod n.
    square_of_r: Vec<u32>,
    /// −1/n modulo 2^width.
    inverse: u32,
    /// Number of bits in a limb.
    width: u32,
    bits: usize,
}

/// An operand: as many limbs as the modulus, on the stack, with space for the longest.
#[derive(Clone, Copy)]
struct Number {
    limbs: [u32; MOST_LIMBS],
    count: usize,
}

impl Deref for Number {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        self.limbs.get(..self.count).unwrap_or_default()
    }
}

impl DerefMut for Number {
    fn deref_mut(&mut self) -> &mut [u32] {
        self.limbs.get_mut(..self.count).unwrap_or_default()
    }
}

impl Number {
    /// Returns zero with this number of limbs.
    fn zero(count: usize) -> Self {
        Self {
            limbs: [0; MOST_LIMBS],
            count,
        }
    }

    /// Splits big-endian bytes into `count` limbs; returns `None` if they need more.
    fn split(bytes: &[u8], width: u32, count: usize) -> Option<Self> {
        let mut number = Self::zero(count);
        let mut places = number.iter_mut();
        let mut put = |limb| match places.next() {
            Some(place) => {
                *place = limb;
                true
            }
            None => limb == 0,
        };
        // `held` collects bytes from the lowest until they fill a limb.
        let (mut held, mut bits, mut fits) = (0_u64, 0_u32, true);
        for byte in bytes.iter().rev() {
            held |= u64::from(*byte) << bits;
            bits = bits.saturating_add(8);
            if bits >= width {
                fits &= put(low(held, width));
                held >>= width;
                bits = bits.saturating_sub(width);
            }
        }
        fits &= put(low(held, width));
        fits.then_some(number)
    }

    /// Writes the number as big-endian bytes, as many as fit into `out`.
    fn join(&self, width: u32, out: &mut [u8]) {
        let (mut held, mut bits) = (0_u64, 0_u32);
        let mut limbs = self.iter();
        for byte in out.iter_mut().rev() {
            if bits < u8::BITS {
                held |= limbs.next().map_or(0, |limb| u64::from(*limb)) << bits;
                bits = bits.saturating_add(width);
            }
            [*byte, ..] = held.to_le_bytes();
            held >>= u8::BITS;
            bits = bits.saturating_sub(u8::BITS);
        }
    }
}

/// Working memory for one product.
struct Scratch {
    columns: [u64; 2 * MOST_LIMBS],
    quotient: [u32; MOST_LIMBS],
}

impl Scratch {
    const NEW: Self = Self {
        columns: [0; 2 * MOST_LIMBS],
        quotient: [0; MOST_LIMBS],
    };
}

impl Modulus {
    /// Precomputes the constants of a modulus; returns `None` for an even number. `bits` is the
    /// length of `number` (big-endian, without leading zeros).
    pub(super) fn new(number: &[u8], bits: usize) -> Option<Self> {
        // Wide limbs need fewer products, but only smaller moduli allow them.
        let (width, count) = match limb_count(bits, 28) {
            count @ ..=MOST_WIDE_LIMBS => (28, count),
            _ => (26, limb_count(bits, 26)),
        };
        let limbs = Number::split(number, width, count)?.to_vec();
        let lowest = limbs.first().copied().filter(|limb| limb & 1 == 1)?;
        // Newton's iteration doubles the correct bits of an inverse. An odd number is its own
        // inverse modulo 8, so it starts with three correct bits.
        let inverse = (0..4).fold(lowest, |inverse, _| {
            inverse.wrapping_mul(2_u32.wrapping_sub(lowest.wrapping_mul(inverse)))
        });
        let inverse = inverse.wrapping_neg() & low_bits(width);
        let mut modulus = Self {
            square_of_r: Vec::new(),
            limbs,
            inverse,
            width,
            bits,
        };
        modulus.square_of_r = modulus.find_square_of_r(count);
        Some(modulus)
    }

    /// Returns the length of the modulus in bits.
    pub(super) fn bits(&self) -> usize {
        self.bits
    }

    /// Computes `base` to the power `exponent` (odd and not 1) in `out`, in as many bytes as the
    /// modulus has; returns `None` if `base` is not below the modulus.
    pub(super) fn power<'o>(
        &self,
        base: &[u8],
        exponent: u64,
        out: &'o mut Bytes,
    ) -> Option<&'o mut [u8]> {
        let base = Number::split(base, self.width, self.limbs.len())?;
        // RFC 8017 §5.2.2 step 1: a larger signature is out of range.
        if !less(&base, &self.limbs) {
            return None;
        }
        // Into Montgomery form.
        let mut scratch = Scratch::NEW;
        let mut value = base;
        self.multiply(&mut value, &self.square_of_r, &mut scratch);
        let in_form = value;
        // Square and multiply, from the second highest bit to the second lowest.
        let bits = u64::BITS.saturating_sub(exponent.leading_zeros());
        for bit in (1..bits.saturating_sub(1)).rev() {
            self.square(&mut value, &mut scratch);
            if exponent >> bit & 1 == 1 {
                self.multiply(&mut value, &in_form, &mut scratch);
            }
        }
        // The exponent is odd. For its lowest bit, a product with the base outside of Montgomery
        // form also converts the result out of that form.
        self.square(&mut value, &mut scratch);
        self.multiply(&mut value, &base, &mut scratch);
        // INVARIANT: the result is below 2n, so one subtraction suffices.
        if !less(&value, &self.limbs) {
            subtract(&mut value, &self.limbs, self.width);
        }
        let out = out.get_mut(..self.bits.div_ceil(8))?;
        value.join(self.width, out);
        Some(out)
    }

    /// Computes R² mod n: doublings from a power of two below n to R · 2^(a quarter of R's bits),
    /// then two squarings, each of which doubles the exponent beyond R.
    fn find_square_of_r(&self, count: usize) -> Vec<u32> {
        let highest = self.bits.saturating_sub(1);
        let width = usize::try_from(self.width).unwrap_or(usize::MAX);
        let mut value = Number::zero(count);
        if let (Some(limb), Some(place)) = (highest.checked_div(width), highest.checked_rem(width))
            && let Some(limb) = value.get_mut(limb)
        {
            *limb = 1 << place;
        }
        let bits_of_r = width.saturating_mul(count);
        for _ in highest..bits_of_r.saturating_add(bits_of_r / 4) {
            double(&mut value, self.width);
            if !less(&value, &self.limbs) {
                subtract(&mut value, &self.limbs, self.width);
            }
        }
        let mut scratch = Scratch::NEW;
        for _ in 0..2 {
            self.square(&mut value, &mut scratch);
        }
        value.to_vec()
    }

    /// Sets a to a · b / R modulo n; the result is below 2n if a · b is below 4n².
    fn multiply(&self, a: &mut [u32], b: &[u32], scratch: &mut Scratch) {
        let count = self.limbs.len();
        // Column k sums aᵢ·bₖ₋ᵢ over the indices that exist in both.
        for (column, sum) in scratch
            .columns
            .iter_mut()
            .take(count.saturating_mul(2))
            .enumerate()
        {
            let from = column.saturating_add(1).saturating_sub(count);
            let to = column.saturating_add(1).min(count);
            let partner = column.saturating_add(1).saturating_sub(to)
                ..column.saturating_add(1).saturating_sub(from);
            *sum = inner(a.get(from..to), b.get(partner));
        }
        self.reduce(scratch, a);
    }

    /// Sets a to a · a / R modulo n: each pair of different limbs is multiplied once and doubled.
    fn square(&self, a: &mut [u32], scratch: &mut Scratch) {
        let count = self.limbs.len();
        for (column, sum) in scratch
            .columns
            .iter_mut()
            .take(count.saturating_mul(2))
            .enumerate()
        {
            let next = column.saturating_add(1);
            let from = next.saturating_sub(count);
            let half = next / 2;
            let pairs = inner(
                a.get(from..half),
                a.get(next.saturating_sub(half)..next.saturating_sub(from)),
            );
            *sum = pairs.wrapping_add(pairs);
            if column & 1 == 0 {
                let middle = a.get(half).copied().map_or(0, u64::from);
                *sum = sum.wrapping_add(middle.wrapping_mul(middle));
            }
        }
        self.reduce(scratch, a);
    }

    /// Applies Montgomery reduction to the columns. The low half determines a multiple of n that
    /// makes it vanish; the high half is the result.
    fn reduce(&self, scratch: &mut Scratch, result: &mut [u32]) {
        let (count, n) = (self.limbs.len(), self.limbs.as_slice());
        let Scratch { columns, quotient } = scratch;
        let lowest = n.first().copied().map_or(0, u64::from);
        let mut carry = 0_u64;
        // Low half: each quotient digit clears the low limb of its column.
        for (column, sum) in columns.iter().take(count).enumerate() {
            let products = inner(quotient.get(..column), n.get(1..column.saturating_add(1)));
            let sum = carry.wrapping_add(*sum).wrapping_add(products);
            let digit = low(sum, self.width).wrapping_mul(self.inverse) & low_bits(self.width);
            if let Some(place) = quotient.get_mut(column) {
                *place = digit;
            }
            carry = sum.wrapping_add(u64::from(digit).wrapping_mul(lowest)) >> self.width;
        }
        // High half: add the remaining products and carry.
        for ((column, sum), limb) in columns.iter().skip(count).enumerate().zip(result) {
            let from = column.saturating_add(1);
            let products = inner(quotient.get(from..count), n.get(from..));
            let sum = carry.wrapping_add(*sum).wrapping_add(products);
            *limb = low(sum, self.width);
            carry = sum >> self.width;
        }
    }
}

/// Returns the sum of a₀·bₖ + a₁·bₖ₋₁ + …, one column of a product. INVARIANT: it does not overflow
/// for the sizes in this file (see [`MOST_WIDE_LIMBS`]).
#[inline(always)]
fn inner(a: Option<&[u32]>, b: Option<&[u32]>) -> u64 {
    let pairs = a
        .unwrap_or_default()
        .iter()
        .zip(b.unwrap_or_default().iter().rev());
    pairs.fold(0, |sum, (a, b)| {
        u64::from(*a).wrapping_mul(u64::from(*b)).wrapping_add(sum)
    })
}

/// Returns the number of limbs for a modulus, with two spare bits and rounded up to an even number.
fn limb_count(bits: usize, width: usize) -> usize {
    bits.saturating_add(2).div_ceil(width).next_multiple_of(2)
}

/// Returns a limb with all bits set.
fn low_bits(width: u32) -> u32 {
    u32::MAX >> u32::BITS.saturating_sub(width)
}

/// Returns the low limb of a column.
fn low(column: u64, width: u32) -> u32 {
    u32::try_from(column & u64::from(low_bits(width))).unwrap_or(0)
}

/// Returns whether a < b, for equal lengths.
fn less(a: &[u32], b: &[u32]) -> bool {
    a.iter().rev().lt(b.iter().rev())
}

/// Subtracts b from a, which must not be below b.
fn subtract(a: &mut [u32], b: &[u32], width: u32) {
    let mut borrow = 0;
    for (a, b) in a.iter_mut().zip(b) {
        let difference = a.wrapping_sub(*b).wrapping_sub(borrow);
        borrow = difference >> 31;
        *a = difference & low_bits(width);
    }
}

/// Doubles a, whose highest limb must have a spare bit.
fn double(a: &mut [u32], width: u32) {
    let mut carry = 0;
    for limb in a {
        let doubled = *limb << 1 | carry;
        carry = doubled >> width;
        *limb = doubled & low_bits(width);
    }
}

#[cfg(test)]
#[path = "montgomery_tests.rs"]
mod tests;
