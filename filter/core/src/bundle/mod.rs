//! The trust bundle, which the issuer pushes to the filter. It is a compact JWS (`typ:
//! meshseal-bundle+jwt`) under a key that the plugin's configuration pins. It is either full, or a
//! delta against a version that the proxy has.
//!
//! The issuer converts its state to a [`Snapshot`] and that to a [`Payload`]. The filter opens the
//! JWS ([`open`]) and applies the payload to its snapshot ([`Snapshot::apply`]). Both sides hold
//! the same plain data, so that tests can prove a delta correct.

mod read;
mod staleness;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

use serde::Serialize;

use crate::jose::header::Header;
use crate::jose::token::Compact;
use crate::keys::{Key, KeySet, Portable, SignatureVerifier as _};
use crate::revocation::{Epochs, IndexSet};
use crate::{base64url, limits};

pub use staleness::{Freshness, Staleness, StalenessBound};

/// Media type of a bundle. No token has it, so that neither is accepted as the other (RFC 8725
/// §3.11).
pub const BUNDLE_TYPE: &str = "meshseal-bundle+jwt";

/// Poll protocol of this filter, sent in [`PROTOCOL_HEADER`] (ADR 22). A poll without the header
/// uses protocol 1.
///
/// Readers are strict, so the issuer sends a member only to readers whose protocol includes it
/// ([`Payload::for_protocol`]). Protocol 2 includes [`Payload::ack`] and [`Epochs::digest_key`].
pub const PROTOCOL: u32 = 2;

/// Request header with the poll protocol as a decimal number.
pub const PROTOCOL_HEADER: &str = "x-meshseal-protocol";

/// Request header with the [`Payload::ack`] of the version in `have`. It proves that the worker has
/// read that version.
pub const PROOF_HEADER: &str = "x-meshseal-proof";

/// Request header with the maximum time for which the worker uses a bundle: see [`StalenessBound`].
pub const STALENESS_HEADER: &str = "x-meshseal-staleness";

/// Request header with the ids of the bundle keys that the worker pins, separated by commas.
pub const PINS_HEADER: &str = "x-meshseal-pins";

/// Maximum length of [`Payload::ack`] in bytes.
const MAX_ACK_BYTES: usize = 64;

/// All trusted keys and revocations at one version. The version grows with every change and is
/// never reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Version of the content.
    pub version: u64,
    /// Keys and revocations by issuer identifier (`iss`).
    pub issuers: BTreeMap<String, IssuerTrust>,
}

/// Keys and revocations of one issuer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IssuerTrust {
    /// Public keys that may sign tokens, now or soon.
    pub keys: Vec<PublishedKey>,
    /// Indices of the revoked tokens that have not expired.
    pub revoked: IndexSet,
    /// Epochs that revoke groups of tokens by their time of issue.
    pub epochs: Epochs,
}

/// A key and the phase of its lifecycle.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedKey {
    /// The public JWK, with `kid`, `alg` and `use`.
    pub jwk: serde_json::Map<String, serde_json::Value>,
    /// Phase of its lifecycle.
    pub state: KeyState,
}

/// Phase of a key's lifecycle, as far as proxies need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, but not signing yet.
    Next,
    /// Signing.
    Active,
    /// No longer signing; tokens signed earlier are still valid.
    Draining,
}

/// Issuer, time of issue and not-after of a bundle; times in Unix seconds.
#[derive(Clone, Debug)]
pub struct Times {
    /// `iss` of the bundle: the issuer service.
    pub issuer: String,
    /// `iat`.
    pub issued_at: u64,
    /// `exp`, the not-after.
    pub not_after: u64,
}

/// The content of a bundle, full or delta.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Payload {
    /// Issuer service.
    pub iss: String,
    /// Version that the proxy has after it applies the payload.
    pub ver: u64,
    /// Time of issue, Unix seconds.
    pub iat: u64,
    /// Not-after, Unix seconds.
    pub exp: u64,
    /// Base version of a delta; absent in a full bundle. Equal to `ver` in a heartbeat, which
    /// changes only the times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Changes by issuer; a full bundle contains everything.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub issuers: BTreeMap<String, Change>,
    /// Issuers that are no longer trusted (delta only).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// Acknowledgement value of `ver`, known only to readers of this version (protocol 2). A poll
    /// that states the version also states this value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<String>,
}

/// Changes for one issuer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Change {
    /// All keys, if they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<PublishedKey>>,
    /// Newly revoked indices: [`IndexSet::encode`] in base64url.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revoked: String,
    /// Indices to remove, because their tokens have expired.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub forgotten: String,
    /// All epochs, if they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<Epochs>,
}

