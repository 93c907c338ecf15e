//! Signed bundles, made once for everybody who asks the same: ten thousand proxies at one version cost one signature.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use meshseal_core::bundle::{Snapshot, Times, seal};
use meshseal_core::limits;

use super::published::Published;
use crate::keys::SignerError;

/// Versions against which deltas can be made. A proxy further behind gets the full bundle.
const REMEMBERED: usize = 64;

/// Answers kept for one version and second: one for each remembered base, and the full one.
const MAX_ANSWERS: usize = REMEMBERED + 1;

/// Past versions, and what was answered for the present one.
#[derive(Default)]
pub(super) struct Answers {
    past: VecDeque<Arc<Snapshot>>,
    /// Version and second that `made` is for.
    moment: (u64, u64),
    made: HashMap<Option<u64>, Bytes>,
}

impl Answers {
    /// Remembers a version, as a base for deltas.
    pub(super) fn remember(&mut self, snapshot: Arc<Snapshot>) {
        if self.past.len() >= REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back(snapshot);
    }

    /// The bundle that brings a proxy from what it has to what is published.
    pub(super) fn answer(
        &mut self,
        published: &Published,
        have: Option<u64>,
        times: Times,
    ) -> Result<Bytes, SignerError> {
        let base = have.and_then(|have| self.past.iter().rev().find(|past| past.version == have)).cloned();
        let known = base.as_ref().map(|base| base.version);
        let moment = (published.version(), times.issued_at);
        if self.moment != moment {
            self.moment = moment;
            self.made.clear();
        }
        if let Some(made) = self.made.get(&known) {
            return Ok(made.clone());
        }
        let made = Bytes::from(sign(published, base.as_deref(), times)?);
        if self.made.len() < MAX_ANSWERS {
            self.made.insert(known, made.clone());
        }
        Ok(made)
    }
}

fn sign(published: &Published, base: Option<&Snapshot>, times: Times) -> Result<String, SignerError> {
    let signer = published.bundle_signer.as_ref().ok_or(SignerError::Destroyed)?;
    let payload = match base {
        Some(base) => published.snapshot.delta_from(base, times),
        None => published.snapshot.full(times),
    };
    let input = payload.signing_input(signer.kid());
    let signature = signer.sign(input.as_bytes())?;
    let bundle = seal(input, &signature);
    if bundle.len() > limits::MAX_BUNDLE_BYTES {
        tracing::error!(
            bytes = bundle.len(),
            "the bundle is larger than proxies accept; revoke groups instead of single tokens"
        );
    }
    Ok(bundle)
}
