//! Scalar multiplication with windows of signed digits over any group. With a table of all
//! multiples of a point, it needs additions only; otherwise it uses small tables and doublings.
//!
//! Signed digits halve a table: with width w they range from −2^(w−1) to 2^(w−1) (Brickell, Gordon,
//! McCurley, Wilson 1992; Möller 2001). The entries that are read depend on the scalar, which is
//! public here.

use alloc::vec;
use alloc::vec::Vec;

/// Widest window: a digit must fit into two adjacent bytes of the scalar.
pub(crate) const WIDEST: u32 = 8;

/// Narrowest window that is worth a table.
pub(crate) const NARROWEST: u32 = 4;

/// Width of a window without a precomputed table: fifteen additions make its entries, and one
/// addition follows each five doublings.
const WIDTH_WITHOUT_TABLE: u32 = 5;

/// Number of multiples that a digit of this width can select.
const HALF_WITHOUT_TABLE: usize = 1 << (WIDTH_WITHOUT_TABLE - 1);

/// Length in bits of the longest scalars: those of P-521.
const MOST_BITS: usize = 521;

/// Number of digits of this width in the longest scalar.
const DIGITS_WITHOUT_TABLE: usize = digit_count(MOST_BITS, WIDTH_WITHOUT_TABLE);

/// A group for window multiplication.
pub(crate) trait Group {
    /// A point other than the neutral element, as a base of multiplication.
    type Point: Copy;
    /// A table entry: the same point in a form that is fast to add.
    type Entry: Copy;
    /// Result of additions: a point with a denominator.
    type Sum: Copy;
    /// Type of a denominator.
    type Element: Copy;
    /// Length of scalars in bits, at most [`MOST_BITS`].
    const BITS: usize;
    /// Neutral element.
    const NEUTRAL: Self::Sum;
    /// Denominator 1.
    const ONE: Self::Element;

    /// Converts a point to a table entry.
    fn entry(point: &Self::Point) -> Self::Entry;
    /// Adds an entry or its negative.
    fn add(sum: &Self::Sum, entry: &Self::Entry, negative: bool) -> Self::Sum;
    /// Doubles a sum.
    fn double(sum: &Self::Sum) -> Self::Sum;
    /// Returns the denominator of a sum.
    fn denominator(sum: &Self::Sum) -> Self::Element;
    /// Multiplies two denominators.
    fn product(a: &Self::Element, b: &Self::Element) -> Self::Element;
    /// Inverts a denominator; returns `None` for zero.
    fn invert(element: &Self::Element) -> Option<Self::Element>;
    /// Converts a sum to a point, given the inverse of its denominator.
    fn point(sum: &Self::Sum, inverse: &Self::Element) -> Self::Point;
}

/// A multiple, with the product of the denominators of all multiples before it.
type Step<G> = (<G as Group>::Sum, <G as Group>::Element);

/// Fills `row` with 1, 2, … times the base and returns twice the last multiple. `steps` must be one
/// longer than `row`.
///
/// One inversion serves all entries (Montgomery 1987). Returns `None` only if one of the multiples
/// is neutral.
fn multiples<G: Group>(
    base: &G::Point,
    steps: &mut [Step<G>],
    row: &mut [G::Entry],
) -> Option<G::Point> {
    let base = G::entry(base);
    let (last, others) = steps.split_last_mut()?;
    let (mut sum, mut product) = (G::NEUTRAL, G::ONE);
    // Forward pass: the multiples, and the products of their denominators.
    for step in others.iter_mut() {
        sum = G::add(&sum, &base, false);
        *step = (sum, product);
        product = G::product(&product, &G::denominator(&sum));
    }
    *last = (G::double(&sum), product);
    // Backward pass: each denominator's inverse from the inverse of the whole product.
    let mut inverse = G::invert(&G::product(&product, &G::denominator(&last.0)))?;
    let mut point = |(sum, before): &Step<G>| {
        let own = G::product(&inverse, before);
        inverse = G::product(&inverse, &G::denominator(sum));
        G::point(sum, &own)
    };
    let next = point(last);
    for (step, entry) in others.iter().zip(row).rev() {
        *entry = G::entry(&point(step));
    }
    Some(next)
}

/// Iterator over the signed digits of a little-endian scalar, lowest first.
struct Digits<'s> {
    scalar: &'s [u8],
    width: u32,
    at: usize,
    left: usize,
    carry: u32,
}

