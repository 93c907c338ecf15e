//! State of a history.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use meshseal_core::policy::Policy;
use meshseal_issuer::clients::SecretHash;
use meshseal_issuer::config::{Config, from_yaml};
use meshseal_issuer::keys::{KeyState, MasterKey, Purpose};
use serde_json::{Value, json};

use super::assertions::{self, Assertion};
use super::database::Database;
use super::dice::Dice;
use super::history::Report;
use super::pace::Pace;
use super::replica::{Replica, Setting};
use super::steps::{self, Step, Waiting};
use super::truth::Truth;
use super::worker::{MachineClock, Memo, Worker};

/// True time at the start (Unix seconds).
const START: u64 = 1_900_000_000;

/// The issuer identifier.
pub(super) const ISSUER: &str = "https://issuer.example";

/// The master key of every history: 32 bytes in base64.
const MASTER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// Clients that ask for tokens.
pub(super) const CLIENTS: [&str; 3] = ["checkout", "stock", "billing"];

/// The client that revokes and rotates.
pub(super) const OPERATOR: &str = "operator";

/// A message in transit.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// Number of the poll that the message belongs to.
    pub(super) id: u64,
    /// Position of the worker that polls.
    pub(super) worker: usize,
    /// Worker process that sent the poll.
    pub(super) process: u64,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Poll to a replica, with the version of the worker and its proof.
    Poll {
        replica: usize,
        headers: Vec<(&'static str, String)>,
        have: Option<u64>,
    },
    /// Bundle to the worker, and the true time at which the replica answered.
    Bundle(String, u64),
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) pace: Pace,
    /// True time (Unix seconds).
    pub(super) now: u64,
    pub(super) database: Database,
    /// Numbers of the existing backups.
    pub(super) backups: Vec<usize>,
    /// True if the database has a clock, like a server.
    pub(super) has_server: bool,
    pub(super) setting: Setting,
    pub(super) replicas: Vec<Replica>,
    /// Version and number of revocations at which each replica's bundle was last checked against
    /// the truth.
    pub(super) observed: Vec<(u64, usize)>,
    pub(super) workers: Vec<Worker>,
    /// Number of workers that began in the VM of another one.
    pub(super) added: usize,
    /// `staleness` settings from which workers draw.
    staleness: Vec<Value>,
    /// Key id of the active bundle key at the last check.
    pub(super) bundle_kid: Option<String>,
    pub(super) memo: Rc<Memo>,
    pub(super) under_way: Vec<Message>,
    /// Requests that wait for their receipt.
    pub(super) waiting: Vec<Waiting>,
    pub(super) truth: Truth,
    /// Client assertions in the order of their first use.
    pub(super) assertions: Vec<Assertion>,
    pub(super) weights: Vec<(u32, Step)>,
    pub(super) trace: Vec<String>,
    pub(super) complete: usize,
    /// Number of acknowledged revocations.
    pub(super) acknowledged: usize,
    /// True time of the last acknowledged revocation, or of the last restored loss.
    pub(super) acknowledged_at: u64,
    /// True if each replica follows the changes of others at once.
    pub(super) follows_at_once: bool,
    next_id: u64,
}

impl World {
    /// Starts the replicas and workers that the seed determines.
    pub(super) async fn start(seed: u64, folder: &Path, pace: Pace) -> Result<Self> {
        let mut dice = Dice::new(seed);
        let mut database = Database::new(folder.to_owned());
        database.set_full(false)?;
        let setting = Setting {
            config: config("1h")?,
            master: Arc::new(MasterKey::from_base64(MASTER, "simulation")?),
        };
        let mut replicas: Vec<Replica> = (0..dice.between(1, 3))
            .map(|_| Replica::stopped(START, pace.clone()))
            .collect();
        // Several replicas share a database server, which has a clock. A file has no clock.
        let has_server = replicas.len() > 1 || dice.chance(50);
        for (replica, boot) in replicas.iter_mut().zip(1..) {
            replica.clock.set_boot(boot);
            if has_server {
                replica.clock.set_database(START);
            }
            replica.start(&setting, &database).await?;
        }

        // Staleness, and the number of workers: mostly a few, sometimes many.
        let staleness = match dice.below(4) {
            0 => vec![json!({ "action": "SERVE" }), Value::Null],
            1 => vec![json!({ "maxAge": "3m", "action": "DENY" }), Value::Null],
            _ => vec![Value::Null],
        };
        let memo = Rc::new(Memo::default());
        let most = if dice.chance(10) { 50 } else { 8 };
        let count = dice.between(2, most);
        let mut world = Self {
            weights: steps::weights(&mut dice),
            dice,
            pace,
            now: START,
            database,
            backups: Vec::new(),
            has_server,
            setting,
            observed: vec![(0, 0); replicas.len()],
            replicas,
            workers: Vec::new(),
            added: 0,
            staleness,
            bundle_kid: None,
            memo,
            under_way: Vec::new(),
            waiting: Vec::new(),
            truth: Truth::default(),
            assertions: Vec::new(),
            trace: Vec::new(),
            complete: 0,
            acknowledged: 0,
            acknowledged_at: 0,
            follows_at_once: seed.is_multiple_of(2),
            next_id: 1,
        };

        // Two workers share a node. Their clocks are a few seconds off.
        for at in 0..count {
            let ahead_s = i64::try_from(world.dice.between(0, 8))?.saturating_sub(4);
            let (id, node) = (world.new_id(), format!("node-{}", at / 2));
            let policy = world
                .draw_policy()?
                .ok_or_else(|| anyhow!("a replica runs"))?;
            world.workers.push(Worker::new(
                id,
                node,
                (MachineClock::ahead(ahead_s), START),
                policy,
                Rc::clone(&world.memo),
            ));
        }
        Ok(world)
    }

