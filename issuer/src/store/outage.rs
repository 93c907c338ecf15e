//! Classes of database failures, each with its remedy.

use std::fmt;
use std::io::{self, ErrorKind};

use sqlx::Error;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

/// Class of a database failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The server cannot be reached, shuts down or is too slow.
    NoAnswer,
    /// Another process holds the lock.
    Locked,
    /// The file or the server accepts no writes.
    ReadOnly,
    /// No space is left.
    Full,
    /// The stored pages are not consistent.
    Damaged,
    /// The disk reports input or output errors.
    DiskError,
    /// The file was removed or replaced while it was open.
    Replaced,
    /// The server refuses the login, or the role lacks a right.
    Denied,
    /// The tables are missing.
    NoTables,
    /// A connection pooler does not support a feature that the issuer needs.
    Pooler,
    /// Any other failure.
    Other,
}

impl Reason {
    /// All classes.
    pub const ALL: [Self; 11] = [
        Self::NoAnswer,
        Self::Locked,
        Self::ReadOnly,
        Self::Full,
        Self::Damaged,
        Self::DiskError,
        Self::Replaced,
        Self::Denied,
        Self::NoTables,
        Self::Pooler,
        Self::Other,
    ];

    /// Label in metrics and in the detail of `/readyz`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoAnswer => "no-answer",
            Self::Locked => "locked",
            Self::ReadOnly => "read-only",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::DiskError => "disk-error",
            Self::Replaced => "replaced",
            Self::Denied => "denied",
            Self::NoTables => "no-tables",
            Self::Pooler => "pooler",
            Self::Other => "other",
        }
    }

    /// Description for callers, who learn the class and nothing else.
    #[must_use]
    pub const fn summary(self) -> &'static str {
        match self {
            Self::NoAnswer => "does not answer",
            Self::Locked => "is locked by another process",
            Self::ReadOnly => "is read-only",
            Self::Full => "is full",
            Self::Damaged => "is damaged",
            Self::DiskError => "reports disk errors",
            Self::Replaced => "was removed or replaced",
            Self::Denied => "denies access",
            Self::NoTables => "has no tables",
            Self::Pooler => "is behind a pooler that refuses the connection",
            Self::Other => "failed",
        }
    }

    /// Remedy for operators.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::NoAnswer => "check that the server runs and can be reached",
            Self::Locked => "end the other process: one issuer uses a SQLite file at a time",
            Self::ReadOnly => {
                "SQLite: make the file, its folder and the mount writable; \
                 PostgreSQL: name the primary in `database`"
            }
            Self::Full => "free disk space or raise the quota",
            Self::Damaged => "stop the issuer and restore the database from a backup",
            Self::DiskError => "check the disk, the mount and the quota",
            Self::Replaced => "put the file back, or restart the issuer to use the new one",
            Self::Denied => {
                "SQLite: check owner and mode of the file and its folder; \
                 PostgreSQL: check user, password and role"
            }
            Self::NoTables => "run `meshseal migrate` with a role that may create tables",
            Self::Pooler => {
                "PgBouncer: set `ignore_startup_parameters = extra_float_digits`, \
                 pool_mode session or transaction"
            }
            Self::Other => "check the setting `database` and the log of the database",
        }
    }
}

/// Failure of the database: its class, and the driver's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Class of the failure.
    pub reason: Reason,
    /// Message of the driver or of the operating system.
    pub detail: String,
}

impl Outage {
    /// Creates a failure of this class.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} ({}); {}",
            self.reason.summary(),
            self.detail,
            self.reason.remedy()
        )
    }
}

impl From<&str> for Outage {
    fn from(detail: &str) -> Self {
        Self::new(Reason::Other, detail)
    }
}

impl From<String> for Outage {
    fn from(detail: String) -> Self {
        Self::new(Reason::Other, detail)
    }
}

