//! Message authentication codes (MACs) of database rows, and a keyed digest of the set of rows (ADR
//! 0018).
//!
//! Both use keys derived from the master key. The MAC of a row proves its content. The digest
//! proves that no row was removed, restored or added: it is the sum modulo 2^256 of one
//! pseudorandom value per row, so a change updates it without reading other rows.

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::StoreError;
use super::rows::Revocation;
use crate::keys::{KeyRecord, MasterKey};
use crate::revocation::EpochRecord;

/// Domain of the encodings. Changing an encoding requires a new version.
const DOMAIN: &str = "meshseal row v1";

/// Bytes of the random value that masks a stored digest.
const NONCE_BYTES: usize = 16;

const DIGEST_BYTES: usize = 32;

/// Row that is protected by a MAC.
pub(super) trait Row {
    /// Table of the row.
    const TABLE: &'static str;

    /// Returns the primary key, for messages.
    fn name(&self) -> String;

    /// Encodes every column except the MAC. A new column needs a line here.
    fn encode(&self, out: &mut Encoder);
}

impl Row for KeyRecord {
    const TABLE: &'static str = "meshseal_keys";

    fn name(&self) -> String {
        self.kid.clone()
    }

    fn encode(&self, out: &mut Encoder) {
        // Exhaustive, so that a new field cannot be left without a MAC.
        let Self {
            kid,
            purpose,
            algorithm,
            state,
            since,
            published,
            ready_at,
            drain_s,
            public_jwk,
            sealed,
        } = self;
        out.text(kid);
        out.text(purpose.name());
        out.text(algorithm.name());
        out.text(state.name());
        out.number(*since);
        out.number(*published);
        out.number(*ready_at);
        out.number(*drain_s);
        out.text(public_jwk);
        out.optional(sealed.as_deref());
    }
}

impl Row for Revocation {
    const TABLE: &'static str = "meshseal_revoked";

    fn name(&self) -> String {
        self.token.index.to_string()
    }

    fn encode(&self, out: &mut Encoder) {
        let Self { token, revoked_by } = self;
        out.number(token.index);
        out.number(token.expires_at);
        out.text(revoked_by);
    }
}

impl Row for EpochRecord {
    const TABLE: &'static str = "meshseal_epochs";

    fn name(&self) -> String {
        format!("{} {}", self.kind.name(), self.name)
    }

    fn encode(&self, out: &mut Encoder) {
        let Self {
            kind,
            name,
            before,
            expires_at,
        } = self;
        out.text(kind.name());
        out.text(name);
        out.number(*before);
        out.number(*expires_at);
    }
}

/// Canonical encoding of one row: fixed-width numbers and length-prefixed bytes, so that different
/// rows never have the same encoding.
#[derive(Debug, Default)]
pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    fn of<R: Row>(row: &R) -> Self {
        let mut out = Self(Vec::with_capacity(128));
        out.text(DOMAIN);
        out.text(R::TABLE);
        row.encode(&mut out);
        out
    }

    pub(super) fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn optional(&mut self, bytes: Option<&[u8]>) {
        // The flag keeps NULL and an empty value apart.
        self.number(u64::from(bytes.is_some()));
        self.bytes(bytes.unwrap_or_default());
    }
}

/// Keys of MACs and digests.
pub(super) struct RowKeys {
    mac: hmac::Key,
    set: hmac::Key,
}

impl RowKeys {
    pub(super) fn new(master: &MasterKey) -> Self {
        Self {
            mac: master.derive("meshseal row mac v1"),
            set: master.derive("meshseal row set v1"),
        }
    }

    /// Returns the MAC of a row, as its `mac` column holds it.
    pub(super) fn mac<R: Row>(&self, row: &R) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.mac, &Encoder::of(row).0))
    }

    /// Checks the MAC that was read with a row.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] with the name of the row.
    pub(super) fn check<R: Row>(&self, row: &R, mac: Option<&str>) -> Result<(), StoreError> {
        let mac = mac
            .and_then(|mac| URL_SAFE_NO_PAD.decode(mac).ok())
            // A malformed MAC decodes to an empty one, which never verifies.
            .unwrap_or_default();
        let genuine = hmac::verify(&self.mac, &Encoder::of(row).0, &mac).is_ok();
        if genuine {
            Ok(())
        } else {
            Err(StoreError::Tampered(format!(
                "row `{}` of {}",
                row.name(),
                R::TABLE
            )))
        }
    }

    /// Returns the value that a row adds to the digest. Unlike the MAC it is never stored: an
    /// attacker who knew these values could choose rows with the same sum as others.
    fn element<R: Row>(&self, row: &R) -> SetDigest {
        SetDigest::of(hmac::sign(&self.set, &Encoder::of(row).0).as_ref())
    }

    /// Returns the mask of a stored digest.
    fn mask(&self, nonce: &[u8]) -> SetDigest {
        let mut out = Encoder::default();
        out.text("meshseal mask v1");
        out.bytes(nonce);
        SetDigest::of(hmac::sign(&self.set, &out.0).as_ref())
    }
}

/// Digest of a set of rows (MSet-Add-Hash of Clarke et al., "Incremental Multiset Hash Functions",
/// 2003): four 64-bit limbs, least significant first.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SetDigest([u64; 4]);

