//! Read-only access to a database: it creates no table, changes no table and writes no row.

use sqlx::{AnyConnection, Connection as _, Executor as _, Row as _};
use tokio::time::timeout;

use super::hosts::hosts;
use super::location::{FileUse, file_url};
use super::open::{CONNECT, Problem, check_file, file_mark, postgres_mark};
use super::outage::{Outage, Reason};
use super::schema::{Mark, NEWEST};
use super::seal::RowKeys;
use super::statement::query;
use super::verify::{Extent, Known};
use super::{Location, OpenError, Persisted, StoreError, verify};
use crate::keys::MasterKey;

/// A connection inside a read-only transaction.
pub struct Peek {
    connection: AnyConnection,
}

impl Peek {
    /// Opens a database for reading. Its tables must be up to date.
    ///
    /// # Errors
    /// [`OpenError`], also for tables of an older schema, which only `meshseal serve` and
    /// `meshseal migrate` update.
    pub async fn open(location: &Location) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let opened = timeout(CONNECT, open(location)).await.unwrap_or_else(|_| {
            Err(Problem::Unreachable(format!(
                "no connection within {} s",
                CONNECT.as_secs()
            )))
        });
        Ok(Self {
            connection: opened.map_err(|problem| problem.at(location))?,
        })
    }

    /// Returns whether nothing was ever committed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn is_new(&mut self) -> Result<bool, StoreError> {
        let select = query("SELECT version FROM meshseal_state WHERE id = 2");
        Ok(select
            .fetch_one(&mut self.connection)
            .await?
            .try_get::<i64, _>(0)?
            == 0)
    }

    /// Returns the stored value of a name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn constant(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        let select = query("SELECT value FROM meshseal_meta WHERE name = $1").bind(name.to_owned());
        let row = select.fetch_optional(&mut self.connection).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Reads and verifies the content of the trust bundle.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(&mut self, master: &MasterKey) -> Result<Persisted, StoreError> {
        verify::load(
            &mut self.connection,
            &RowKeys::new(master),
            Extent::Whole,
            &mut Known::default(),
        )
        .await
    }
}

/// Connects, checks the schema and begins a read-only transaction.
async fn open(location: &Location) -> Result<AnyConnection, Problem> {
    if let Some(path) = location.file() {
        // Checked first, because even a connection that only reads may create files beside it.
        check_file(path, FileUse::Read)?;
        let mut connection = AnyConnection::connect(&file_url(path, FileUse::Read)).await?;
        // The newest mark may be in the write-ahead log, which the check of the header ignores.
        require_up_to_date(file_mark(&mut connection).await?)?;
        connection.execute("BEGIN").await?;
        return Ok(connection);
    }
    let mut connection = connect(location).await?;
    // All queries see one snapshot, and the server rejects writes.
    connection
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    require_up_to_date(postgres_mark(&mut connection).await?)?;
    Ok(connection)
}

/// Connects to the first server that answers. A standby may be read, too.
async fn connect(location: &Location) -> Result<AnyConnection, Problem> {
    let mut refused = Outage::new(Reason::Other, "no host is named");
    let Location::Postgres(url) = location else {
        return Err(refused.into());
    };
    for host in hosts(url).map_err(Problem::Unreachable)? {
        match AnyConnection::connect(&host.url).await {
            Ok(connection) => return Ok(connection),
            Err(error) => refused = error.into(),
        }
    }
    Err(refused.into())
}

fn require_up_to_date(mark: Mark) -> Result<(), Problem> {
    let remedy = "start the issuer, or run `meshseal migrate`";
    match mark.schema {
        0 => Err(Problem::Refused(format!("it has no tables yet; {remedy}"))),
        _ if !mark.is_usable() => Err(Problem::Refused(mark.refusal())),
        schema if schema < NEWEST => Err(Problem::Refused(format!(
            "its tables have schema {schema}, and this program reads {NEWEST}; {remedy}"
        ))),
        _ => Ok(()),
    }
}
