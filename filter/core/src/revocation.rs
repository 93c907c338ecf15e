//! Revocation (V15): the exact set of revoked tokens, and epochs, which revoke whole groups of
//! tokens issued before a time.
//!
//! Each token of the issuer has a dense index, the first half of its `jti`. The set of revoked
//! indices is small, so a sorted list of differences in LEB128 is exact and also shorter than a
//! Bloom filter (218 bytes for 100 of a million tokens).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;

use crate::jose::Claims;
use crate::rejection::Rejection;
use crate::{base64url, limits};

/// A set of token indices: a sorted list of 8 bytes each, with binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexSet {
    sorted: Vec<u64>,
}

impl IndexSet {
    /// Adds an index; returns false if it was present.
    pub fn insert(&mut self, index: u64) -> bool {
        let Err(at) = self.sorted.binary_search(&index) else {
            return false;
        };
        self.sorted.insert(at, index);
        true
    }

    /// Removes an index; returns false if it was absent.
    pub fn remove(&mut self, index: u64) -> bool {
        let Ok(at) = self.sorted.binary_search(&index) else {
            return false;
        };
        self.sorted.remove(at);
        true
    }

    /// Returns whether the index is in the set.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        self.sorted.binary_search(&index).is_ok()
    }

    /// Returns the indices in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.sorted.iter().copied()
    }

    /// Returns the number of indices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// Returns this set plus the indices of `added`, minus those of `dropped`.
    #[must_use]
    pub fn changed(&self, added: &Self, dropped: &Self) -> Self {
        let all = self
            .iter()
            .chain(added.iter())
            .filter(|index| !dropped.contains(*index));
        all.collect()
    }

    /// Returns the indices of this set that `other` lacks.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self {
            sorted: self
                .iter()
                .filter(|index| !other.contains(*index))
                .collect(),
        }
    }

    /// Encodes the differences between neighbours in unsigned LEB128; the first index is its own
    /// difference from zero.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len().saturating_mul(2));
        let mut previous = 0;
        for index in self.iter() {
            put_leb128(&mut out, index.saturating_sub(previous));
            previous = index;
        }
        out
    }

    /// Decodes the output of [`IndexSet::encode`]; returns `None` unless the bytes are the
    /// canonical encoding of a set within [`limits::MAX_REVOKED`].
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut sorted: Vec<u64> = Vec::new();
        let mut rest = bytes.iter().copied();
        while let Some(difference) = take_leb128(&mut rest) {
            let difference = difference?;
            let index = match sorted.last() {
                // A repeated index would give one set several encodings.
                Some(_) if difference == 0 => return None,
                Some(last) => last.checked_add(difference)?,
                None => difference,
            };
            // Checked for each index: a small bundle must not allocate a large set.
            if sorted.len() >= limits::MAX_REVOKED {
                return None;
            }
            sorted.push(index);
        }
        Some(Self { sorted })
    }
}

impl FromIterator<u64> for IndexSet {
    fn from_iter<I: IntoIterator<Item = u64>>(indices: I) -> Self {
        let mut sorted: Vec<u64> = indices.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        Self { sorted }
    }
}

/// Appends a value in unsigned LEB128.
fn put_leb128(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Takes one value in unsigned LEB128. Returns `None` at the end, and `Some(None)` for an encoding
/// that is truncated, too long or not the shortest.
fn take_leb128(bytes: &mut impl Iterator<Item = u8>) -> Option<Option<u64>> {
    let mut value: u64 = 0;
    // 10 groups of 7 bits hold 64 bits.
    for position in 0..10_u32 {
        let byte = match bytes.next() {
            Some(byte) => byte,
            None if position == 0 => return None,
            None => return Some(None),
        };
        let part = u64::from(byte & 0x7f);
        let shift = position.saturating_mul(7);
        // Rejects overflow, and a final zero group, which the shortest encoding does not have.
        if part.leading_zeros() < shift || (byte == 0 && position > 0) {
            return Some(None);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(Some(value));
        }
    }
    Some(None)
}

/// Times before which tokens are revoked: a token with an `iat` less than the value is rejected.
///
/// To revoke every token issued up to and including second T, the issuer stores T + 1. An epoch for
/// `kid` revokes the key itself, regardless of the time: see [`Epochs::revokes_key`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Epochs {
    /// Epoch for all tokens of the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<u64>,
    /// Key of the digests that replace the names in `sub`, `client`, `sid` and `grant`
    /// ([`name_digest`], poll protocol 2). `None` if those maps contain the names themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_key: Option<String>,
    /// Epochs by signing key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kid: BTreeMap<String, u64>,
    /// Epochs by `sub`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sub: BTreeMap<String, u64>,
    /// Epochs by `client_id`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub client: BTreeMap<String, u64>,
    /// Epochs by `sid`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sid: BTreeMap<String, u64>,
    /// Epochs by `grant_id`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub grant: BTreeMap<String, u64>,
}