/// Returns the number of digits of a scalar below 2^bits, with one bit more for the last carry.
const fn digit_count(bits: usize, width: u32) -> usize {
    bits.saturating_add(1).div_ceil(step(width))
}

/// Converts a width to a number of bits; never zero, so that it can divide.
#[expect(clippy::as_conversions, reason = "a few bits fit into any usize")]
const fn step(width: u32) -> usize {
    if width == 0 { 1 } else { width as usize }
}

impl<'s> Digits<'s> {
    fn new(scalar: &'s [u8], bits: usize, width: u32) -> Self {
        Self {
            scalar,
            width,
            at: 0,
            left: digit_count(bits, width),
            carry: 0,
        }
    }
}

/// A digit: its absolute value and its sign (true for negative).
type Digit = (usize, bool);

impl Iterator for Digits<'_> {
    type Item = Digit;

    fn next(&mut self) -> Option<Digit> {
        self.left = self.left.checked_sub(1)?;
        let byte = |at: usize| self.scalar.get(at).copied().unwrap_or(0);
        // A digit is cut from the two bytes in which it starts.
        let first = self.at / 8;
        let pair = u16::from_le_bytes([byte(first), byte(first.saturating_add(1))]);
        let full = 1_u32 << self.width;
        let value = (u32::from(pair) >> (self.at & 7)) & full.wrapping_sub(1);
        let value = value.saturating_add(self.carry);
        self.at = self.at.saturating_add(step(self.width));
        // A digit above half the base becomes negative and carries one into the next digit.
        let negative = value > full / 2;
        self.carry = u32::from(negative);
        let times = if negative {
            full.saturating_sub(value)
        } else {
            value
        };
        Some((usize::try_from(times).unwrap_or(0), negative))
    }
}

/// Adds the multiple that a digit selects; the digit 0 selects none.
fn add_digit<G: Group>(sum: G::Sum, row: &[G::Entry], (times, negative): Digit) -> G::Sum {
    match times.checked_sub(1).and_then(|at| row.get(at)) {
        Some(entry) => G::add(&sum, entry, negative),
        None => sum,
    }
}

/// Table with every multiple of a point that a digit can select, for every digit position.
#[derive(Clone)]
pub(crate) struct Table<G: Group> {
    width: u32,
    rows: Vec<Vec<G::Entry>>,
    /// Base of the next row; `None` when the table is complete or cannot be built.
    next: Option<G::Point>,
}

impl<G: Group> Table<G> {
    /// Creates an empty table for the multiples of `base`; [`Table::advance`] fills it.
    pub(crate) fn new(base: G::Point, width: u32) -> Self {
        Self {
            width,
            rows: Vec::new(),
            next: Some(base),
        }
    }

    /// Builds one row: at most 128 additions, and one inversion for all of them.
    pub(crate) fn advance(&mut self) {
        // `next` stays `None` if the row fails, so that a bad table is not retried forever.
        let Some(base) = self.next.take() else { return };
        let count = row_entries(G::BITS, self.width, self.rows.len());
        let mut steps = vec![(G::NEUTRAL, G::ONE); count.saturating_add(1)];
        let mut row = vec![G::entry(&base); count];
        if let Some(next) = multiples::<G>(&base, &mut steps, &mut row) {
            self.rows.push(row);
            self.next = (self.rows.len() < digit_count(G::BITS, self.width)).then_some(next);
        }
    }

    /// Returns whether the table is complete.
    pub(crate) fn is_ready(&self) -> bool {
        self.rows.len() == digit_count(G::BITS, self.width)
    }

    /// Returns whether [`Table::advance`] has more rows to build.
    pub(crate) fn is_growing(&self) -> bool {
        self.next.is_some()
    }

    /// Returns `sum` plus scalar times the point. The table must be complete.
    pub(crate) fn add_multiple(&self, sum: G::Sum, scalar: &[u8]) -> G::Sum {
        let digits = Digits::new(scalar, G::BITS, self.width);
        self.rows
            .iter()
            .zip(digits)
            .fold(sum, |sum, (row, digit)| add_digit::<G>(sum, row, digit))
    }

    /// Returns the size of this table in bytes when it is complete.
    pub(crate) fn bytes(&self) -> usize {
        Self::bytes_of(self.width)
    }

