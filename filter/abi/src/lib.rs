//! The proxy-wasm ABI (0.2.1) as the filter needs it: host calls that return every status as a
//! value ([`host`]), local responses with response code details and a gRPC status, header maps
//! without a copy of every name and value, foreign functions, and callbacks without a boxed context
//! for each stream ([`streams`]).
//!
//! This crate contains the project's only unsafe code: imports, their calls, and exports.

mod foreign;
mod headers;
pub mod host;
#[cfg_attr(
    not(any(target_arch = "wasm32", test)),
    expect(dead_code, reason = "a native build has no host that needs memory")
)]
mod memory;
pub mod streams;

pub use foreign::call_foreign_function;
pub use headers::{HeaderMap, Pairs, header_map};
pub use host::request_headers;

/// A response that the proxy sends itself, without the upstream.
#[derive(Clone, Copy, Debug)]
pub struct LocalResponse<'a> {
    /// HTTP status code.
    pub status: u32,
    /// Response code details, for access logs. Envoy turns spaces into underscores.
    pub details: &'a str,
    /// Body. For a gRPC request, the host sends it as `grpc-message`.
    pub body: &'a [u8],
    /// Additional headers in the layout of [`header_map`].
    pub headers: &'a [u8],
    /// gRPC status for a gRPC request; -1 lets the host derive it from the HTTP status.
    pub grpc_status: i32,
}

/// Error returned by the host: its status code (proxy-wasm ABI 0.2.1, `proxy_status_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRefused(pub u32);

/// Sends a local response to the effective stream. The stream must be paused by the caller.
///
/// # Errors
/// [`HostRefused`]. A native build has no host and always returns it.
pub fn send_local_response(response: &LocalResponse<'_>) -> Result<(), HostRefused> {
    let status = call(response);
    if status == 0 {
        Ok(())
    } else {
        Err(HostRefused(status))
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn call(_response: &LocalResponse<'_>) -> u32 {
    const UNIMPLEMENTED: u32 = 12;
    UNIMPLEMENTED
}

#[cfg(target_arch = "wasm32")]
#[expect(
    unsafe_code,
    reason = "a host function can only be imported and called as unsafe; see the SAFETY notes"
)]
fn call(response: &LocalResponse<'_>) -> u32 {
    // SAFETY: name and signature are those of proxy_send_local_response in the ABI 0.2.1.
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
    }
    let LocalResponse {
        details,
        body,
        headers,
        ..
    } = *response;
    // SAFETY: the host only reads the three ranges, which live until it returns, and keeps none of
    // the pointers.
    unsafe {
        proxy_send_local_response(
            response.status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            response.grpc_status,
        )
    }
}