/// Reason for rejecting a bundle. The filter keeps its current bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// Over [`limits::MAX_BUNDLE_BYTES`], or more revocations than a filter holds.
    TooLarge,
    /// Not a compact JWS with a bundle's header.
    Malformed,
    /// Not signed by a pinned key.
    ForeignSignature,
    /// The signed content is not a bundle.
    BadContent,
    /// Past its not-after, or issued in the future.
    OutOfDate,
    /// Older than the bundle in force (V17).
    Rollback,
    /// A delta against another version than the filter's; the filter must request a full bundle.
    WrongBase,
    /// Contains an unusable key.
    BadKey,
}

impl BundleError {
    /// Returns a stable, short name for logs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::ForeignSignature => "foreign-signature",
            Self::BadContent => "bad-content",
            Self::OutOfDate => "out-of-date",
            Self::Rollback => "rollback",
            Self::WrongBase => "wrong-base",
            Self::BadKey => "bad-key",
        }
    }
}

impl fmt::Display for BundleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.code())
    }
}

impl core::error::Error for BundleError {}

impl Snapshot {
    /// Builds the bundle that brings any proxy to this snapshot.
    #[must_use]
    pub fn full(&self, times: Times) -> Payload {
        self.changes_since(&Self::default(), times, None)
    }

    /// Builds the bundle that brings a proxy from `base` to this snapshot. With equal versions it
    /// is a heartbeat.
    #[must_use]
    pub fn delta_from(&self, base: &Self, times: Times) -> Payload {
        self.changes_since(base, times, Some(base.version))
    }

    /// Builds the payload with the differences from `before`.
    fn changes_since(&self, before: &Self, times: Times, base: Option<u64>) -> Payload {
        let unknown = IssuerTrust::default();
        let changes = self.issuers.iter().map(|(issuer, now)| {
            let known = before.issuers.get(issuer);
            (
                issuer,
                Change::between(known.unwrap_or(&unknown), now),
                known.is_none(),
            )
        });
        // A new issuer is sent even without keys: its presence alone is a change.
        Payload {
            iss: times.issuer,
            ver: self.version,
            iat: times.issued_at,
            exp: times.not_after,
            base,
            issuers: changes
                .filter(|(_, change, new)| *new || *change != Change::default())
                .map(|(issuer, change, _)| (issuer.clone(), change))
                .collect(),
            gone: before
                .issuers
                .keys()
                .filter(|issuer| !self.issuers.contains_key(*issuer))
                .cloned()
                .collect(),
            ack: None,
        }
    }

    /// Returns the snapshot that a proxy with the snapshot `self` has after this payload.
    ///
    /// # Errors
    /// [`BundleError::Rollback`], [`BundleError::WrongBase`], [`BundleError::BadContent`],
    /// [`BundleError::TooLarge`].
    pub fn apply(&self, payload: &Payload) -> Result<Self, BundleError> {
        // Versions never decrease (V17).
        if payload.ver < self.version {
            return Err(BundleError::Rollback);
        }
        // A full bundle starts from nothing; a delta needs exactly its base version.
        let mut issuers = match payload.base {
            None => BTreeMap::new(),
            Some(base) if base == self.version => self.issuers.clone(),
            Some(_) => return Err(BundleError::WrongBase),
        };
        // The content of a version never changes: the same version with other content is rejected.
        if payload.base == Some(payload.ver)
            && !(payload.issuers.is_empty() && payload.gone.is_empty())
        {
            return Err(BundleError::BadContent);
        }
        // Removals come first, so that an issuer can be removed and added again.
        for issuer in &payload.gone {
            issuers.remove(issuer);
        }
        for (issuer, change) in &payload.issuers {
            let before = issuers.remove(issuer).unwrap_or_default();
            issuers.insert(issuer.clone(), change.apply(before)?);
        }
        Ok(Self {
            version: payload.ver,
            issuers,
        })
    }
}

impl Change {
    /// Returns the changes from one state to another.
    fn between(before: &IssuerTrust, now: &IssuerTrust) -> Self {
        let added = now.revoked.without(&before.revoked);
        let dropped = before.revoked.without(&now.revoked);
        Self {
            keys: (before.keys != now.keys).then(|| now.keys.clone()),
            revoked: base64url::encode(&added.encode()),
            forgotten: base64url::encode(&dropped.encode()),
            epochs: (before.epochs != now.epochs).then(|| now.epochs.clone()),
        }
    }

    /// Applies the changes to a state.
    fn apply(&self, before: IssuerTrust) -> Result<IssuerTrust, BundleError> {
        let (added, dropped) = (index_set(&self.revoked)?, index_set(&self.forgotten)?);
        let revoked = before.revoked.changed(&added, &dropped);
        let epochs = self.epochs.clone().unwrap_or(before.epochs);
        let too_many = epochs
            .kinds()
            .into_iter()
            .any(|kind| kind.len() > limits::MAX_EPOCHS);
        // The limits hold for the sum of many deltas, too.
        if revoked.len() > limits::MAX_REVOKED || too_many {
            return Err(BundleError::TooLarge);
        }
        Ok(IssuerTrust {
            keys: self.keys.clone().unwrap_or(before.keys),
            revoked,
            epochs,
        })
    }
}

