//! Compares the group with curve25519-dalek, and verdicts with ed25519-dalek's `verify_strict`.

use curve25519_dalek::EdwardsPoint;
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use proptest::prelude::*;

use super::super::window::{NARROWEST, WIDEST, sum_of_two};
use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn built(mut table: Table<Edwards>) -> Table<Edwards> {
    while table.is_growing() {
        table.advance();
    }
    assert!(table.is_ready());
    table
}

fn ours(point: &EdwardsPoint) -> Affine {
    Affine::decompress(point.compress().as_bytes()).unwrap()
}

fn scalar() -> impl Strategy<Value = Scalar> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(Scalar::from_bytes_mod_order),
        any::<u16>().prop_map(Scalar::from),
        any::<u16>().prop_map(|small| -Scalar::from(small)),
    ]
}

#[test]
fn small_order_list_is_complete() {
    for point in EIGHT_TORSION {
        let encoded = point.compress();
        assert!(SMALL_ORDER.contains(&parts(encoded.as_bytes()).0));
        let sum = Edwards::add(&Edwards::NEUTRAL, &Edwards::entry(&ours(&point)), false);
        assert_eq!(sum.encode().unwrap(), encoded.0);
    }
    assert_eq!(
        SMALL_ORDER.len(),
        5,
        "orders 1 and 2, one y of the two of order 4, two of the four of order 8"
    );
}

#[test]
fn rejects_encodings_without_point() {
    let (mut points, mut others) = (0, 0);
    for y in 2..=255_u8 {
        let mut encoded = [0; 32];
        encoded[0] = y;
        let theirs = curve25519_dalek::edwards::CompressedEdwardsY(encoded).decompress();
        assert_eq!(
            Affine::decompress(&encoded).is_some(),
            theirs.is_some(),
            "y = {y}"
        );
        *if theirs.is_some() {
            &mut points
        } else {
            &mut others
        } += 1;
    }
    assert!(points > 100 && others > 100);
}

/// Applies every kind of fault in R, s and the key, or none; verdicts must equal those of
/// `verify_strict`.
#[test]
fn agrees_with_dalek_verify_strict() {
    let generator = built(EdKey::generator_table(6));
    let mut accepted = 0;
    for seed in 0..6_u8 {
        let signer = SigningKey::from_bytes(&[seed; 32]);
        // Includes keys with a small-order component, which strict verification accepts.
        for torsion in EIGHT_TORSION {
            let point =
                curve25519_dalek::edwards::CompressedEdwardsY(signer.verifying_key().to_bytes())
                    .decompress();
            let encoded = (point.unwrap() + torsion).compress();
            let key = VerifyingKey::from_bytes(&encoded.0).unwrap();
            let ours = EdKey::new(&encoded.0).unwrap();
            let table = built(ours.table(5));
            for number in 0..24_u8 {
                let message = [number, seed];
                let good = signer.sign(&message).to_bytes();
                let mut tried = alloc::vec![good];
                let mut changed = good;
                changed[usize::from(number) * 64 / 24] ^= 1 << (seed & 7);
                tried.push(changed);
                // s + ℓ is a second encoding of the same number.
                let order = (-Scalar::ONE).to_bytes();
                let mut carry = 1_u16;
                let mut second = good;
                for (byte, order) in second[32..].iter_mut().zip(order) {
                    let sum = u16::from(*byte) + u16::from(order) + carry;
                    (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
                }
                tried.push(second);
                // R has small order, and s is chosen so that the equation may hold: R = s·B − k·A
                // with s = k·a.
                for small in EIGHT_TORSION {
                    let r = small.compress().0;
                    let hash = Sha512::new()
                        .chain_update(r)
                        .chain_update(key.as_bytes())
                        .chain_update(message);
                    let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
                    let mut crafted = [0; 64];
                    crafted[..32].copy_from_slice(&r);
                    crafted[32..].copy_from_slice((k * signer.to_scalar()).as_bytes());
                    tried.push(crafted);
                }
                for signature in tried {
                    let expected = key
                        .verify_strict(&message, &Signature::from_bytes(&signature))
                        .is_ok();
                    for tables in [Some((&generator, &table)), None] {
                        let verified = verify(&ours, tables, &message, &signature).is_some();
                        assert_eq!(verified, expected, "{encoded:?} {message:?} {signature:?}");
                    }
                    accepted += usize::from(expected);
                }
            }
        }
    }
    assert!(accepted >= 100, "only {accepted} accepted");
}

#[test]
fn rejects_key_of_small_order() {
    for point in EIGHT_TORSION {
        assert_eq!(
            EdKey::new(&point.compress().0).unwrap_err(),
            EdProblem::SmallOrder
        );
    }
}

#[test]
fn key_has_one_encoding() {
    // y = 3 and y = 3 + p encode the same point.
    let mut encoded = [0; 32];
    encoded[0] = 3;
    assert_eq!(EdKey::new(&encoded).map(|key| key.encoded), Ok(encoded));
    let mut other = [0xff; 32];
    (other[0], other[31]) = (0xf0, 0x7f);
    assert!(VerifyingKey::from_bytes(&other).is_ok(), "dalek takes it");
    assert_eq!(EdKey::new(&other), Err(EdProblem::NoPoint));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn sums_agree_with_dalek(a in scalar(), b in scalar(), c in scalar(),
        torsion in prop::sample::select(EIGHT_TORSION.to_vec()), width in NARROWEST..=WIDEST) {
        let point = ED25519_BASEPOINT_POINT * c + torsion;
        let expected = (ED25519_BASEPOINT_POINT * a + point * b).compress().0;
        let plain = sum_of_two::<Edwards>([(&generator(), a.as_bytes()),
            (&ours(&point), b.as_bytes())]).unwrap();
        prop_assert_eq!(plain.encode().unwrap(), expected);
        let tables = [built(EdKey::generator_table(width)), built(Table::new(ours(&point), width))];
        let sum = tables[0].add_multiple(Edwards::NEUTRAL, a.as_bytes());
        prop_assert_eq!(tables[1].add_multiple(sum, b.as_bytes()).encode().unwrap(), expected);
    }
}
