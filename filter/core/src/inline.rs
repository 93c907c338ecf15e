//! Short strings stored inline, without a heap allocation.

use core::fmt;

/// A string of at most `N` bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inline<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Inline<N> {
    /// Copies a string; returns `None` if it is longer than `N` bytes.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; N];
        bytes
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        Some(Self {
            bytes,
            length: text.len(),
        })
    }

    /// Returns the string.
    pub(crate) fn as_str(&self) -> &str {
        // INVARIANT: `bytes[..length]` is valid UTF-8, copied from a `str`.
        self.bytes
            .get(..self.length)
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl<const N: usize> fmt::Debug for Inline<N> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), out)
    }
}