/// Decodes a set of indices.
fn index_set(text: &str) -> Result<IndexSet, BundleError> {
    base64url::decode(text)
        .and_then(|bytes| IndexSet::decode(&bytes))
        .ok_or(BundleError::BadContent)
}

/// JOSE header of a bundle.
#[derive(Serialize)]
struct BundleHeader<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

impl Payload {
    /// Converts the payload for readers of a protocol.
    ///
    /// Members that the readers do not know are removed, and names are replaced by digests if the
    /// readers support them ([`Epochs::with_digests`]). Every member that is newer than protocol 1
    /// must be listed here.
    #[must_use]
    pub fn for_protocol(mut self, protocol: u32, digested: impl Fn(Epochs) -> Epochs) -> Self {
        if protocol < 2 {
            self.ack = None;
            return self;
        }
        for change in self.issuers.values_mut() {
            change.epochs = change.epochs.take().map(&digested);
        }
        self
    }

    /// Parses the second part of [`Payload::signing_input`].
    ///
    /// # Errors
    /// [`BundleError::BadContent`].
    pub fn from_json(content: Vec<u8>) -> Result<Self, BundleError> {
        read::payload(content).ok_or(BundleError::BadContent)
    }

    /// Returns the bytes that the bundle key (Ed25519) signs.
    #[must_use]
    pub fn signing_input(&self, kid: &str) -> String {
        let header = BundleHeader {
            alg: "EdDSA",
            kid,
            typ: BUNDLE_TYPE,
        };
        let mut input = base64url::encode(json(&header).as_bytes());
        input.push('.');
        input.push_str(&base64url::encode(json(self).as_bytes()));
        input
    }
}

/// Serializes a value. Maps with string keys and integers always serialize, so the empty string is
/// never sent.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Joins a signing input and its signature to a compact JWS.
#[must_use]
pub fn seal(mut signing_input: String, signature: &[u8]) -> String {
    signing_input.push('.');
    signing_input.push_str(&base64url::encode(signature));
    signing_input
}

/// Opens a bundle whose signature verifies under a pinned key and whose times are valid. Returns
/// the payload and the pinned key. [`Snapshot::apply`] decides whether the payload may replace the
/// filter's state.
///
/// The present time (Unix seconds) lies in the range `now`. A bundle is out of date only if it is
/// out of date at every time of the range.
///
/// # Errors
/// [`BundleError`]. The content is not interpreted before the signature has been verified.
pub fn open<'p>(
    jws: &str,
    pins: &'p KeySet,
    now: &RangeInclusive<u64>,
) -> Result<(Payload, &'p Key), BundleError> {
    // The size is checked before anything is decoded.
    if jws.len() > limits::MAX_BUNDLE_BYTES {
        return Err(BundleError::TooLarge);
    }
    let compact = Compact::split_unbounded(jws).ok_or(BundleError::Malformed)?;
    let header = Header::parse(compact.header).map_err(|_| BundleError::Malformed)?;
    // Explicit typing: a token must not be accepted as a bundle.
    if header.typ() != Some(BUNDLE_TYPE) {
        return Err(BundleError::Malformed);
    }
    let signature = compact
        .decode_signature()
        .map_err(|_| BundleError::Malformed)?;
    let key = pins
        .find(header.kid(), header.alg())
        .map_err(|_| BundleError::ForeignSignature)?;
    // INVARIANT: nothing of the content is parsed before this check.
    if !Portable.verify(key, compact.signing_input.as_bytes(), signature.as_bytes()) {
        return Err(BundleError::ForeignSignature);
    }
    let content = compact
        .decode_payload()
        .map_err(|_| BundleError::Malformed)?;
    let payload = Payload::from_json(content)?;
    // Both comparisons use the end of the range that favours the bundle.
    let begun = payload.iat <= now.end().saturating_add(limits::MAX_CLOCK_SKEW_S);
    if begun && *now.start() < payload.exp {
        Ok((payload, key))
    } else {
        Err(BundleError::OutOfDate)
    }
}

/// Returns the public JWKs of a published key list as the text of a key set.
#[must_use]
pub fn jwks_text(keys: &[PublishedKey]) -> String {
    let keys: Vec<&serde_json::Map<String, serde_json::Value>> =
        keys.iter().map(|key| &key.jwk).collect();
    serde_json::json!({ "keys": keys }).to_string()
}

#[cfg(test)]
mod tests;
