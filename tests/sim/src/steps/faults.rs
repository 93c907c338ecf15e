//! Faults of processes, links, clocks and the database.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use meshseal_core::bundle::{PINS_HEADER, PROTOCOL_HEADER, STALENESS_HEADER};

use super::{Step, nothing};
use crate::truth::Lost;
use crate::world::{World, config};

impl World {
    /// Sends a forged poll without proof, in either protocol, that claims the newest version for a
    /// worker.
    pub(super) async fn intrude(&mut self) -> Result<String> {
        let (worker, at) = (self.any_worker(), self.any_replica());
        let has_second_protocol = self.dice.chance(50);
        // The issuer cannot tell the attacker from a worker that it has no record of.
        let victim = self.workers.get(worker).filter(|victim| {
            victim.trust().bundle_version().is_some()
                && victim.counted_as() == victim.id
                && victim.given_at > self.truth.restored_at
                && !self.is_forgotten(victim.id)
        });
        let Some(victim) = victim else {
            return Ok(nothing());
        };
        let mut headers = vec![
            ("x-meshseal-worker", format!("{:016x}", victim.id)),
            ("x-meshseal-node", "x".to_owned()),
        ];

        // Protocol 2 also states a staleness bound and pins, which must not be taken over.
        if has_second_protocol {
            let stated = [
                (PROTOCOL_HEADER, "2"),
                (STALENESS_HEADER, "1"),
                (PINS_HEADER, "x"),
            ];
            headers.extend(stated.map(|(name, value)| (name, value.to_owned())));
        }
        let newest = self.newest_version();
        let status = self
            .ask_for_bundle(at, &headers, newest)
            .await?
            .map(|answer| answer.status);
        Ok(format!(
            "in the name of worker {worker}, replica {at} answers {status:?}"
        ))
    }

    /// Cuts or heals a worker's link, or restarts its process, perhaps with new pins.
    pub(super) fn disturb_worker(&mut self, step: Step) -> Result<String> {
        let (at, id, now) = (self.any_worker(), self.new_id(), self.now);
        let repinned = if matches!(step, Step::Repin) {
            self.draw_policy()?
        } else {
            None
        };
        if matches!(step, Step::Cut) {
            let Some(worker) = self.workers.get_mut(at) else {
                return Ok(nothing());
            };
            worker.cut = !worker.cut;
            let told = if worker.cut { "cut off" } else { "reachable" };
            return Ok(format!("worker {at} is {told}"));
        }
        // The process ends with all configurations of the VM.
        for member in self.vm_of(at) {
            let new_id = if member == at { id } else { self.new_id() };
            let repinned = repinned.clone().filter(|_| member == at);
            if let Some(worker) = self.workers.get_mut(member) {
                let policy = repinned.unwrap_or_else(|| worker.policy());
                worker.restart(new_id, policy, now);
            }
        }
        Ok(format!("worker {at} is process {id}"))
    }

    /// Starts replica `at`.
    pub(super) async fn start_replica(&mut self, at: usize) -> String {
        // The issuer would create a missing file. An unreachable server creates nothing.
        if self.database.is_away() {
            return format!("replica {at} does not start: the database is away");
        }
        let Some(replica) = self.replicas.get_mut(at) else {
            return nothing();
        };
        match replica.start(&self.setting, &self.database).await {
            Ok(()) => format!("replica {at} starts"),
            Err(error) => format!("replica {at} does not start: {error}"),
        }
    }

    /// Crashes a replica that runs, or starts one that does not.
    pub(super) async fn crash_or_start(&mut self) -> Result<String> {
        let at = self.any_replica();
        let running = self
            .replicas
            .get(at)
            .is_some_and(crate::replica::Replica::is_running);
        if !running {
            return Ok(self.start_replica(at).await);
        }
        if let Some(replica) = self.replicas.get_mut(at) {
            replica.crash();
        }
        Ok(format!("replica {at} crashes"))
    }

    /// Repairs the database and all links, and starts stopped replicas.
    pub(super) async fn heal(&mut self) -> Result<String> {
        self.database.set_away(false)?;
        self.database.set_full(false)?;
        let mut told = Vec::new();
        for at in 0..self.replicas.len() {
            let Some(replica) = self.replicas.get(at) else {
                break;
            };
            replica.link.cut.store(false, Ordering::SeqCst);
            if !replica.is_running() {
                told.push(self.start_replica(at).await);
            }
        }
        Ok(told.join(", "))
    }

