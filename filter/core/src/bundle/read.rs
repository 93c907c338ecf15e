//! Reader for the content of a bundle, from JSON that is as strict as a token's. It is written by
//! hand: derived serde code with its handling of unwanted number types would be a tenth of the wasm
//! module.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::Map;

use super::{Change, KeyState, MAX_ACK_BYTES, Payload, PublishedKey};
use crate::json::{Budget, Document, Kind, Value};
use crate::revocation::Epochs;

/// Valid lengths of a digest key: at least 128 bits in base64url.
const DIGEST_KEY_BYTES: core::ops::RangeInclusive<usize> = 22..=64;

/// Reads the payload; returns `None` if a member is missing, unknown or wrong.
pub(super) fn payload(content: Vec<u8>) -> Option<Payload> {
    let document = Document::parse(content, Budget::BUNDLE).ok()?;
    let root = object(
        document.root(),
        &["iss", "ver", "iat", "exp", "base", "issuers", "gone", "ack"],
    )?;
    Some(Payload {
        iss: text(root.get("iss")?)?,
        ver: root.get("ver")?.as_u64()?,
        iat: root.get("iat")?.as_u64()?,
        exp: root.get("exp")?.as_u64()?,
        base: optional(root, "base", Value::as_u64)?,
        issuers: optional(root, "issuers", |issuers| map(issuers, change))?.unwrap_or_default(),
        gone: optional(root, "gone", |gone| list(gone, text))?.unwrap_or_default(),
        ack: optional(root, "ack", ack)?,
    })
}

/// Reads the acknowledgement value. The filter sends it back in a header, so only visible ASCII is
/// accepted.
fn ack(value: Value<'_>) -> Option<String> {
    let ack = value.as_str()?;
    let sendable =
        (1..=MAX_ACK_BYTES).contains(&ack.len()) && ack.bytes().all(|byte| byte.is_ascii_graphic());
    sendable.then(|| String::from(ack))
}

/// Reads the changes for one issuer.
fn change(value: Value<'_>) -> Option<Change> {
    let change = object(value, &["keys", "revoked", "forgotten", "epochs"])?;
    Some(Change {
        keys: optional(change, "keys", |keys| list(keys, key))?,
        revoked: optional(change, "revoked", text)?.unwrap_or_default(),
        forgotten: optional(change, "forgotten", text)?.unwrap_or_default(),
        epochs: optional(change, "epochs", epochs)?,
    })
}

/// Reads a published key.
fn key(value: Value<'_>) -> Option<PublishedKey> {
    let key = object(value, &["jwk", "state"])?;
    // An unknown state is an error: the filter could not tell whether the key may sign.
    let state = match key.get("state")?.as_str()? {
        "next" => KeyState::Next,
        "active" => KeyState::Active,
        "draining" => KeyState::Draining,
        _ => return None,
    };
    Some(PublishedKey {
        jwk: members(key.get("jwk")?)?,
        state,
    })
}

/// Reads epochs. An unknown kind from a newer issuer is an error, because skipping it would leave
/// its tokens unrevoked.
fn epochs(value: Value<'_>) -> Option<Epochs> {
    let epochs = object(
        value,
        &["all", "digest_key", "kid", "sub", "client", "sid", "grant"],
    )?;
    // A short key would make the digests guessable.
    let digest_key = optional(epochs, "digest_key", text)?;
    if digest_key
        .as_ref()
        .is_some_and(|key| !DIGEST_KEY_BYTES.contains(&key.len()))
    {
        return None;
    }
    let kind =
        |name| Some(optional(epochs, name, |names| map(names, Value::as_u64))?.unwrap_or_default());
    Some(Epochs {
        all: optional(epochs, "all", Value::as_u64)?,
        digest_key,
        kid: kind("kid")?,
        sub: kind("sub")?,
        client: kind("client")?,
        sid: kind("sid")?,
        grant: kind("grant")?,
    })
}

/// Returns the value if it is an object without any other members than these.
fn object<'d>(value: Value<'d>, names: &[&str]) -> Option<Value<'d>> {
    let known = value.members().all(|(name, _)| names.contains(&name));
    (value.kind() == Kind::Object && known).then_some(value)
}

/// Reads an optional member: `Some(None)` if it is absent, `None` if it is wrong.
fn optional<'d, T>(
    object: Value<'d>,
    name: &str,
    read: impl FnOnce(Value<'d>) -> Option<T>,
) -> Option<Option<T>> {
    object
        .get(name)
        .map_or(Some(None), |value| read(value).map(Some))
}

/// Reads a string.
fn text(value: Value<'_>) -> Option<String> {
    value.as_str().map(String::from)
}

/// Reads a list.
fn list<'d, T>(value: Value<'d>, read: impl Fn(Value<'d>) -> Option<T>) -> Option<Vec<T>> {
    if value.kind() == Kind::Array {
        value.items().map(read).collect()
    } else {
        None
    }
}

/// Reads an object with arbitrary names. It also checks that the names of large objects are unique,
/// which [`Document`] leaves to its reader.
fn map<'d, T>(
    value: Value<'d>,
    read: impl Fn(Value<'d>) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    let mut map = BTreeMap::new();
    for (name, value) in value.members() {
        // A repeated name would hide one of its two values.
        if map.insert(String::from(name), read(value)?).is_some() {
            return None;
        }
    }
    (value.kind() == Kind::Object).then_some(map)
}

/// Reads a JWK as [`map`] reads an object, into the type of published keys.
fn members(value: Value<'_>) -> Option<Map<String, serde_json::Value>> {
    let mut members = Map::new();
    for (name, value) in value.members() {
        if members.insert(name.into(), plain(value)?).is_some() {
            return None;
        }
    }
    (value.kind() == Kind::Object).then_some(members)
}

/// Converts any value. The document's limit bounds the recursion.
fn plain(value: Value<'_>) -> Option<serde_json::Value> {
    Some(match value.kind() {
        Kind::Null => serde_json::Value::Null,
        Kind::Bool => value.as_bool()?.into(),
        Kind::Number => serde_json::Value::Number(value.as_number()?),
        Kind::String => value.as_str()?.into(),
        Kind::Array => serde_json::Value::Array(list(value, plain)?),
        Kind::Object => serde_json::Value::Object(members(value)?),
    })
}
