//! The clocks of workers' machines step and drift (ADRs 16 and 23).

use anyhow::{Result, bail};
use serde_json::Value;

use super::{field, nothing};
use crate::truth::LEEWAY_S;
use crate::worker::{MAX_RATE_ERROR_PPM, NOT_AFTER_S, Worker};
use crate::world::World;

/// Seconds by which a worker's time of day is right when its process begins.
const RIGHT_S: i64 = 10;

/// Seconds by which the clocks of replicas are right.
const REPLICA_SPREAD_S: u64 = 5;

/// Longest time without a bundle after which a slow monotonic clock still admits the next one.
const LONGEST_SILENCE_S: u64 = 1_200;

impl World {
    /// The time of day of a machine steps, or its monotonic clock runs at another rate. The true
    /// time is unknown to the worker.
    pub(super) fn move_worker_clock(&mut self) -> Result<String> {
        let (at, kind) = (self.any_worker(), self.dice.below(10));
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

    /// Invariants 1 and 3 for the age of bundles. A worker stops acting on one at the end of its
    /// bound and the clock skew; and not before, apart from what its clock was wrong by when its
    /// process began, and what its monotonic clock was fast by since then.
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

    /// Most seconds by which the time that a worker carries may be ahead.
    fn error_s(&self, worker: &Worker) -> u64 {
        let began = u64::try_from(worker.began_ahead_s).unwrap_or(0);
        let fast = self.now.saturating_sub(worker.began_at) / 100;
        began + fast + LEEWAY_S + REPLICA_SPREAD_S
    }

    /// Invariant 3 for a bundle that a worker has called out of date: it is not, or the clock was
    /// wrong when the process began.
    pub(super) fn check_refusal(&self, at: usize, payload: &Value) -> Result<()> {
        let Some(worker) = self.workers.get(at) else {
            return Ok(());
        };
        let time = |name: &str| field(payload, name).as_u64().unwrap_or_default();
        let (issued_at, end) = (time("iat"), time("exp"));
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
