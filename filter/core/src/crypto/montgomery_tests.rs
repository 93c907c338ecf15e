use alloc::vec::Vec;

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use proptest::prelude::*;

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn bit_length(number: &[u8]) -> usize {
    number.len() * 8 - number[0].leading_zeros() as usize
}

fn modulus(number: &[u8]) -> Modulus {
    Modulus::new(number, bit_length(number)).unwrap()
}

fn power(number: &[u8], base: &[u8], exponent: u64) -> Option<Vec<u8>> {
    modulus(number)
        .power(base, exponent, &mut [0; _])
        .map(|power| power.to_vec())
}

/// Computes the same power with another library.
fn expected(number: &[u8], base: &[u8], exponent: u64) -> Vec<u8> {
    let bits = u32::try_from(number.len() * 8).unwrap();
    let params =
        BoxedMontyParams::new(Odd::new(BoxedUint::from_be_slice(number, bits).unwrap()).unwrap());
    let base = BoxedMontyForm::new(BoxedUint::from_be_slice(base, bits).unwrap(), &params);
    let power = base
        .pow(&BoxedUint::from(exponent))
        .retrieve()
        .to_be_bytes();
    power[power.len() - number.len()..].to_vec()
}

/// Generates moduli of every length modulo a limb and a byte, with random, all-one and sparse bits.
fn a_modulus() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        256..=260_usize,
        380..=400_usize,
        512..=520_usize,
        Just(1024)
    ];
    (bytes, 1..=255_u8, any::<u64>(), 0..3).prop_map(|(length, first, seed, kind)| {
        let mut number: Vec<u8> = match kind {
            0 => noise(seed, length),
            1 => alloc::vec![0xff; length],
            _ => alloc::vec![0; length],
        };
        number[0] = first;
        number[length - 1] |= 1;
        number
    })
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn minus(number: &[u8], small: u8) -> Vec<u8> {
    let mut number = number.to_vec();
    let mut borrow = small;
    for byte in number.iter_mut().rev() {
        let (difference, under) = byte.overflowing_sub(borrow);
        (*byte, borrow) = (difference, u8::from(under));
    }
    number
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn powers_agree_with_other_library(number in a_modulus(), seed in any::<u64>(), kind in 0..4,
        odd in prop::sample::select(alloc::vec![1_u64, 2, 3, 8, 32768, 4_294_967_295])) {
        let mut base = noise(seed, number.len());
        match kind {
            0 => base = minus(&number, 1),
            1 => base.fill(0),
            _ => base[0] %= number[0],
        }
        prop_assume!(base < number);
        let exponent = 2 * odd + 1;
        prop_assert_eq!(power(&number, &base, exponent).unwrap(),
            expected(&number, &base, exponent));
    }

    #[test]
    fn rejects_base_not_below_modulus(number in a_modulus(), seed in any::<u64>()) {
        prop_assert!(power(&number, &number, 3).is_none());
        let mut above = noise(seed, number.len());
        above[0] = 0xff;
        if above > number {
            prop_assert!(power(&number, &above, 3).is_none());
        }
        for more in [1, 16] {
            let mut longer = alloc::vec![0; number.len() + more];
            longer[0] = 0x10;
            prop_assert!(power(&number, &longer, 3).is_none());
        }
    }
}

/// Covers moduli whose limbs end within the last byte of a base of the same length: every bit of
/// the base must count.
#[test]
fn every_bit_of_the_base_counts() {
    for bits in (2048..2200).chain(3070..3180).chain(8180..=8192) {
        let length = usize::div_ceil(bits, 8);
        let mut number = alloc::vec![0_u8; length];
        number[0] = 1 << ((bits - 1) % 8);
        number[length - 1] = 1;
        let mut base = alloc::vec![0_u8; length];
        base[length - 1] = 2;
        let modulus = Modulus::new(&number, bits).unwrap();
        assert!(modulus.power(&base, 3, &mut [0; _]).is_some());
        for bit in (bits - 1) % 8..8 {
            base[0] = 1 << bit;
            assert!(
                modulus.power(&base, 3, &mut [0; _]).is_none(),
                "{bits} bits, bit {bit} of the first byte"
            );
        }
    }
}

#[test]
fn rejects_even_modulus() {
    assert!(Modulus::new(&minus(&[0xff; 256], 1), 2048).is_none());
}
