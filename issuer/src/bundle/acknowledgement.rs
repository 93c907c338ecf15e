//! What bundles carry besides the state: the acknowledgement value of their version, which a poll
//! returns (ADR 22), and the key of the digests that stand for names.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::MasterKey;

/// Bytes of a MAC that are kept.
const BYTES: usize = 16;

/// Computes and checks acknowledgement values. The key comes from the master key, so every replica
/// checks every value, also after a restart, without state.
pub(super) struct Acknowledgements {
    key: hmac::Key,
    digest_key: String,
}

impl Acknowledgements {
    /// Derives the keys.
    pub(super) fn new(master: &MasterKey) -> Self {
        let names = hmac::sign(&master.derive("bundle names"), b"");
        Self {
            key: master.derive("bundle acknowledgement"),
            digest_key: encode(&names),
        }
    }

    /// Returns the value of a version.
    pub(super) fn value(&self, version: u64) -> String {
        encode(&hmac::sign(&self.key, &version.to_be_bytes()))
    }

    /// Returns the key of the digests of names; every replica has the same.
    pub(super) fn digest_key(&self) -> &str {
        &self.digest_key
    }

    /// Returns whether `proof` is the value of a version.
    pub(super) fn proves(&self, version: u64, proof: &str) -> bool {
        verify_slices_are_equal(self.value(version).as_bytes(), proof.as_bytes()).is_ok()
    }
}

fn encode(tag: &hmac::Tag) -> String {
    URL_SAFE_NO_PAD.encode(tag.as_ref().get(..BYTES).unwrap_or_default())
}
