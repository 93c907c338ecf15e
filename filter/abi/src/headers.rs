//! Header maps as the ABI lays them out: how they are read, written, and received.

use std::cell::Cell;
use std::ops::Deref;

use crate::host;
use crate::memory::Filled;

/// A header map as the ABI lays it out; [`Pairs`] reads it. Every request brings one, so its memory
/// serves the next.
#[derive(Debug, Default)]
pub struct HeaderMap {
    filled: Filled,
}

/// The longest block that is kept for the next request: what Envoy takes by default (60 KiB), and
/// not what a single long request has left.
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
        let block = core::mem::take(&mut self.filled.block);
        if (1..=MAX_KEPT_BYTES).contains(&block.len()) {
            let _ended = KEPT.try_with(|kept| kept.set(block));
        }
    }
}

/// The headers of the request in the effective stream, repeated ones repeated. Empty where the host
/// has none to give, and natively.
#[must_use]
pub fn request_headers() -> HeaderMap {
    host::pairs(host::REQUEST_HEADERS, KEPT.take())
}

/// The pairs of a header map as the ABI lays it out, in order. Ends early where the layout is
/// wrong.
#[derive(Clone, Debug)]
pub struct Pairs<'m> {
    sizes: &'m [u8],
    texts: &'m [u8],
}

impl<'m> Pairs<'m> {
    /// Of a whole map.
    #[must_use]
    pub fn of(map: &'m [u8]) -> Self {
        let split = || {
            let (count, rest) = map.split_first_chunk::<4>()?;
            let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
            let (sizes, texts) = rest.split_at_checked(count.checked_mul(8)?)?;
            Some(Self { sizes, texts })
        };
        split().unwrap_or(Self {
            sizes: &[],
            texts: &[],
        })
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
        // A zero byte follows each text.
        let (name, rest) = self.texts.split_at_checked(name_size)?;
        let (value, rest) = rest.get(1..)?.split_at_checked(value_size)?;
        (self.sizes, self.texts) = (more_sizes, rest.get(1..)?);
        Some((name, value))
    }
}

/// Lays out a header map: the count, the sizes of all names and values, then each followed by a
/// zero byte.
#[must_use]
pub fn header_map(headers: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)]) -> Vec<u8> {
    let texts = || {
        headers
            .iter()
            .flat_map(|(name, value)| [name.as_ref(), value.as_ref()])
    };
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

/// wasm32 addresses fit 32 bits.
fn length(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_map_is_laid_out_as_the_abi_says() {
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
    fn what_was_laid_out_is_read_back_and_no_further_than_it_goes() {
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
    fn the_memory_of_a_map_serves_the_next_unless_it_is_very_long() {
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
    fn no_headers_are_a_count_of_zero() {
        assert_eq!(header_map(&[("", ""); 0]), [0, 0, 0, 0]);
    }
}
