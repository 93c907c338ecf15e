//! Memory that the host fills, reused across calls.

use std::cell::Cell;
use std::ops::Deref;

/// Data written by the host: the first bytes of a block, whose memory can be reused.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    pub(crate) block: Vec<u8>,
    pub(crate) size: usize,
}

impl From<Vec<u8>> for Filled {
    fn from(block: Vec<u8>) -> Self {
        Self {
            size: block.len(),
            block,
        }
    }
}

impl Deref for Filled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.get(..self.size).unwrap_or_default()
    }
}

impl Filled {
    /// Returns the bytes in their own memory.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        self.block.truncate(self.size);
        self.block
    }

    /// Returns the memory for reuse, with the old data zeroed. If a host announces a range without
    /// writing to it, the module must not read data of an earlier call there.
    pub(crate) fn into_block(mut self) -> Vec<u8> {
        self.block.get_mut(..self.size).unwrap_or_default().fill(0);
        self.block
    }
}

#[cfg(target_arch = "wasm32")]
impl Filled {
    /// Returns the data that the host provides in this call, in `block` if that is large enough.
    /// Returns `None` if the host's status is not 0.
    ///
    /// # Safety
    /// The call must be a host call that returns its status, and only the host may write to
    /// `Given`.
    #[expect(
        unsafe_code,
        reason = "memory from the host comes as pointer and size; see the SAFETY notes"
    )]
    pub(crate) unsafe fn by(block: Vec<u8>, call: impl FnOnce(&mut Given) -> u32) -> Option<Self> {
        // The host either fills the lent block or allocates its own; the addresses tell which.
        let mut given = Given::NOTHING;
        let (status, lent) = lending(block, || call(&mut given));
        match lent {
            Some(block) if status == 0 && block.as_ptr() == given.data => Some(Self {
                size: given.size,
                block,
            }),
            Some(_) => None,
            // SAFETY: nothing but the host has written to it, and no block was lent.
            None => unsafe { given.take(status) }.map(Self::from),
        }
    }
}

/// Address and size that the host writes for the data it provides.
#[cfg(target_arch = "wasm32")]
pub(crate) struct Given {
    pub(crate) data: *mut u8,
    pub(crate) size: usize,
}

#[cfg(target_arch = "wasm32")]
impl Given {
    const NOTHING: Self = Self {
        data: core::ptr::null_mut(),
        size: 0,
    };

    /// Takes over the data that the host provided with this status.
    ///
    /// # Safety
    /// Only the host may have written to the fields, in a call in which no block was lent.
    #[expect(
        unsafe_code,
        reason = "memory from the host comes as pointer and size; see the SAFETY note"
    )]
    unsafe fn take(self, status: u32) -> Option<Vec<u8>> {
        if status != 0 {
            return None;
        }
        if self.data.is_null() {
            return Some(Vec::new());
        }
        // SAFETY: the range was allocated by the SDK's proxy_on_memory_allocate as a boxed slice of
        // exactly `size` bytes, was filled by the host, and now belongs to the caller (ABI 0.2.1,
        // "Memory ownership"). The SDK takes it over in the same way.
        Some(unsafe { Vec::from_raw_parts(self.data, self.size, self.size) })
    }
}

/// A block that the host may use instead of a new allocation.
enum Block {
    None,
    Offered(Vec<u8>),
    Lent(Vec<u8>),
}

thread_local! {
    static BLOCK: Cell<Block> = const { Cell::new(Block::None) };
}

/// Typical size of a browser's request headers behind a proxy.
const LIKELY_BYTES: usize = 4096;

/// Runs a host call that may use `block`: the first range for which the host requests memory is
/// lent from it, if it is large enough. Returns the result of the call, and the lent block if the
/// host took one.
///
/// INVARIANT: the returned block is initialised from end to end.
fn lending<T>(block: Vec<u8>, call: impl FnOnce() -> T) -> (T, Option<Vec<u8>>) {
    // A host may call back into the module before or after it takes the block, and the callback may
    // make calls of its own. Saving the outer state keeps each call's block separate.
    let before = BLOCK.replace(Block::Offered(block));
    let result = call();
    match BLOCK.replace(before) {
        Block::Lent(block) => (result, Some(block)),
        Block::None | Block::Offered(_) => (result, None),
    }
}

/// Lends the offered block, if any, to a host that requests `size` bytes.
fn lend(size: usize) -> Option<*mut u8> {
    match BLOCK.replace(Block::None) {
        Block::Offered(mut block) => {
            // Zeroed memory: the caller may read all of the block.
            if block.len() < size {
                block = vec![0; size.max(LIKELY_BYTES)];
            }
            let data = block.as_mut_ptr();
            BLOCK.set(Block::Lent(block));
            Some(data)
        }
        other => {
            BLOCK.set(other);
            None
        }
    }
}

#[cfg(target_arch = "wasm32")]
#[expect(
    unsafe_code,
    reason = "an export has a fixed name, and the SDK's can only be called by it; see the SAFETY \
              notes"
)]
mod exports {
    // SAFETY: name and signature are those of the SDK (proxy-wasm 0.2.5, allocator.rs), which is
    // linked into every module that uses this crate; it is a safe function there.
    unsafe extern "C" {
        safe fn proxy_on_memory_allocate(size: usize) -> *mut u8;
    }

    // SAFETY: no other function has this name.
    #[unsafe(no_mangle)]
    extern "C" fn meshseal_on_memory_allocate(size: usize) -> *mut u8 {
        super::lend(size).unwrap_or_else(|| proxy_on_memory_allocate(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_offered_block_once() {
        let block = vec![0; 100];
        let place = block.as_ptr();
        let (lent, filled) = lending(block, || [lend(100), lend(1)]);
        assert_eq!(lent, [Some(place.cast_mut()), None]);
        assert_eq!(
            filled.map(|block| (block.as_ptr(), block.len())),
            Some((place, 100))
        );
        assert_eq!(lend(1), None, "nothing is offered between calls");
    }

    #[test]
    fn replaces_block_that_is_too_short() {
        for (size, length) in [(1, LIKELY_BYTES), (LIKELY_BYTES + 1, LIKELY_BYTES + 1)] {
            let (lent, filled) = lending(Vec::new(), || lend(size));
            assert_eq!(
                filled.map(|mut block| (Some(block.as_mut_ptr()), block.len())),
                Some((lent, length))
            );
        }
    }

    #[test]
    fn nested_calls_use_separate_blocks() {
        for outer_first in [true, false] {
            let blocks = [vec![0; 100], vec![0; 100]];
            let places = blocks
                .each_ref()
                .map(|block| Some(block.as_ptr().cast_mut()));
            let [outer, inner] = blocks;
            let mut outer_lent = None;
            let ((inner_lent, inner), outer) = lending(outer, || {
                if outer_first {
                    outer_lent = lend(1);
                }
                let called = lending(inner, || lend(1));
                if !outer_first {
                    outer_lent = lend(1);
                }
                called
            });
            assert_eq!([outer_lent, inner_lent], places);
            assert_eq!(
                [outer, inner].map(|block| block.map(|mut block| block.as_mut_ptr())),
                places
            );
        }
    }

    #[test]
    fn clears_read_data_before_reuse() {
        let filled = Filled {
            block: vec![8, 1, 7],
            size: 2,
        };
        assert_eq!(&*filled, [8, 1]);
        assert_eq!(filled.into_block(), [0, 0, 7]);
    }

    #[test]
    fn lends_nothing_without_request() {
        let ((), filled) = lending(vec![0; 100], || ());
        assert_eq!(filled, None);
    }
}
