//! Powers modulo an odd number of 2048 to 8192 bits, for RSA signatures: public data only, variable time.
//!
//! Montgomery multiplication (P. Montgomery, "Modular multiplication without trial division", 1985) by columns ("product
//! scanning", Koç, Acar, Kaliski 1996). WebAssembly multiplies 64 by 64 bits to 64 and has no carry flag, so numbers are
//! cut into limbs of 28 or 26 bits: a whole column of products fits into 64 bits, and one carry a column is left.

use alloc::vec;
use alloc::vec::Vec;

/// With so many limbs two columns of 28-bit products fit into 64 bits: 2 · 110 · 2^56 < 2^64. That is RSA-3072.
const MOST_WIDE_LIMBS: usize = 110;

/// An odd modulus and its Montgomery constants. R = 2^(width · limbs) is more than four times the modulus, so that results
/// below twice the modulus stay so without a subtraction after each product.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Modulus {
    /// Little-endian limbs; always an even number of them.
    limbs: Vec<u32>,
    /// R² mod n.
    square_of_r: Vec<u32>,
    /// −1/n modulo 2^width.
    inverse: u32,
    /// Bits of a limb.
    width: u32,
    bits: usize,
}

/// Memory for one product.
struct Scratch {
    columns: Vec<u64>,
    quotient: Vec<u32>,
    result: Vec<u32>,
}

impl Modulus {
    /// `None` for an even number. `bits` is the length of `number` (big-endian, no leading zeros).
    pub(super) fn new(number: &[u8], bits: usize) -> Option<Self> {
        let limbs_of = |width: usize| bits.saturating_add(2).div_ceil(width).next_multiple_of(2);
        let (width, count) = if limbs_of(28) <= MOST_WIDE_LIMBS { (28, limbs_of(28)) } else { (26, limbs_of(26)) };
        let limbs = split(number, width, count)?;
        let lowest = limbs.first().copied().filter(|limb| limb & 1 == 1)?;
        // Newton's iteration doubles the good bits of an inverse, of which an odd number's own lowest three are the first.
        let inverse =
            (0..4).fold(lowest, |inverse, _| inverse.wrapping_mul(2_u32.wrapping_sub(lowest.wrapping_mul(inverse))));
        let inverse = inverse.wrapping_neg() & low_bits(width);
        let mut modulus = Self { square_of_r: Vec::new(), limbs, inverse, width, bits };
        modulus.square_of_r = modulus.find_square_of_r(count);
        Some(modulus)
    }

    pub(super) fn bits(&self) -> usize {
        self.bits
    }

    /// `base` to the power `exponent` (odd and not 1), as many bytes as the modulus has; `None` if `base` is not below the modulus.
    pub(super) fn power(&self, base: &[u8], exponent: u64) -> Option<Vec<u8>> {
        let base = split(base, self.width, self.limbs.len())?;
        if !less(&base, &self.limbs) {
            return None;
        }
        let mut scratch = self.scratch();
        self.product(&base, &self.square_of_r, &mut scratch);
        let mut value = scratch.result.clone();
        // From the second highest bit down to the second lowest; the lowest is handled below.
        let bits = u64::BITS.saturating_sub(exponent.leading_zeros());
        // 65537 and 3 have no bits between.
        let in_form = if exponent.count_ones() > 2 { value.clone() } else { Vec::new() };
        for bit in (1..bits.saturating_sub(1)).rev() {
            self.square(&value, &mut scratch);
            core::mem::swap(&mut value, &mut scratch.result);
            if exponent >> bit & 1 == 1 {
                self.product(&value, &in_form, &mut scratch);
                core::mem::swap(&mut value, &mut scratch.result);
            }
        }
        // The lowest bit of an odd exponent: the base as it is, not in Montgomery form, takes the result out of that form.
        self.square(&value, &mut scratch);
        core::mem::swap(&mut value, &mut scratch.result);
        self.product(&value, &base, &mut scratch);
        if !less(&scratch.result, &self.limbs) {
            subtract(&mut scratch.result, &self.limbs, self.width);
        }
        Some(join(&scratch.result, self.width, self.bits.div_ceil(8)))
    }

    fn scratch(&self) -> Scratch {
        let count = self.limbs.len();
        Scratch { columns: vec![0; count.saturating_mul(2)], quotient: vec![0; count], result: vec![0; count] }
    }

    /// R² mod n: doublings from a power of two below n up to R · 2^(a quarter of R's bits), then two squarings, each of which
    /// doubles the exponent over R.
    fn find_square_of_r(&self, count: usize) -> Vec<u32> {
        let highest = self.bits.saturating_sub(1);
        let width = usize::try_from(self.width).unwrap_or(usize::MAX);
        let mut value = vec![0; count];
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
        let mut scratch = self.scratch();
        for _ in 0..2 {
            self.square(&value, &mut scratch);
            core::mem::swap(&mut value, &mut scratch.result);
        }
        value
    }

    /// a · b / R modulo n, below 2n if a · b is below 4n².
    fn product(&self, a: &[u32], b: &[u32], scratch: &mut Scratch) {
        let count = self.limbs.len();
        for (column, sum) in scratch.columns.iter_mut().enumerate() {
            let from = column.saturating_add(1).saturating_sub(count);
            let to = column.saturating_add(1).min(count);
            let partner = column.saturating_add(1).saturating_sub(to)..column.saturating_add(1).saturating_sub(from);
            *sum = inner(a.get(from..to), b.get(partner));
        }
        self.reduce(scratch);
    }

