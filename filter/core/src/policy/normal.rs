//! Which spellings of paths and hosts have one meaning. Rules compare text; a client must not reach past them with a
//! spelling that its upstream reads differently.

/// Whether a path (without query) has one meaning for every proxy and server behind it: rooted, printable ASCII, no dot or
/// empty segments, no backslash, no path parameters (`;`, which some servers cut off), and only escapes that must be
/// (RFC 3986 §6.2.2.2): not of unreserved characters, controls, separators or the percent sign itself.
pub(crate) fn is_normal_path(path: &str) -> bool {
    (path.starts_with('/') || path == "*") && has_normal_segments(path)
}

/// The same for a part of a path, as a rule's pattern may have it.
pub(crate) fn has_normal_segments(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\;?#".contains(&byte));
    let dots = path.split('/').any(|segment| segment == "." || segment == "..");
    plain && !dots && !path.contains("//") && path.match_indices('%').all(|(at, _)| escapes_rightly(path, at))
}

fn escapes_rightly(path: &str, at: usize) -> bool {
    let digits = path.get(at.saturating_add(1)..at.saturating_add(3));
    let hex = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let Some(byte) = hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else { return false };
    let needless = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    !needless && !byte.is_ascii_control() && !b"/\\%;".contains(&byte)
}

/// Whether a host is a name or address with an optional port: no user part, nothing that is not part of either.
pub(crate) fn is_normal_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}

/// The host without case, without port and without the root's dot.
pub(crate) fn bare_host(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}
