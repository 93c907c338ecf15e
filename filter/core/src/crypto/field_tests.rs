use alloc::vec::Vec;

use crypto_bigint::{NonZero, Uint};
use proptest::prelude::*;

use super::*;

/// Generates bytes of a number below the prime, often at an edge: 0, 1, p − 1, long runs of ones or
/// zeros.
fn number(prime: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let length = prime.len();
    let run = (0..length * 8, 0..length * 8, any::<bool>()).prop_map(move |(from, to, ones)| {
        (0..length)
            .map(|byte| {
                let bits = byte * 8..byte * 8 + 8;
                bits.map(|at| u8::from((from..to).contains(&at) == ones) << (7 - at % 8))
                    .sum()
            })
            .collect::<Vec<u8>>()
    });
    let near = (any::<u8>(), any::<bool>()).prop_map({
        let prime = prime.clone();
        move |(small, top)| {
            let mut near = if top {
                prime.clone()
            } else {
                alloc::vec![0; length]
            };
            let last = near.last_mut().unwrap();
            *last = if top {
                last.wrapping_sub(small | 1)
            } else {
                small
            };
            near
        }
    });
    let any = prop::collection::vec(any::<u8>(), length);
    prop_oneof![2 => any, 2 => run, 1 => near].prop_map(move |mut bytes| {
        if bytes >= prime {
            bytes[0] &= prime[0] >> 1;
        }
        bytes
    })
}

/// Generates an element through sums and differences as the formulas do, with the number that it
/// represents.
fn shifted<F: Field, const L: usize>(
    number: &[u8],
    by: &[u8],
    way: u8,
    prime: &NonZero<Uint<L>>,
) -> (F, Uint<L>) {
    let (a, b) = (F::from_bytes(number).unwrap(), F::from_bytes(by).unwrap());
    let (x, y) = (uint(number), uint(by));
    match way {
        0 => (a, x),
        1 => (a.sub(&b), x.sub_mod(&y, prime)),
        2 => (F::ZERO.sub(&a), x.neg_mod(prime)),
        3 => (
            a.sub(&b).times(8).reduce(),
            (0..3).fold(x.sub_mod(&y, prime), |z, _| z.add_mod(&z, prime)),
        ),
        _ => (
            a.sub(&b).sub(&b).reduce(),
            x.sub_mod(&y, prime).sub_mod(&y, prime),
        ),
    }
}

/// Generates limbs of a result of [`Field::mul`], most of them at their minimum or maximum.
fn extreme<const N: usize>(mask: i64, highest: i64) -> impl Strategy<Value = [i64; N]> {
    let limb = prop_oneof![3 => Just(mask), 2 => Just(0), 1 => 0..=mask];
    (prop::array::uniform::<_, N>(limb), 0..=highest).prop_map(|(mut limbs, top)| {
        limbs[N - 1] = top;
        limbs
    })
}

fn uint<const L: usize>(bytes: &[u8]) -> Uint<L> {
    let mut padded = alloc::vec![0; Uint::<L>::BYTES - bytes.len()];
    padded.extend_from_slice(bytes);
    Uint::from_be_slice(&padded)
}

fn same<F: Field, const L: usize>(element: F, expected: Uint<L>) -> Result<(), TestCaseError> {
    prop_assert_eq!(uint::<L>(element.to_bytes().as_ref()), expected);
    prop_assert_eq!(element.is_zero(), expected == Uint::ZERO);
    let packed = F::unpack(&element.pack());
    prop_assert_eq!(uint::<L>(packed.to_bytes().as_ref()), expected);
    Ok(())
}

