//! Connections and transactions. A connection is used again only after its transaction ended
//! without a database error.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{AnyConnection, Connection as _, Executor as _, Row as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::hosts::{Host, hosts};
use super::location::{DataFile, FileUse, file_url};
use super::outage::{Outage, Reason};
use super::{Location, StoreError};

/// Longest wait for a free connection.
const WAIT: Duration = Duration::from_secs(3);

/// Longest attempt to open one connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Connections to PostgreSQL. A SQLite file has one, which spares waiting for its lock.
const CONNECTIONS: usize = 8;

/// Settings of each connection to a SQLite file. `synchronous = FULL` lets an acknowledged change
/// survive a power cut. `secure_delete` overwrites deleted content such as a private key.
const SQLITE_SETTINGS: &str = "PRAGMA secure_delete = ON; PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL; PRAGMA busy_timeout = 4000";

/// Sets the time for which a statement waits for a lock of the file (milliseconds).
const BUSY_TIMEOUT: &str = "PRAGMA busy_timeout = 4000";

/// Begins a change of a SQLite file that survives a power cut. The setting belongs to the connection,
/// so each change states it.
const BEGIN_DURABLE: &str = "PRAGMA synchronous = FULL; BEGIN IMMEDIATE";

/// Begins a change of a SQLite file that a power cut may undo.
const BEGIN_NOTE: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE";

/// Begins a transaction on a server and reads in the same message whether the server may write.
/// This detects a server that was demoted while connections to it stayed open, as behind a proxy.
/// The last column keeps the server's `synchronous_commit` unless that is `off`: then an
/// acknowledged change would not survive a crash.
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ;
    SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') AS read_only";
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED;
    SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') AS read_only,
        set_config('synchronous_commit',
            CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'
            ELSE current_setting('synchronous_commit') END, true)";
/// Reads whether a server may write.
const PROBE: &str =
    "SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') AS read_only";

/// Kind of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads, all from one snapshot.
    Read,
    /// Reads and changes.
    Write,
    /// Reads and changes that a power cut may undo in a SQLite file: they do not wait for the disk.
    /// The next durable change makes them durable, too.
    Note,
}

/// Opens connections and keeps the idle ones.
pub(super) struct Pool {
    file: Option<DataFile>,
    hosts: Vec<Host>,
    /// Index in `hosts` of the server to try first: the last that accepted writes.
    preferred: AtomicUsize,
    permits: Semaphore,
    idle: Mutex<Vec<Held>>,
    max_age: Duration,
    /// Number of destroyed keys, plus one because an earlier run may have destroyed one.
    destroyed: AtomicU64,
    /// Value of `destroyed` at the last time when the write-ahead log was emptied.
    emptied: AtomicU64,
}

/// An open connection and the time at which it was opened.
struct Held {
    connection: AnyConnection,
    opened: Instant,
}

impl Pool {
    /// Creates a pool without connections; the first transaction opens one.
    pub(super) fn new(location: &Location, max_age: Duration) -> Result<Self, Outage> {
        let (file, hosts) = match location {
            Location::Sqlite(path) => (Some(DataFile::identify(path)?), Vec::new()),
            Location::Postgres(url) => (None, hosts(url)?),
        };
        // A connection to a file may stay open: a new one would reach no other server.
        let (connections, max_age) = if file.is_some() {
            (1, Duration::MAX)
        } else {
            (CONNECTIONS, max_age)
        };
        let (permits, idle) = (Semaphore::new(connections), Mutex::default());
        let (destroyed, emptied) = (AtomicU64::new(1), AtomicU64::new(0));
        Ok(Self {
            file,
            hosts,
            preferred: AtomicUsize::new(0),
            permits,
            idle,
            max_age,
            destroyed,
            emptied,
        })
    }

