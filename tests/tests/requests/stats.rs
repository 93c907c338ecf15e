//! The filter's metrics in Envoy's statistics.

use std::time::Duration;

use anyhow::Result;
use meshseal_tests::http::Request;
use meshseal_tests::proxy::{WORKERS, run};
use meshseal_tests::wait::until;

use crate::world::{CORS, MAIN, SHADOW, UNKNOWING, World, check, passes, refused, token};

/// Runs `work` and returns the increase of a counter after every worker has reported. Use only
/// counters that no other case moves.
async fn moved(counter: &str, work: impl AsyncFnOnce(&'static World) -> Result<()>) -> Result<u64> {
    let world = World::get().await?;
    let name = format!("wasmcustom.meshseal.{counter}");
    let moved = async |before: u64| {
        Ok::<u64, anyhow::Error>(world.proxy.envoy().stat(&name).await? - before)
    };
    let before = moved(0).await?;
    work(world).await?;
    until(
        "a counter that has moved",
        Duration::from_secs(5),
        async || {
            moved(before)
                .await
                .ok()
                .filter(|moved| *moved >= WORKERS as u64)
        },
    )
    .await?;
    moved(before).await
}

#[test]
fn counts_each_verdict_once_per_request() -> Result<()> {
    run(async {
        let refusals = moved("cors.rejected.audience-mismatch", async |world: &World| {
            let elsewhere = world.sign(token().claim("aud", "elsewhere"))?;
            check(
                "stats_refused",
                CORS,
                Request::get("/orders/1").bearer(&elsewhere),
                refused(401, "audience-mismatch"),
            )
            .await
        });
        assert_eq!(refusals.await?, WORKERS as u64);
        let accepted = moved("cors.accepted", async |world: &World| {
            check(
                "stats_accepted",
                CORS,
                Request::get("/orders/1").bearer(&world.good()?),
                passes(),
            )
            .await
        });
        assert_eq!(accepted.await?, WORKERS as u64);
        let anonymous = moved("cors.anonymous", async |_: &World| {
            check("stats_anonymous", CORS, Request::get("/public/a"), passes()).await
        });
        assert_eq!(anonymous.await?, WORKERS as u64);
        Ok(())
    })
}

#[test]
fn shadow_mode_counts_rejections() -> Result<()> {
    run(async {
        let refusals = moved("shadow.shadow.token-expired", async |world: &World| {
            let expired = world.sign(token().claim("exp", 1).claim("iat", 0))?;
            let unchanged = passes().sees("authorization", format!("Bearer {expired}"));
            check(
                "shadow_counts",
                SHADOW,
                Request::get("/orders/1").bearer(&expired),
                unchanged,
            )
            .await
        });
        assert_eq!(refusals.await?, WORKERS as u64);
        Ok(())
    })
}

#[test]
fn reports_failed_polls_and_validation_times() -> Result<()> {
    run(async {
        let world = World::get().await?;
        check(
            "stats_validated",
            MAIN,
            Request::get("/orders/1").bearer(&world.good()?),
            passes(),
        )
        .await?;
        let failed = format!("wasmcustom.meshseal.{UNKNOWING}.bundle.poll_failed");
        until("a poll that has failed", Duration::from_secs(5), || async {
            (world.proxy.envoy().stat(&failed).await.ok()? > 0).then_some(())
        })
        .await?;
        until(
            "a merged histogram of validation times",
            Duration::from_secs(5),
            || async {
                let stats = world
                    .proxy
                    .envoy()
                    .admin_get("/stats?filter=meshseal.validation_us")
                    .await
                    .ok()?
                    .text();
                stats
                    .contains("wasmcustom.meshseal.validation_us: P0(")
                    .then_some(())
            },
        )
        .await
    })
}
