//! Master key, which encrypts the other keys at rest (I27): 32 bytes from a file or the
//! environment. It is never stored in the database.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::config::MasterKeySource;
use crate::store::{Location, Store, StoreError};

/// Environment variable that holds the master key in base64.
pub const MASTER_KEY_VARIABLE: &str = "MESHSEAL_MASTER_KEY";

const LENGTH: usize = 32;

/// Error of reading or creating the master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be read or written.
    #[error("master key file {path}: {error}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },
    /// The text is not 32 bytes of base64.
    #[error("{0}: the master key must be 32 bytes in base64 (openssl rand -base64 32)")]
    Form(String),
    /// No key was configured, and none may be generated.
    #[error(
        "no master key: set {MASTER_KEY_VARIABLE} or `masterKey.file` to 32 bytes in base64 \
         (openssl rand -base64 32){0}"
    )]
    Missing(&'static str),
    /// The database was created with another master key.
    #[error(
        "the master key does not open this database, which was created with another one; \
         restore that one"
    )]
    Wrong,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gives no random bytes, or the cipher fails.
    #[error("encryption failed: no random bytes, or an error of the cipher")]
    Crypto,
}

/// Key that seals private keys with AES-256-GCM, with the name of the secret as additional data.
/// Other keys are derived from it.
pub struct MasterKey {
    sealing: RandomizedNonceKey,
    derivation: hmac::Key,
}

impl MasterKey {
    /// Name of the entry in the database that only the right key opens.
    pub const CHECK: &str = "master-key-check";

    /// Reads the key and verifies that it fits the database. For a new SQLite database without a
    /// configured key, it generates a key file.
    ///
    /// # Errors
    /// [`MasterKeyError`].
    pub async fn obtain(
        source: &MasterKeySource,
        location: &Location,
        store: &dyn Store,
    ) -> Result<Self, MasterKeyError> {
        // In a new database no key was ever made, so none can become unreadable.
        let is_new = store.is_new().await?;
        let key = Self::from_base64(&find(source, location, is_new)?, "master key")?;
        // The first proof that is stored decides; replicas race here.
        let proof = key.seal(Self::CHECK, Self::CHECK.as_bytes())?;
        key.prove(&store.constant(Self::CHECK, &STANDARD.encode(proof)).await?)?;
        Ok(key)
    }

    /// Verifies that the database with this proof under [`Self::CHECK`] belongs to this key.
    ///
    /// # Errors
    /// [`MasterKeyError::Wrong`].
    pub fn prove(&self, kept: &str) -> Result<(), MasterKeyError> {
        let opened = STANDARD
            .decode(kept)
            .ok()
            .and_then(|sealed| self.open(Self::CHECK, &sealed));
        if opened.is_some() {
            Ok(())
        } else {
            Err(MasterKeyError::Wrong)
        }
    }

    /// Decodes 32 bytes of base64; `origin` is named in the error.
    ///
    /// # Errors
    /// [`MasterKeyError::Form`].
    pub fn from_base64(text: &str, origin: &str) -> Result<Self, MasterKeyError> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).unwrap_or_default());
        if bytes.len() != LENGTH {
            return Err(MasterKeyError::Form(origin.to_owned()));
        }
        let sealing =
            RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| MasterKeyError::Crypto)?;
        Ok(Self {
            sealing,
            derivation: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        })
    }

    /// Derives the HMAC-SHA256 key of one purpose, like HKDF-Expand for one block (RFC 5869 §2.3).
    #[must_use]
    pub fn derive(&self, purpose: &str) -> hmac::Key {
        let info = [purpose.as_bytes(), &[1]].concat();
        hmac::Key::new(
            hmac::HMAC_SHA256,
            hmac::sign(&self.derivation, &info).as_ref(),
        )
    }

    /// Returns a database entry that consists of a text and its MAC for one purpose. An attacker
    /// who can write to the database cannot forge such an entry.
    #[must_use]
    pub(crate) fn authenticated(&self, purpose: &str, text: &str) -> String {
        let mac = hmac::sign(&self.derive(purpose), text.as_bytes());
        format!("{text} {}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// Returns the text of an [`authenticated`](Self::authenticated) entry; `None` without a valid
    /// MAC.
    pub(crate) fn verified<'t>(&self, purpose: &str, entry: &'t str) -> Option<&'t str> {
        let (text, mac) = entry.rsplit_once(' ')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        hmac::verify(&self.derive(purpose), text.as_bytes(), &mac).ok()?;
        Some(text)
    }

    /// Reads an existing key, without a database and without generating a key.
    ///
    /// # Errors
    /// [`MasterKeyError`].
    pub fn existing(source: &MasterKeySource, location: &Location) -> Result<Self, MasterKeyError> {
        Self::from_base64(&find(source, location, false)?, "master key")
    }

    /// Seals a secret under a name. Returns nonce ‖ ciphertext ‖ tag.
    ///
    /// # Errors
    /// [`MasterKeyError::Crypto`].
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        let mut sealed = secret.to_vec();
        let aad = Aad::from(name.as_bytes());
        let nonce = self
            .sealing
            .seal_in_place_append_tag(aad, &mut sealed)
            .map_err(|_| MasterKeyError::Crypto)?;
        sealed.splice(..0, nonce.as_ref().iter().copied());
        Ok(sealed)
    }

    /// Opens a secret; `None` if it was sealed under another name or with another key.
    #[must_use]
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self
            .sealing
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(name.as_bytes()),
                &mut text,
            )
            .ok()?;
        Some(Zeroizing::new(opened.to_vec()))
    }
}

