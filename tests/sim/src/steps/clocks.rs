//! Steps and drift of the clocks of workers' machines (ADRs 16 and 23).

use anyhow::{Result, bail};
use serde_json::Value;

use super::{field, nothing};
use crate::truth::LEEWAY_S;
use crate::worker::{MAX_RATE_ERROR_PPM, NOT_AFTER_S, Worker};
use crate::world::World;

/// Largest error of a right wall clock at the start of a worker's process, in seconds.
const RIGHT_S: i64 = 10;

/// Largest error of the clocks of replicas, in seconds.
const REPLICA_SPREAD_S: u64 = 5;

/// Longest time in seconds without a bundle after which a worker with a slow monotonic clock still
/// accepts the next one.
const LONGEST_SILENCE_S: u64 = 1_200;

impl World {
    /// Steps the wall clock of a machine, or changes the rate of its monotonic clock. The worker
    /// does not know the true time.
    pub(super) fn move_worker_clock(&mut self) -> Result<String> {
        let (at, kind) = (self.any_worker(), self.dice.below(10));

        // Draw every value, so that the sequence of random numbers is the same for each kind.
        let far = i64::try_from(self.dice.between(61, 100_000))?;
        let far = if self.dice.chance(50) { far } else { -far };
        let near = i64::try_from(self.dice.between(0, 120))? - 60;
        let right = i64::try_from(self.dice.between(0, 8))? - 4;
        let rate = i64::try_from(self.dice.between(0, 20_000))? - MAX_RATE_ERROR_PPM;
        let Some(mut clock) = self.workers.get(at).map(|worker| worker.clock) else {
            return Ok(nothing());
        };
        match kind {
            0..3 => clock.ahead_s = right,
            3..6 => clock.ahead_s = near,
            6..8 => clock.ahead_s = far,
            _ => clock.rate_error_ppm = rate,
        }
        for member in self.vm_of(at) {
            if let Some(worker) = self.workers.get_mut(member) {
                worker.clock = clock;
            }
        }
        Ok(format!(
            "worker {at} is {} s ahead, its monotonic clock {} ppm fast",
            clock.ahead_s, clock.rate_error_ppm
        ))
    }

    /// Checks invariants 1 and 3 for the age of bundles. A worker stops using a bundle after its
    /// bound and the clock skew. It stops earlier only by the error of its wall clock at the start
    /// of its process, and by the lead of its monotonic clock since then.
    pub(crate) fn check_staleness(&self) -> Result<()> {
        for (at, worker) in self.workers.iter().enumerate() {
            let Some(bound_s) = worker.bound_s() else {
                continue;
            };
            let Some(issued_at) = worker.trust().bundle_issued_at() else {
                continue;
            };
            let accepts = worker.may_accept(self.now);
            let last = worker.accepted_at.saturating_add(bound_s + LEEWAY_S);
            if accepts && self.now > last {
                bail!("invariant 1: worker {at} acts on a bundle after its end");
            }

            // A worker may call a bundle stale early by the error of its clocks.
            let first = issued_at.saturating_add(bound_s);
            if !accepts
                && !self.is_withdrawn(worker)
                && self.now.saturating_add(self.error_s(worker)) < first
            {
                bail!("invariant 3: worker {at} calls a bundle stale before its time");
            }
        }
        Ok(())
    }

    /// Returns by how many seconds a worker's time may be ahead at most.
    fn error_s(&self, worker: &Worker) -> u64 {
        let began = u64::try_from(worker.began_ahead_s).unwrap_or(0);
        let fast = self.now.saturating_sub(worker.began_at) / 100;
        began + fast + LEEWAY_S + REPLICA_SPREAD_S
    }

    /// Checks invariant 3 for a bundle that a worker has rejected as out of date: the rejection is
    /// right, or the clock was wrong at the start of the process.
    pub(super) fn check_refusal(&self, at: usize, payload: &Value) -> Result<()> {
        let Some(worker) = self.workers.get(at) else {
            return Ok(());
        };
        let issued_at = field(payload, "iat").as_u64().unwrap_or_default();
        let end = field(payload, "exp").as_u64().unwrap_or_default();
        let known_at = worker.accepted_at.max(worker.began_at);
        let began_right = worker.began_ahead_s.abs() <= RIGHT_S;
        let is_known = self.now.saturating_sub(known_at) <= LONGEST_SILENCE_S;
        let is_present = issued_at <= self.now.saturating_add(REPLICA_SPREAD_S)
            && self.now.saturating_add(self.error_s(worker)) < end;
        if began_right && is_known && is_present {
            bail!(
                "invariant 3: worker {at} calls a bundle of the last {NOT_AFTER_S} s out of date"
            );
        }
        Ok(())
    }
}
