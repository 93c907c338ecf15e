//! One replica of the issuer: the real code on the history's database, with a clock of its own,
//! served in process.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshseal_issuer::background::{follow_once, write_down_once};
use meshseal_issuer::clock::FixedClock;
use meshseal_issuer::config::Config;
use meshseal_issuer::issuer::Issuer;
use meshseal_issuer::keys::MasterKey;
use meshseal_issuer::store::{self, Location};
use meshseal_issuer::tokens::Indices;
use meshseal_issuer::{admin_app, app};
use serde_json::Value;
use tower::ServiceExt as _;

use super::database::Database;
use super::link::{Link, LinkFaults};
use super::pace::Pace;

/// Largest answer read, in bytes.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Settings with which every replica of a history starts.
pub(super) struct Setting {
    /// The issuer's configuration; the database in it is replaced.
    pub(super) config: Config,
    /// Key that encrypts the other keys.
    pub(super) master: Arc<MasterKey>,
}

/// Answer to a request.
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// The body.
    pub(super) text: String,
    /// `max-age` of `Cache-Control`, in seconds.
    pub(super) max_age_s: Option<u64>,
}

impl Answer {
    /// Returns the body as JSON, or null if the body is not JSON.
    #[must_use]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

/// Request that waits for its answer.
pub(super) type Pending = Pin<Box<dyn Future<Output = Result<Answer>>>>;

struct Running {
    issuer: Arc<Issuer>,
    public: Router,
    admin: Router,
}

/// A replica, running or not.
pub(super) struct Replica {
    /// Clock of the replica, which outlives restarts.
    pub(super) clock: Arc<FixedClock>,
    /// Small permanent lead of its clock over the true time, in seconds.
    pub(super) skew_s: i64,
    /// Additional temporary step of its clock, in seconds.
    pub(super) step_s: i64,
    /// Faults of its link to the database.
    pub(super) link: Arc<LinkFaults>,
    pace: Pace,
    /// Number of starts.
    pub(super) starts: usize,
    running: Option<Running>,
}

impl Replica {
    /// Creates a stopped replica whose clock shows `now` (Unix seconds).
    #[must_use]
    pub(super) fn stopped(now: u64, pace: Pace) -> Self {
        Self {
            clock: Arc::new(FixedClock::at(now)),
            skew_s: 0,
            step_s: 0,
            link: Arc::default(),
            pace,
            starts: 0,
            running: None,
        }
    }

    /// Returns whether the replica runs.
    #[must_use]
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns the issuer while the replica runs.
    #[must_use]
    pub(super) fn issuer(&self) -> Option<&Arc<Issuer>> {
        self.running.as_ref().map(|running| &running.issuer)
    }

    /// Returns the version that the replica publishes while it runs.
    #[must_use]
    pub(super) fn version(&self) -> Option<u64> {
        self.issuer()
            .map(|issuer| issuer.publisher.current().version())
    }

    /// Starts the replica on the database.
    ///
    /// # Errors
    /// If the issuer does not start, for example while the database is away.
    pub(super) async fn start(&mut self, setting: &Setting, database: &Database) -> Result<()> {
        let mut config = setting.config.clone();
        config.database = Location::Sqlite(database.file());

        // Opening is a call to the database: virtual time must not pass meanwhile.
        let opening = self.pace.call();
        let store = store::open(&config.database).await;
        drop(opening);
        let store = Arc::new(Link::new(store?, self.link.clone(), self.pace.clone()));
        let mut issuer =
            Issuer::start(config, self.clock.clone(), store, setting.master.clone()).await?;
        // Small blocks, so that a history leases many of them.
        issuer.indices = Indices::in_blocks_of(4);
        let issuer = Arc::new(issuer);
        let (public, admin) = (app(issuer.clone()).router, admin_app(issuer.clone()).router);
        self.starts = self.starts.saturating_add(1);
        self.running = Some(Running {
            issuer,
            public,
            admin,
        });
        Ok(())
    }

    /// Ends the replica like a crash: state that is only in memory is lost.
    pub(super) fn crash(&mut self) {
        self.running = None;
    }

    /// Follows the database, as background work does ten times a second.
    pub(super) async fn follow(&self) {
        if let Some(issuer) = self.issuer() {
            let _retried_later = follow_once(issuer).await;
            let _retried_later = issuer.consult_database_clock().await;
        }
    }

    /// Does the other background work: records the confirmations of workers, and makes the key
    /// changes that are due.
    pub(super) async fn work(&self) {
        if let Some(issuer) = self.issuer() {
            let _retried_later = write_down_once(issuer).await;
            let _retried_later = issuer.keeper.round(issuer).await;
        }
    }

    /// Begins a request. Returns `None` while the replica does not run. The caller may await the
    /// answer later, and loses it by dropping the future.
    pub(super) fn begin(&self, request: Request<Body>) -> Option<Pending> {
        let running = self.running.as_ref()?;
        let router = if request.uri().path().starts_with("/admin/") {
            &running.admin
        } else {
            &running.public
        };
        let response = router.clone().oneshot(request);
        Some(Box::pin(async move {
            let (parts, body) = response
                .await
                .map_err(|never| anyhow!("{never}"))?
                .into_parts();
            let bytes = to_bytes(body, MAX_ANSWER_BYTES).await?;

            // `max-age` tells how long a reader may keep the document.
            let cache = parts
                .headers
                .get("cache-control")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            let max_age_s = cache
                .split(", ")
                .find_map(|part| part.strip_prefix("max-age=")?.parse().ok());
            let text = String::from_utf8(bytes.to_vec())?;
            Ok(Answer {
                status: parts.status.as_u16(),
                text,
                max_age_s,
            })
        }))
    }

    /// Sends a request. Returns `None` while the replica does not run.
    ///
    /// # Errors
    /// If the answer cannot be read, which no fault of a history explains.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Option<Answer>> {
        match self.begin(request) {
            Some(pending) => pending.await.map(Some),
            None => Ok(None),
        }
    }

    /// Posts a form as a client.
    ///
    /// # Errors
    /// As [`Replica::send`].
    pub(super) async fn post(
        &self,
        client: &str,
        secret: &str,
        path: &str,
        form: String,
    ) -> Result<Option<Answer>> {
        match self.begin_post(client, secret, path, form)? {
            Some(pending) => pending.await.map(Some),
            None => Ok(None),
        }
    }

    /// Begins to post a form as a client; see [`Replica::begin`].
    ///
    /// # Errors
    /// If the request cannot be built.
    pub(super) fn begin_post(
        &self,
        client: &str,
        secret: &str,
        path: &str,
        form: String,
    ) -> Result<Option<Pending>> {
        let basic = format!("Basic {}", STANDARD.encode(format!("{client}:{secret}")));
        let request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", basic)
            .header("host", "issuer.example")
            .body(Body::from(form))?;
        Ok(self.begin(request))
    }

    /// Gets a document.
    ///
    /// # Errors
    /// As [`Replica::send`].
    pub(super) async fn get(&self, path: &str) -> Result<Option<Answer>> {
        self.send(
            Request::get(path)
                .header("host", "issuer.example")
                .body(Body::empty())?,
        )
        .await
    }
}
