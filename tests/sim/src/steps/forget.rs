//! `meshseal proxies forget`: an operator declares that a worker is gone.

use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{field, nothing};
use crate::replica::Replica;
use crate::truth::Forgotten;
use crate::world::World;

/// Seconds after which every replica has read that a worker is gone, and has recorded the last poll
/// that it received from the worker.
const FORGOTTEN_AFTER_S: u64 = 30;

impl World {
    /// Lets an operator forget a worker that is listed as unreachable: its process has ended, or it
    /// is cut off and continues.
    pub(super) async fn forget_worker(&mut self) -> Result<String> {
        let at = self.any_replica();
        let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
            return Ok(nothing());
        };
        let listed = issuer.proxies.live(true).proxies;
        let mut gone: Vec<u64> = listed
            .iter()
            .filter(|counted| !counted.reachable)
            .filter_map(|counted| u64::from_str_radix(&counted.record.worker, 16).ok())
            .filter(|id| {
                let worker = self.workers.iter().find(|worker| worker.id == *id);
                worker.is_none_or(|worker| worker.cut)
            })
            .collect();
        gone.sort_unstable();
        let Some(id) = gone.get(self.dice.below(gone.len())).copied() else {
            return Ok(nothing());
        };
        let form = format!("name={id:016x}");
        let Some(answer) = self.as_operator(at, "/admin/proxies/forget", form).await? else {
            return Ok(nothing());
        };
        // A lost answer is an error of the replica, which may have forgotten the worker.
        if answer.status == 200 || answer.status >= 500 {
            let forgotten = Forgotten {
                at: self.now,
                may_be_named: answer.status != 200,
            };
            self.truth.forgotten.insert(id, forgotten);
        }
        Ok(format!("replica {at}, worker {id:016x}: {}", answer.status))
    }

    /// Notes the poll of a worker. From now on a receipt may name a worker that an operator has
    /// declared gone. The worker counts again once it receives a bundle from a replica that reaches
    /// the database: any other replica does not know of the declaration (ADR 23).
    pub(super) fn note_poll(&mut self, id: u64, replica: usize, has_bundle: bool) {
        let is_cut = |replica: &Replica| replica.link.cut.load(Ordering::SeqCst);
        let reaches = self.database.is_well() && !self.replicas.get(replica).is_some_and(is_cut);
        if has_bundle && reaches {
            self.truth.forgotten.remove(&id);
        } else if let Some(forgotten) = self.truth.forgotten.get_mut(&id) {
            forgotten.may_be_named = true;
        }
    }

    /// Returns whether an operator has declared a worker gone that has received no bundle since.
    pub(crate) fn is_forgotten(&self, id: u64) -> bool {
        self.truth.forgotten.contains_key(&id)
    }

    /// Notes whether a replica cannot write now or has a wrong clock.
    pub(crate) fn note_trouble(&mut self) {
        let is_troubled = |replica: &Replica| {
            let loses_answers = replica.link.lose_answers.load(Ordering::SeqCst) > 0;
            replica.link.cut.load(Ordering::SeqCst) || loses_answers || replica.step_s != 0
        };
        if !self.database.is_well() || self.replicas.iter().any(is_troubled) {
            self.truth.troubled_at = self.now;
        }
    }

    /// Checks that a receipt names no worker that an operator has declared gone.
    pub(super) fn check_forgotten(&self, receipt: &Value) -> Result<()> {
        let named = field(receipt, "waiting_for").as_array();
        for entry in named.into_iter().flatten() {
            let id = field(entry, "worker").as_str().unwrap_or_default();
            let id = u64::from_str_radix(id, 16).unwrap_or_default();
            let Some(forgotten) = self.truth.forgotten.get(&id) else {
                continue;
            };
            let is_settled = self.now > forgotten.at.saturating_add(FORGOTTEN_AFTER_S);
            // A replica that lost the answer to a write repeats it, and a backup may restore the
            // record. An operator would forget the worker again.
            let quiet_from = self.truth.troubled_at.max(self.truth.restored_at);
            let may_be_back = forgotten.at <= quiet_from.saturating_add(FORGOTTEN_AFTER_S);
            if !forgotten.may_be_named && is_settled && !may_be_back {
                bail!("forget: the receipt names worker {id:016x}, which was forgotten: {entry}");
            }
        }
        Ok(())
    }
}
