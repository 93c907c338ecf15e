//! Steps of a history.

mod clocks;
mod faults;
mod forget;
mod incident;
mod operator;
mod receipts;
mod traffic;
mod vm;

use std::sync::atomic::Ordering;

use anyhow::Result;
use meshseal_issuer::keys::{KeyState, Purpose};
use serde_json::Value;

use crate::dice::Dice;
use crate::replica::Replica;
use crate::world::World;

pub(super) use receipts::Waiting;

/// Seconds of true time between two rounds of background work.
const ROUND_S: u64 = 20;

/// A step of a history.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Time passes, and running replicas do their background work.
    Pass,
    /// Time passes for longer than any back-off.
    PassLong,
    /// One replica does its background work.
    Background,
    /// A worker polls, and the answer arrives.
    Exchange,
    /// A worker polls, and the message is in transit.
    Poll,
    /// A message arrives, or is lost.
    Deliver,
    /// A client requests a token.
    Mint,
    /// A client authenticates with a new assertion.
    Assert,
    /// A used assertion is presented again.
    Replay,
    /// An operator revokes a token and gets a receipt at once.
    RevokeToken,
    /// An operator revokes a token and waits for the workers during other steps.
    AwaitReceipt,
    /// An operator stops waiting for a receipt.
    AbandonReceipt,
    /// An operator revokes all tokens of a client.
    RevokeClient,
    /// An operator revokes a signing key.
    RevokeKey,
    /// An operator requests a rotation of the token key.
    Rotate,
    /// An operator requests a rotation of the bundle key.
    RotateBundle,
    /// A worker starts again with the pins of the present bundle keys.
    Repin,
    /// A service reads `/jwks`.
    ReadKeys,
    /// An attacker with a poll token polls in the name of a worker.
    Intrude,
    /// An operator forgets a worker.
    Forget,
    /// An operator ends an incident.
    EndIncident,
    /// A worker's link breaks or heals.
    Cut,
    /// Another configuration begins in a worker's VM.
    AddConfiguration,
    /// A worker's process ends and another begins.
    RestartWorker,
    /// The database and all links work again, and stopped replicas start.
    Heal,
    /// A replica crashes, or starts again.
    Crash,
    /// All replicas crash and start again.
    CrashAll,
    /// The database goes away or comes back.
    Away,
    /// The database refuses writes, or accepts them again.
    Full,
    /// A replica's link to the database breaks or heals.
    Partition,
    /// The answer to the next change of a replica is lost.
    LoseAnswer,
    /// A backup is taken.
    BackUp,
    /// A backup is restored.
    Restore,
    /// The clock of a worker's machine steps, or runs at another rate.
    MoveWorkerClock,
    /// A replica's clock drifts within the allowed difference between replicas.
    Drift,
    /// A replica's clock steps far away, or returns.
    JumpClock,
    /// A replica restarts with a shorter `tokens.maxLifetime`.
    LowerLifetime,
}

/// Ordinary steps with their weights.
const ORDINARY: [(Step, u32); 13] = [
    (Step::Pass, 20),
    (Step::PassLong, 2),
    (Step::Background, 10),
    (Step::Exchange, 30),
    (Step::Poll, 6),
    (Step::Deliver, 12),
    (Step::Mint, 12),
    (Step::Assert, 8),
    (Step::Replay, 8),
    (Step::RevokeToken, 6),
    (Step::Rotate, 2),
    (Step::ReadKeys, 2),
    (Step::Heal, 4),
];

/// Faults and rare steps with their weights.
const FAULTS: [(Step, u32); 24] = [
    (Step::AddConfiguration, 4),
    (Step::MoveWorkerClock, 3),
    (Step::EndIncident, 3),
    (Step::Forget, 4),
    (Step::AwaitReceipt, 8),
    (Step::AbandonReceipt, 1),
    (Step::Intrude, 4),
    (Step::RevokeClient, 3),
    (Step::RevokeKey, 1),
    (Step::Cut, 4),
    (Step::RestartWorker, 2),
    (Step::Crash, 3),
    (Step::CrashAll, 1),
    (Step::Away, 3),
    (Step::Full, 3),
    (Step::RotateBundle, 2),
    (Step::Repin, 6),
    (Step::Partition, 3),
    (Step::LoseAnswer, 3),
    (Step::BackUp, 3),
    (Step::Restore, 1),
    (Step::Drift, 2),
    (Step::JumpClock, 2),
    (Step::LowerLifetime, 1),
];

