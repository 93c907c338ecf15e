//! The content of a bundle, from JSON that is as strict as a token's. Read by hand: a derived
//! reader, and what it has to say of numbers that it does not want, would be a tenth of the module.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::Map;

use super::{Change, KeyState, MAX_ACK_BYTES, Payload, PublishedKey};
use crate::json::{Budget, Document, Kind, Value};
use crate::revocation::Epochs;

/// Lengths of a digest key: from 128 bits in base64url.
const DIGEST_KEY_BYTES: core::ops::RangeInclusive<usize> = 22..=64;

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

/// The filter sends this value back in a header, so only visible ASCII is taken.
fn ack(value: Value<'_>) -> Option<String> {
    let sendable = |ack: &&str| {
        (1..=MAX_ACK_BYTES).contains(&ack.len()) && ack.bytes().all(|byte| byte.is_ascii_graphic())
    };
    value.as_str().filter(sendable).map(String::from)
}

fn change(value: Value<'_>) -> Option<Change> {
    let change = object(value, &["keys", "revoked", "forgotten", "epochs"])?;
    Some(Change {
        keys: optional(change, "keys", |keys| list(keys, key))?,
        revoked: optional(change, "revoked", text)?.unwrap_or_default(),
        forgotten: optional(change, "forgotten", text)?.unwrap_or_default(),
        epochs: optional(change, "epochs", epochs)?,
    })
}

fn key(value: Value<'_>) -> Option<PublishedKey> {
    let key = object(value, &["jwk", "state"])?;
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

/// Kinds that a newer issuer may know are not passed over: what they revoke would not be revoked
/// here.
fn epochs(value: Value<'_>) -> Option<Epochs> {
    let epochs = object(
        value,
        &["all", "digest_key", "kid", "sub", "client", "sid", "grant"],
    )?;
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

/// An object without other members than these.
fn object<'d>(value: Value<'d>, names: &[&str]) -> Option<Value<'d>> {
    let known = value.members().all(|(name, _)| names.contains(&name));
    (value.kind() == Kind::Object && known).then_some(value)
}

/// `None` for a member that is there and wrong.
fn optional<'d, T>(
    object: Value<'d>,
    name: &str,
    read: impl FnOnce(Value<'d>) -> Option<T>,
) -> Option<Option<T>> {
    object
        .get(name)
        .map_or(Some(None), |value| read(value).map(Some))
}

fn text(value: Value<'_>) -> Option<String> {
    value.as_str().map(String::from)
}

fn list<'d, T>(value: Value<'d>, read: impl Fn(Value<'d>) -> Option<T>) -> Option<Vec<T>> {
    if value.kind() == Kind::Array {
        value.items().map(read).collect()
    } else {
        None
    }
}

/// Names are unique in large objects, too, which [`Document`] leaves to its reader.
fn map<'d, T>(
    value: Value<'d>,
    read: impl Fn(Value<'d>) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    let mut map = BTreeMap::new();
    for (name, value) in value.members() {
        if map.insert(String::from(name), read(value)?).is_some() {
            return None;
        }
    }
    (value.kind() == Kind::Object).then_some(map)
}

/// As [`map`], in the form that keys are published in.
fn members(value: Value<'_>) -> Option<Map<String, serde_json::Value>> {
    let mut members = Map::new();
    for (name, value) in value.members() {
        if members.insert(name.into(), plain(value)?).is_some() {
            return None;
        }
    }
    (value.kind() == Kind::Object).then_some(members)
}

/// As deep as the document may be.
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
