//! Compares the groups with the RustCrypto crates of the same curves, including sums with the same
//! point, with its negative and with infinity.

use alloc::vec::Vec;

use crypto_bigint::U256;

use super::super::ecdsa::{P256, P384, P521};
use super::super::window::{NARROWEST, Table, WIDEST, sum_of_two};
use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Returns the affine coordinates, big-endian; `None` at infinity.
fn coordinates<F: Field>(sum: &Jacobian<F>) -> Option<(Vec<u8>, Vec<u8>)> {
    let inverse = sum.z.invert()?;
    let square = inverse.square();
    let (x, y) = (sum.x.mul(&square), sum.y.mul(&square).mul(&inverse));
    Some((
        x.to_bytes().as_ref().to_vec(),
        y.to_bytes().as_ref().to_vec(),
    ))
}

macro_rules! group_tests {
    ($name:ident, $curve:ident, $crate_:ident) => {
        mod $name {
            use $crate_::elliptic_curve::ff::PrimeField as _;
            use $crate_::elliptic_curve::group::Group as _;
            use $crate_::elliptic_curve::ops::Reduce as _;
            use $crate_::elliptic_curve::sec1::ToSec1Point as _;
            use $crate_::{FieldBytes, ProjectivePoint, Scalar};

            use super::*;
            #[cfg(target_arch = "wasm32")]
            use wasm_bindgen_test::wasm_bindgen_test as test;

            fn theirs(point: &ProjectivePoint) -> Option<(Vec<u8>, Vec<u8>)> {
                let encoded = point.to_affine().to_sec1_point(false);
                Some((encoded.x()?.to_vec(), encoded.y()?.to_vec()))
            }

            fn ours(point: &ProjectivePoint) -> Affine<<$curve as Curve>::Field> {
                let (x, y) = theirs(point).unwrap();
                Affine::on_curve::<$curve>(&x, &y).unwrap()
            }

            fn bytes(scalar: &Scalar) -> Vec<u8> {
                scalar.to_repr().iter().rev().copied().collect()
            }

            /// Generates scalars at the edges and random ones.
            fn scalars() -> Vec<Scalar> {
                let mut scalars: Vec<Scalar> = [0_u64, 1, 2, 3, 15, 16, 17, 127, 128, 129, 255, 256]
                    .map(Scalar::from).into();
                scalars.extend([1_u64, 2, 3, 16, 128].map(|small| -Scalar::from(small)));
                let mut noise = Scalar::from(0x9e37_79b9_7f4a_7c15_u64);
                for round in 0..6_u64 {
                    noise = noise.square() + Scalar::from(round);
                    scalars.push(noise);
                }
                let all = FieldBytes::try_from(&alloc::vec![0x7f; FieldBytes::default().len()][..])
                    .unwrap();
                scalars.push(Scalar::reduce(&all));
                scalars
            }

            fn table(point: Affine<<$curve as Curve>::Field>, width: u32) -> Table<Points<$curve>> {
                let mut table = Table::new(point, width);
                while table.is_growing() {
                    table.advance();
                }
                assert!(table.is_ready());
                table
            }

            #[test]
            fn sums_agree_with_other_crates() {
                let generator = ours(&ProjectivePoint::GENERATOR);
                assert_eq!(Some(generator), Affine::on_curve::<$curve>($curve::GENERATOR.0,
                    $curve::GENERATOR.1));
                let scalars = scalars();
                for (at, key) in scalars.iter().enumerate().skip(1).step_by(7) {
                    let key_point = ProjectivePoint::GENERATOR * key;
                    let point = ours(&key_point);
                    let widths = [WIDEST - u32::try_from(at).unwrap() % 3,
                        NARROWEST + u32::try_from(at).unwrap() % 3];
                    let tables = [table(generator, widths[0]), table(point, widths[1])];
                    // Edge cases that depend on the key: u₁ + u₂·key = 0, and u₁ = ± u₂·key at the
                    // last addition.
                    let pitfalls = scalars.iter().flat_map(|b| [(-*b * key, *b), (*b * key, *b)]);
                    let all = scalars.iter().flat_map(|a| scalars.iter().map(move |b| (*a, *b)))
                        .skip(at % 4).step_by(3);
                    for (a, b) in all.chain(pitfalls) {
                        let expected = theirs(&(ProjectivePoint::GENERATOR * (a + b * key)));
                        let (a, b) = (bytes(&a), bytes(&b));
                        let plain = sum_of_two::<Points<$curve>>([(&generator, &a), (&point, &b)])
                            .unwrap();
                        assert_eq!(coordinates(&plain), expected);
                        let sum = tables[0].add_multiple(Points::<$curve>::NEUTRAL, &a);
                        assert_eq!(coordinates(&tables[1].add_multiple(sum, &b)), expected);
                    }
                }
            }

            #[test]
            fn adds_point_to_itself_and_negative() {
                let generator = ours(&ProjectivePoint::GENERATOR);
                let negative = ours(&-ProjectivePoint::GENERATOR);
                let double = ours(&ProjectivePoint::GENERATOR.double());
                let sum = Jacobian::from_affine(&generator);
                // Reaches G with a Z other than 1: G = 3G − 2G.
                let again = sum.add(&double).add(&ours(&-ProjectivePoint::GENERATOR.double()));
                for sum in [sum, again] {
                    assert_eq!(coordinates(&sum.add(&generator)),
                        theirs(&ProjectivePoint::GENERATOR.double()));
                    assert_eq!(coordinates(&sum.add(&negative)), None);
                    assert_eq!(coordinates(&sum.add(&negative).add(&double)),
                        coordinates(&sum.double()));
                }
                assert_eq!(coordinates(&Jacobian::<<$curve as Curve>::Field>::INFINITY.double()),
                    None);
            }

            #[test]
            fn points_are_on_the_curve() {
                let (x, y) = theirs(&(ProjectivePoint::GENERATOR * Scalar::from(0xbad_5eed_u64)))
                    .unwrap();
                assert!(Affine::on_curve::<$curve>(&x, &y).is_some());
                for byte in 0..x.len() {
                    for bit in 0..8 {
                        let (mut off_x, mut off_y) = (x.clone(), y.clone());
                        off_x[byte] ^= 1 << bit;
                        off_y[byte] ^= 1 << bit;
                        assert!(Affine::on_curve::<$curve>(&off_x, &y).is_none());
                        assert!(Affine::on_curve::<$curve>(&x, &off_y).is_none());
                    }
                }
                let zero = alloc::vec![0; x.len()];
                assert!(Affine::on_curve::<$curve>(&zero, &zero).is_none());
            }
        }
    };
}