    /// Returns whether the database is a SQLite file.
    pub(super) const fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Begins a transaction on a connection that is used by no other task.
    pub(super) async fn begin(&self, access: Access) -> Result<Transaction<'_>, Outage> {
        self.require_file()?;
        let permit = timeout(WAIT, self.permits.acquire()).await.map_err(|_| {
            Outage::new(
                Reason::NoAnswer,
                format!("all connections are busy for {} s", WAIT.as_secs()),
            )
        })?;
        let permit = permit.map_err(|_| Outage::new(Reason::Other, "the store is closed"))?;
        let mut transaction = Transaction {
            pool: self,
            held: None,
            _permit: permit,
        };
        // Idle connections first. Those that fail are dropped.
        while let Some(held) = self.take_idle() {
            match transaction.start(held, access).await {
                Ok(()) => return Ok(transaction),
                // A new connection to the file would wait for the same lock again.
                Err(outage) if outage.reason == Reason::Locked => return Err(outage),
                Err(_) => {}
            }
        }
        let held = Held {
            connection: self.connect().await?,
            opened: Instant::now(),
        };
        transaction.start(held, access).await?;
        Ok(transaction)
    }

    /// Records that the write-ahead log of a SQLite file holds the page of a destroyed key.
    pub(super) fn log_holds_key(&self) {
        self.destroyed.fetch_add(1, Ordering::SeqCst);
    }

    /// Empties the write-ahead log if it may hold a destroyed key. Returns whether it holds none
    /// now: while another program reads the file, SQLite keeps the log.
    pub(super) async fn empty_log(&self) -> Result<bool, Outage> {
        // INVARIANT: loaded before the checkpoint, so that a key destroyed meanwhile still counts.
        let destroyed = self.destroyed.load(Ordering::SeqCst);
        if !self.is_file() || self.emptied.load(Ordering::SeqCst) >= destroyed {
            return Ok(true);
        }
        let is_empty = self.checkpoint().await?;
        if is_empty {
            self.emptied.fetch_max(destroyed, Ordering::SeqCst);
        }
        Ok(is_empty)
    }

    async fn checkpoint(&self) -> Result<bool, Outage> {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| Outage::new(Reason::Other, "the store is closed"))?;
        let mut held = match self.take_idle() {
            Some(held) => held,
            None => Held {
                connection: self.connect().await?,
                opened: Instant::now(),
            },
        };
        // A reader may take long, and every other operation waits for this connection.
        held.connection.execute("PRAGMA busy_timeout = 100").await?;
        let row = held
            .connection
            .fetch_one("PRAGMA wal_checkpoint(TRUNCATE)")
            .await?;
        held.connection.execute(BUSY_TIMEOUT).await?;
        self.give_back(held);
        Ok(row.try_get::<i64, _>(0)? == 0)
    }

    /// Rejects a file that was deleted or replaced: SQLite would write to the old one, and the
    /// changes would be lost.
    fn require_file(&self) -> Result<(), Outage> {
        match &self.file {
            Some(file) if !file.is_in_place() => Err(Outage::new(
                Reason::Replaced,
                file.path().display().to_string(),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Opens a connection to the file, or to the first server that accepts writes.
    pub(super) async fn connect(&self) -> Result<AnyConnection, Outage> {
        if let Some(file) = &self.file {
            let connection = in_time(open_file(file)).await?;
            self.require_file()?;
            return Ok(connection);
        }
        let mut refused: Option<Outage> = None;
        for _ in &self.hosts {
            let at = self.preferred.load(Ordering::Relaxed);
            let Some(host) = self.hosts.get(at) else {
                break;
            };
            // Advance before the attempt: if the caller gives up during it, the next attempt begins
            // with the next server.
            let next = at.saturating_add(1);
            self.preferred.store(
                if next < self.hosts.len() { next } else { 0 },
                Ordering::Relaxed,
            );
            match in_time(open_server(host)).await {
                Ok(connection) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(outage) => refused = Some(join(refused, &host.name, outage)),
            }
        }
        Err(refused.unwrap_or_else(|| Outage::new(Reason::Other, "no host is named")))
    }

    fn take_idle(&self) -> Option<Held> {
        let mut idle = self.lock_idle();
        idle.retain(|held| held.opened.elapsed() < self.max_age);
        idle.pop()
    }

    fn give_back(&self, held: Held) {
        self.lock_idle().push(held);
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<Held>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open transaction. Dropping it closes the connection, and the database rolls the changes
/// back.
pub(super) struct Transaction<'pool> {
    pool: &'pool Pool,
    held: Option<Held>,
    _permit: SemaphorePermit<'pool>,
}

impl Transaction<'_> {
    /// Returns the connection, inside the transaction.
    pub(super) fn connection(&mut self) -> Result<&mut AnyConnection, StoreError> {
        self.held
            .as_mut()
            .map(|held| &mut held.connection)
            .ok_or_else(|| StoreError::Unavailable("the transaction has ended".into()))
    }

    /// Begins the transaction on this connection, or closes it.
    async fn start(&mut self, held: Held, access: Access) -> Result<(), Outage> {
        let held = self.held.insert(held);
        let begun = begin(&mut held.connection, self.pool.is_file(), access).await;
        if begun.is_err() {
            self.abandon().await;
        }
        begun
    }

    /// Commits after success, else rolls back. Every failure of the database, including one of
    /// COMMIT or ROLLBACK, closes the connection, because its state is unknown.
    pub(super) async fn end<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let statement = match &result {
            Ok(_) => "COMMIT",
            Err(StoreError::Conflict | StoreError::Full(_) | StoreError::Tampered(_)) => "ROLLBACK",
            Err(StoreError::Unavailable(_)) => {
                self.abandon().await;
                return result;
            }
        };
        match self.connection()?.execute(statement).await {
            Ok(_) => {
                if let Some(held) = self.held.take() {
                    self.pool.give_back(held);
                }
                result
            }
            Err(error) => {
                self.abandon().await;
                // A rejection stands even if ROLLBACK fails: without COMMIT nothing was changed.
                result.and(Err(error.into()))
            }
        }
    }

    /// Closes the connection and the idle ones, which have probably lost the same server.
    async fn abandon(&mut self) {
        self.pool.lock_idle().clear();
        if let Some(held) = self.held.take() {
            // Closing is a courtesy to the server; a failure has no effect.
            let _closed = timeout(Duration::from_secs(1), held.connection.close()).await;
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Reached if the caller dropped the future of an operation.
        if self.held.take().is_some() {
            self.pool.lock_idle().clear();
        }
    }
}

/// Begins a transaction.
async fn begin(
    connection: &mut AnyConnection,
    is_file: bool,
    access: Access,
) -> Result<(), Outage> {
    match (is_file, access) {
        (true, Access::Read) => connection.execute("BEGIN").await.map(|_| ())?,
        // A SQLite write takes the lock now: upgrading later could fail half-way.
        (true, Access::Write) => connection.execute(BEGIN_DURABLE).await.map(|_| ())?,
        (true, Access::Note) => connection.execute(BEGIN_NOTE).await.map(|_| ())?,
        (false, Access::Read) => require_writable(connection, BEGIN_READ).await?,
        (false, Access::Write | Access::Note) => require_writable(connection, BEGIN_WRITE).await?,
    }
    Ok(())
}

/// Sends statements whose last row states the role of the server. Rejects a server that accepts no
/// writes.
async fn require_writable(
    connection: &mut AnyConnection,
    statements: &'static str,
) -> Result<(), Outage> {
    let rows = connection.fetch_all(statements).await?;
    let row = rows
        .last()
        .ok_or_else(|| Outage::new(Reason::Other, "the server did not state its role"))?;
    if row.try_get::<bool, _>("standby")? {
        return Err(Outage::new(
            Reason::ReadOnly,
            "the server is a standby, in recovery",
        ));
    }
    if row.try_get::<String, _>("read_only")? == "on" {
        return Err(Outage::new(
            Reason::ReadOnly,
            "`default_transaction_read_only` is on",
        ));
    }
    Ok(())
}

async fn open_file(file: &DataFile) -> Result<AnyConnection, Outage> {
    let mut connection = AnyConnection::connect(&file_url(file.path(), FileUse::Write)).await?;
    connection.execute(SQLITE_SETTINGS).await?;
    Ok(connection)
}

async fn open_server(host: &Host) -> Result<AnyConnection, Outage> {
    let mut connection = AnyConnection::connect(&host.url).await?;
    require_writable(&mut connection, PROBE).await?;
    Ok(connection)
}

/// Limits the duration of opening a connection to [`CONNECT`].
async fn in_time(
    opening: impl Future<Output = Result<AnyConnection, Outage>>,
) -> Result<AnyConnection, Outage> {
    timeout(CONNECT, opening).await.map_err(|_| {
        Outage::new(
            Reason::NoAnswer,
            format!("no connection within {} s", CONNECT.as_secs()),
        )
    })?
}

/// Joins the failures of several servers. Any other reason is more specific than `NoAnswer` and is
/// preferred.
fn join(before: Option<Outage>, host: &str, outage: Outage) -> Outage {
    let detail = format!("{host}: {}", outage.detail);
    match before {
        None => Outage::new(outage.reason, detail),
        Some(before) => {
            let reason = if before.reason == Reason::NoAnswer {
                outage.reason
            } else {
                before.reason
            };
            Outage::new(reason, format!("{}; {detail}", before.detail))
        }
    }
}