impl Epochs {
    /// Returns whether this key was revoked. The time of its epoch is not compared, because the
    /// holder of a stolen key can choose any `iat`.
    #[must_use]
    pub fn revokes_key(&self, kid: &str) -> bool {
        self.kid.contains_key(kid)
    }

    /// Returns the rejection if an epoch revokes these claims. A token without `iat` counts as
    /// issued at time 0.
    #[must_use]
    pub fn revokes(&self, claims: &Claims) -> Option<Rejection> {
        // Fails closed: a token without `iat` is older than every epoch.
        let issued_at = claims.issued_at().unwrap_or(0);
        if self.all.is_some_and(|epoch| issued_at < epoch) {
            return Some(Rejection::IssuedBeforeEpoch);
        }
        [
            (
                "sub",
                &self.sub,
                claims.subject(),
                Rejection::SubjectRevoked,
            ),
            (
                "client",
                &self.client,
                claims.client_id(),
                Rejection::ClientRevoked,
            ),
            (
                "sid",
                &self.sid,
                claims.session(),
                Rejection::SessionRevoked,
            ),
            (
                "grant",
                &self.grant,
                claims.grant(),
                Rejection::GrantRevoked,
            ),
        ]
        .into_iter()
        .find(|(kind, epochs, name, _)| {
            name.and_then(|name| self.epoch(kind, epochs, name))
                .is_some_and(|at| issued_at < at)
        })
        .map(|(.., rejection)| rejection)
    }

    /// Returns the epoch for a name, looked up by its digest if the epochs have digests.
    fn epoch(&self, kind: &str, epochs: &BTreeMap<String, u64>, name: &str) -> Option<u64> {
        // Saves the HMAC in the common case.
        if epochs.is_empty() {
            return None;
        }
        match &self.digest_key {
            Some(key) => epochs.get(name_digest(key, kind, name).as_str()).copied(),
            None => epochs.get(name).copied(),
        }
    }

    /// Returns these epochs with digests in place of the names.
    #[must_use]
    pub fn with_digests(mut self, key: &str) -> Self {
        let kinds = [
            ("sub", &mut self.sub),
            ("client", &mut self.client),
            ("sid", &mut self.sid),
            ("grant", &mut self.grant),
        ];
        for (kind, epochs) in kinds {
            *epochs = epochs
                .iter()
                .map(|(name, epoch)| (name_digest(key, kind, name), *epoch))
                .collect();
        }
        self.digest_key = Some(String::from(key));
        self
    }

    /// Returns the maps of all kinds of epochs.
    pub(crate) fn kinds(&self) -> [&BTreeMap<String, u64>; 5] {
        [&self.kid, &self.sub, &self.client, &self.sid, &self.grant]
    }
}

/// Returns the digest that replaces a name in a bundle, in base64url: the first 16 bytes of
/// HMAC-SHA256 (RFC 2104) over the kind of group, a zero byte and the name.
///
/// A reader of the bundle learns only the names that it can guess.
#[must_use]
pub fn name_digest(key: &str, kind: &str, name: &str) -> String {
    // HMAC accepts keys of any length, so this cannot fail.
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else {
        return String::new();
    };
    let digest = mac
        .chain_update(kind)
        .chain_update([0])
        .chain_update(name)
        .finalize()
        .into_bytes();
    base64url::encode(digest.get(..16).unwrap_or_default())
}

/// Builds a `jti` that carries the token's index: 22 characters for 8 bytes of index and 8 random
/// bytes (I5).
#[must_use]
pub fn jti_with_index(index: u64, random: [u8; 8]) -> String {
    let mut bytes = Vec::with_capacity(16);
    bytes.extend_from_slice(&index.to_be_bytes());
    bytes.extend_from_slice(&random);
    base64url::encode(&bytes)
}

