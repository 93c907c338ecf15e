//! The one call of the proxy-wasm ABI (0.2.1) that the SDK does not offer in full: `proxy_send_local_response` with response
//! code details and a gRPC status beside body and headers. The SDK's `send_http_response` always passes neither.
//!
//! The only unsafe code of the project: one import and its call, which hands read-only ranges to the host.
#![no_std]

extern crate alloc;

use alloc::vec::Vec;

/// A response that the proxy sends itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalResponse<'a> {
    /// HTTP status.
    pub status: u32,
    /// Response code details, for access logs. Envoy turns spaces into underscores.
    pub details: &'a str,
    /// Body; for a gRPC request the host makes it the `grpc-message`.
    pub body: &'a [u8],
    /// Additional headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// gRPC status for a gRPC request; -1 lets the host derive it from the HTTP status.
    pub grpc_status: i32,
}

/// The host refused, with its status code (proxy-wasm ABI 0.2.1, `proxy_status_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRefused(pub u32);

/// Sends a local response to the effective stream. The stream must be paused by the caller.
///
/// # Errors
/// [`HostRefused`]; natively always, because there is no host.
pub fn send_local_response(response: &LocalResponse<'_>) -> Result<(), HostRefused> {
    let headers = serialize(response.headers);
    let status = call(response, &headers);
    if status == 0 { Ok(()) } else { Err(HostRefused(status)) }
}

#[cfg(not(target_arch = "wasm32"))]
fn call(_response: &LocalResponse<'_>, _headers: &[u8]) -> u32 {
    const UNIMPLEMENTED: u32 = 12;
    UNIMPLEMENTED
}

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "a host function can only be imported and called as unsafe; see the SAFETY notes")]
fn call(response: &LocalResponse<'_>, headers: &[u8]) -> u32 {
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
    let (details, body) = (response.details, response.body);
    // SAFETY: the host only reads the three ranges, which live until it returns, and keeps none of the pointers.
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

/// A header map as the ABI has it: the count, the sizes of all names and values, then each followed by a zero byte.
fn serialize(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes =
        Vec::with_capacity(headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum::<usize>() + 4);
    bytes.extend_from_slice(&length(headers.len()));
    for (name, value) in headers {
        bytes.extend_from_slice(&length(name.len()));
        bytes.extend_from_slice(&length(value.len()));
    }
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(text.as_bytes());
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
        let bytes = serialize(&[("a", "bc"), ("de", "")]);
        let expected: &[u8] = &[
            2, 0, 0, 0, // two pairs
            1, 0, 0, 0, 2, 0, 0, 0, // sizes of the first
            2, 0, 0, 0, 0, 0, 0, 0, // sizes of the second
            b'a', 0, b'b', b'c', 0, b'd', b'e', 0, 0,
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn no_headers_are_a_count_of_zero() {
        assert_eq!(serialize(&[]), [0, 0, 0, 0]);
    }
}