/// Draws the weights of a history. Each fault is absent in half of the histories.
pub(super) fn weights(dice: &mut Dice) -> Vec<(u32, Step)> {
    let mut weights: Vec<(u32, Step)> = ORDINARY
        .iter()
        .map(|(step, weight)| (*weight, *step))
        .collect();
    for (step, weight) in FAULTS {
        if dice.chance(50) {
            let times = u32::try_from(dice.between(1, 4)).unwrap_or(1);
            weights.push((weight.saturating_mul(times), step));
        }
    }
    weights
}

impl World {
    /// Does a step and returns a description of its effect.
    pub(super) async fn take(&mut self, step: Step) -> Result<String> {
        match step {
            Step::Pass => self.pass_time(1, 6).await,
            Step::PassLong => self.pass_time(60, 900).await,
            Step::Background => self.background_of_one().await,
            Step::Exchange => self.exchange().await,
            Step::Poll => Ok(self
                .ask()
                .map_or_else(nothing, |at| format!("message {at}"))),
            Step::Deliver => self.deliver_any().await,
            Step::Mint => self.mint().await,
            Step::Assert => self.assert().await,
            Step::Replay => self.replay().await,
            Step::RevokeToken => self.revoke_token().await,
            Step::AwaitReceipt => self.begin_receipt().await,
            Step::AbandonReceipt => Ok(self.abandon_receipt()),
            Step::RevokeClient => self.revoke_client().await,
            Step::RevokeKey => self.revoke_key().await,
            Step::Rotate => self.rotate("token").await,
            Step::RotateBundle => self.rotate("bundle").await,
            Step::ReadKeys => self.read_keys().await,
            Step::Intrude => self.intrude().await,
            Step::Forget => self.forget_worker().await,
            Step::EndIncident => self.end_incident().await,
            Step::AddConfiguration => self.add_configuration(),
            Step::Cut | Step::RestartWorker | Step::Repin => self.disturb_worker(step),
            Step::Heal => self.heal().await,
            Step::Crash => self.crash_or_start().await,
            Step::CrashAll => self.crash_all().await,
            Step::Away => self.toggle_away(),
            Step::Full => self.toggle_full(),
            Step::Partition | Step::LoseAnswer => Ok(self.disturb_link(step)),
            Step::BackUp => self.back_up().await,
            Step::Restore => self.restore().await,
            Step::MoveWorkerClock => self.move_worker_clock(),
            Step::Drift | Step::JumpClock => self.move_clock(step),
            Step::LowerLifetime => self.lower_lifetime().await,
        }
    }

    fn any_replica(&mut self) -> usize {
        self.dice.below(self.replicas.len())
    }

    fn any_worker(&mut self) -> usize {
        self.dice.below(self.workers.len())
    }

    async fn pass_time(&mut self, low: u64, high: u64) -> Result<String> {
        let seconds = self.dice.between(low, high);
        let mut left = seconds;
        while left > 0 {
            let part = left.min(ROUND_S);
            left -= part;
            self.pass(part);
            for replica in 0..self.replicas.len() {
                self.background(replica).await?;
                // The list is current: replicas read each other's records twice a second.
                self.check_listing(replica).await?;
            }
        }
        Ok(format!("{seconds} s"))
    }

    async fn background_of_one(&mut self) -> Result<String> {
        let replica = self.any_replica();
        self.background(replica).await?;
        Ok(format!("replica {replica}"))
    }

    /// Does the background work of one replica. Notes a key that begins to sign by force.
    async fn background(&mut self, at: usize) -> Result<()> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(());
        };
        let before = forced_rotations(replica);
        let loses_answer = replica.link.lose_answers.load(Ordering::SeqCst) > 0;
        replica.follow().await;
        replica.work().await;
        if forced_rotations(replica) > before {
            self.note_forced(at, |state| state == KeyState::Active);
        }
        // A replica does not count a change whose answer was lost.
        if loses_answer {
            self.note_forced(at, KeyState::may_sign);
        }
        Ok(())
    }

    /// Notes that keys of replica `at` in these states may sign without all confirmations.
    fn note_forced(&mut self, at: usize, states: impl Fn(KeyState) -> bool) {
        let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
            return;
        };
        let published = issuer.publisher.current();
        let may_sign = published
            .keys
            .iter()
            .filter(|key| key.purpose == Purpose::Token && states(key.state));
        self.truth
            .forced
            .extend(may_sign.map(|key| key.kid.clone()));
    }
}

/// Returns the number of forced rotations of a replica since its start.
fn forced_rotations(replica: &Replica) -> u64 {
    replica
        .issuer()
        .map_or(0, |issuer| issuer.metrics.forced_rotations.get())
}

/// Returns a member of an object, or null if the object lacks it.
pub(super) fn field<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn nothing() -> String {
    "nothing".to_owned()
}
