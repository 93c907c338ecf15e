//! The trust bundle: what the issuer pushes and the filter believes. A compact JWS (`typ:
//! meshseal-bundle+jwt`) under a key pinned in the plugin's configuration; full, or a delta against
//! a version that the proxy has.
//!
//! The issuer turns its state into a [`Snapshot`] and that into a [`Payload`]; the filter opens the
//! JWS ([`open`]) and applies the payload to what it has ([`Snapshot::apply`]). Both sides hold the
//! same plain data, so that a delta can be proven right.

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

/// The media type of a bundle; no token has it, so that neither passes for the other (RFC 8725
/// §3.11).
pub const BUNDLE_TYPE: &str = "meshseal-bundle+jwt";

/// Poll protocol of this filter, stated in [`PROTOCOL_HEADER`] (ADR 22). A poll that states none
/// speaks protocol 1.
///
/// Readers are strict, so the issuer sends a member only to readers whose protocol has it
/// ([`Payload::for_protocol`]). Protocol 2 has [`Payload::ack`] and [`Epochs::digest_key`].
pub const PROTOCOL: u32 = 2;

/// Request header with the poll protocol, a decimal number.
pub const PROTOCOL_HEADER: &str = "x-meshseal-protocol";

/// Request header with [`Payload::ack`] of the version in `have`: proves that the worker has read
/// that version.
pub const PROOF_HEADER: &str = "x-meshseal-proof";

/// Request header with the longest time for which the worker goes on by a bundle: see
/// [`StalenessBound`].
pub const STALENESS_HEADER: &str = "x-meshseal-staleness";

/// Request header with the ids of the bundle keys that the worker pins, separated by commas.
pub const PINS_HEADER: &str = "x-meshseal-pins";

/// Longest [`Payload::ack`] in bytes.
const MAX_ACK_BYTES: usize = 64;

/// Everything that is trusted at one version. The version grows with every change and is never
/// reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The version.
    pub version: u64,
    /// By issuer identifier (`iss`).
    pub issuers: BTreeMap<String, IssuerTrust>,
}

/// Keys and revocations of one issuer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IssuerTrust {
    /// The public keys that tokens may be signed with, now or soon.
    pub keys: Vec<PublishedKey>,
    /// Indices of revoked tokens that would otherwise still be good.
    pub revoked: IndexSet,
    /// Groups of tokens revoked by time of issue.
    pub epochs: Epochs,
}

/// A key with its place in its life.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedKey {
    /// The public JWK, with `kid`, `alg` and `use`.
    pub jwk: serde_json::Map<String, serde_json::Value>,
    /// Where it is in its life.
    pub state: KeyState,
}

/// A key's place in its life, as far as proxies need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, does not sign yet.
    Next,
    /// Signs.
    Active,
    /// Signs no longer; its last tokens are still good.
    Draining,
}

/// Who issued a bundle, when, and until when it may be used, in Unix seconds.
#[derive(Clone, Debug)]
pub struct Times {
    /// `iss` of the bundle: the issuer service.
    pub issuer: String,
    /// `iat`.
    pub issued_at: u64,
    /// `exp`: the not-after.
    pub not_after: u64,
}

/// The content of a bundle, full or delta.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Payload {
    /// The issuer service.
    pub iss: String,
    /// The version that the proxy has after applying it.
    pub ver: u64,
    /// Time of issue, Unix seconds.
    pub iat: u64,
    /// Not-after, Unix seconds.
    pub exp: u64,
    /// A delta's starting point; absent in a full bundle. Equal to `ver` in a heartbeat, which
    /// changes nothing but the times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// What is new by issuer; in a full bundle everything.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub issuers: BTreeMap<String, Change>,
    /// Issuers that are no longer trusted (delta only).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// Acknowledgement value of `ver`, which only a reader of this version knows (protocol 2). A
    /// poll that states the version states this value too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<String>,
}

/// What is new for one issuer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Change {
    /// All keys, if they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<PublishedKey>>,
    /// Newly revoked indices: [`IndexSet::encode`] in base64url.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revoked: String,
    /// Indices to forget, since their tokens have expired.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub forgotten: String,
    /// All epochs, if they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<Epochs>,
}

/// Why a bundle was refused. The filter keeps what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// Over [`limits::MAX_BUNDLE_BYTES`], or more revocations than a filter holds.
    TooLarge,
    /// Not a compact JWS with a bundle's header.
    Malformed,
    /// Signed by no pinned key.
    ForeignSignature,
    /// The signed content is not a bundle.
    BadContent,
    /// Past its not-after, or issued in the future.
    OutOfDate,
    /// Older than what the filter has (V17).
    Rollback,
    /// A delta against a version that the filter does not have; it must ask for a full bundle.
    WrongBase,
    /// A key in it cannot be used.
    BadKey,
}

impl BundleError {
    /// A stable, short name for logs and counters.
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
    /// The bundle that brings any proxy here.
    #[must_use]
    pub fn full(&self, times: Times) -> Payload {
        self.changes_since(&Self::default(), times, None)
    }

