//! Connections and transactions. A connection is used again only after its transaction ended as it should.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::location::DataFile;
use super::outage::{Outage, Reason};
use super::{Location, StoreError};

/// Longest wait for a free connection.
const WAIT: Duration = Duration::from_secs(3);

/// Longest attempt to open one connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Connections to PostgreSQL. A SQLite file has one, which spares waiting for its lock.
const CONNECTIONS: usize = 8;

/// Applies to each connection of a SQLite file. FULL: an acknowledged change survives a power cut.
const SQLITE_SETTINGS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 4000";

/// Kind of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads, all as of one moment.
    Read,
    /// Changes.
    Write,
}

/// Opens connections, and keeps the idle ones.
pub(super) struct Pool {
    location: Location,
    file: Option<DataFile>,
    permits: Semaphore,
    idle: Mutex<Vec<Held>>,
    max_age: Duration,
}

struct Held {
    connection: AnyConnection,
    opened: Instant,
}

impl Pool {
    /// A pool without connections; the first transaction opens one.
    pub(super) fn new(location: &Location, max_age: Duration) -> std::io::Result<Self> {
        let file = location.file().map(DataFile::identify).transpose()?;
        // No bound for a file: a new connection to it reaches no other server.
        let (connections, max_age) = if file.is_some() { (1, Duration::MAX) } else { (CONNECTIONS, max_age) };
        let (permits, idle) = (Semaphore::new(connections), Mutex::default());
        Ok(Self { location: location.clone(), file, permits, idle, max_age })
    }

    /// Returns whether the database is a SQLite file.
    pub(super) const fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Begins a transaction on a connection that nothing else uses.
    pub(super) async fn begin(&self, access: Access) -> Result<Transaction<'_>, Outage> {
        self.require_file()?;
        let busy = |_| Outage::new(Reason::NoAnswer, format!("all connections are busy for {} s", WAIT.as_secs()));
        let permit = timeout(WAIT, self.permits.acquire()).await.map_err(busy)?;
        let permit = permit.map_err(|_| Outage::new(Reason::Other, "the store is closed"))?;
        let mut transaction = Transaction { pool: self, held: None, _permit: permit };
        while let Some(held) = self.take_idle() {
            if transaction.start(held, access).await.is_ok() {
                return Ok(transaction);
            }
        }
        let held = Held { connection: self.connect().await?, opened: Instant::now() };
        transaction.start(held, access).await?;
        Ok(transaction)
    }

    /// SQLite goes on writing to a file that was deleted or replaced, and what it wrote is lost.
    fn require_file(&self) -> Result<(), Outage> {
        match &self.file {
            Some(file) if !file.is_in_place() => Err(Outage::new(Reason::Replaced, file.path().display().to_string())),
            Some(_) | None => Ok(()),
        }
    }

    async fn connect(&self) -> Result<AnyConnection, Outage> {
        let connecting = async {
            let mut connection = AnyConnection::connect(&self.location.url(false)).await?;
            if self.is_file() {
                connection.execute(SQLITE_SETTINGS).await?;
            }
            Ok::<_, sqlx::Error>(connection)
        };
        let slow = |_| Outage::new(Reason::NoAnswer, format!("no connection within {} s", CONNECT.as_secs()));
        let connection = timeout(CONNECT, connecting).await.map_err(slow)??;
        self.require_file()?;
        Ok(connection)
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

/// A transaction that has begun. Dropping it closes the connection, and the database undoes the changes.
pub(super) struct Transaction<'pool> {
    pool: &'pool Pool,
    held: Option<Held>,
    _permit: SemaphorePermit<'pool>,
}

impl Transaction<'_> {
    /// The connection, inside the transaction.
    pub(super) fn connection(&mut self) -> Result<&mut AnyConnection, StoreError> {
        let ended = || StoreError::Unavailable("the transaction has ended".into());
        self.held.as_mut().map(|held| &mut held.connection).ok_or_else(ended)
    }

    async fn start(&mut self, held: Held, access: Access) -> Result<(), Outage> {
        let held = self.held.insert(held);
        let begun = begin(&mut held.connection, self.pool.is_file(), access).await;
        if begun.is_err() {
            self.abandon().await;
        }
        begun
    }

    /// Commits after success, else rolls back. Every failure of the database, that of COMMIT or ROLLBACK included, closes
    /// the connection: its state is unknown.
    pub(super) async fn end<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let statement = match &result {
            Ok(_) => "COMMIT",
            Err(StoreError::Conflict | StoreError::Full(_)) => "ROLLBACK",
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
                // The refusal stands: a transaction that was not committed changes nothing.
                result.and(Err(error.into()))
            }
        }
    }

    /// Closes the connection, and with it the idle ones, which have most likely lost the same server.
    async fn abandon(&mut self) {
        self.pool.lock_idle().clear();
        if let Some(held) = self.held.take() {
            // Closing tells the server; a failure changes nothing.
            let _closed = timeout(Duration::from_secs(1), held.connection.close()).await;
        }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.held.take().is_some() {
            self.pool.lock_idle().clear();
        }
    }
}

async fn begin(connection: &mut AnyConnection, is_file: bool, access: Access) -> Result<(), Outage> {
    if is_file {
        let statement = if access == Access::Write { "BEGIN IMMEDIATE" } else { "BEGIN" };
        connection.execute(statement).await?;
        return Ok(());
    }
    let mut statement = "BEGIN ISOLATION LEVEL ".to_owned();
    statement.push_str(if access == Access::Write { "READ COMMITTED" } else { "REPEATABLE READ" });
    connection.execute(AssertSqlSafe(statement)).await?;
    Ok(())
}
