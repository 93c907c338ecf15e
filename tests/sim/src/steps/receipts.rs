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

/// A receipt that waits.
pub(crate) struct Waiting {
    /// Position of the token that is revoked.
    token: usize,
    /// Position of the replica, and which of its starts was asked.
    replica: usize,
    start: usize,
    answer: Pending,
}

impl World {
    /// A client revokes a token, and waits for as long as a minute.
    pub(super) async fn begin_receipt(&mut self) -> Result<String> {
        let (living, at) = (self.any_living_token(), self.any_replica());
        let wait_s = self.dice.between(1, 60);
        let (Some((token, text)), Some(replica)) = (living, self.replicas.get(at)) else {
            return Ok(nothing());
        };
        let Some(issuer) = replica.issuer().cloned() else {
            return Ok(nothing());
        };
        if self.waiting.len() >= MAX_WAITING {
            return Ok(nothing());
        }
        let (start, form) = (replica.starts, format!("token={text}&wait={wait_s}"));
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
            answer,
        });
        Ok(format!(
            "replica {at}, token {token}: waits for up to {wait_s} s"
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

    /// Lets the program's time pass for receipts that wait, as the clocks did.
    pub(crate) async fn pass_for_receipts(&mut self, seconds: u64) -> Result<String> {
        if !self.waiting.is_empty() {
            tokio::time::advance(Duration::from_secs(seconds)).await;
        }
        self.hear_receipts().await
    }

    /// Takes the answers that have come, after each step. A replica that has ended answers no more.
    pub(crate) async fn hear_receipts(&mut self) -> Result<String> {
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
