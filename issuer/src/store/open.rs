//! Opens the database. A file that belongs to another program, is damaged or too new is rejected
//! before anything is written to it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _, Row as _};
use tokio::time::timeout;

use super::location::{FileUse, file_url};
use super::outage::{Outage, Reason};
use super::pool::Pool;
use super::sql::SqlStore;
use super::statement::query;
use super::{Location, Store, schema};

/// Longest wait for the first connection.
pub(super) const CONNECT: Duration = Duration::from_secs(3);

/// Longest use of one connection to a server.
const MAX_AGE: Duration = Duration::from_secs(300);

/// Error returned if the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database cannot be reached, read or written.
    #[error("{location}: {error}")]
    Unreachable {
        /// Location of the database.
        location: Location,
        /// Message of the operating system or the driver.
        error: String,
    },
    /// The database belongs to another program, is damaged, or was made by a newer version.
    /// Nothing was changed.
    #[error("{location}: {reason}. Nothing was changed")]
    Refused {
        /// Location of the database.
        location: Location,
        /// Finding and remedy.
        reason: String,
    },
}

/// Opens the database and brings its tables up to date.
///
/// # Errors
/// [`OpenError`].
pub async fn open(location: &Location) -> Result<Arc<dyn Store>, OpenError> {
    open_for(location, MAX_AGE).await
}

/// Opens the database as [`open`] does, and replaces each connection to a server after `max_age`.
///
/// # Errors
/// [`OpenError`].
pub async fn open_for(location: &Location, max_age: Duration) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(open_sql(location, max_age).await?))
}

/// Updates the tables and grants `role` the rights to read and write them.
///
/// # Errors
/// [`OpenError`].
pub async fn migrate(location: &Location, role: Option<&str>) -> Result<(), OpenError> {
    let store = open_sql(location, MAX_AGE).await?;
    match role {
        Some(role) => store
            .grant(role)
            .await
            .map_err(|problem| Problem::from(problem).at(location)),
        None => Ok(()),
    }
}

pub(super) async fn open_sql(
    location: &Location,
    max_age: Duration,
) -> Result<SqlStore, OpenError> {
    sqlx::any::install_default_drivers();
    let pool = match location.file() {
        Some(path) => open_file(path, location, max_age).await,
        None => open_server(location, max_age).await,
    };
    Ok(SqlStore::new(pool.map_err(|problem| problem.at(location))?))
}

pub(super) enum Problem {
    Unreachable(String),
    Refused(String),
}

impl Problem {
    pub(super) fn at(self, location: &Location) -> OpenError {
        let location = location.clone();
        match self {
            Self::Unreachable(error) => OpenError::Unreachable { location, error },
            Self::Refused(reason) => OpenError::Refused { location, reason },
        }
    }
}

impl From<Outage> for Problem {
    fn from(outage: Outage) -> Self {
        Self::Unreachable(outage.to_string())
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Outage::from(error).into()
    }
}

/// Checks a SQLite file's header (<https://sqlite.org/fileformat.html> §1.3) without opening it as
/// a database, which might already write to it. The header always has the mark, because the tables
/// are created before the write-ahead log is switched on.
pub(super) fn check_file(path: &Path, file_use: FileUse) -> Result<(), Problem> {
    let mut header = Vec::new();
    let mut options = OpenOptions::new();
    // Write access is tested too: SQLite opens a file that it may not write, and fails later.
    match options
        .read(true)
        .write(file_use != FileUse::Read)
        .open(path)
        .and_then(|file| file.take(100).read_to_end(&mut header))
    {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Problem::Unreachable(Outage::from(error).to_string())),
        // SQLite treats an empty file as a new database.
        Ok(0) => return Ok(()),
        Ok(_) => {}
    }
    if header.len() < 100 || !header.starts_with(b"SQLite format 3\0") {
        return Err(Problem::Refused(
            "this is not a SQLite file; name another file in `database`".to_owned(),
        ));
    }
    let number = |at: usize| {
        header
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |bytes| u32::from_be_bytes(*bytes))
    };
    let (mark, application) = (schema::Mark::from_number(number(60)), number(68));
    if application != schema::APPLICATION_ID {
        return Err(Problem::Refused(
            "this SQLite file belongs to another program; name another file in `database`"
                .to_owned(),
        ));
    }
    if !mark.is_usable() {
        return Err(Problem::Refused(mark.refusal()));
    }
    Ok(())
}

async fn open_file(path: &Path, location: &Location, max_age: Duration) -> Result<Pool, Problem> {
    check_file(path, FileUse::Create)?;
    let mut connection = timeout(
        CONNECT,
        AnyConnection::connect(&file_url(path, FileUse::Create)),
    )
    .await
    .map_err(|_| Problem::Unreachable(format!("no connection within {} s", CONNECT.as_secs())))??;
    // Damage is found before the first write makes it worse.
    check_pages(&mut connection).await?;
    migrate_sqlite(&mut connection).await?;
    connection.close().await?;
    Ok(Pool::new(location, max_age)?)
}

async fn open_server(location: &Location, max_age: Duration) -> Result<Pool, Problem> {
    let pool = Pool::new(location, max_age)?;
    let mut connection = pool.connect().await?;
    migrate_postgres(&mut connection).await?;
    connection.close().await?;
    Ok(pool)
}