impl From<Error> for Outage {
    fn from(error: Error) -> Self {
        Self::new(reason(&error), error.to_string())
    }
}

impl From<io::Error> for Outage {
    fn from(error: io::Error) -> Self {
        let reason = if error.kind() == ErrorKind::ReadOnlyFilesystem {
            Reason::ReadOnly
        } else if error.kind() == ErrorKind::PermissionDenied {
            Reason::Denied
        } else if matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        ) {
            Reason::Full
        } else {
            Reason::Other
        };
        Self::new(reason, error.to_string())
    }
}

fn reason(error: &Error) -> Reason {
    if let Error::Database(error) = error {
        return database_reason(&**error);
    }
    // The driver reports a broken connection in several ways.
    let away = matches!(
        error,
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed
    );
    if away {
        Reason::NoAnswer
    } else {
        Reason::Other
    }
}

fn database_reason(error: &dyn DatabaseError) -> Reason {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<PgDatabaseError>().is_some() {
        // PgBouncer's message; PostgreSQL itself supports the parameter.
        let pooler = error.message().contains("unsupported startup parameter");
        return if pooler {
            Reason::Pooler
        } else {
            postgres_reason(&code)
        };
    }
    code.parse().map_or(Reason::Other, sqlite_reason)
}

/// Returns the class of a SQLSTATE
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn postgres_reason(code: &str) -> Reason {
    match code {
        "25006" => Reason::ReadOnly,
        "53100" => Reason::Full,
        "58030" => Reason::DiskError,
        "42501" | "3D000" => Reason::Denied,
        "42P01" | "3F000" => Reason::NoTables,
        // A prepared statement is missing, or one of another client has its name.
        "26000" | "42P05" => Reason::Pooler,
        "55P03" | "40P01" => Reason::Locked,
        "XX001" | "XX002" => Reason::Damaged,
        "57P01" | "57P02" | "57P03" | "57P05" => Reason::NoAnswer,
        _ => match code.get(..2) {
            Some("08" | "53" | "57") => Reason::NoAnswer,
            Some("28") => Reason::Denied,
            _ => Reason::Other,
        },
    }
}

/// Returns the class of an extended result code (<https://sqlite.org/rescode.html>).
fn sqlite_reason(code: u32) -> Reason {
    /// `SQLITE_IOERR_SHMSIZE`: growing the shared memory file failed, as on a full disk.
    const SHMSIZE: u32 = 10 | (19 << 8);
    if code == SHMSIZE {
        return Reason::Full;
    }
    // The lowest byte is the primary result code.
    match code & 0xff {
        5 | 6 | 15 => Reason::Locked,
        8 => Reason::ReadOnly,
        10 => Reason::DiskError,
        11 | 26 => Reason::Damaged,
        13 => Reason::Full,
        3 | 14 | 23 => Reason::Denied,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_published_codes() {
        for (code, expected) in [
            ("25006", Reason::ReadOnly),
            ("53100", Reason::Full),
            ("53300", Reason::NoAnswer),
            ("57P01", Reason::NoAnswer),
            ("08006", Reason::NoAnswer),
            ("28P01", Reason::Denied),
            ("42P01", Reason::NoTables),
            ("XX001", Reason::Damaged),
            ("23505", Reason::Other),
        ] {
            assert_eq!(postgres_reason(code), expected, "{code}");
        }
        // SQLITE_BUSY_SNAPSHOT, SQLITE_READONLY_DBMOVED, SQLITE_IOERR_WRITE, SQLITE_IOERR_SHMSIZE,
        // SQLITE_CORRUPT_VTAB.
        for (code, expected) in [
            (517, Reason::Locked),
            (1_032, Reason::ReadOnly),
            (778, Reason::DiskError),
            (4_874, Reason::Full),
            (267, Reason::Damaged),
            (13, Reason::Full),
        ] {
            assert_eq!(sqlite_reason(code), expected, "{code}");
        }
    }
}
