//! The parts of the proxy-wasm ABI (0.2.1) that the SDK does not offer as the filter needs them: `proxy_send_local_response` with
//! response code details and a gRPC status, `proxy_get_header_map_pairs` without a copy of every name and value,
//! `proxy_call_foreign_function` without a panic on a host that does not implement it, and the callbacks about streams without a
//! boxed context for each ([`streams`]).
//!
//! The only unsafe code of the project: three imports and their calls, and three exports.

pub mod streams;

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
    let headers = header_map(response.headers);
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

/// The headers of the request in the effective stream, repeated ones repeated, as the ABI lays a header map out; [`Pairs`] reads
/// it. Empty where the host has none to give, and natively.
#[must_use]
pub fn request_headers() -> Vec<u8> {
    #[cfg(target_arch = "wasm32")]
    return pairs_of_request();
    #[cfg(not(target_arch = "wasm32"))]
    Vec::new()
}

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "a host function can only be imported and called as unsafe; see the SAFETY notes")]
fn pairs_of_request() -> Vec<u8> {
    /// `HttpRequestHeaders` among the map types of the ABI.
    const REQUEST_HEADERS: u32 = 0;

    // SAFETY: name and signature are those of proxy_get_header_map_pairs in the ABI 0.2.1.
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    }
    let mut given = Given::NOTHING;
    // SAFETY: the host writes one pointer and one size to where the two arguments point.
    let status = unsafe { proxy_get_header_map_pairs(REQUEST_HEADERS, &mut given.data, &mut given.size) };
    // SAFETY: nothing but the host has written to it.
    unsafe { given.take(status) }.unwrap_or_default()
}

/// Calls a function of the host that is not part of the ABI. `None` if the host has no such function, or none at all, or refuses
/// the arguments; natively always.
#[must_use]
pub fn call_foreign_function(name: &str, arguments: &[u8]) -> Option<Vec<u8>> {
    #[cfg(target_arch = "wasm32")]
    return foreign_function(name, arguments);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = (name, arguments);
        None
    }
}

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "a host function can only be imported and called as unsafe; see the SAFETY notes")]
fn foreign_function(name: &str, arguments: &[u8]) -> Option<Vec<u8>> {
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
    let mut given = Given::NOTHING;
    // SAFETY: the host only reads the two ranges, which live until it returns, and writes one pointer and one size to where the last
    // two arguments point.
    let status = unsafe {
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            arguments.as_ptr(),
            arguments.len(),
            &mut given.data,
            &mut given.size,
        )
    };
    // SAFETY: nothing but the host has written to it.
    unsafe { given.take(status) }
}

/// Where the host writes the place and size of what it gives.
#[cfg(target_arch = "wasm32")]
struct Given {
    data: *mut u8,
    size: usize,
}

#[cfg(target_arch = "wasm32")]
impl Given {
    const NOTHING: Self = Self { data: core::ptr::null_mut(), size: 0 };

    /// What the host gave with this status.
    ///
    /// # Safety
    /// Only the host may have written to the fields.
    #[expect(unsafe_code, reason = "memory from the host comes as pointer and size; see the SAFETY note")]
    unsafe fn take(self, status: u32) -> Option<Vec<u8>> {
        if status != 0 {
            return None;
        }
        if self.data.is_null() {
            return Some(Vec::new());
        }
        // SAFETY: the range was allocated by the SDK's proxy_on_memory_allocate as a boxed slice of exactly `size` bytes, was
        // filled by the host, and now belongs to the caller (ABI 0.2.1, "Memory ownership"). The SDK takes it over in the same way.
        Some(unsafe { Vec::from_raw_parts(self.data, self.size, self.size) })
    }
}

/// The pairs of a header map as the ABI lays it out, in order. Ends early where the layout is wrong.
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
        split().unwrap_or(Self { sizes: &[], texts: &[] })
    }

    fn text(&mut self) -> Option<&'m [u8]> {
        let (size, sizes) = self.sizes.split_first_chunk::<4>()?;
        let (text, texts) = self.texts.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
        let (_zero, texts) = texts.split_first()?;
        (self.sizes, self.texts) = (sizes, texts);
        Some(text)
    }
}

impl<'m> Iterator for Pairs<'m> {
    type Item = (&'m [u8], &'m [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.text()?, self.text()?))
    }
}

/// Lays out a header map: the count, the sizes of all names and values, then each followed by a zero byte.
#[must_use]
pub fn header_map(headers: &[(impl AsRef<[u8]>, impl AsRef<[u8]>)]) -> Vec<u8> {
    let texts = || headers.iter().flat_map(|(name, value)| [name.as_ref(), value.as_ref()]);
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
    fn no_headers_are_a_count_of_zero() {
        assert_eq!(header_map(&[("", ""); 0]), [0, 0, 0, 0]);
    }
}
