//! A proxy loses its link to the issuer. The receipt names the proxy and the time until which it
//! may still accept the revoked token.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshseal_tests::clock::unix_now;
use meshseal_tests::http::Request;
use serde_json::Value;

use super::Story;

/// Node id of the proxy, which this program plays: it polls once and then falls silent.
const NODE: &str = "cut-off";

/// Staleness bound that this proxy reports, in seconds.
const STALENESS_S: u64 = 300;

/// Silence after which the issuer reports a worker as unreachable, plus one second.
const SILENCE: Duration = Duration::from_secs(16);

pub(super) async fn tell(story: &mut Story) -> Result<()> {
    // The proxy takes one bundle and then falls silent.
    let poll = Request::get("/bundle")
        .header(
            "authorization",
            &format!("Bearer {}", story.stack.issuer.poll_token()),
        )
        .header("x-meshseal-worker", "00000000000c07ff")
        .header("x-meshseal-node", NODE)
        .header("x-meshseal-protocol", "2")
        .header("x-meshseal-staleness", &STALENESS_S.to_string())
        .header("x-meshseal-pins", "");
    let bundle = story.stack.issuer.send(poll).await?;
    ensure!(bundle.status == 200, "the proxy gets a bundle: {bundle:?}");
    let latest = unix_now() + STALENESS_S + 60;
    tokio::time::sleep(SILENCE).await;
    let token = story.stack.issuer.token("orders").await?;
    let receipt = story
        .stack
        .issuer
        .revoke_within(&format!("token={token}"), 1)
        .await?;
    let text = |pointer: &str| {
        receipt
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("-")
            .to_owned()
    };
    let seen = format!(
        "{}: {} {}",
        text("/state"),
        text("/waiting_for/0/node"),
        text("/waiting_for/0/state")
    );
    let expected = format!("incomplete: {NODE} unreachable");
    story.step(
        "revoked while a proxy is cut off: the receipt",
        &expected,
        &seen,
        seen == expected,
    );
    // The receipt states the time until which the silent proxy may still accept the token.
    let until = receipt
        .pointer("/waiting_for/0/accepts_until")
        .and_then(Value::as_u64)
        .context("a time")?;
    let left = until.saturating_sub(unix_now());
    let right = until <= latest && until + 2 >= latest;
    story.step(
        "  how long that proxy may still accept",
        "staleness 300 s + 60 s of skew",
        &format!("{left} s more"),
        right,
    );
    // Without the proxy the receipt is complete.
    story.stack.issuer.forget_proxy(NODE).await?;
    let receipt = story.stack.issuer.revoke(&format!("token={token}")).await?;
    story.step_receipt(&receipt);
    Ok(())
}