impl SetDigest {
    fn of(bytes: &[u8]) -> Self {
        let mut limbs = [0; 4];
        for (limb, chunk) in limbs.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*chunk);
        }
        Self(limbs)
    }

    pub(super) fn add<R: Row>(&mut self, keys: &RowKeys, row: &R) {
        self.plus(&keys.element(row));
    }

    pub(super) fn remove<R: Row>(&mut self, keys: &RowKeys, row: &R) {
        self.minus(&keys.element(row));
    }

    pub(super) fn plus(&mut self, other: &Self) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (sum, over) = limb.overflowing_add(other);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || again);
        }
    }

    fn minus(&mut self, other: &Self) {
        let mut borrow = false;
        for (limb, other) in self.0.iter_mut().zip(other.0) {
            let (rest, under) = limb.overflowing_sub(other);
            let (rest, again) = rest.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (rest, under || again);
        }
    }

    /// Returns the stored form. It is masked, so that the difference of two stored digests reveals
    /// nothing about a row.
    pub(super) fn masked(&self, keys: &RowKeys) -> Result<String, StoreError> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| {
            StoreError::Unavailable("could not read random bytes from the operating system".into())
        })?;
        let mut masked = *self;
        masked.plus(&keys.mask(&nonce));
        let bytes = nonce
            .into_iter()
            .chain(masked.0.into_iter().flat_map(u64::to_le_bytes));
        Ok(URL_SAFE_NO_PAD.encode(bytes.collect::<Vec<u8>>()))
    }

    /// Removes the mask of a stored digest.
    pub(super) fn unmasked(stored: &str, keys: &RowKeys) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(stored).ok()?;
        let (nonce, masked) = bytes.split_at_checked(NONCE_BYTES)?;
        let mut digest = Self::of(masked);
        digest.minus(&keys.mask(nonce));
        (masked.len() == DIGEST_BYTES).then_some(digest)
    }
}

impl fmt::Debug for SetDigest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SetDigest(_)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{EpochKind, RevokedToken};

    fn keys() -> RowKeys {
        RowKeys::new(
            &MasterKey::from_base64("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "test")
                .unwrap(),
        )
    }

    fn epoch(kind: EpochKind, name: &str) -> EpochRecord {
        EpochRecord {
            kind,
            name: name.into(),
            before: 1,
            expires_at: 2,
        }
    }

    fn revocation(index: u64, revoked_by: &str) -> Revocation {
        Revocation {
            token: RevokedToken {
                index,
                expires_at: 2,
            },
            revoked_by: revoked_by.into(),
        }
    }
    #[test]
    fn digest_ignores_order_and_removed_rows() {
        let keys = keys();
        let rows: Vec<_> = (0..50)
            .map(|at| epoch(EpochKind::Subject, &at.to_string()))
            .collect();
        let (mut one, mut other) = (SetDigest::default(), SetDigest::default());
        rows.iter().for_each(|row| one.add(&keys, row));
        rows.iter().rev().for_each(|row| other.add(&keys, row));
        assert_eq!(one, other);
        rows.iter().for_each(|row| one.remove(&keys, row));
        assert_eq!(one, SetDigest::default());
    }

    #[test]
    fn carries_and_borrows_cross_limbs() {
        let most = SetDigest([u64::MAX; 4]);
        let mut digest = SetDigest([1, 0, 0, 0]);
        digest.plus(&most);
        assert_eq!(digest, SetDigest::default());
        digest.minus(&SetDigest([1, 0, 0, 0]));
        assert_eq!(digest, most);
    }

    #[test]
    fn stored_digests_differ_but_decode_alike() {
        let keys = keys();
        let mut digest = SetDigest::default();
        digest.add(&keys, &epoch(EpochKind::All, ""));
        let (one, other) = (digest.masked(&keys).unwrap(), digest.masked(&keys).unwrap());
        assert_ne!(one, other);
        assert_eq!(
            [&one, &other].map(|stored| SetDigest::unmasked(stored, &keys)),
            [Some(digest); 2]
        );
        assert_eq!(SetDigest::unmasked(&one[..40], &keys), None);
    }

    #[test]
    fn similar_rows_have_different_macs() {
        let keys = keys();
        let macs = [
            keys.mac(&epoch(EpochKind::Subject, "a")),
            keys.mac(&epoch(EpochKind::Client, "a")),
            keys.mac(&epoch(EpochKind::Subject, "")),
            keys.mac(&revocation(1, "")),
            keys.mac(&revocation(1, "a")),
            keys.mac(&revocation(2, "")),
        ];
        let distinct: std::collections::HashSet<_> = macs.iter().collect();
        assert_eq!(distinct.len(), macs.len());
        assert!(keys.check(&revocation(2, ""), Some(&macs[5])).is_ok());
        for wrong in [None, Some(""), Some(&*macs[4]), Some(&macs[5][..42])] {
            let error = keys.check(&revocation(2, ""), wrong).unwrap_err();
            assert_eq!(
                error,
                StoreError::Tampered("row `2` of meshseal_revoked".into()),
                "{wrong:?}"
            );
        }
    }
}
