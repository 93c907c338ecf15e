//! Cache of signed bundles. Proxies with the same version and protocol share one bundle, so ten
//! thousand of them cost one signature.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use meshseal_core::bundle::{PROTOCOL, Payload, Snapshot, Times, seal};
use meshseal_core::limits;

use super::acknowledgement::Acknowledgements;
use super::published::Published;
use super::publisher::Base;
use crate::keys::SignerError;

/// Number of past versions that deltas can start from. A proxy with an older version gets the full
/// bundle.
const REMEMBERED: usize = 64;

/// Largest number of cached bundles for one version and second: one for each remembered base and
/// the full one, in each protocol.
const MAX_ANSWERS: usize = (REMEMBERED + 1) * PROTOCOL as usize;

/// Past versions, and the signed bundles of the present version.
#[derive(Default)]
pub(super) struct Answers {
    past: VecDeque<Arc<Snapshot>>,
    /// Version and issue time (Unix seconds) of the bundles in `made`.
    moment: (u64, u64),
    made: HashMap<Base, Bytes>,
}

impl Answers {
    /// Remembers a version as a base for deltas.
    pub(super) fn remember(&mut self, snapshot: Arc<Snapshot>) {
        if self.past.len() >= REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back(snapshot);
    }

    /// Returns the bundle that brings a proxy from `base` to the published version.
    pub(super) fn answer(
        &mut self,
        published: &Published,
        base: Base,
        times: Times,
        acknowledgements: &Acknowledgements,
    ) -> Result<Bytes, SignerError> {
        let past = base
            .version
            .and_then(|have| self.past.iter().rev().find(|past| past.version == have))
            .cloned();
        // Every unknown version gets the full bundle, so all of them share one cache entry.
        let base = Base {
            version: past.as_ref().map(|past| past.version),
            ..base
        };
        // Bundles carry their issue time, so the cache lasts for one second.
        let moment = (published.version(), times.issued_at);
        if self.moment != moment {
            self.moment = moment;
            self.made.clear();
        }
        if let Some(made) = self.made.get(&base) {
            return Ok(made.clone());
        }
        let mut payload = match past {
            Some(past) => published.snapshot.delta_from(&past, times),
            None => published.snapshot.full(times),
        };
        payload.ack = Some(acknowledgements.value(payload.ver));
        let made = Bytes::from(sign(
            published,
            &payload.for_protocol(base.protocol, |epochs| {
                published.digested(epochs, acknowledgements.digest_key())
            }),
        )?);
        if self.made.len() < MAX_ANSWERS {
            self.made.insert(base, made.clone());
        }
        Ok(made)
    }
}

fn sign(published: &Published, payload: &Payload) -> Result<String, SignerError> {
    let signer = published
        .bundle_signer
        .as_ref()
        .ok_or(SignerError::Destroyed)?;
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
