//! Byte comparison for the request path.

/// Returns whether both slices are equal (eight bytes per step; the compiler's own comparison takes
/// one byte per step in wasm).
///
/// Not constant-time, so not for secrets.
#[must_use]
#[inline]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    // The last eight bytes are compared as one word, which may overlap the word before.
    if let (Some(left_end), Some(right_end)) = (left.last_chunk::<8>(), right.last_chunk::<8>()) {
        let (lefts, rights) = (left.as_chunks::<8>().0, right.as_chunks::<8>().0);
        left_end == right_end && lefts.iter().zip(rights).all(|(left, right)| left == right)
    } else if let (Some(left_end), Some(right_end)) =
        (left.last_chunk::<4>(), right.last_chunk::<4>())
    {
        left_end == right_end && left.first_chunk::<4>() == right.first_chunk::<4>()
    } else {
        left.iter().eq(right)
    }
}

/// Returns whether `bytes` contains `byte` (eight bytes per step).
#[must_use]
#[inline]
pub fn contains(bytes: &[u8], byte: u8) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let wanted = EACH.wrapping_mul(u64::from(byte));
    let (words, rest) = bytes.as_chunks::<8>();
    rest.contains(&byte)
        || words.iter().any(|word| {
            let word = u64::from_ne_bytes(*word) ^ wanted;
            // Hacker's Delight, "Find First 0-Byte": the result is nonzero if and only if the word
            // has a zero byte.
            word.wrapping_sub(EACH) & !word & EACH << 7 != 0
        })
}

#[cfg(test)]
mod tests {
    use super::{contains, equal};
    use alloc::vec::Vec;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn finds_difference_at_any_position() {
        for length in 0..20_u8 {
            let bytes: Vec<u8> = (0..length).collect();
            assert!(equal(&bytes, &bytes.clone()));
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] ^= 0x80;
                assert!(!equal(&bytes, &other), "{at} of {length}");
                assert!(!equal(&bytes, &bytes[..at]), "{at} of {length}");
            }
        }
    }

    #[test]
    fn finds_byte_at_any_position() {
        for length in 0..20_u8 {
            for other in [0, b',' ^ 1, b',' ^ 0x80, 0xff] {
                let mut bytes = alloc::vec![other; usize::from(length)];
                assert!(!contains(&bytes, b','), "{length} of {other}");
                for at in 0..bytes.len() {
                    bytes[at] = b',';
                    assert!(contains(&bytes, b','), "{at} of {length} {other}");
                    bytes[at] = other;
                }
            }
        }
    }
}
