//! Location of the database, as written in the configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use super::hosts::hosts;

/// A SQLite file or a PostgreSQL server.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// Path of the file.
    Sqlite(PathBuf),
    /// URL of the server. It may hold a password, so it is never shown.
    Postgres(String),
}

impl Location {
    /// Reads `sqlite:PATH`, `postgres://…` or `postgresql://…`.
    ///
    /// # Errors
    /// Finding and remedy, for any other text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            // sqlx would read `?` as options; a database in memory would lose revocations.
            let memory = path.is_empty() || path.contains(":memory:") || path.contains('?');
            return if memory {
                Err("must name a plain file, such as sqlite:meshseal.db: \
                     keys and revocations must survive a restart"
                    .to_owned())
            } else {
                Ok(Self::Sqlite(path.into()))
            };
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            // The driver checks the URL of each host now, not at the first connection.
            for host in hosts(text)? {
                host.url
                    .parse::<sqlx::postgres::PgConnectOptions>()
                    .map_err(|error| error.to_string())?;
            }
            return Ok(Self::Postgres(text.to_owned()));
        }
        Err("must be sqlite:PATH or postgres://USER@HOST/DATABASE".to_owned())
    }

    /// Returns the path of the SQLite file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

/// Permitted use of a SQLite file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileUse {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
    /// Reading, writing, and creating the file if it is missing.
    Create,
}

/// Returns the URL of a SQLite file, in the driver's syntax.
pub(super) fn file_url(path: &Path, file_use: FileUse) -> String {
    let path = path
        .to_string_lossy()
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    let mode = match file_use {
        FileUse::Read => "ro",
        FileUse::Write => "rw",
        FileUse::Create => "rwc",
    };
    format!("sqlite://{path}?mode={mode}")
}

/// A SQLite file with the identity it had when it was first opened: device and inode.
pub(super) struct DataFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl DataFile {
    pub(super) fn identify(path: &Path) -> std::io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the path still names the same file.
    pub(super) fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|now| now == self.identity)
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

impl fmt::Display for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(out, "SQLite file {}", path.display()),
            Self::Postgres(url) => {
                // Neither user nor password is shown. The last `@` ends them.
                let after_user = url
                    .rsplit_once('@')
                    .or_else(|| url.split_once("://"))
                    .map_or("", |(_, rest)| rest);
                write!(
                    out,
                    "PostgreSQL at {}",
                    after_user.split('?').next().unwrap_or_default()
                )
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::Location;

    #[test]
    fn never_shows_password() {
        let location =
            Location::parse("postgres://issuer:hunter2@db.example:5432/meshseal?password=hunter2")
                .unwrap();
        assert_eq!(
            format!("{location} {location:?}")
                .matches("hunter2")
                .count(),
            0
        );
        assert_eq!(
            location.to_string(),
            "PostgreSQL at db.example:5432/meshseal"
        );
    }

    #[test]
    fn accepts_only_persistent_locations() {
        assert_eq!(
            Location::parse("sqlite://a.db"),
            Location::parse("sqlite:a.db")
        );
        for text in [
            "sqlite:",
            "sqlite::memory:",
            "sqlite:a.db?mode=memory",
            "a.db",
            "mysql://x",
            "postgres://h:x/d",
        ] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
    }
}
