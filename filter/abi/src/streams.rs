//! The callbacks for streams.
//!
//! The SDK's callbacks keep a boxed context for every stream and look it up in several maps, which
//! costs 0.7 µs a request in Envoy. The callbacks here only forward the proxy's calls.
//!
//! The SDK exports its callbacks under the names of the ABI, and these exports cannot be left out
//! at compile time. The exports here therefore have other names, and the step after linking
//! (`filter/postlink`) renames them to those of the ABI. Root contexts remain the SDK's.

use std::sync::OnceLock;

/// Receivers of the callbacks.
#[derive(Clone, Copy, Debug)]
pub struct Callbacks {
    /// Called for a new context: that of a stream, with the root context of its configuration, or a
    /// root context, whose own root is 0.
    pub created: fn(context: u32, root: u32),
    /// Called for the headers of a stream's request. Returns true to continue the request, and
    /// false if the request is paused or has been responded to.
    pub request_headers: fn(stream: u32) -> bool,
    /// Called when a call of a root context has finished; its response has a body of `body_size`
    /// bytes.
    pub call_finished: fn(root: u32, token: u32, body_size: usize),
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

/// Registers the receivers for the whole VM. Only the first call has an effect.
pub fn pass_on(callbacks: Callbacks) {
    let _already = CALLBACKS.set(callbacks);
}

/// Makes the SDK drop a root context, which must be deleted already.
///
/// Call it only in [`Callbacks::created`], and not during a callback of a root context: inside its
/// own callbacks, the SDK panics.
pub fn forget_root(root: u32) {
    #[cfg(target_arch = "wasm32")]
    exports::proxy_on_delete(root);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = root;
}

#[cfg(target_arch = "wasm32")]
#[expect(
    unsafe_code,
    reason = "an export has a fixed name, and the SDK's can only be called by theirs; see the \
              SAFETY notes"
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
        // The SDK still needs to create root contexts, but not those of streams.
        if root == 0 {
            proxy_on_context_create(context, root);
        }
    }

    /// Replaces the SDK's callback, which panics on a call that was not made through the SDK.
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
        /// Values of `proxy_action_t`.
        const CONTINUE: u32 = 0;
        const PAUSE: u32 = 1;
        // Fails closed: without receivers, the request stays paused.
        let goes_on = CALLBACKS
            .get()
            .is_some_and(|callbacks| (callbacks.request_headers)(context));
        if goes_on { CONTINUE } else { PAUSE }
    }
}