    /// Creates an observer: a worker with a right clock that pins the present bundle keys.
    pub(super) fn new_worker(&self, replica: &Replica) -> Result<Worker> {
        let policy = Rc::new(policy(replica, &Value::Null)?);
        Ok(Worker::new(
            0,
            "observer".to_owned(),
            (MachineClock::default(), self.now),
            policy,
            Rc::clone(&self.memo),
        ))
    }

    /// Builds a policy that pins the present bundle keys. Returns `None` while no replica runs.
    pub(super) fn draw_policy(&mut self) -> Result<Option<Rc<Policy>>> {
        let staleness = self
            .staleness
            .get(self.dice.below(self.staleness.len()))
            .unwrap_or(&Value::Null);
        let Some(replica) = self
            .replicas
            .iter()
            .filter(|replica| replica.is_running())
            .max_by_key(|replica| replica.version())
        else {
            return Ok(None);
        };
        Ok(Some(Rc::new(policy(replica, staleness)?)))
    }

    /// Returns a number that this history has not used.
    pub(super) fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id = id.saturating_add(1);
        id
    }

    /// Advances true time and every clock.
    pub(super) fn pass(&mut self, seconds: u64) {
        self.now = self.now.saturating_add(seconds);
        for replica in &self.replicas {
            replica.clock.advance(seconds);
        }
        for worker in &mut self.workers {
            worker.clock.pass(seconds);
        }
    }

    /// Does one step and checks the invariants.
    pub(super) async fn step(&mut self, number: usize) -> Result<()> {
        let weights = std::mem::take(&mut self.weights);
        let step = self.dice.weighted(&weights).copied();
        self.weights = weights;
        let step = step.ok_or_else(|| anyhow!("a history has steps"))?;

        let elapsed = self.now.saturating_sub(START);
        // Replicas do not see two steps at the same millisecond.
        for replica in &self.replicas {
            replica.clock.advance_ms(1);
        }
        let what = self.take(step).await.with_context(|| format!("{step:?}"))?;
        self.note_trouble();
        let later = self.step_receipts().await.context("receipts")?;
        let what =
            format!("{what}{later}").replace(&*self.database.folder().to_string_lossy(), "FOLDER");
        self.trace
            .push(format!("{number:>4}  +{elapsed:>6} s  {step:?}: {what}"));
        self.check_replicas().await
    }

    /// Ends the history and returns its results.
    pub(super) fn report(self, violation: Option<(usize, String)>) -> Report {
        Report {
            tokens: self.truth.tokens.len(),
            revoked: self
                .truth
                .tokens
                .iter()
                .filter(|token| token.revoked_at.is_some())
                .count(),
            complete: self.complete,
            trace: self.trace,
            violation,
        }
    }
}

/// Returns the secret of a client.
pub(super) fn secret(client: &str) -> String {
    format!("mss_a-secret-of-sufficient-length-{client}")
}

fn hash(client: &str) -> String {
    SecretHash::of(&secret(client)).to_string()
}

/// Builds the issuer's configuration with this `tokens.maxLifetime`.
pub(super) fn config(max_lifetime: &str) -> Result<Config> {
    let clients = CLIENTS.map(|id| {
        format!(
            "- clientId: {id}\n  auth: {{ secrets: [ {{ hash: \"{}\" }} ] }}\n  \
             audiences: [orders]\n  scopes: [read]\n",
            hash(id)
        )
    });
    let clients = clients.concat();
    let yaml = format!(
        "issuer: {ISSUER}\n\
         keys: {{ algorithm: EdDSA, rotateEvery: 20m, ackTimeout: 90s, jwksMaxAge: 2m }}\n\
         tokens: {{ lifetime: 5m, maxLifetime: {max_lifetime}, clockSkew: 30s }}\n\
         bundle: {{ notAfter: 10m }}\n\
         services:\n- {{ audience: orders, scopes: [read], lifetime: {max_lifetime} }}\n\
         clients:\n{clients}\
         - clientId: {OPERATOR}\n  auth: {{ secrets: [ {{ hash: \"{}\" }} ] }}\n  admin: true\n\
         - clientId: {}\n  auth: {{ jwks: {} }}\n",
        hash(OPERATOR),
        assertions::SIGNER,
        assertions::jwks()?
    );
    from_yaml(&yaml).map_err(|error| anyhow!("{error:?}"))
}

/// Builds a policy that pins the bundle keys that `meshseal keys pins` prints.
fn policy(replica: &Replica, staleness: &Value) -> Result<Policy> {
    let issuer = replica
        .issuer()
        .ok_or_else(|| anyhow!("the replica runs"))?;
    let published = issuer.publisher.current();
    let of = |state: KeyState| {
        published
            .keys
            .iter()
            .filter(move |key| key.purpose == Purpose::Bundle && key.state == state)
    };
    let pins = of(KeyState::Active).chain(of(KeyState::Next).take(1));
    let pins = pins
        .map(|key| serde_json::from_str(&key.public_jwk))
        .collect::<Result<Vec<Value>, _>>()?;
    let mut bundle = json!({ "cluster": "issuer", "keys": pins });
    if let (Some(bundle), false) = (bundle.as_object_mut(), staleness.is_null()) {
        bundle.insert("staleness".to_owned(), staleness.clone());
    }
    let text = json!({
        "trustBundle": bundle,
        "jwtRules": [{ "issuer": ISSUER, "audiences": ["orders"], "trustBundle": true }],
    });
    meshseal_core::config::read_policy(&text.to_string())
        .map_err(|mistakes| anyhow!("{mistakes:?}"))
}
