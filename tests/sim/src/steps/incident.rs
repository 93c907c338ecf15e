//! `meshseal incident end`: an operator declares that the cause of an incident is removed.

use anyhow::Result;

use super::nothing;
use crate::truth::says_revoked;
use crate::world::World;

impl World {
    /// Lets an operator end the present incident. The tokens that were revoked with it stay
    /// revoked: their revocations count as acknowledged from now on.
    pub(super) async fn end_incident(&mut self) -> Result<String> {
        let at = self.any_replica();
        let covered = self.revoked_by(at).await?;
        let answer = self
            .as_operator(at, "/admin/incident/end", String::new())
            .await?;
        let Some(answer) = answer else {
            return Ok(nothing());
        };
        if answer.status != 200 {
            return Ok(format!("replica {at} answers {}", answer.status));
        }
        let count = self
            .truth
            .acknowledge(self.now, |position, _| covered.contains(&position));
        self.acknowledged += 1;
        self.acknowledged_at = self.now;
        self.check_revoked()?;
        Ok(format!("replica {at}, {count} tokens stay revoked"))
    }

    /// Returns the positions of the tokens that a new worker with a bundle of this replica rejects
    /// as revoked. Empty while a restored backup may lack some revocations.
    async fn revoked_by(&self, at: usize) -> Result<Vec<usize>> {
        let (Some(replica), false) = (self.replicas.get(at), self.truth.is_unsure()) else {
            return Ok(Vec::new());
        };
        let Some(text) = self.full_bundle(at).await? else {
            return Ok(Vec::new());
        };
        let mut observer = self.new_worker(replica)?;
        if observer.accept_bundle(&text, self.now).is_err() {
            return Ok(Vec::new());
        }
        let tokens = self.truth.tokens.iter().enumerate();
        let alive = tokens.filter(|(_, token)| token.is_alive(self.now));
        let revoked = alive.filter(|(_, token)| {
            let decision = observer.decide(&token.text, self.now);
            decision.is_err_and(says_revoked)
        });
        Ok(revoked.map(|(position, _)| position).collect())
    }
}
