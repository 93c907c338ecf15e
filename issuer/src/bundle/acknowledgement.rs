//! Acknowledgement values: a bundle carries the value of its version, and a poll returns it (ADR 22).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keys::MasterKey;

/// Bytes of the MAC that a value keeps.
const BYTES: usize = 16;

/// Computes and checks acknowledgement values. The key comes from the master key, so every replica checks every value, also
/// after a restart, without state.
pub(super) struct Acknowledgements(hmac::Key);

impl Acknowledgements {
    /// Derives the key.
    pub(super) fn new(master: &MasterKey) -> Self {
        Self(master.derive("bundle acknowledgement"))
    }

    /// Returns the value of a version.
    pub(super) fn value(&self, version: u64) -> String {
        let tag = hmac::sign(&self.0, &version.to_be_bytes());
        URL_SAFE_NO_PAD.encode(tag.as_ref().get(..BYTES).unwrap_or_default())
    }

    /// Returns whether `proof` is the value of a version.
    pub(super) fn proves(&self, version: u64, proof: &str) -> bool {
        verify_slices_are_equal(self.value(version).as_bytes(), proof.as_bytes()).is_ok()
    }
}
