//! Host calls of the proxy-wasm ABI (0.2.1) and the clocks of WASI. Every status of a host is
//! returned as a value: the SDK (proxy-wasm 0.2.5) panics on unexpected statuses, and a panic ends
//! the VM.
#![expect(
    unsafe_code,
    reason = "a host function can only be imported and called as unsafe; see the SAFETY notes"
)]

use crate::HostRefused;
use crate::headers::{self, HeaderMap};
#[cfg(target_arch = "wasm32")]
use crate::memory::Filled;

/// Map type for the headers of a stream's request.
const REQUEST_HEADERS: u32 = 0;
/// Map type for the headers of a call's response.
const CALL_RESPONSE_HEADERS: u32 = 6;
/// Buffer type for the body of a call's response.
const CALL_RESPONSE_BODY: u32 = 4;
/// Buffer type for the plugin configuration.
const PLUGIN_CONFIGURATION: u32 = 7;
/// Stream type for requests.
const REQUEST: u32 = 0;
/// WASI's clock for the time of day.
const REALTIME: u32 = 0;
/// WASI's monotonic clock.
const MONOTONIC: u32 = 1;

#[cfg(target_arch = "wasm32")]
mod raw {
    // SAFETY: names and signatures are those of the ABI 0.2.1. A host writes no more than the value
    // behind a reference.
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) fn proxy_log(level: u32, message: *const u8, size: usize) -> u32;
        pub(super) safe fn proxy_get_log_level(level: &mut u32) -> u32;
        pub(super) safe fn proxy_get_current_time_nanoseconds(time: &mut u64) -> u32;
        pub(super) safe fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub(super) fn proxy_define_metric(
            kind: u32,
            name: *const u8,
            size: usize,
            id: &mut u32,
        ) -> u32;
        pub(super) safe fn proxy_increment_metric(id: u32, by: i64) -> u32;
        pub(super) safe fn proxy_record_metric(id: u32, value: u64) -> u32;
        pub(super) safe fn proxy_set_effective_context(context: u32) -> u32;
        pub(super) safe fn proxy_continue_stream(stream: u32) -> u32;
        pub(super) fn proxy_add_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub(super) fn proxy_replace_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub(super) fn proxy_remove_header_map_value(map: u32, name: *const u8, size: usize) -> u32;
        pub(super) fn proxy_http_call(
            upstream: *const u8,
            upstream_size: usize,
            headers: *const u8,
            headers_size: usize,
            body: *const u8,
            body_size: usize,
            trailers: *const u8,
            trailers_size: usize,
            timeout: u32,
            token: &mut u32,
        ) -> u32;
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            most: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_get_header_map_pairs(
            map: u32,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
    }

    // SAFETY: name and signature are those of WASI preview 1.
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        pub(super) safe fn clock_time_get(clock: u32, precision: u64, time: &mut u64) -> u32;
    }
}

/// Substitutes for a native build, which has no host.
#[cfg(not(target_arch = "wasm32"))]
mod raw {
    pub(super) const UNIMPLEMENTED: u32 = 12;

    macro_rules! absent {
        ($($name:ident($($argument:ty),*);)+) => {
            $(pub(super) fn $name($(_: $argument),*) -> u32 { UNIMPLEMENTED })+
        };
    }

    macro_rules! absent_with_memory {
        ($($name:ident($($argument:ty),*);)+) => {
            $(pub(super) unsafe fn $name($(_: $argument),*) -> u32 { UNIMPLEMENTED })+
        };
    }

    absent! {
        proxy_get_log_level(&mut u32);
        proxy_get_current_time_nanoseconds(&mut u64);
        proxy_set_tick_period_milliseconds(u32);
        proxy_increment_metric(u32, i64);
        proxy_record_metric(u32, u64);
        proxy_set_effective_context(u32);
        proxy_continue_stream(u32);
        clock_time_get(u32, u64, &mut u64);
    }

    absent_with_memory! {
        proxy_log(u32, *const u8, usize);
        proxy_define_metric(u32, *const u8, usize, &mut u32);
        proxy_add_header_map_value(u32, *const u8, usize, *const u8, usize);
        proxy_replace_header_map_value(u32, *const u8, usize, *const u8, usize);
        proxy_remove_header_map_value(u32, *const u8, usize);
    }
}

/// Converts a status to a result.
fn ok(status: u32) -> Result<(), HostRefused> {
    if status == 0 {
        Ok(())
    } else {
        Err(HostRefused(status))
    }
}