group_tests!(p256_group, P256, p256);
group_tests!(p384_group, P384, p384);
group_tests!(p521_group, P521, p521);

/// Generates two points whose y has limbs of maximum size. The sum with a negated point must still
/// fit.
#[test]
fn negated_point_may_come_first() {
    let number = |hex: &str| U256::from_be_hex(hex).to_be_bytes();
    let y = number("ff007ee702ff7d18fd0082e801fffbf000fffe10fe0080d802fff9f000fffe0f");
    let [first, second] = [
        "7924fb940422573b45b7634debc1043603dc46774990bf02162d7db37fe1f7ee",
        "bdb047c743e1521fdd4f95b8d4b6825da09e77020dd1341e8f6ef826f4e02298",
    ]
    .map(|x| {
        Points::<P256>::entry(&Affine::on_curve::<P256>(number(x).as_ref(), y.as_ref()).unwrap())
    });
    let sum = |one: (_, bool), two: (_, bool)| {
        Points::<P256>::add(
            &Points::<P256>::add(&Jacobian::INFINITY, one.0, one.1),
            two.0,
            two.1,
        )
    };
    let other_way_round = sum((&second, false), (&first, true));
    assert_eq!(
        coordinates(&sum((&first, true), (&second, false))),
        coordinates(&other_way_round)
    );
}
