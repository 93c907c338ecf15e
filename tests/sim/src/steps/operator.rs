//! Steps of operators: revocations and rotations.

use anyhow::Result;
use meshseal_issuer::keys::{KeyState, Purpose};

use super::nothing;
use crate::replica::Answer;
use crate::truth::Token;
use crate::world::{CLIENTS, OPERATOR, World, secret};

/// Seconds after the revocation of a group in which replicas may issue tokens that it covers: their
/// clocks are ahead, or they have not followed yet.
const GROUP_REACH_S: u64 = 12;

impl World {
    /// Posts a form as the operator to replica `at`.
    pub(super) async fn as_operator(
        &self,
        at: usize,
        path: &str,
        form: String,
    ) -> Result<Option<Answer>> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(None);
        };
        replica.post(OPERATOR, &secret(OPERATOR), path, form).await
    }

    /// Draws a token that a worker could still accept. Returns its position and text.
    pub(super) fn any_living_token(&mut self) -> Option<(usize, String)> {
        let now = self.now;
        let living: Vec<(usize, &Token)> = self
            .truth
            .tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| token.is_alive(now))
            .collect();
        let (at, token) = living.get(self.dice.below(living.len()))?;
        Some((*at, token.text.clone()))
    }

    /// Revokes a token, and checks the receipt.
    pub(super) async fn revoke_token(&mut self) -> Result<String> {
        let Some((token, text)) = self.any_living_token() else {
            return Ok(nothing());
        };
        let at = self.any_replica();
        let form = format!("token={text}&wait=0");
        match self.as_operator(at, "/revoke", form).await? {
            Some(answer) => self.hear_receipt(token, at, &answer),
            None => Ok(nothing()),
        }
    }

    /// Revokes all tokens of a client, or all tokens.
    pub(super) async fn revoke_client(&mut self) -> Result<String> {
        let (at, now) = (self.any_replica(), self.now);
        let client = CLIENTS
            .get(self.dice.below(CLIENTS.len()))
            .copied()
            .unwrap_or_default();
        let form = if self.dice.chance(20) {
            "all=true".to_owned()
        } else {
            format!("client={client}")
        };
        let all = form.starts_with("all");
        self.truth.groups_until = now.saturating_add(GROUP_REACH_S);
        let Some(answer) = self.as_operator(at, "/revoke", form).await? else {
            return Ok(nothing());
        };

        // A lost answer leaves open whether the tokens are revoked.
        if answer.status != 200 {
            self.truth
                .may_cover(|_, token| all || token.client == client);
            return Ok(format!("replica {at} answers {}", answer.status));
        }

        // An acknowledged revocation covers every token of the group.
        let count = self
            .truth
            .acknowledge(now, |_, token| all || token.client == client);
        self.acknowledged += 1;
        self.acknowledged_at = self.now;
        self.check_revoked()?;
        Ok(format!(
            "replica {at}, {}: {count} tokens",
            if all { "all" } else { client }
        ))
    }

    /// Revokes a token key.
    pub(super) async fn revoke_key(&mut self) -> Result<String> {
        let (at, now) = (self.any_replica(), self.now);
        let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
            return Ok(nothing());
        };
        let published = issuer.publisher.current();
        let keys: Vec<String> = published
            .keys
            .iter()
            .filter(|key| key.purpose == Purpose::Token && key.state != KeyState::Retired)
            .map(|key| key.kid.clone())
            .collect();
        let Some(kid) = keys.get(self.dice.below(keys.len())).cloned() else {
            return Ok(nothing());
        };
        // In an emergency the standby takes over at once, even without confirmations.
        self.note_forced(at, KeyState::may_sign);
        // A replica that has not followed yet may sign with the revoked key. Its tokens are revoked
        // with the key.
        self.truth.revoked_keys.insert(kid.clone());
        let Some(answer) = self
            .as_operator(at, "/admin/keys/revoke", format!("kid={kid}"))
            .await?
        else {
            return Ok(nothing());
        };

        // A lost answer leaves open whether the key is revoked.
        if answer.status != 200 {
            self.truth.may_cover(|_, token| token.kid == kid);
            self.truth.unknown_rotation = true;
            return Ok(format!("replica {at} answers {}", answer.status));
        }
        self.note_forced(at, KeyState::may_sign);
        self.truth.acknowledged_keys.insert(kid.clone());
        let count = self.truth.acknowledge(now, |_, token| token.kid == kid);
        self.acknowledged += 1;
        self.acknowledged_at = self.now;
        self.check_revoked()?;
        Ok(format!(
            "replica {at}, key {}: {count} tokens",
            self.truth.key_place(&kid)
        ))
    }

    /// Requests a rotation of the key of a purpose.
    pub(super) async fn rotate(&mut self, purpose: &str) -> Result<String> {
        let at = self.any_replica();
        let answer = self
            .as_operator(at, "/admin/keys/rotate", format!("purpose={purpose}"))
            .await?;
        Ok(answer.map_or_else(nothing, |answer| {
            format!("replica {at} answers {}", answer.status)
        }))
    }
}
