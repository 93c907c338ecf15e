//! Foreign functions: host functions outside of the ABI.

use std::cell::Cell;

use crate::memory::Filled;

/// Memory for arguments and results, kept for the next call.
#[derive(Default)]
struct Kept {
    arguments: Vec<u8>,
    answer: Vec<u8>,
}

/// Typical size of the arguments: a token and a key.
const LIKELY_BYTES: usize = 4096;

thread_local! {
    static KEPT: Cell<Kept> = const {
        Cell::new(Kept {
            arguments: Vec::new(),
            answer: Vec::new(),
        })
    };
}

/// Calls a foreign function of the host: `write` appends its arguments, `read` receives its result.
/// Returns `None` if the host does not have the function, does not support foreign functions or
/// rejects the arguments, and always in a native build.
pub fn call_foreign_function<T>(
    name: &str,
    write: impl FnOnce(&mut Vec<u8>),
    read: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    // Taken out of the thread-local, so that a nested call cannot see these arguments.
    let Kept {
        mut arguments,
        answer,
    } = KEPT.take();
    arguments.clear();
    // One allocation up front avoids growing step by step with longer tokens.
    arguments.reserve(LIKELY_BYTES);
    write(&mut arguments);
    let answer = call(name, &arguments, answer);
    let result = answer.as_deref().map(read);
    KEPT.set(Kept {
        arguments,
        answer: answer.map(Filled::into_block).unwrap_or_default(),
    });
    result
}

#[cfg(not(target_arch = "wasm32"))]
fn call(_name: &str, _arguments: &[u8], _block: Vec<u8>) -> Option<Filled> {
    None
}

#[cfg(target_arch = "wasm32")]
#[expect(
    unsafe_code,
    reason = "a host function can only be imported and called as unsafe; see the SAFETY notes"
)]
fn call(name: &str, arguments: &[u8], block: Vec<u8>) -> Option<Filled> {
    // SAFETY: name and signature are those of proxy_call_foreign_function in the ABI 0.2.1.
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_call_foreign_function(
            name: *const u8,
            name_size: usize,
            arguments: *const u8,
            arguments_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
    }
    // SAFETY: the host only reads the two ranges, which live until it returns, writes one pointer
    // and one size to where the last two arguments point, and returns its status.
    unsafe {
        Filled::by(block, |given| {
            proxy_call_foreign_function(
                name.as_ptr(),
                name.len(),
                arguments.as_ptr(),
                arguments.len(),
                &mut given.data,
                &mut given.size,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_reuse_memory_without_old_arguments() {
        let mut seen = Vec::new();
        for arguments in [&[1; 10][..], &[2; 3]] {
            let answer = call_foreign_function(
                "any",
                |out| {
                    out.extend_from_slice(arguments);
                    seen.push((out.clone(), out.as_ptr()));
                },
                <[u8]>::len,
            );
            assert_eq!(answer, None);
        }
        let [(first, place), (second, same_place)] = seen.as_slice() else {
            panic!("two calls")
        };
        assert_eq!(
            (&**first, &**second, place),
            (&[1; 10][..], &[2; 3][..], same_place)
        );
    }
}
