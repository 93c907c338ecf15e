//! `demo`: shows the life of a token. Each step prints the expected and the actual result.

mod cut_off;
mod forged;
mod load;
mod revocation;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use meshseal_tests::clock::{Stopwatch, unix_now};
use meshseal_tests::http::{Request, Response, send};
use meshseal_tests::issuer::{CLIENT, state_folder};
use meshseal_tests::mint::unb64;
use meshseal_tests::ports::loopback;
use meshseal_tests::stack::{POLLERS, Ports, Stack};
use meshseal_tests::wait::until;
use serde_json::Value;

use crate::say::{complain, progress, say};

/// Lifetime of tokens: short, so that a token expires during the demo.
const LIFETIME_S: u64 = 15;
/// Time limit for everything that the parts do by themselves.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The running parts, and the results so far.
pub(crate) struct Story {
    pub(crate) stack: Stack,
    steps: u32,
    /// Number of steps that did not go as expected.
    differing: u32,
}

pub(crate) async fn demo() -> Result<ExitCode> {
    let watch = Stopwatch::start();
    let stack = Stack::start(&state_folder("demo"), Ports::free()?, LIFETIME_S, progress).await?;
    let mut story = Story {
        stack,
        steps: 0,
        differing: 0,
    };
    say("");
    let told = story.tell().await;
    progress("stopping");
    story.stack.stop().await;
    told?;
    let summary = format!(
        "{} steps, {} not as expected, {} s",
        story.steps,
        story.differing,
        watch.elapsed().as_secs()
    );
    if story.differing > 0 {
        complain(&summary);
        return Ok(ExitCode::FAILURE);
    }
    say(&summary);
    Ok(ExitCode::SUCCESS)
}

impl Story {
    async fn tell(&mut self) -> Result<()> {
        let token = self.good_token().await?;
        forged::tell(self, &token).await?;
        self.missing_scope(&token).await?;
        load::tell(self).await?;
        self.expired(&token).await?;
        revocation::tell(self).await?;
        self.issuer_away().await?;
        cut_off::tell(self).await
    }

    /// Counts a step and prints a line with its action, its expected and its actual result.
    pub(crate) fn step(&mut self, what: &str, expected: &str, seen: &str, as_expected: bool) {
        self.steps += 1;
        self.differing += u32::from(!as_expected);
        let mark = if as_expected { "ok  " } else { "DIFFERS" };
        say(&format!(
            "{mark} {what:<48} expected {expected:<34} seen {seen}"
        ));
    }

    /// Records a step whose response must be exactly the expected one.
    pub(crate) fn answer(&mut self, what: &str, expected: &str, response: &Response) {
        let seen = response.code().map_or_else(
            || response.status.to_string(),
            |code| format!("{} {code}", response.status),
        );
        self.step(what, expected, &seen, seen == expected);
    }

    /// Sends a request to the edge.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Response> {
        send(loopback(self.stack.ports.edge), request).await
    }

    async fn good_token(&mut self) -> Result<String> {
        let token = self.stack.issuer.token("orders").await?;
        let response = self.ask(&order().bearer(&token)).await?;
        self.answer("token by client_credentials", "200", &response);
        let echoed = response.json();
        let header = |name: &str| {
            echoed
                .pointer(&format!("/headers/{name}"))
                .and_then(Value::as_str)
                .unwrap_or("-")
                .to_owned()
        };
        let seen = format!(
            "{} {} {}",
            header("x-subject"),
            header("x-client"),
            header("x-scope")
        );
        let expected = format!("{CLIENT} {CLIENT} orders.read");
        self.step(
            "claims reach the service as headers",
            &expected,
            &seen,
            seen == expected,
        );
        let token_seen = header("authorization");
        self.step(
            "the token itself does not",
            "-",
            &token_seen,
            token_seen == "-",
        );
        Ok(token)
    }

    async fn missing_scope(&mut self, token: &str) -> Result<()> {
        let response = self
            .ask(&Request::new("POST", "/orders").bearer(token))
            .await?;
        self.answer(
            "writing with a token for reading",
            "403 scope-missing",
            &response,
        );
        Ok(())
    }

    /// Checks that the first token of the demo has expired.
    async fn expired(&mut self, token: &str) -> Result<()> {
        let claims: Value =
            serde_json::from_slice(&unb64(token.split('.').nth(1).unwrap_or_default())?)?;
        let expiry = claims
            .get("exp")
            .and_then(Value::as_u64)
            .context("a token expires")?;
        // two-hops.yaml allows a clock skew of one second.
        until("the first token to expire", SOON, || async {
            (unix_now() > expiry + 1).then_some(())
        })
        .await?;
        let response = self.ask(&order().bearer(token)).await?;
        self.answer(
            "the first token, meanwhile expired",
            "401 token-expired",
            &response,
        );
        Ok(())
    }

    async fn issuer_away(&mut self) -> Result<()> {
        let token = self.stack.issuer.token("orders").await?;
        self.stack.issuer.kill();
        let mut passed = 0;
        for _ in 0..200 {
            passed += u32::from(self.ask(&order().bearer(&token)).await?.status == 200);
        }
        self.step(
            "issuer killed, 200 requests with a good token",
            "200 pass",
            &format!("{passed} pass"),
            passed == 200,
        );

        self.stack.issuer.start().await?;
        let watch = Stopwatch::start();
        self.stack.issuer.wait_for_proxies(POLLERS, SOON).await?;
        let seen = format!("{POLLERS} after {:.1} s", watch.elapsed().as_secs_f32());
        self.step(
            "issuer back, workers poll again",
            &format!("{POLLERS}"),
            &seen,
            true,
        );

        self.stack.issuer.rotate_and_wait(SOON).await?;
        let fresh = self.stack.issuer.token("orders").await?;
        let response = self.ask(&order().bearer(&fresh)).await?;
        self.answer("a token under a key made after that", "200", &response);
        let receipt = self.stack.issuer.revoke(&format!("token={fresh}")).await?;
        let response = self.ask(&order().bearer(&fresh)).await?;
        self.answer("the same token, revoked", "401 token-revoked", &response);
        self.step_receipt(&receipt);
        Ok(())
    }

    /// Records the issuer's receipt, in which every live worker must have confirmed.
    pub(crate) fn step_receipt(&mut self, receipt: &Value) {
        let number = |name: &str| receipt.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (confirmed, proxies) = (number("confirmed"), number("proxies"));
        let seen = format!("{confirmed} of {proxies} after {} ms", number("elapsed_ms"));
        let all =
            confirmed == proxies && confirmed >= POLLERS as u64 && number("elapsed_ms") < 1_000;
        self.step(
            "  the issuer's receipt (2 hops, 3 threads each)",
            "all, in under 1000 ms",
            &seen,
            all,
        );
    }
}

/// The request of the demo.
pub(crate) fn order() -> Request {
    Request::get("/orders/1")
}
