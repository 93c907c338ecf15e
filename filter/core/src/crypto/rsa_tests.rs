//! Cases that Project Wycheproof's vectors (`tests/wycheproof.rs`) do not cover.

use alloc::vec::Vec;

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Encodes a message by RFC 8017 §9.1.1 for 2048 bits, where the first byte has no unused bits.
fn pss_encoding(digest: &[u8]) -> Vec<u8> {
    let salt = [7; 32];
    let hash = Sha256::new()
        .chain_update([0; 8])
        .chain_update(digest)
        .chain_update(salt)
        .finalize();
    let mut block = alloc::vec![0; 256 - 32 - 1 - 32 - 1];
    block.push(1);
    block.extend(salt);
    block
        .iter_mut()
        .zip(mgf1::<Sha256>(&hash))
        .for_each(|(byte, mask)| *byte ^= mask);
    block.extend(hash);
    block.push(0xbc);
    block
}

#[test]
fn pss_extra_leading_byte_must_be_zero() {
    let digest = Sha256::digest(b"text");
    for (front, fits) in [(0, true), (1, false)] {
        let mut encoded = [&[front][..], &pss_encoding(&digest)].concat();
        assert_eq!(
            pss_fits::<Sha256>(&digest, &mut encoded, 2049).is_some(),
            fits
        );
    }
}
