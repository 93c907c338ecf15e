//! `meshseal incident end`: an operator says that the cause of an incident is removed.

use anyhow::Result;

use super::nothing;
use crate::truth::says_revoked;
use crate::world::World;

impl World {
    /// An operator ends the present incident. The tokens that were revoked with it stay revoked:
    /// their revocations count as acknowledged from now on.
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

    /// Returns the tokens that a worker rejects as revoked if it starts now with a bundle of this
    /// replica. Empty while a restored backup may lack some of them.
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
        let is_revoked = |text: &str| observer.decide(text, self.now).is_err_and(says_revoked);
        let tokens = self.truth.tokens.iter().enumerate();
        let revoked = tokens
            .filter(|(_, token)| token.is_alive(self.now) && is_revoked(&token.text))
            .map(|(position, _)| position);
        Ok(revoked.collect())
    }
}
