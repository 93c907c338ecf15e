//! ECDSA on P-256, P-384 and P-521 (RFC 7518 §3.4, FIPS 186-5 §6.4.2): verification only, on public
//! data, in variable time.

use alloc::borrow::Cow;
use core::convert::Infallible;

use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{CheckedAdd as _, U256, U384, U576, Uint, const_monty_params};
use jwt_compact::Algorithm;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::Fixed;
use super::field::{self, Field};
use super::weierstrass::{Affine, Curve, Points};
use super::window::{Group as _, Table, sum_of_two};
use crate::jose::Alg;

/// An ECDSA public key: a point of the curve other than infinity. The curves have prime order, so
/// every such point has the full order.
#[derive(Clone, Debug, PartialEq)]
pub struct EcKey<C: Curve>(Affine<C::Field>);

impl<C: Ecdsa> EcKey<C> {
    /// Builds a key from big-endian coordinates of full length; returns `None` unless they are a
    /// point of the curve.
    pub(crate) fn new(x: &[u8], y: &[u8]) -> Option<Self> {
        Affine::on_curve::<C>(x, y).map(Self)
    }

    /// Returns the generator of the curve.
    fn generator() -> Option<Affine<C::Field>> {
        Affine::on_curve::<C>(C::GENERATOR.0, C::GENERATOR.1)
    }

    /// Returns an empty table of the key's multiples.
    pub(crate) fn table(&self, width: u32) -> Table<Points<C>> {
        Table::new(self.0, width)
    }

    /// Returns an empty table of the generator's multiples.
    pub(crate) fn generator_table(width: u32) -> Option<Table<Points<C>>> {
        Self::generator().map(|point| Table::new(point, width))
    }
}

/// Bytes of the longest scalar, padded to the width of its integer type.
const SCALAR: usize = 72;

/// Inputs of the group operation, from a signature without the key: u₁ and u₂ in little-endian
/// bytes, and the acceptable x coordinates. These are r, and r + n if that is below the prime (n is
/// the order).
struct Demand<F> {
    generator_times: [u8; SCALAR],
    key_times: [u8; SCALAR],
    x: F,
    other_x: Option<F>,
}

/// A curve with its order and the hash that JOSE pairs with it.
pub trait Ecdsa: Curve {
    /// Algorithm of this curve.
    const ALG: Alg;
    /// Hash whose digests are not longer than the order.
    type Hash: Digest;
    #[doc(hidden)]
    type Order: Order<Self::Field>;
}

/// Integers modulo the order of a curve over `F`.
pub trait Order<F> {
    #[doc(hidden)]
    #[expect(
        private_interfaces,
        reason = "no code outside of this crate can name this trait"
    )]
    fn demand(digest: &[u8], r: &[u8], s: &[u8]) -> Option<Demand<F>>;
}

/// The order of a curve, in the parameters of crypto-bigint.
#[derive(Clone, Copy, Debug)]
pub struct Integers<M, const LIMBS: usize>(core::marker::PhantomData<M>);

impl<F: Field, M: ConstMontyParams<LIMBS>, const LIMBS: usize> Order<F> for Integers<M, LIMBS> {
    #[expect(
        private_interfaces,
        reason = "no code outside of this crate can name this trait"
    )]
    fn demand(digest: &[u8], r: &[u8], s: &[u8]) -> Option<Demand<F>> {
        let order = M::PARAMS.modulus();
        // FIPS 186-5 §6.4.2 step 1: r and s lie in 1 to n − 1.
        let in_range = |bytes: &[u8]| {
            integer::<LIMBS>(bytes)
                .filter(|number| *number != Uint::ZERO && number < order.as_ref())
        };
        let (r, s) = (in_range(r)?, in_range(s)?);
        // u₁ = e/s and u₂ = r/s modulo n.
        let inverse = s.invert_odd_mod_vartime(order).into_option()?;
        let inverse = ConstMontyForm::<M, LIMBS>::new(&inverse);
        let times = |number: &Uint<LIMBS>| {
            little_endian(&ConstMontyForm::new(number).mul(&inverse).retrieve())
        };
        let x = |number: &Uint<LIMBS>| {
            let bytes = number.to_be_bytes();
            let (front, bytes) = bytes
                .as_ref()
                .split_at_checked(bytes.as_ref().len().checked_sub(F::LENGTH)?)?;
            if front.iter().all(|byte| *byte == 0) {
                F::from_bytes(bytes)
            } else {
                None
            }
        };
        // The comparison is modulo n, and x may exceed n: r + n is the only other candidate.
        let other = r.checked_add(order.as_ref()).into_option();
        Some(Demand {
            generator_times: times(&integer(digest)?)?,
            key_times: times(&r)?,
            x: x(&r)?,
            other_x: other.and_then(|number| x(&number)),
        })
    }
}

/// Reads a big-endian integer; returns `None` if it is too long.
fn integer<const LIMBS: usize>(big_endian: &[u8]) -> Option<Uint<LIMBS>> {
    let mut padded = [0; SCALAR];
    let padded = padded.get_mut(..Uint::<LIMBS>::BYTES)?;
    let from = padded.len().checked_sub(big_endian.len())?;
    padded.get_mut(from..)?.copy_from_slice(big_endian);
    Some(Uint::from_be_slice(padded))
}

