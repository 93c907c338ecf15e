//! Powers modulo an odd number of 2048 to 8192 bits, for RSA signatures: public data only, variable
//! time.
//!
//! Montgomery multiplication (P. Montgomery, "Modular multiplication without trial division", 1985)
//! by columns ("product scanning", Koç, Acar, Kaliski 1996). WebAssembly multiplies 64 by 64 bits
//! to 64 and has no carry flag, so numbers are cut into limbs of 28 or 26 bits: a whole column of
//! products fits into 64 bits, and one carry a column is left.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use crate::limits;

/// With so many limbs two columns of 28-bit products fit into 64 bits: 2 · 110 · 2^56 < 2^64. That
/// is RSA-3072.
const MOST_WIDE_LIMBS: usize = 110;

/// The limbs of the longest modulus: [`limits::MAX_RSA_BITS`] and two bits of room in limbs of 26
/// bits, an even number of them.
const MOST_LIMBS: usize = (limits::MAX_RSA_BITS + 2).div_ceil(26).next_multiple_of(2);

/// As many bytes as the longest modulus has.
pub(super) type Bytes = [u8; limits::MAX_SIGNATURE_BYTES];

/// An odd modulus and its Montgomery constants. R = 2^(width · limbs) is more than four times the
/// modulus, so that results below twice the modulus stay so without a subtraction after each
/// product.
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

/// A number that is worked on: on the stack, with room for the longest, as long as the modulus.
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
    fn zero(count: usize) -> Self {
        Self {
            limbs: [0; MOST_LIMBS],
            count,
        }
    }

    /// Big-endian bytes in `count` limbs; `None` if they need more.
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

    /// As big-endian bytes, as many as there is room for.
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

/// Memory for one product.
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
    /// `None` for an even number. `bits` is the length of `number` (big-endian, no leading zeros).
    pub(super) fn new(number: &[u8], bits: usize) -> Option<Self> {
        let limbs_of = |width: usize| bits.saturating_add(2).div_ceil(width).next_multiple_of(2);
        let (width, count) = if limbs_of(28) <= MOST_WIDE_LIMBS {
            (28, limbs_of(28))
        } else {
            (26, limbs_of(26))
        };
        let limbs = Number::split(number, width, count)?.to_vec();
        let lowest = limbs.first().copied().filter(|limb| limb & 1 == 1)?;
        // Newton's iteration doubles the good bits of an inverse, of which an odd number's own
        // lowest three are the first.
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

    pub(super) fn bits(&self) -> usize {
        self.bits
    }

    /// `base` to the power `exponent` (odd and not 1) in `out`, as many bytes as the modulus has;
    /// `None` if `base` is not below the modulus.
    pub(super) fn power<'o>(
        &self,
        base: &[u8],
        exponent: u64,
        out: &'o mut Bytes,
    ) -> Option<&'o mut [u8]> {
        let base = Number::split(base, self.width, self.limbs.len())?;
        if !less(&base, &self.limbs) {
            return None;
        }
        let mut scratch = Scratch::NEW;
        let mut value = base;
        self.multiply(&mut value, &self.square_of_r, &mut scratch);
        let in_form = value;
        // From the second highest bit down to the second lowest; the lowest is handled below.
        let bits = u64::BITS.saturating_sub(exponent.leading_zeros());
        for bit in (1..bits.saturating_sub(1)).rev() {
            self.square(&mut value, &mut scratch);
            if exponent >> bit & 1 == 1 {
                self.multiply(&mut value, &in_form, &mut scratch);
            }
        }
        // The lowest bit of an odd exponent: the base as it is, not in Montgomery form, takes the
        // result out of that form.
        self.square(&mut value, &mut scratch);
        self.multiply(&mut value, &base, &mut scratch);
        if !less(&value, &self.limbs) {
            subtract(&mut value, &self.limbs, self.width);
        }
        let out = out.get_mut(..self.bits.div_ceil(8))?;
        value.join(self.width, out);
        Some(out)
    }

    /// R² mod n: doublings from a power of two below n up to R · 2^(a quarter of R's bits), then
    /// two squarings, each of which doubles the exponent over R.
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

    /// a becomes a · b / R modulo n, below 2n if a · b is below 4n².
    fn multiply(&self, a: &mut [u32], b: &[u32], scratch: &mut Scratch) {
        let count = self.limbs.len();
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

    /// a becomes a · a / R modulo n: each pair of different limbs once, doubled.
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

    /// Montgomery's reduction of the columns. The low half chooses a multiple of n that makes it
    /// vanish, the high half is the result.
    fn reduce(&self, scratch: &mut Scratch, result: &mut [u32]) {
        let (count, n) = (self.limbs.len(), self.limbs.as_slice());
        let Scratch { columns, quotient } = scratch;
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
            let products = inner(quotient.get(from..count), n.get(from..));
            let sum = carry.wrapping_add(*sum).wrapping_add(products);
            *limb = low(sum, self.width);
            carry = sum >> self.width;
        }
    }
}

/// The sum of a₀·bₖ + a₁·bₖ₋₁ + …: one column of a product. It wraps for nothing that this file
/// makes (see [`MOST_WIDE_LIMBS`]).
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

#[cfg(test)]
#[path = "montgomery_tests.rs"]
mod tests;
