//! Waiting for a condition, never for a duration.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(10);

/// Asks `probe` again and again until it gives a value.
///
/// # Errors
/// When `limit` passes without one; the message names `what` was waited for.
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
    .with_context(|| format!("waited {} s in vain for {what}", limit.as_secs_f32()))
}