/// Returns the little-endian bytes of a scalar.
fn little_endian<const LIMBS: usize>(number: &Uint<LIMBS>) -> Option<[u8; SCALAR]> {
    let mut bytes = [0; SCALAR];
    bytes
        .get_mut(..Uint::<LIMBS>::BYTES)?
        .copy_from_slice(number.to_le_bytes().as_ref());
    Some(bytes)
}

/// Tables of the generator and of one key, both complete.
pub(crate) type Tables<'t, C> = (&'t Table<Points<C>>, &'t Table<Points<C>>);

/// Verifies a signature; returns `Some` if it is valid.
fn verify<C: Ecdsa>(
    key: &EcKey<C>,
    tables: Option<Tables<'_, C>>,
    message: &[u8],
    signature: &[u8],
) -> Option<()> {
    let (r, s) = signature.split_at_checked(C::Field::LENGTH)?;
    let demand = <C::Order as Order<C::Field>>::demand(&C::Hash::digest(message), r, s)?;
    let Demand {
        generator_times,
        key_times,
        x,
        other_x,
    } = &demand;
    // u₁·G + u₂·Q.
    let sum = if let Some((generator, key)) = tables {
        key.add_multiple(
            generator.add_multiple(Points::<C>::NEUTRAL, generator_times),
            key_times,
        )
    } else {
        let generator = EcKey::<C>::generator()?;
        sum_of_two::<Points<C>>([(&generator, generator_times), (&key.0, key_times)])?
    };
    // Infinity has no x coordinate.
    if sum.z.is_zero() {
        return None;
    }
    // The affine x is X/Z². Comparing x·Z² with X needs no division.
    let zz = sum.z.square();
    let is = |x: &C::Field| x.mul(&zz).sub(&sum.x).is_zero();
    (is(x) || other_x.as_ref().is_some_and(is)).then_some(())
}

/// ECDSA with the hash of its curve; r and s are as long as coordinates (RFC 7518 §3.4).
pub(crate) struct Es<'t, C: Ecdsa>(pub(crate) Option<Tables<'t, C>>);

macro_rules! algorithm {
    ($curve:ident, $length:literal) => {
        impl Algorithm for Es<'_, $curve> {
            type SigningKey = Infallible;
            type VerifyingKey = EcKey<$curve>;
            type Signature = Fixed<$length>;

            fn name(&self) -> Cow<'static, str> {
                Cow::Borrowed($curve::ALG.name())
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
    };
}

algorithm!(P256, 64);
algorithm!(P384, 96);
algorithm!(P521, 132);

/// Converts hexadecimal digits of a constant to bytes.
const fn bytes<const LENGTH: usize>(hex: &str) -> [u8; LENGTH] {
    const fn nibble(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit.wrapping_sub(b'0'),
            _ => digit.wrapping_sub(b'a').wrapping_add(10),
        }
    }
    let mut rest = hex.as_bytes();
    let mut bytes = [0; LENGTH];
    let mut left: &mut [u8] = &mut bytes;
    while let ([high, low, hex @ ..], [byte, others @ ..]) = (rest, left) {
        *byte = nibble(*high) << 4 | nibble(*low);
        (rest, left) = (hex, others);
    }
    bytes
}

macro_rules! curve {
    ($(#[$doc:meta])* $name:ident, $field:path, $hash:ident, $alg:ident,
     $bits:literal bits, $length:literal bytes,
     order $params:ident: $uint:ident $order:literal, b $b:literal,
     generator $x:literal, $y:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name;

        const_monty_params!($params, $uint, $order);

        impl Curve for $name {
            type Field = $field;
            const BITS: usize = $bits;
            const B: &'static [u8] = &bytes::<$length>($b);
            const GENERATOR: (&'static [u8], &'static [u8]) =
                (&bytes::<$length>($x), &bytes::<$length>($y));
        }

        impl Ecdsa for $name {
            const ALG: Alg = Alg::$alg;
            type Hash = $hash;
            type Order = Integers<$params, { $uint::LIMBS }>;
        }
    };
}

curve! {
    /// P-256 with SHA-256 (SP 800-186 §3.2.1.3).
    P256, field::P256, Sha256, Es256, 256 bits, 32 bytes,
    order OrderP256: U256 "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    b "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
    generator "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
}

curve! {
    /// P-384 with SHA-384 (SP 800-186 §3.2.1.4).
    P384, field::P384, Sha384, Es384, 384 bits, 48 bytes,
    order OrderP384: U384 "ffffffffffffffffffffffffffffffffffffffffffffffff\
        c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    b "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875a\
        c656398d8a2ed19d2a85c8edd3ec2aef",
    generator "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a38\
        5502f25dbf55296c3a545e3872760ab7",
        "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c0\
        0a60b1ce1d7e819d7a431d7c90ea0e5f"
}

curve! {
    /// P-521 with SHA-512 (SP 800-186 §3.2.1.5).
    P521, field::P521, Sha512, Es512, 521 bits, 66 bytes,
    order OrderP521: U576 "00000000000001ffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        fffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
    b "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e1\
        56193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
    generator "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dba\
        a14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66",
        "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c\
        97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650"
}

#[cfg(test)]
#[path = "ecdsa_tests.rs"]
mod tests;