/// Returns the index in a `jti` made by [`jti_with_index`]; `None` for any other `jti`.
#[must_use]
pub fn index_of(jti: &str) -> Option<u64> {
    let mut bytes = [0; 18];
    // Other issuers' `jti` values have other lengths or alphabets; they have no index.
    let decoded: &[u8; 16] = base64url::decode_into(jti, &mut bytes)?.try_into().ok()?;
    let (index, _random) = decoded.split_first_chunk::<8>()?;
    Some(u64::from_be_bytes(*index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn hundred_of_million_fit_250_bytes() {
        // Evenly spread is the worst case for the sum of the lengths' logarithms.
        let set: IndexSet = (0..100).map(|at| at * 10_000 + 5_000).collect();
        assert!(set.encode().len() <= 250, "{}", set.encode().len());
    }

    #[test]
    fn rejects_other_encodings_of_set() {
        for bytes in [
            &[0x80][..],
            &[0x80, 0x00],
            &[1, 0],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(IndexSet::decode(bytes), None, "{bytes:?}");
        }
        let top = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1];
        assert_eq!(IndexSet::decode(&top), None, "past the last index");
    }

    #[test]
    fn index_round_trips_through_jti() {
        for index in [0, 1, 1 << 40, u64::MAX] {
            let jti = jti_with_index(index, [9; 8]);
            assert_eq!((jti.len(), index_of(&jti)), (22, Some(index)));
        }
        for jti in [
            "",
            "x",
            "5b0bb4b8-2c58-4cfa-a27c-2ba04a9a6b6d",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAB",
        ] {
            assert_eq!(index_of(jti), None, "{jti}");
        }
    }

    #[test]
    fn epochs_reject_tokens_issued_earlier() {
        fn claims(iat: u64) -> Claims {
            let json = alloc::format!(
                r#"{{"iat":{iat},"sub":"alice","client_id":"app","sid":"s","grant_id":"g"}}"#
            );
            Claims::parse(json.into_bytes()).unwrap()
        }
        fn one(name: &str) -> BTreeMap<String, u64> {
            BTreeMap::from([(String::from(name), 100)])
        }
        for (epochs, expected) in [
            (
                Epochs {
                    all: Some(100),
                    ..Epochs::default()
                },
                Rejection::IssuedBeforeEpoch,
            ),
            (
                Epochs {
                    sub: one("alice"),
                    ..Epochs::default()
                },
                Rejection::SubjectRevoked,
            ),
            (
                Epochs {
                    client: one("app"),
                    ..Epochs::default()
                },
                Rejection::ClientRevoked,
            ),
            (
                Epochs {
                    sid: one("s"),
                    ..Epochs::default()
                },
                Rejection::SessionRevoked,
            ),
            (
                Epochs {
                    grant: one("g"),
                    ..Epochs::default()
                },
                Rejection::GrantRevoked,
            ),
        ] {
            assert_eq!(epochs.revokes(&claims(99)), Some(expected));
            assert_eq!(epochs.revokes(&claims(100)), None);
        }
        assert_eq!(
            Epochs {
                sub: one("bob"),
                ..Epochs::default()
            }
            .revokes(&claims(1)),
            None
        );
        let named = Epochs {
            sub: one("alice"),
            grant: one("alice"),
            ..Epochs::default()
        };
        let hidden = named.with_digests("a key that only this issuer has");
        assert_eq!(hidden.revokes(&claims(99)), Some(Rejection::SubjectRevoked));
        assert_eq!(hidden.revokes(&claims(100)), None);
        let names: Vec<&String> = hidden.sub.keys().chain(hidden.grant.keys()).collect();
        // Computed with Python: hmac.new(key, b"sub\0alice", "sha256").digest()[:16] in base64url,
        // and with "grant".
        assert_eq!(names, ["55GTuQUUGXGS09n6S-mg6g", "86hyYQ8-UT2Tmks5QhqFvw"]);
        let undated = Claims::parse(br#"{"sub":"alice"}"#.to_vec()).unwrap();
        assert_eq!(
            Epochs {
                sub: one("alice"),
                ..Epochs::default()
            }
            .revokes(&undated),
            Some(Rejection::SubjectRevoked)
        );
    }

    proptest! {
        #[test]
        fn sets_survive_their_encoding(indices in proptest::collection::vec(any::<u64>(), 0..50)) {
            let set: IndexSet = indices.iter().copied().collect();
            prop_assert_eq!(IndexSet::decode(&set.encode()), Some(set.clone()));
            prop_assert!(indices.iter().all(|index| set.contains(*index)));
        }

        #[test]
        fn decodes_canonical_encoding_only(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Some(set) = IndexSet::decode(&bytes) {
                prop_assert_eq!(set.encode(), bytes);
            }
        }

        #[test]
        fn change_transforms_one_set_into_other(
            a in proptest::collection::btree_set(0..60_u64, 0..30),
            b in proptest::collection::btree_set(0..60_u64, 0..30),
        ) {
            let (a, b): (IndexSet, IndexSet) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(a.changed(&b.without(&a), &a.without(&b)), b);
        }
    }
}
