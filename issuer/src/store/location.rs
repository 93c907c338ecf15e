//! Where state is kept, as written in the configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use super::hosts::hosts;

/// A SQLite file or a PostgreSQL server.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// This file.
    Sqlite(PathBuf),
    /// This URL. It may hold a password, so it is never shown.
    Postgres(String),
}

impl Location {
    /// Reads `sqlite:PATH`, `postgres://…` or `postgresql://…`.
    ///
    /// # Errors
    /// What else it is, and the remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let memory = path.is_empty() || path.contains(":memory:") || path.contains('?');
            return if memory {
                Err("must name a plain file, such as sqlite:meshseal.db: keys and revocations must survive a restart"
                    .to_owned())
            } else {
                Ok(Self::Sqlite(path.into()))
            };
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            for host in hosts(text)? {
                host.url
                    .parse::<sqlx::postgres::PgConnectOptions>()
                    .map_err(|error| error.to_string())?;
            }
            return Ok(Self::Postgres(text.to_owned()));
        }
        Err("must be sqlite:PATH or postgres://USER@HOST/DATABASE".to_owned())
    }

    /// The SQLite file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }
}

/// What a connection to a SQLite file may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileUse {
    /// Read.
    Read,
    /// Read and write.
    Write,
    /// Read and write, and make the file if it is missing.
    Create,
}

/// The URL of a SQLite file that the driver understands.
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

/// A SQLite file as it was opened first: path, device and inode.
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

    /// Returns whether the path still leads to the same file.
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
    fn a_password_is_never_shown() {
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
    fn only_lasting_places_are_taken() {
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