    /// The same of a number with itself: each pair of different limbs once, doubled.
    fn square(&self, a: &[u32], scratch: &mut Scratch) {
        let count = self.limbs.len();
        for (column, sum) in scratch.columns.iter_mut().enumerate() {
            let next = column.saturating_add(1);
            let from = next.saturating_sub(count);
            let half = next / 2;
            let pairs = inner(a.get(from..half), a.get(next.saturating_sub(half)..next.saturating_sub(from)));
            *sum = pairs.wrapping_add(pairs);
            if column & 1 == 0 {
                let middle = a.get(half).copied().map_or(0, u64::from);
                *sum = sum.wrapping_add(middle.wrapping_mul(middle));
            }
        }
        self.reduce(scratch);
    }

    /// Montgomery's reduction of the columns. The low half chooses a multiple of n that makes it vanish, the high half is the result.
    fn reduce(&self, scratch: &mut Scratch) {
        let (count, n) = (self.limbs.len(), self.limbs.as_slice());
        let Scratch { columns, quotient, result } = scratch;
        let lowest = n.first().copied().map_or(0, u64::from);
        let mut carry = 0_u64;
        for (column, sum) in columns.iter().take(count).enumerate() {
            let products = inner(quotient.get(..column), n.get(1..column.saturating_add(1)));
            let sum = carry.wrapping_add(*sum).wrapping_add(products);
            let digit = low(sum, self.width).wrapping_mul(self.inverse) & low_bits(self.width);
            if let Some(place) = quotient.get_mut(column) {
                *place = digit;
            }
            carry = sum.wrapping_add(u64::from(digit).wrapping_mul(lowest)) >> self.width;
        }
        for ((column, sum), limb) in columns.iter().skip(count).enumerate().zip(result) {
            let from = column.saturating_add(1);
            let products = inner(quotient.get(from..), n.get(from..));
            let sum = carry.wrapping_add(*sum).wrapping_add(products);
            *limb = low(sum, self.width);
            carry = sum >> self.width;
        }
    }
}

/// The sum of a₀·bₖ + a₁·bₖ₋₁ + …: one column of a product. It wraps for nothing that this file makes (see [`MOST_WIDE_LIMBS`]).
#[inline(always)]
fn inner(a: Option<&[u32]>, b: Option<&[u32]>) -> u64 {
    let pairs = a.unwrap_or_default().iter().zip(b.unwrap_or_default().iter().rev());
    pairs.fold(0, |sum, (a, b)| u64::from(*a).wrapping_mul(u64::from(*b)).wrapping_add(sum))
}

/// A limb with all bits set.
fn low_bits(width: u32) -> u32 {
    u32::MAX >> u32::BITS.saturating_sub(width)
}

/// The low limb of a column.
fn low(column: u64, width: u32) -> u32 {
    u32::try_from(column & u64::from(low_bits(width))).unwrap_or(0)
}

fn less(a: &[u32], b: &[u32]) -> bool {
    a.iter().rev().lt(b.iter().rev())
}

/// a − b, for a not below b.
fn subtract(a: &mut [u32], b: &[u32], width: u32) {
    let mut borrow = 0;
    for (a, b) in a.iter_mut().zip(b) {
        let difference = a.wrapping_sub(*b).wrapping_sub(borrow);
        borrow = difference >> 31;
        *a = difference & low_bits(width);
    }
}

/// 2a, where the highest limb has a bit to spare.
fn double(a: &mut [u32], width: u32) {
    let mut carry = 0;
    for limb in a {
        let doubled = *limb << 1 | carry;
        carry = doubled >> width;
        *limb = doubled & low_bits(width);
    }
}

/// Big-endian bytes to `count` limbs; `None` if the number needs more.
fn split(bytes: &[u8], width: u32, count: usize) -> Option<Vec<u32>> {
    let mut limbs = Vec::with_capacity(count);
    let (mut held, mut bits) = (0_u64, 0_u32);
    for byte in bytes.iter().rev() {
        held |= u64::from(*byte) << bits;
        bits = bits.saturating_add(8);
        if bits >= width {
            limbs.push(low(held, width));
            held >>= width;
            bits = bits.saturating_sub(width);
        }
    }
    limbs.push(low(held, width));
    let fits = limbs.iter().skip(count).all(|limb| *limb == 0);
    limbs.resize(count, 0);
    fits.then_some(limbs)
}

/// Limbs to `length` big-endian bytes.
fn join(limbs: &[u32], width: u32, length: usize) -> Vec<u8> {
    // R has up to two limbs more than the modulus.
    let mut bytes = Vec::with_capacity(length.saturating_add(9));
    let (mut held, mut bits) = (0_u64, 0_u32);
    for limb in limbs {
        held |= u64::from(*limb) << bits;
        bits = bits.saturating_add(width);
        while bits >= 8 {
            bytes.push(held.to_le_bytes()[0]);
            held >>= 8;
            bits = bits.saturating_sub(8);
        }
    }
    bytes.push(held.to_le_bytes()[0]);
    bytes.resize(length, 0);
    bytes.reverse();
    bytes
}

#[cfg(test)]
#[path = "montgomery_tests.rs"]
mod tests;