    /// Returns the size in bytes of a complete table of this width.
    pub(crate) fn bytes_of(width: u32) -> usize {
        let entries: usize = (0..digit_count(G::BITS, width))
            .map(|row| row_entries(G::BITS, width, row))
            .sum();
        entries.saturating_mul(size_of::<G::Entry>())
    }
}

/// Returns the number of entries of a row: half the values of a digit. The last digit has only the
/// remaining bits.
fn row_entries(bits: usize, width: u32, row: usize) -> usize {
    let before = row.saturating_mul(step(width));
    let own = bits
        .saturating_add(1)
        .saturating_sub(before)
        .min(step(width));
    1_usize << own.saturating_sub(1)
}

/// One of two points to multiply and add, with its window entries and digits.
struct Term<G: Group> {
    row: [G::Entry; HALF_WITHOUT_TABLE],
    digits: [Digit; DIGITS_WITHOUT_TABLE],
}

impl<G: Group> Term<G> {
    fn new(point: &G::Point, scalar: &[u8]) -> Option<Self> {
        const { assert!(G::BITS <= MOST_BITS, "the array holds every digit") };
        let mut term = Self {
            row: [G::entry(point); _],
            digits: [(0, false); _],
        };
        multiples::<G>(
            point,
            &mut [(G::NEUTRAL, G::ONE); HALF_WITHOUT_TABLE + 1],
            &mut term.row,
        )?;
        let digits = Digits::new(scalar, G::BITS, WIDTH_WITHOUT_TABLE);
        term.digits
            .iter_mut()
            .zip(digits)
            .for_each(|(place, digit)| *place = digit);
        Some(term)
    }
}

/// Computes a·A + b·B without precomputed tables (Straus 1964): both products share the doublings.
pub(crate) fn sum_of_two<G: Group>(points: [(&G::Point, &[u8]); 2]) -> Option<G::Sum> {
    let [(a, times_a), (b, times_b)] = points;
    let terms = [Term::<G>::new(a, times_a)?, Term::new(b, times_b)?];
    let mut sum = G::NEUTRAL;
    // From the highest digit down: double, then add both digits.
    for place in (0..digit_count(G::BITS, WIDTH_WITHOUT_TABLE)).rev() {
        for _ in 0..WIDTH_WITHOUT_TABLE {
            sum = G::double(&sum);
        }
        for Term { row, digits } in &terms {
            sum = add_digit::<G>(sum, row, digits.get(place).copied().unwrap_or((0, false)));
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Integers under addition. Window multiplication treats them as any other group.
    #[derive(Clone, Debug)]
    struct Integers;

    impl Group for Integers {
        type Point = i128;
        type Entry = i128;
        type Sum = i128;
        type Element = ();
        const BITS: usize = 61;
        const NEUTRAL: i128 = 0;
        const ONE: () = ();

        fn entry(point: &i128) -> i128 {
            *point
        }

        fn add(sum: &i128, entry: &i128, negative: bool) -> i128 {
            if negative { sum - entry } else { sum + entry }
        }

        fn double(sum: &i128) -> i128 {
            2 * sum
        }

        fn denominator(_sum: &i128) {}

        fn product((): &(), (): &()) {}

        fn invert((): &()) -> Option<()> {
            Some(())
        }

        fn point(sum: &i128, (): &()) -> i128 {
            *sum
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn windows_multiply_any_scalar(a in edge(), b in edge(), width in NARROWEST..=WIDEST) {
            let mut table = Table::<Integers>::new(3, width);
            while table.is_growing() {
                prop_assert!(!table.is_ready());
                table.advance();
            }
            prop_assert!(table.is_ready());
            let held: usize = table.rows.iter().map(|row| size_of_val(row.as_slice())).sum();
            prop_assert_eq!(held, table.bytes());
            prop_assert_eq!(table.add_multiple(7, &a.to_le_bytes()), 7 + 3 * i128::from(a));
            let sum = sum_of_two::<Integers>([(&3, &a.to_le_bytes()), (&-5, &b.to_le_bytes())]);
            prop_assert_eq!(sum, Some(3 * i128::from(a) - 5 * i128::from(b)));
        }
    }

    /// Generates scalars of up to 61 bits with long runs of ones and zeros.
    fn edge() -> impl Strategy<Value = u64> {
        let below = 1_u64 << Integers::BITS;
        prop_oneof![
            0..below,
            (0..61_u32, 0..61_u32).prop_map(|(a, b)| (1_u64 << a).abs_diff(1 << b)),
            Just(below - 1)
        ]
    }
}
