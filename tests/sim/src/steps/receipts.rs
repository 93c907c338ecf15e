//! Receipts that wait: an operator revokes a token and waits for the proxies while other steps
//! happen. The answer arrives later or never.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use anyhow::Result;

use super::{field, nothing};
use crate::replica::{Answer, Pending};
use crate::world::{OPERATOR, World, secret};

/// Maximum number of waiting receipts.
const MAX_WAITING: usize = 3;

/// Maximum number of steps for which a receipt waits. They take far less virtual time than
/// [`WAIT_S`].
const MAX_STEPS: u64 = 15;

/// Wait that the operator requests in seconds: the maximum of the issuer.
const WAIT_S: u64 = 60;

/// Virtual time that passes with each step while a receipt waits. The issuer reads the records of
/// other replicas every half second. The virtual time of the step itself depends slightly on the
/// machine, so this time makes each receipt read the records after each step.
const STEP_TIME: Duration = Duration::from_millis(600);

/// Request that waits for its receipt.
pub(crate) struct Waiting {
    /// Position of the revoked token.
    token: usize,
    /// Position of the replica.
    replica: usize,
    /// Number of the replica's start at the time of the request.
    start: usize,
    /// Steps until the wait ends.
    steps_left: u64,
    answer: Pending,
}

impl World {
    /// Lets an operator revoke a token and wait for the receipt.
    pub(super) async fn begin_receipt(&mut self) -> Result<String> {
        let (living, at) = (self.any_living_token(), self.any_replica());
        let steps_left = self.dice.between(1, MAX_STEPS);
        let (Some((token, text)), Some(replica)) = (living, self.replicas.get(at)) else {
            return Ok(nothing());
        };
        let Some(issuer) = replica.issuer().cloned() else {
            return Ok(nothing());
        };
        if self.waiting.len() >= MAX_WAITING {
            return Ok(nothing());
        }
        let (start, form) = (replica.starts, format!("token={text}&wait={WAIT_S}"));
        let begun = replica.begin_post(OPERATOR, &secret(OPERATOR), "/revoke", form)?;
        let Some(mut answer) = begun else {
            return Ok(nothing());
        };
        // The revocation takes effect at an unknown moment before the answer.
        self.truth.may_cover(|position, _| position == token);

        // Runs the request until its answer, or until the issuer counts it as waiting.
        let (pace, before) = (self.pace.clone(), issuer.receipts_waiting());
        let answered = poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if issuer.receipts_waiting() > before && pace.is_idle() => {
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        });
        if let Some(answer) = answered.await {
            return self.hear_receipt(token, at, &answer?);
        }
        self.waiting.push(Waiting {
            token,
            replica: at,
            start,
            steps_left,
            answer,
        });
        Ok(format!(
            "replica {at}, token {token}: waits for {steps_left} steps"
        ))
    }

    /// Drops a request that waits for its receipt.
    pub(super) fn abandon_receipt(&mut self) -> String {
        let at = self.dice.below(self.waiting.len());
        if at >= self.waiting.len() {
            return nothing();
        }
        let given_up = self.waiting.swap_remove(at);
        format!("of token {}", given_up.token)
    }

    /// Advances virtual time for waiting receipts, and takes their answers. When the wait of one
    /// ends, the waits of all end.
    pub(crate) async fn step_receipts(&mut self) -> Result<String> {
        let mut time = STEP_TIME;
        for receipt in &mut self.waiting {
            receipt.steps_left = receipt.steps_left.saturating_sub(1);
            if receipt.steps_left == 0 {
                time = Duration::from_secs(WAIT_S);
            }
        }
        if !self.waiting.is_empty() {
            tokio::time::advance(time).await;
        }
        self.hear_receipts().await
    }

    /// Takes the answers that have arrived. A replica that has ended sends no answer.
    async fn hear_receipts(&mut self) -> Result<String> {
        let (mut told, pace) = (String::new(), self.pace.clone());
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut still = Vec::new();
        for mut receipt in waiting.drain(..) {
            let runs = self
                .replicas
                .get(receipt.replica)
                .is_some_and(|replica| replica.is_running() && replica.starts == receipt.start);
            if !runs {
                told.push_str(&format!("; the receipt of token {} is lost", receipt.token));
                continue;
            }
            match pace.settle(receipt.answer.as_mut()).await {
                Some(answer) => {
                    let heard = self.hear_receipt(receipt.token, receipt.replica, &answer?)?;
                    told.push_str(&format!("; later: {heard}"));
                }
                None => still.push(receipt),
            }
        }
        self.waiting = still;
        Ok(told)
    }

    /// Takes the answer to the revocation of a token, which must be in effect from now on, and
    /// checks the receipt.
    pub(super) fn hear_receipt(
        &mut self,
        token: usize,
        at: usize,
        answer: &Answer,
    ) -> Result<String> {
        let receipt = answer.json();

        // Without a receipt the token may be revoked or not.
        if answer.status != 200 || field(&receipt, "version").is_null() {
            self.truth.may_cover(|position, _| position == token);
            return Ok(format!(
                "replica {at} answers {} {}",
                answer.status, answer.text
            ));
        }
        self.truth
            .acknowledge(self.now, |position, _| position == token);
        self.acknowledged += 1;
        self.acknowledged_at = self.now;
        self.check_receipt(token, &receipt)?;
        self.check_forgotten(&receipt)?;
        self.check_revoked()?;
        Ok(format!(
            "replica {at}, token {token}: {} {}",
            field(&receipt, "state"),
            field(&receipt, "waiting_for")
        ))
    }
}
