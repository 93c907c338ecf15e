//! `challenge`: the parameters of `WWW-Authenticate`, and the details that a rejected caller
//! learns.

use super::reader::Object;
use crate::authz::host::Authority;
use crate::policy::Challenge;

/// Reads `challenge`.
pub(super) fn read(root: &Object<'_, '_>) -> Challenge {
    let mut read = Challenge::default();
    let Some(object) = root.object("challenge") else {
        return read;
    };
    object.only(&["realm", "resourceMetadata", "hideReason"]);
    if let Some(realm) = object.text("realm") {
        if !realm.bytes().all(is_quotable) {
            object.mistake(
                "realm",
                "must be printable ASCII without quotes and backslashes",
            );
        }
        read.realm = realm.into();
    }
    if let Some(url) = object.text("resourceMetadata") {
        if !is_https_url(url) {
            object.mistake(
                "resourceMetadata",
                "must be an https URL without fragment (RFC 9728 §3)",
            );
        }
        read.resource_metadata = Some(url.into());
    }
    read.tells_reason = !object.flag("hideReason");
    read
}

/// Characters of a quoted string that need no escape (RFC 9110 §5.6.4).
fn is_quotable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Returns whether this is an https URL without fragment, safe inside a quoted string.
fn is_https_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else {
        return false;
        // The value goes into `WWW-Authenticate` as it is, so it must need no escape.
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let plain = url
        .bytes()
        .all(|byte| is_quotable(byte) && byte != b' ' && byte != b'#');
    plain && Authority::parse(authority).is_some()
}
