//! Configurations that share a VM: when one accepts a bundle, the others adopt it and use it before
//! the issuer knows them (ADR 23).

use anyhow::Result;
use meshseal_core::authn::Accepted;

use super::nothing;
use crate::worker::Worker;
use crate::world::World;

/// Maximum number of configurations that a history adds.
const MAX_ADDED: usize = 4;

impl World {
    /// Adds another configuration in a worker's VM. It adopts the bundles of the others, and polls
    /// later or never.
    pub(super) fn add_configuration(&mut self) -> Result<String> {
        let (first, id) = (self.any_worker(), self.new_id());
        let (is_mute, policy) = (self.dice.chance(40), self.draw_policy()?);
        let (Some(first), Some(policy)) = (self.workers.get(first), policy) else {
            return Ok(nothing());
        };
        if self.added >= MAX_ADDED {
            return Ok(nothing());
        }
        let (vm, mut added) = (first.vm, Worker::beside(first, id, policy, self.now));
        added.is_mute = is_mute;
        for other in self.workers.iter().rev().filter(|other| other.vm == vm) {
            added.adopt(other);
        }
        self.added += 1;
        self.workers.push(added);
        let at = self.workers.len() - 1;
        self.check_worker(at, None)?;
        let version = self
            .workers
            .get(at)
            .and_then(|added| added.trust().bundle_version());
        Ok(format!("worker {at} begins in VM {vm} with {version:?}"))
    }

    /// Shares a bundle that worker `at` has accepted with the others of its VM.
    pub(super) fn share(&mut self, at: usize, accepted: Accepted) -> Result<()> {
        if accepted == Accepted::Refreshed {
            return Ok(());
        }
        let vm = self.workers.get(at).map(|worker| worker.vm);
        for other in 0..self.workers.len() {
            let Ok([from, to]) = self.workers.get_disjoint_mut([at, other]) else {
                continue;
            };
            if Some(to.vm) == vm {
                let before = to.trust().bundle_version();
                to.adopt(from);
                self.check_worker(other, before)?;
            }
        }
        Ok(())
    }

    /// Returns whether a worker no longer uses the bundle of another one, because a configuration
    /// of its VM has a newer bundle under a key that the worker does not pin.
    pub(super) fn is_withdrawn(&self, worker: &Worker) -> bool {
        let adopted = worker.counted_as() != worker.id;
        adopted
            && self.workers.iter().any(|other| {
                other.vm == worker.vm
                    && other.trust().bundle_version() > worker.trust().bundle_version()
            })
    }

    /// Returns the workers of the VM of worker `at`.
    pub(super) fn vm_of(&self, at: usize) -> Vec<usize> {
        let vm = self.workers.get(at).map(|worker| worker.vm);
        let all = self.workers.iter().enumerate();
        all.filter(|(_, other)| Some(other.vm) == vm)
            .map(|(position, _)| position)
            .collect()
    }
}
