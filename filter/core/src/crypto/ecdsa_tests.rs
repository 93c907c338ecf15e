use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// FIPS 186-5 §6.4.2 step 1: r and s from 1 to n − 1.
fn range<C: Ecdsa>(order: &[u8]) {
    let length = C::Field::LENGTH;
    let order = &order[order.len() - length..];
    let small = |last: u8| {
        let mut number = alloc::vec![0; length];
        number[length - 1] = last;
        number
    };
    let mut greatest = order.to_vec();
    greatest[length - 1] -= 1;
    let taken =
        |r: &[u8], s: &[u8]| <C::Order as Order<C::Field>>::demand(&[1; 32], r, s).is_some();
    for good in [small(1), greatest] {
        assert!(taken(&good, &good));
        for bad in [&small(0), order, &alloc::vec![0xff; length]] {
            assert!(!taken(&good, bad) && !taken(bad, &good));
        }
    }
}

#[test]
fn r_and_s_are_in_range() {
    range::<P256>(OrderP256::PARAMS.modulus().to_be_bytes().as_ref());
    range::<P384>(OrderP384::PARAMS.modulus().to_be_bytes().as_ref());
    range::<P521>(OrderP521::PARAMS.modulus().to_be_bytes().as_ref());
}

/// r + n is a candidate only below the prime: p − n is some 2^128 in P-256.
#[test]
fn x_has_one_or_two_candidates() {
    let candidates = |r: u8, high: u8| {
        let mut number = [0; 32];
        (number[0], number[31]) = (high, r);
        let mut one = [0; 32];
        one[31] = 1;
        let demand = <OrderOfP256 as Order<field::P256>>::demand(&[1; 32], &number, &one).unwrap();
        1 + usize::from(demand.other_x.is_some())
    };
    assert_eq!(candidates(5, 0), 2);
    assert_eq!(candidates(5, 0x80), 1);
}

type OrderOfP256 = <P256 as Ecdsa>::Order;