/// Rejects a file whose pages are damaged.
async fn check_pages(connection: &mut AnyConnection) -> Result<(), Problem> {
    let found: String = query("PRAGMA quick_check(1)")
        .fetch_one(&mut *connection)
        .await
        .map_err(damaged)?
        .try_get(0)?;
    if found != "ok" {
        return Err(Problem::Refused(format!(
            "the file is damaged ({found}); restore it from a backup"
        )));
    }
    Ok(())
}

/// Distinguishes a damaged file from one that cannot be read now.
fn damaged(error: sqlx::Error) -> Problem {
    let outage = Outage::from(error);
    if outage.reason == Reason::Damaged {
        Problem::Refused(format!(
            "the file is damaged ({}); restore it from a backup",
            outage.detail
        ))
    } else {
        Problem::Unreachable(outage.to_string())
    }
}

/// Reads the schema mark of a SQLite file.
pub(super) async fn file_mark(connection: &mut AnyConnection) -> Result<schema::Mark, sqlx::Error> {
    let have: i64 = query("PRAGMA user_version")
        .fetch_one(connection)
        .await?
        .try_get(0)?;
    Ok(schema::Mark::from_number(
        u32::try_from(have).unwrap_or(u32::MAX),
    ))
}

async fn migrate_sqlite(connection: &mut AnyConnection) -> Result<(), Problem> {
    // The lock is taken even if no step is due, to detect a locked or read-only file now.
    connection.execute("BEGIN IMMEDIATE").await?;
    // The mark is checked again: the newest one may be in the write-ahead log, which the check of
    // the header does not read.
    let mark = file_mark(connection).await?;
    if !mark.is_usable() {
        return Err(Problem::Refused(mark.refusal()));
    }
    if mark.schema < schema::NEWEST {
        apply_steps(connection, mark.schema, "BLOB").await?;
        let newest = schema::Mark::newest().number();
        let marks = format!(
            "PRAGMA application_id = {}; PRAGMA user_version = {newest}",
            schema::APPLICATION_ID
        );
        connection.execute(AssertSqlSafe(marks)).await?;
    }
    connection.execute("COMMIT").await?;
    Ok(())
}

async fn migrate_postgres(connection: &mut AnyConnection) -> Result<(), Problem> {
    let mut change = connection.begin().await?;
    // Replicas that start together migrate one after the other.
    change
        .execute(AssertSqlSafe(format!(
            "SELECT pg_advisory_xact_lock({})",
            schema::APPLICATION_ID
        )))
        .await?;
    let have = postgres_mark(&mut change).await?;
    if !have.is_usable() {
        return Err(Problem::Refused(have.refusal()));
    }
    // At the newest version nothing is written, so that a role without DDL rights suffices.
    if have.schema >= schema::NEWEST {
        return Ok(change.commit().await?);
    }
    apply_steps(&mut change, have.schema, "BYTEA")
        .await
        .map_err(|error| match Outage::from(error) {
            Outage {
                reason: Reason::Denied,
                detail,
            } => Problem::Unreachable(format!(
                "the tables cannot be brought to schema {} ({detail}); {}",
                schema::NEWEST,
                Reason::NoTables.remedy()
            )),
            outage => outage.into(),
        })?;
    let mark = "INSERT INTO meshseal_meta VALUES ('schema', $1) \
                ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    query(mark)
        .bind(schema::Mark::newest().to_string())
        .execute(&mut *change)
        .await?;
    change.commit().await?;
    Ok(())
}

/// Reads the schema mark of a PostgreSQL database.
pub(super) async fn postgres_mark(change: &mut AnyConnection) -> Result<schema::Mark, Problem> {
    let exists: bool = query("SELECT to_regclass('meshseal_meta') IS NOT NULL")
        .fetch_one(&mut *change)
        .await?
        .try_get(0)?;
    if !exists {
        return Ok(schema::Mark {
            schema: 0,
            usable_since: 0,
        });
    }
    let foreign = || {
        Problem::Refused(
            "a table `meshseal_meta` of another program is in the way; use another database"
                .to_owned(),
        )
    };
    let statement = query("SELECT value FROM meshseal_meta WHERE name = 'schema'");
    let row = statement
        .fetch_optional(change)
        .await
        .map_err(|error| match Outage::from(error) {
            Outage {
                reason: Reason::Denied,
                detail,
            } => Problem::Unreachable(format!(
                "{detail}; run `meshseal migrate --grant-to` with this role"
            )),
            _ => foreign(),
        })?
        .ok_or_else(foreign)?;
    let value: String = row.try_get(0).map_err(|_| foreign())?;
    schema::Mark::parse(&value).ok_or_else(foreign)
}

/// Executes the statements of all steps after schema `have`.
async fn apply_steps(
    change: &mut sqlx::AnyConnection,
    have: u32,
    blob: &str,
) -> Result<(), sqlx::Error> {
    let have = usize::try_from(have).unwrap_or(usize::MAX);
    for statement in schema::STEPS
        .iter()
        .skip(have)
        .flat_map(|step| step.statements)
    {
        change
            .execute(AssertSqlSafe(statement.replace("{blob}", blob)))
            .await?;
    }
    Ok(())
}