    /// The bundle that brings a proxy at `base` here. With equal versions it is a heartbeat.
    #[must_use]
    pub fn delta_from(&self, base: &Self, times: Times) -> Payload {
        self.changes_since(base, times, Some(base.version))
    }

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

    /// What a proxy that has `self` has after this payload.
    ///
    /// # Errors
    /// [`BundleError::Rollback`], [`BundleError::WrongBase`], [`BundleError::BadContent`],
    /// [`BundleError::TooLarge`].
    pub fn apply(&self, payload: &Payload) -> Result<Self, BundleError> {
        if payload.ver < self.version {
            return Err(BundleError::Rollback);
        }
        let mut issuers = match payload.base {
            None => BTreeMap::new(),
            Some(base) if base == self.version => self.issuers.clone(),
            Some(_) => return Err(BundleError::WrongBase),
        };
        // A version says what it holds once and for all: the same version with another content is
        // refused.
        if payload.base == Some(payload.ver)
            && !(payload.issuers.is_empty() && payload.gone.is_empty())
        {
            return Err(BundleError::BadContent);
        }
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
    fn between(before: &IssuerTrust, now: &IssuerTrust) -> Self {
        let text = |set: IndexSet| base64url::encode(&set.encode());
        Self {
            keys: (before.keys != now.keys).then(|| now.keys.clone()),
            revoked: text(now.revoked.without(&before.revoked)),
            forgotten: text(before.revoked.without(&now.revoked)),
            epochs: (before.epochs != now.epochs).then(|| now.epochs.clone()),
        }
    }

    fn apply(&self, before: IssuerTrust) -> Result<IssuerTrust, BundleError> {
        let set = |text: &str| {
            base64url::decode(text)
                .and_then(|bytes| IndexSet::decode(&bytes))
                .ok_or(BundleError::BadContent)
        };
        let revoked = before
            .revoked
            .changed(&set(&self.revoked)?, &set(&self.forgotten)?);
        let epochs = self.epochs.clone().unwrap_or(before.epochs);
        let too_many = epochs
            .kinds()
            .into_iter()
            .any(|kind| kind.len() > limits::MAX_EPOCHS);
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

#[derive(Serialize)]
struct BundleHeader<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

impl Payload {
    /// The form for readers of this protocol: without the members that they do not know, and with
    /// digests in place of names ([`Epochs::with_digests`]) where they know those. Every member
    /// that is newer than protocol 1 is named here.
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

    /// Reads what [`Payload::signing_input`] has as its second part.
    ///
    /// # Errors
    /// [`BundleError::BadContent`].
    pub fn from_json(content: Vec<u8>) -> Result<Self, BundleError> {
        read::payload(content).ok_or(BundleError::BadContent)
    }

    /// What the bundle key (Ed25519) signs.
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

/// Maps with text keys and integers always serialise, so the empty text is never sent.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// The compact JWS of a signing input and its signature.
#[must_use]
pub fn seal(mut signing_input: String, signature: &[u8]) -> String {
    signing_input.push('.');
    signing_input.push_str(&base64url::encode(signature));
    signing_input
}

/// Reads a bundle whose signature verifies under a pinned key and whose times fit; whether it may
/// replace what the filter has is for [`Snapshot::apply`] to say. Also returns the pinned key.
///
/// The present time (Unix seconds) lies in the range `now`. A bundle is out of date if it is so at
/// every time of the range.
///
/// # Errors
/// [`BundleError`], with nothing of the content believed before the signature.
pub fn open<'p>(
    jws: &str,
    pins: &'p KeySet,
    now: &RangeInclusive<u64>,
) -> Result<(Payload, &'p Key), BundleError> {
    if jws.len() > limits::MAX_BUNDLE_BYTES {
        return Err(BundleError::TooLarge);
    }
    let compact = Compact::split_unbounded(jws).ok_or(BundleError::Malformed)?;
    let header = Header::parse(compact.header).map_err(|_| BundleError::Malformed)?;
    if header.typ() != Some(BUNDLE_TYPE) {
        return Err(BundleError::Malformed);
    }
    let signature = compact
        .decode_signature()
        .map_err(|_| BundleError::Malformed)?;
    let key = pins
        .find(header.kid(), header.alg())
        .map_err(|_| BundleError::ForeignSignature)?;
    if !Portable.verify(key, compact.signing_input.as_bytes(), signature.as_bytes()) {
        return Err(BundleError::ForeignSignature);
    }
    let content = compact
        .decode_payload()
        .map_err(|_| BundleError::Malformed)?;
    let payload = Payload::from_json(content)?;
    let begun = payload.iat <= now.end().saturating_add(limits::MAX_CLOCK_SKEW_S);
    if begun && *now.start() < payload.exp {
        Ok((payload, key))
    } else {
        Err(BundleError::OutOfDate)
    }
}

/// The public JWKs of a published key list, as a key set text.
#[must_use]
pub fn jwks_text(keys: &[PublishedKey]) -> String {
    let keys: Vec<&serde_json::Map<String, serde_json::Value>> =
        keys.iter().map(|key| &key.jwk).collect();
    serde_json::json!({ "keys": keys }).to_string()
}

#[cfg(test)]
mod tests;
