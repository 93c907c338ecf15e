//! A history runs the real issuer (router, publisher, keeper, store) on a real SQLite file with
//! fixed clocks, and workers that run core's trust and validation. Each step does one thing: a
//! request, a message that arrives or is lost, background work, time that passes, a fault. After
//! each step the invariants are checked. The same seed makes the same history, so a failing one can
//! be replayed: `meshseal-sim --seed N --histories 1 --trace`.
//!
//! Each history draws the weight of every kind of step (swarm testing, Groce et al. 2012): one has
//! no faults, another hardly anything else.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::pace::Pace;
use super::world::World;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    /// Decides everything.
    pub(super) seed: u64,
    /// Steps after the start.
    pub(super) steps: usize,
}

/// What a history did.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Steps, for people: one line each.
    pub(super) trace: Vec<String>,
    /// Tokens issued.
    pub(super) tokens: usize,
    /// Tokens that were revoked.
    pub(super) revoked: usize,
    /// Receipts that said complete.
    pub(super) complete: usize,
    /// The step and the violation, if an invariant broke.
    pub(super) violation: Option<(usize, String)>,
}

impl History {
    /// Runs it in an empty folder.
    ///
    /// # Errors
    /// When the harness itself fails. A broken invariant is no error but [`Report::violation`].
    pub(super) async fn run(self, folder: &Path) -> Result<Report> {
        let pace = Pace::default();
        pace.drive(self.play(folder, pace.clone())).await
    }

    async fn play(self, folder: &Path, pace: Pace) -> Result<Report> {
        let mut world = World::start(self.seed, folder, pace)
            .await
            .context("start of the history")?;
        let mut violation = None;
        for step in 1..=self.steps {
            if let Err(error) = world.step(step).await {
                violation = Some((step, format!("{error:#}")));
                break;
            }
        }
        Ok(world.report(violation))
    }
}