/// Writes a line to the host's log; levels are those of the ABI (0 trace to 5 critical).
///
/// # Errors
/// [`HostRefused`].
pub fn log(level: u32, message: &str) -> Result<(), HostRefused> {
    // SAFETY: the host only reads the range, which lives until it returns.
    ok(unsafe { raw::proxy_log(level, message.as_ptr(), message.len()) })
}

/// Returns the least severe level that the host logs.
///
/// # Errors
/// [`HostRefused`].
pub fn log_level() -> Result<u32, HostRefused> {
    let mut level = 0;
    ok(raw::proxy_get_log_level(&mut level)).map(|()| level)
}

/// Returns the time of day in nanoseconds since the Unix epoch, from the host or else from WASI.
///
/// # Errors
/// [`HostRefused`] if both calls fail.
pub fn time_of_day() -> Result<u64, HostRefused> {
    let mut time = 0;
    // Not every host implements the ABI's call; WASI's clock is the fallback.
    let asked = ok(raw::proxy_get_current_time_nanoseconds(&mut time));
    asked
        .or_else(|_| ok(raw::clock_time_get(REALTIME, 1, &mut time)))
        .map(|()| time)
}

/// Returns WASI's monotonic clock in nanoseconds. Envoy provides its own monotonic clock
/// (proxy-wasm-cpp-host, `exports.cc`, `wasi_unstable_clock_time_get`).
///
/// # Errors
/// [`HostRefused`].
pub fn monotonic_time() -> Result<u64, HostRefused> {
    let mut time = 0;
    ok(raw::clock_time_get(MONOTONIC, 1, &mut time)).map(|()| time)
}

/// Sets the interval of the root context's ticks, in milliseconds.
///
/// # Errors
/// [`HostRefused`].
pub fn set_tick_period(millis: u32) -> Result<(), HostRefused> {
    ok(raw::proxy_set_tick_period_milliseconds(millis))
}

/// Defines a metric (0 counter, 1 gauge, 2 histogram) and returns its id.
///
/// # Errors
/// [`HostRefused`].
pub fn define_metric(kind: u32, name: &str) -> Result<u32, HostRefused> {
    let mut id = 0;
    // SAFETY: the host only reads the range, which lives until it returns, and writes the id.
    ok(unsafe { raw::proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) }).map(|()| id)
}

/// Adds to a counter.
///
/// # Errors
/// [`HostRefused`].
pub fn increment_metric(id: u32, by: i64) -> Result<(), HostRefused> {
    ok(raw::proxy_increment_metric(id, by))
}

/// Records the value of a gauge or histogram.
///
/// # Errors
/// [`HostRefused`].
pub fn record_metric(id: u32, value: u64) -> Result<(), HostRefused> {
    ok(raw::proxy_record_metric(id, value))
}

/// Sets the context to which the following calls apply.
///
/// # Errors
/// [`HostRefused`] if the context no longer exists.
pub fn set_effective_context(context: u32) -> Result<(), HostRefused> {
    ok(raw::proxy_set_effective_context(context))
}

/// Continues the paused request of the effective stream.
///
/// # Errors
/// [`HostRefused`].
pub fn continue_request() -> Result<(), HostRefused> {
    ok(raw::proxy_continue_stream(REQUEST))
}

/// Adds a request header.
///
/// # Errors
/// [`HostRefused`].
pub fn add_request_header(name: &str, value: &str) -> Result<(), HostRefused> {
    let (map, size, value_size) = (REQUEST_HEADERS, name.len(), value.len());
    // SAFETY: the host only reads the ranges, which live until it returns.
    ok(unsafe {
        raw::proxy_add_header_map_value(map, name.as_ptr(), size, value.as_ptr(), value_size)
    })
}

/// Replaces a request header; values need not be UTF-8.
///
/// # Errors
/// [`HostRefused`].
pub fn replace_request_header(name: &str, value: &[u8]) -> Result<(), HostRefused> {
    let (map, size, value_size) = (REQUEST_HEADERS, name.len(), value.len());
    // SAFETY: the host only reads the ranges, which live until it returns.
    ok(unsafe {
        raw::proxy_replace_header_map_value(map, name.as_ptr(), size, value.as_ptr(), value_size)
    })
}

