//! Header maps in the layout of the ABI: reading, writing and receiving them.

use std::cell::Cell;
use std::ops::Deref;

use crate::memory::Filled;

/// A header map in the layout of the ABI; [`Pairs`] reads it. Every request has one, so its memory
/// is kept for the next request.
#[derive(Debug, Default)]
pub struct HeaderMap {
    filled: Filled,
}

/// Maximum size of a block that is kept for the next request: Envoy's default limit for headers (60
/// KiB), so that one oversized request does not hold memory.
const MAX_KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    static KEPT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl From<Vec<u8>> for HeaderMap {
    fn from(map: Vec<u8>) -> Self {
        Self { filled: map.into() }
    }
}

impl From<Filled> for HeaderMap {
    fn from(filled: Filled) -> Self {
        Self { filled }
    }
}

impl Deref for HeaderMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.filled
    }
}

impl Drop for HeaderMap {
    fn drop(&mut self) {
        // An empty block is not worth keeping.
        let block = core::mem::take(&mut self.filled.block);
        if (1..=MAX_KEPT_BYTES).contains(&block.len()) {
            // The thread-local value may already be destroyed when the VM ends.
            let _ended = KEPT.try_with(|kept| kept.set(block));
        }
    }
}

/// Returns the memory of an earlier request's header map, for the next one.
pub(crate) fn kept() -> Vec<u8> {
    KEPT.take()
}

/// Iterator over the pairs of a header map in the layout of the ABI, in order. It ends early if the
/// layout is invalid.
#[derive(Clone, Debug)]
pub struct Pairs<'m> {
    sizes: &'m [u8],
    texts: &'m [u8],
}

impl<'m> Pairs<'m> {
    /// Iterates over a whole map.
    #[must_use]
    pub fn of(map: &'m [u8]) -> Self {
        Self::split(map).unwrap_or(Self {
            sizes: &[],
            texts: &[],
        })
    }

    /// Separates the sizes from the texts; returns `None` if the map is shorter than its sizes.
    fn split(map: &'m [u8]) -> Option<Self> {
        let (count, rest) = map.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let (sizes, texts) = rest.split_at_checked(count.checked_mul(8)?)?;
        Some(Self { sizes, texts })
    }
}

impl<'m> Iterator for Pairs<'m> {
    type Item = (&'m [u8], &'m [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (sizes, more_sizes) = self.sizes.split_first_chunk::<8>()?;
        let [n0, n1, n2, n3, v0, v1, v2, v3] = *sizes;
        let name_size = usize::try_from(u32::from_le_bytes([n0, n1, n2, n3])).ok()?;
        let value_size = usize::try_from(u32::from_le_bytes([v0, v1, v2, v3])).ok()?;
        // A zero byte follows each name and value.
        let (name, rest) = self.texts.split_at_checked(name_size)?;
        let (value, rest) = rest.get(1..)?.split_at_checked(value_size)?;
        (self.sizes, self.texts) = (more_sizes, rest.get(1..)?);
        Some((name, value))
    }
}

/// Encodes a header map: the count, the sizes of all names and values, then each name and value
/// followed by a zero byte.
#[must_use]
pub fn header_map(headers: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)]) -> Vec<u8> {
    let texts = || {
        headers
            .iter()
            .flat_map(|(name, value)| [name.as_ref(), value.as_ref()])
    };
    // Four bytes for the count; each name and value takes four for its size and one for the zero.
    let mut bytes = Vec::with_capacity(texts().map(|text| text.len() + 5).sum::<usize>() + 4);
    bytes.extend_from_slice(&length(headers.len()));
    for text in texts() {
        bytes.extend_from_slice(&length(text.len()));
    }
    for text in texts() {
        bytes.extend_from_slice(text);
        bytes.push(0);
    }
    bytes
}

/// Encodes a size. Addresses in wasm32 fit into 32 bits.
fn length(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_map_has_abi_layout() {
        let bytes = header_map(&[("a", "bc"), ("de", "")]);
        let expected: &[u8] = &[
            2, 0, 0, 0, // two pairs
            1, 0, 0, 0, 2, 0, 0, 0, // sizes of the first
            2, 0, 0, 0, 0, 0, 0, 0, // sizes of the second
            b'a', 0, b'b', b'c', 0, b'd', b'e', 0, 0,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn pairs_read_back_within_bounds() {
        let map = header_map(&[("a", "bc"), ("de", "")]);
        let pairs: [(&[u8], &[u8]); 2] = [(b"a", b"bc"), (b"de", b"")];
        assert!(Pairs::of(&map).eq(pairs));
        for end in 0..map.len() {
            let read = Pairs::of(&map[..end]).count();
            assert!(read < 2, "{end}");
        }
        let huge = [255, 255, 255, 255, 0, 0];
        assert_eq!(Pairs::of(&huge).count(), 0);
    }

    #[test]
    fn reuses_memory_of_all_but_large_maps() {
        for (length, kept) in [(MAX_KEPT_BYTES + 1, 0), (MAX_KEPT_BYTES, MAX_KEPT_BYTES)] {
            KEPT.take();
            let map = HeaderMap {
                filled: Filled {
                    block: vec![7; length],
                    size: 3,
                },
            };
            assert_eq!(*map, [7; 3]);
            drop(map);
            assert_eq!(KEPT.take().len(), kept);
        }
    }

    #[test]
    fn empty_map_has_count_zero() {
        assert_eq!(header_map(&[("", ""); 0]), [0, 0, 0, 0]);
    }
}