    /// Crashes and starts all replicas.
    pub(super) async fn crash_all(&mut self) -> Result<String> {
        for replica in &mut self.replicas {
            replica.crash();
        }
        let mut told = Vec::new();
        for at in 0..self.replicas.len() {
            told.push(self.start_replica(at).await);
        }
        Ok(told.join(", "))
    }

    /// Makes the database unreachable, or reachable again.
    pub(super) fn toggle_away(&mut self) -> Result<String> {
        let away = self.database.is_well();
        self.database.set_away(away)?;
        Ok(if away {
            "the database is away"
        } else {
            "the database is back"
        }
        .to_owned())
    }

    /// Cuts or heals a replica's link to the database, or makes it lose an answer.
    pub(super) fn disturb_link(&mut self, step: Step) -> String {
        let at = self.any_replica();
        let Some(replica) = self.replicas.get(at) else {
            return nothing();
        };
        if matches!(step, Step::LoseAnswer) {
            replica.link.lose_answers.store(1, Ordering::SeqCst);
            return format!("the answer to the next change of replica {at} is lost");
        }
        let was_cut = replica.link.cut.fetch_xor(true, Ordering::SeqCst);
        format!(
            "replica {at} {} the database",
            if was_cut { "reaches" } else { "does not reach" }
        )
    }

    /// Makes the database refuse writes, or accept them again.
    pub(super) fn toggle_full(&mut self) -> Result<String> {
        let full = self.database.is_well();
        self.database.set_full(full)?;
        Ok(if full {
            "writes fail"
        } else {
            "writes succeed"
        }
        .to_owned())
    }

    /// Takes a backup.
    pub(super) async fn back_up(&mut self) -> Result<String> {
        if !self.database.is_well() {
            return Ok(nothing());
        }
        let _open = self.pace.call();
        let number = self.database.back_up().await?;
        self.backups.push(number);
        Ok(format!("backup {number}"))
    }

    /// Restores a backup, and notes the replicas that remember the lost versions.
    pub(super) async fn restore(&mut self) -> Result<String> {
        let Some(number) = self
            .backups
            .get(self.dice.below(self.backups.len()))
            .copied()
        else {
            return Ok(nothing());
        };
        if !self.database.is_well() {
            return Ok(nothing());
        }
        // A running replica that holds the newest state in memory can prove the loss.
        let newest = self.truth.newest;
        let provers = self
            .replicas
            .iter()
            .enumerate()
            .filter(|(_, replica)| replica.version() >= Some(newest));
        let provers = provers.map(|(at, replica)| (at, replica.starts)).collect();
        let open = self.pace.call();
        self.database.restore(number).await?;
        drop(open);
        self.truth.restored_at = self.now;
        self.truth.lost.push(Lost {
            version: newest,
            provers,
            is_proven: false,
        });
        Ok(format!("backup {number}, newest version before: {newest}"))
    }

    /// Drifts or steps a replica's clock.
    pub(super) fn move_clock(&mut self, step: Step) -> Result<String> {
        let at = self.any_replica();
        let drift = i64::try_from(self.dice.between(0, 4))?.saturating_sub(2);
        let size = i64::try_from(self.dice.between(60, 200_000))?;
        let size = if self.dice.chance(50) {
            size
        } else {
            size.saturating_neg()
        };

        // A second step returns the clock.
        let replica = self.replicas.get_mut(at).context("a replica")?;
        let before = replica.skew_s.saturating_add(replica.step_s);
        if matches!(step, Step::Drift) {
            replica.skew_s = drift;
        } else if replica.step_s == 0 {
            replica.step_s = size;
        } else {
            replica.step_s = 0;
        }
        let after = replica.skew_s.saturating_add(replica.step_s);
        replica.clock.put_back(before.saturating_sub(after));
        Ok(format!("replica {at} is {after} s ahead"))
    }

    /// Restarts a replica with a shorter or longer `tokens.maxLifetime`.
    pub(super) async fn lower_lifetime(&mut self) -> Result<String> {
        let at = self.any_replica();
        self.setting.config = config(if self.dice.chance(50) { "5m" } else { "1h" })?;
        if let Some(replica) = self.replicas.get_mut(at) {
            replica.crash();
        }
        Ok(self.start_replica(at).await)
    }
}
