use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Step 1 of FIPS 186-5 §6.4.2 requires r and s from 1 to n − 1.
fn range<C: Ecdsa>(order: &[u8]) {
    let length = C::Field::LENGTH;
    let order = &order[order.len() - length..];
    let zero = alloc::vec![0; length];
    let mut one = zero.clone();
    one[length - 1] = 1;
    let mut greatest = order.to_vec();
    greatest[length - 1] -= 1;
    let taken =
        |r: &[u8], s: &[u8]| <C::Order as Order<C::Field>>::demand(&[1; 32], r, s).is_some();
    for good in [one, greatest] {
        assert!(taken(&good, &good));
        for bad in [&zero, order, &alloc::vec![0xff; length]] {
            assert!(!taken(&good, bad) && !taken(bad, &good));
        }
    }
}

#[test]
fn rejects_r_and_s_out_of_range() {
    range::<P256>(OrderP256::PARAMS.modulus().to_be_bytes().as_ref());
    range::<P384>(OrderP384::PARAMS.modulus().to_be_bytes().as_ref());
    range::<P521>(OrderP521::PARAMS.modulus().to_be_bytes().as_ref());
}

/// The second candidate r + n must be below the prime: p − n is about 2^128 for P-256.
#[test]
fn x_has_one_or_two_candidates() {
    fn candidates(r: u8, high: u8) -> usize {
        let mut number = [0; 32];
        (number[0], number[31]) = (high, r);
        let mut one = [0; 32];
        one[31] = 1;
        let demand = <OrderOfP256 as Order<field::P256>>::demand(&[1; 32], &number, &one).unwrap();
        1 + usize::from(demand.other_x.is_some())
    }
    assert_eq!(candidates(5, 0), 2);
    assert_eq!(candidates(5, 0x80), 1);
}

type OrderOfP256 = <P256 as Ecdsa>::Order;
