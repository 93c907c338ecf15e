//! `challenge`: the parameters of `WWW-Authenticate`, and how much a refused caller learns.

use alloc::boxed::Box;

use super::reader::Object;
use crate::policy::host::Authority;

/// What a refused caller is told besides the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// `realm` (RFC 9110 §11.5).
    pub realm: Box<str>,
    /// `resource_metadata` (RFC 9728 §5.1).
    pub resource_metadata: Option<Box<str>>,
    /// Whether the answer says which check failed. Logs, counters and response code details always
    /// do.
    pub tells_reason: bool,
}

impl Default for Challenge {
    fn default() -> Self {
        Self {
            realm: "meshseal".into(),
            resource_metadata: None,
            tells_reason: true,
        }
    }
}

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

fn is_https_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else {
        return false;
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let plain = url
        .bytes()
        .all(|byte| is_quotable(byte) && byte != b' ' && byte != b'#');
    plain && Authority::parse(authority).is_some()
}