/// Reads the text of the key from its source, or generates a key file.
fn find(
    source: &MasterKeySource,
    location: &Location,
    is_new: bool,
) -> Result<Zeroizing<String>, MasterKeyError> {
    let path = match (source, location.file()) {
        (MasterKeySource::File(path), _) => path.clone(),
        (MasterKeySource::Default, file) => {
            if let Ok(text) = std::env::var(MASTER_KEY_VARIABLE) {
                return Ok(Zeroizing::new(text));
            }
            // Replicas of a PostgreSQL database share no folder for a key file.
            let Some(file) = file else {
                return Err(MasterKeyError::Missing(
                    "; with PostgreSQL none is generated, because all replicas need the same one",
                ));
            };
            file.with_extension("master.key")
        }
    };
    // Only a new SQLite database gets a new key.
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error)
            if error.kind() == ErrorKind::NotFound && is_new && location.file().is_some() =>
        {
            make(&path)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let error = std::io::Error::new(
                ErrorKind::NotFound,
                "not found, but the database was created with one; restore it",
            );
            Err(MasterKeyError::File { path, error })
        }
        Err(error) => Err(MasterKeyError::File { path, error }),
    }
}

/// Generates a key file that only its owner may read. It never replaces a file. The file appears
/// under its name only when it is complete and on the disk.
fn make(path: &Path) -> Result<Zeroizing<String>, MasterKeyError> {
    let mut bytes = Zeroizing::new([0; LENGTH]);
    aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| MasterKeyError::Crypto)?;
    let text = Zeroizing::new(STANDARD.encode(bytes.as_ref()) + "\n");
    publish(path, text.as_bytes()).map_err(|error| MasterKeyError::File {
        path: path.to_owned(),
        error,
    })?;
    tracing::info!(
        path = %path.display(),
        "generated a master key file; keep a copy of it with the backups"
    );
    Ok(text)
}

/// Writes a temporary file beside `path` and links it to `path` once it is on the disk. Unlike a
/// rename, a link fails if another process was first.
fn publish(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| std::io::Error::other("could not read random bytes"))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.tmp", u64::from_le_bytes(random)));
    let temporary = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::hard_link(&temporary, path)
    });
    // Removed after a failure too, because it may hold a part of the key.
    let removed = std::fs::remove_file(&temporary);
    written.and(removed)?;
    // The new name must be on the disk too, before the database uses the key.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishes_whole_file_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|it| it.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let path = folder.path().join("master.key");
        publish(&path, b"first").unwrap();
        assert_eq!(
            publish(&path, b"second").unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(
            (std::fs::read(&path).unwrap().as_slice(), names()),
            (&b"first"[..], vec!["master.key".into()])
        );
        let nowhere = folder.path().join("missing").join("master.key");
        assert!(publish(&nowhere, b"third").is_err());
        assert_eq!(names().len(), 1, "no temporary file is left");
    }

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_base64(&STANDARD.encode([byte; 32]), "test").unwrap()
    }

    #[test]
    fn opens_only_with_same_key_and_name() {
        let sealed = key(1).seal("kid-1", b"private").unwrap();
        assert_eq!(
            key(1).open("kid-1", &sealed).unwrap().as_slice(),
            b"private"
        );
        assert!(
            key(2).open("kid-1", &sealed).is_none(),
            "another master key"
        );
        assert!(
            key(1).open("kid-2", &sealed).is_none(),
            "a row moved to another kid"
        );
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert!(key(1).open("kid-1", &broken).is_none(), "byte {at} flipped");
        }
        assert!(
            key(1).open("kid-1", &sealed[..11]).is_none(),
            "shorter than a nonce"
        );
    }

    #[test]
    fn sealing_twice_gives_different_ciphertexts() {
        assert_ne!(
            key(1).seal("kid", b"x").unwrap(),
            key(1).seal("kid", b"x").unwrap()
        );
    }

    #[test]
    fn rejects_keys_of_wrong_form() {
        for text in [
            "",
            "abc",
            &STANDARD.encode([0; 31]),
            &STANDARD.encode([0; 33]),
            "not base64 at all!",
        ] {
            assert!(
                matches!(
                    MasterKey::from_base64(text, "x"),
                    Err(MasterKeyError::Form(_))
                ),
                "{text}"
            );
        }
    }
}
