//! Waiting for a condition instead of a duration, so that tests are neither slow nor flaky.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Time between two checks of a condition.
const GLANCE: Duration = Duration::from_millis(10);

/// Calls `probe` repeatedly until it returns a value.
///
/// # Errors
/// Fails if `limit` passes first; the message contains `what`, the awaited condition.
pub async fn until<T, P, F>(what: &str, limit: Duration, mut probe: P) -> Result<T>
where
    P: FnMut() -> F,
    F: Future<Output = Option<T>>,
{
    let mut glances = interval(GLANCE);
    glances.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timeout(limit, async {
        loop {
            glances.tick().await;
            if let Some(value) = probe().await {
                return value;
            }
        }
    })
    .await
    .with_context(|| {
        format!(
            "timed out after {} s waiting for {what}",
            limit.as_secs_f32()
        )
    })
}
