//! Receipts that wait: a client revokes a token and waits for the proxies, other steps go on, and the
//! answer comes later, or never.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use anyhow::Result;

use super::{field, nothing};
use crate::replica::{Answer, Pending};
use crate::world::{OPERATOR, World, secret};

/// Most receipts that wait at a time.
const MAX_WAITING: usize = 3;

/// Most steps for which a receipt waits: far fewer than the time inside the program reaches for.
const MAX_STEPS: u64 = 15;

/// Seconds for which a client is willing to wait: the most that the issuer admits.
const WAIT_S: u64 = 60;

/// Time inside the program that passes with each step while a receipt waits: the issuer reads the
/// records of other replicas every half second. How long a step itself takes inside the program
/// depends on the machine by a little, so each receipt reads them after each step.
const STEP_TIME: Duration = Duration::from_millis(600);

/// A receipt that waits.
pub(crate) struct Waiting {
    /// Position of the token that is revoked.
    token: usize,
    /// Position of the replica, and which of its starts was asked.
    replica: usize,
    start: usize,
    /// Steps until its time is over.
    steps_left: u64,
    answer: Pending,
}

impl World {
    /// A client revokes a token, and waits.
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
        // Revoked from some moment on, which only the answer tells.
        self.truth.may_cover(|position, _| position == token);
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

    /// A client gives up its wait.
    pub(super) fn abandon_receipt(&mut self) -> String {
        let at = self.dice.below(self.waiting.len());
        if at >= self.waiting.len() {
            return nothing();
        }
        let given_up = self.waiting.swap_remove(at);
        format!("of token {}", given_up.token)
    }

    /// Lets time inside the program pass for receipts that wait, and takes their answers. Once the
    /// time of one is over, it is over for all.
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

    /// Takes the answers that have come. A replica that has ended answers no more.
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

    /// The answer to the revocation of a token: it holds from now on, and the receipt is true.
    pub(super) fn hear_receipt(
        &mut self,
        token: usize,
        at: usize,
        answer: &Answer,
    ) -> Result<String> {
        let receipt = answer.json();
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
