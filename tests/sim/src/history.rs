//! A history runs the real issuer (router, publisher, key manager, store) on a real SQLite file
//! with fixed clocks, and workers that run the trust and validation of core. Each step does one
//! thing: a request, a message that arrives or is lost, background work, passing time, or a fault.
//! After each step the simulator checks the invariants. The same seed makes the same history, so a
//! failing one can be replayed: `meshseal-sim --seed N --histories 1 --trace`.
//!
//! Each history draws the weight of every kind of step (swarm testing, Groce et al. 2012): some
//! histories have no faults, and others consist mostly of faults.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::pace::Pace;
use super::world::World;

/// Seed and length of a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct History {
    /// Seed that determines the whole history.
    pub(super) seed: u64,
    /// Number of steps after the start.
    pub(super) steps: usize,
}

/// Results of a history.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// One readable line for each step.
    pub(super) trace: Vec<String>,
    /// Number of issued tokens.
    pub(super) tokens: usize,
    /// Number of revoked tokens.
    pub(super) revoked: usize,
    /// Number of complete receipts.
    pub(super) complete: usize,
    /// Step and description of a broken invariant.
    pub(super) violation: Option<(usize, String)>,
}

impl History {
    /// Runs the history in an empty folder.
    ///
    /// # Errors
    /// If the simulation itself fails. [`Report::violation`] reports a broken invariant.
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
