//! The groups of P-256, P-384 and P-521: y² = x³ − 3x + b, in Jacobian coordinates (X/Z², Y/Z³)
//! with Z = 0 at infinity.
//!
//! The formulas are those of the Explicit-Formulas Database (hyperelliptic.org/EFD,
//! "g1p/jacobian-3"). They fail if a point is added to itself or to its negative. An attacker can
//! choose signatures that reach these cases, so each addition checks for them.

use core::fmt::Debug;
use core::marker::PhantomData;

use super::field::Field;
use super::window::Group;

/// A curve with its constants.
pub trait Curve: Copy + Debug + PartialEq + 'static {
    /// Field of the coordinates.
    type Field: Field;
    /// Length of the order in bits.
    const BITS: usize;
    /// Coefficient b, big-endian.
    const B: &'static [u8];
    /// Coordinates of the generator, big-endian.
    const GENERATOR: (&'static [u8], &'static [u8]);
}

/// A point other than infinity, in affine coordinates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine<F> {
    x: F,
    y: F,
}

impl<F: Field> Affine<F> {
    /// Returns the point with these big-endian coordinates; `None` if one of them is not below the
    /// prime, or they are not on the curve.
    pub(crate) fn on_curve<C: Curve<Field = F>>(x: &[u8], y: &[u8]) -> Option<Self> {
        let (x, y, b) = (F::from_bytes(x)?, F::from_bytes(y)?, F::from_bytes(C::B)?);
        // x³ − 3x + b
        let right = x.square().sub(&F::ONE.times(3)).reduce().mul(&x).add(&b);
        y.square().sub(&right).is_zero().then_some(Self { x, y })
    }
}

/// A point in Jacobian coordinates, as sums produce it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Jacobian<F> {
    pub(crate) x: F,
    y: F,
    pub(crate) z: F,
}

impl<F: Field> Jacobian<F> {
    const INFINITY: Self = Self {
        x: F::ONE,
        y: F::ONE,
        z: F::ZERO,
    };

    fn from_affine(point: &Affine<F>) -> Self {
        // A negated y has negative limbs. Without the reduction, the first addition would exceed
        // the limits of `field`.
        Self {
            x: point.x,
            y: point.y.reduce(),
            z: F::ONE,
        }
    }

    /// Doubles the point by "dbl-2001-b", with 2·Y·Z for (Y + Z)² − Y² − Z². Infinity stays
    /// infinity.
    fn double(&self) -> Self {
        let delta = self.z.square();
        let gamma = self.y.square();
        let beta = self.x.mul(&gamma);
        let alpha = self
            .x
            .sub(&delta)
            .mul(&self.x.add(&delta))
            .times(3)
            .reduce();
        let x = alpha.square().sub(&beta.times(8)).reduce();
        let z = self.y.times(2).mul(&self.z);
        let y = F::mul_sub(
            &alpha,
            &beta.times(4).sub(&x).reduce(),
            &gamma.times(8).reduce(),
            &gamma,
        );
        Self { x, y, z }
    }

    /// Adds a point by "madd", the classical mixed addition (Cohen, Miyaji, Ono 1998): 8 products
    /// and 3 squares.
    fn add(&self, other: &Affine<F>) -> Self {
        if self.z.is_zero() {
            return Self::from_affine(other);
        }
        let zz = self.z.square();
        let h = other.x.mul(&zz).sub(&self.x);
        let r = other.y.mul(&self.z.mul(&zz)).sub(&self.y);
        if h.is_zero() {
            // The x coordinates are equal: it is the same point or its negative.
            return if r.is_zero() {
                self.double()
            } else {
                Self::INFINITY
            };
        }
        let hh = h.square();
        let hhh = h.mul(&hh);
        let v = self.x.mul(&hh);
        let x = r.square().sub(&hhh).sub(&v.times(2)).reduce();
        let y = F::mul_sub(&r, &v.sub(&x), &self.y, &hhh);
        Self {
            x,
            y,
            z: self.z.mul(&h),
        }
    }
}

/// The group of a curve's points.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points<C>(PhantomData<C>);

impl<C: Curve> Group for Points<C> {
    type Point = Affine<C::Field>;
    type Entry = Affine<<C::Field as Field>::Packed>;
    type Sum = Jacobian<C::Field>;
    type Element = C::Field;
    const BITS: usize = C::BITS;
    const NEUTRAL: Self::Sum = Jacobian::INFINITY;
    const ONE: C::Field = C::Field::ONE;

    fn entry(point: &Self::Point) -> Self::Entry {
        Affine {
            x: point.x.pack(),
            y: point.y.pack(),
        }
    }

    fn add(sum: &Self::Sum, entry: &Self::Entry, negative: bool) -> Self::Sum {
        let (x, y) = (C::Field::unpack(&entry.x), C::Field::unpack(&entry.y));
        // The negative of (x, y) is (x, −y).
        sum.add(&Affine {
            x,
            y: if negative { C::Field::ZERO.sub(&y) } else { y },
        })
    }

    fn double(sum: &Self::Sum) -> Self::Sum {
        sum.double()
    }

    fn denominator(sum: &Self::Sum) -> C::Field {
        sum.z
    }

    fn product(a: &C::Field, b: &C::Field) -> C::Field {
        a.mul(b)
    }

    fn invert(element: &C::Field) -> Option<C::Field> {
        element.invert()
    }

    fn point(sum: &Self::Sum, inverse: &C::Field) -> Self::Point {
        // x = X/Z², y = Y/Z³.
        let square = inverse.square();
        Affine {
            x: sum.x.mul(&square),
            y: sum.y.mul(&square.mul(inverse)),
        }
    }
}

#[cfg(test)]
#[path = "weierstrass_tests.rs"]
mod tests;