/// Removes every copy of a request header.
///
/// # Errors
/// [`HostRefused`].
pub fn remove_request_header(name: &str) -> Result<(), HostRefused> {
    // SAFETY: the host only reads the range, which lives until it returns.
    ok(unsafe { raw::proxy_remove_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len()) })
}

/// Starts an HTTP call without a body; `headers` has the layout of [`crate::header_map`]. Returns
/// the token that identifies the response.
///
/// # Errors
/// [`HostRefused`] if no response will follow.
pub fn http_call(cluster: &str, headers: &[u8], timeout_ms: u32) -> Result<u32, HostRefused> {
    let mut token = 0;
    ok(call(cluster, headers, timeout_ms, &mut token)).map(|()| token)
}

#[cfg(not(target_arch = "wasm32"))]
fn call(_cluster: &str, _headers: &[u8], _timeout_ms: u32, _token: &mut u32) -> u32 {
    raw::UNIMPLEMENTED
}

#[cfg(target_arch = "wasm32")]
fn call(cluster: &str, headers: &[u8], timeout_ms: u32, token: &mut u32) -> u32 {
    // An empty header map consists of its count in four bytes.
    let (body, trailers) = ([0_u8; 0], [0_u8; 4]);
    // SAFETY: the host only reads the ranges, which live until it returns, and writes the token.
    unsafe {
        raw::proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout_ms,
            token,
        )
    }
}

/// Returns the plugin configuration of `size` bytes.
#[must_use]
pub fn plugin_configuration(size: usize) -> Option<Vec<u8>> {
    buffer(PLUGIN_CONFIGURATION, size)
}

/// Returns the body of a call's response, up to `size` bytes; valid in the callback that announces
/// it.
#[must_use]
pub fn call_body(size: usize) -> Option<Vec<u8>> {
    buffer(CALL_RESPONSE_BODY, size)
}

#[cfg(not(target_arch = "wasm32"))]
fn buffer(_kind: u32, _size: usize) -> Option<Vec<u8>> {
    None
}

#[cfg(target_arch = "wasm32")]
fn buffer(kind: u32, most: usize) -> Option<Vec<u8>> {
    // SAFETY: the host writes one pointer and one size to where the last two arguments point, and
    // returns its status.
    let filled = unsafe {
        Filled::by(Vec::new(), |given| {
            raw::proxy_get_buffer_bytes(kind, 0, most, &mut given.data, &mut given.size)
        })
    };
    filled.map(Filled::into_bytes)
}

/// Returns a property of the host or the effective stream.
#[must_use]
pub fn property(path: &[&str]) -> Option<Vec<u8>> {
    // The ABI separates the parts of a path with zero bytes.
    joined_property(&path.join("\0"))
}

#[cfg(not(target_arch = "wasm32"))]
fn joined_property(_path: &str) -> Option<Vec<u8>> {
    None
}

#[cfg(target_arch = "wasm32")]
fn joined_property(path: &str) -> Option<Vec<u8>> {
    // SAFETY: the host only reads the range, which lives until it returns, writes one pointer and
    // one size to where the last two arguments point, and returns its status.
    let filled = unsafe {
        Filled::by(Vec::new(), |given| {
            raw::proxy_get_property(path.as_ptr(), path.len(), &mut given.data, &mut given.size)
        })
    };
    filled.map(Filled::into_bytes)
}

/// Returns the headers of a call's response; valid in the callback that announces it. Returns an
/// empty map if the call failed, and always in a native build.
#[must_use]
pub fn call_headers() -> HeaderMap {
    pairs(CALL_RESPONSE_HEADERS, Vec::new())
}

/// Returns the headers of the request in the effective stream; repeated headers are listed
/// repeatedly. Returns an empty map if the host has no headers, and always in a native build.
#[must_use]
pub fn request_headers() -> HeaderMap {
    pairs(REQUEST_HEADERS, headers::kept())
}

#[cfg(not(target_arch = "wasm32"))]
fn pairs(_map: u32, block: Vec<u8>) -> HeaderMap {
    drop(block);
    HeaderMap::default()
}

#[cfg(target_arch = "wasm32")]
fn pairs(map: u32, block: Vec<u8>) -> HeaderMap {
    // SAFETY: the host writes one pointer and one size to where the last two arguments point, and
    // returns its status.
    let filled = unsafe {
        Filled::by(block, |given| {
            raw::proxy_get_header_map_pairs(map, &mut given.data, &mut given.size)
        })
    };
    filled.unwrap_or_default().into()
}
