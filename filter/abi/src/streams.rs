//! The callbacks about streams. The SDK's own keep a boxed context for every stream and look for it
//! in several maps, which costs 0.7 µs a request in Envoy; these only pass on what the proxy says.
//!
//! The SDK's exports have the names that the ABI wants, and cannot be left out. So ours have names
//! of their own, and the step after linking (`filter/postlink`) gives them those of the ABI. Root
//! contexts stay the SDK's.

use std::sync::OnceLock;

/// Who hears of streams.
#[derive(Clone, Copy, Debug)]
pub struct Callbacks {
    /// A context has begun: a stream's, and the root context of its configuration; or a root
    /// context, whose own root is 0.
    pub created: fn(context: u32, root: u32),
    /// The headers of a stream's request have come. True if it may go on, false if it is held or
    /// has been answered.
    pub request_headers: fn(stream: u32) -> bool,
    /// A call that a root context made has finished; its response has a body of `body_size` bytes.
    pub call_finished: fn(root: u32, token: u32, body_size: usize),
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

/// Passes on what the proxy says of streams, from now on; the first caller is heard, once for the
/// VM.
pub fn pass_on(callbacks: Callbacks) {
    let _already = CALLBACKS.set(callbacks);
}

/// Lets the SDK forget a root context, which must be gone. Only in [`Callbacks::created`], and not
/// while a callback of a root context is under way: within its own callbacks the SDK panics.
pub fn forget_root(root: u32) {
    #[cfg(target_arch = "wasm32")]
    exports::proxy_on_delete(root);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = root;
}

#[cfg(target_arch = "wasm32")]
#[expect(
    unsafe_code,
    reason = "an export has a fixed name, and the SDK's can only be called by theirs; see the SAFETY notes"
)]
mod exports {
    use super::CALLBACKS;

    // SAFETY: names and signatures are those of the SDK (proxy-wasm 0.2.5, dispatcher.rs), which is
    // linked into every module that uses this crate; both are safe functions there.
    unsafe extern "C" {
        safe fn proxy_on_context_create(context: u32, root: u32);
        pub(super) safe fn proxy_on_delete(context: u32);
    }

    // SAFETY: no other function has this name.
    #[unsafe(no_mangle)]
    extern "C" fn meshseal_on_context_create(context: u32, root: u32) {
        if let Some(callbacks) = CALLBACKS.get() {
            (callbacks.created)(context, root);
        }
        if root == 0 {
            proxy_on_context_create(context, root);
        }
    }

    /// The SDK's panics on a call that was not made through the SDK.
    // SAFETY: no other function has this name.
    #[unsafe(no_mangle)]
    extern "C" fn meshseal_on_http_call_response(
        context: u32,
        token: u32,
        _headers: u32,
        body_size: usize,
        _trailers: u32,
    ) {
        if let Some(callbacks) = CALLBACKS.get() {
            (callbacks.call_finished)(context, token, body_size);
        }
    }

    // SAFETY: no other function has this name.
    #[unsafe(no_mangle)]
    extern "C" fn meshseal_on_request_headers(
        context: u32,
        _headers: u32,
        _end_of_stream: u32,
    ) -> u32 {
        /// `proxy_action_t`.
        const CONTINUE: u32 = 0;
        const PAUSE: u32 = 1;
        let goes_on = CALLBACKS
            .get()
            .is_some_and(|callbacks| (callbacks.request_headers)(context));
        if goes_on { CONTINUE } else { PAUSE }
    }
}
