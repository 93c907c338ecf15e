//! Values that bundles carry besides keys and revocations: the acknowledgement value of their
//! version, which a poll returns as proof (ADR 22), and the digest key, under which the names of
//! revoked groups are digested.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::MasterKey;

/// Length of a truncated MAC in bytes.
const BYTES: usize = 16;

/// Computes and checks acknowledgement values. The keys are derived from the master key, so every
/// replica can check every value without stored state, also after a restart.
pub(super) struct Acknowledgements {
    key: hmac::Key,
    digest_key: String,
}

impl Acknowledgements {
    /// Derives the keys from the master key.
    pub(super) fn new(master: &MasterKey) -> Self {
        let names = hmac::sign(&master.derive("bundle names"), b"");
        Self {
            key: master.derive("bundle acknowledgement"),
            digest_key: encode(&names),
        }
    }

    /// Returns the acknowledgement value of a version.
    pub(super) fn value(&self, version: u64) -> String {
        encode(&hmac::sign(&self.key, &version.to_be_bytes()))
    }

    /// Returns the digest key, which is the same in every replica.
    pub(super) fn digest_key(&self) -> &str {
        &self.digest_key
    }

    /// Returns whether `proof` is the acknowledgement value of a version.
    pub(super) fn proves(&self, version: u64, proof: &str) -> bool {
        // In constant time, so that the time of a comparison tells no correct prefix.
        verify_slices_are_equal(self.value(version).as_bytes(), proof.as_bytes()).is_ok()
    }
}

fn encode(tag: &hmac::Tag) -> String {
    URL_SAFE_NO_PAD.encode(tag.as_ref().get(..BYTES).unwrap_or_default())
}