macro_rules! field_tests {
    ($name:ident, $field:ident, $uint:ident, $prime:literal) => {
        mod $name {
            use super::*;
            #[cfg(target_arch = "wasm32")]
            use wasm_bindgen_test::wasm_bindgen_test as test;

            fn prime() -> NonZero<$uint> {
                NonZero::new($uint::from_be_hex($prime)).unwrap()
            }

            fn prime_bytes() -> Vec<u8> {
                prime().to_be_bytes().as_ref()[$uint::BYTES - $field::LENGTH..].to_vec()
            }

            #[test]
            fn accepts_numbers_below_prime_only() {
                let prime = prime_bytes();
                assert!($field::from_bytes(&prime).is_none());
                assert!($field::from_bytes(&alloc::vec![0xff; prime.len()]).is_none());
                assert!($field::from_bytes(&prime[1..]).is_none());
                assert!($field::from_bytes(&alloc::vec![0; prime.len() + 1]).is_none());
                assert!($field::from_bytes(&alloc::vec![1; 200]).is_none());
                assert!($field::ZERO.invert().is_none());
                assert!($field::ZERO.is_zero() && !$field::ONE.is_zero());
                assert!($field($field::P).is_zero());
                assert!($field($field::P).times(-5).is_zero());
            }

            proptest! {
                #![proptest_config(ProptestConfig { failure_persistence: None,
                    ..ProptestConfig::default() })]

                #[test]
                fn arithmetic_agrees_with_crypto_bigint(
                    a in number(prime_bytes()), b in number(prime_bytes()),
                    c in number(prime_bytes()),
                    d in number(prime_bytes()), ways in prop::array::uniform4(0..5_u8),
                ) {
                    let p = prime();
                    let by = [&b, &c, &d, &a];
                    let [(a, x), (b, y), (c, z), (d, w)] =
                        [(0_usize, &a), (1, &b), (2, &c), (3, &d)].map(|(at, number)| {
                            shifted::<$field, { $uint::LIMBS }>(number, by[at], ways[at], &p)
                        });
                    let times = |x: $uint, y: $uint| x.mul_mod_vartime(&y, &p);
                    same(a, x)?;
                    same(a.mul(&b), times(x, y))?;
                    same(a.square(), times(x, x))?;
                    same($field::mul_sub(&a, &b, &c, &d), times(x, y).sub_mod(&times(z, w), &p))?;
                    same(a.add(&b), x.add_mod(&y, &p))?;
                    same(a.sub(&b), x.sub_mod(&y, &p))?;
                    same(a.sub(&a), $uint::ZERO)?;
                    if let Some(inverse) = a.invert() {
                        same(inverse.mul(&a), $uint::ONE)?;
                    } else {
                        prop_assert!(a.is_zero());
                    }
                }

                /// Products of the largest allowed factors equal those of their reduced forms.
                #[test]
                fn limbs_may_be_as_large_as_promised(
                    limbs in prop::array::uniform4(
                        extreme($field::MASK, $field::P[$field::P.len() - 1]),
                    ),
                ) {
                    let [a, b, c, d] = limbs.map($field);
                    let [e, f, g, h] = [&a, &b, &c, &d]
                        .map(|x: &$field| $field::from_bytes(&x.to_bytes()).unwrap());
                    let same = |x: $field, y: $field| x.to_bytes() == y.to_bytes();
                    let (less, more, other) = (a.sub(&b), a.add(&b), c.sub(&d));
                    prop_assert!(same(less.mul(&other), e.sub(&f).mul(&g.sub(&h))));
                    prop_assert!(same(less.square(), e.sub(&f).square()));
                    prop_assert!(same(more.mul(&other), e.add(&f).mul(&g.sub(&h))));
                    prop_assert!(same($field::mul_sub(&less, &other, &c, &d),
                        $field::mul_sub(&e.sub(&f), &g.sub(&h), &g, &h)));
                    prop_assert!(same($field::unpack(&less.pack()), e.sub(&f)));
                    let packed = less.pack();
                    let normal = 0..=$field::MASK;
                    prop_assert!(packed.iter().all(|limb| normal.contains(&i64::from(*limb))));
                }
            }
        }
    };
}

field_tests!(
    p256,
    P256,
    U256,
    "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff"
);
field_tests!(
    p384,
    P384,
    U384,
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe\
     ffffffff0000000000000000ffffffff"
);
field_tests!(
    p521,
    P521,
    U576,
    "00000000000001ffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
     ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
);
