//! Stored form of a signing key.

use std::fmt;

use super::MasterKey;

/// Kind of document that a key signs. Tokens and bundles never share a key (I7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Access tokens.
    Token,
    /// Trust bundles; every proxy pins the key.
    Bundle,
}

impl Purpose {
    /// Returns the purpose with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Token, Self::Bundle]
            .into_iter()
            .find(|purpose| purpose.name() == name)
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bundle => "bundle",
        }
    }
}

/// State in the life cycle of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Published but not signing: it replaces the active key at a rotation, or at once when the
    /// active key is revoked.
    Next,
    /// Signs.
    Active,
    /// No longer signing, with its private half destroyed; its last tokens may still be valid.
    Draining,
    /// No longer published; the row is kept for the record.
    Retired,
}

impl KeyState {
    const ALL: [Self; 4] = [Self::Next, Self::Active, Self::Draining, Self::Retired];

    /// Returns the state with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }

    /// Returns whether a key in this state signs or may sign later.
    #[must_use]
    pub const fn may_sign(self) -> bool {
        matches!(self, Self::Next | Self::Active)
    }

    /// Returns the state that the bundle states; `None` if the bundle does not contain the key.
    #[must_use]
    pub const fn published(self) -> Option<meshseal_core::bundle::KeyState> {
        match self {
            Self::Next => Some(meshseal_core::bundle::KeyState::Next),
            Self::Active => Some(meshseal_core::bundle::KeyState::Active),
            Self::Draining => Some(meshseal_core::bundle::KeyState::Draining),
            Self::Retired => None,
        }
    }
}

/// Stored key. Its private half is sealed under the master key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// Kind of document that it signs.
    pub purpose: Purpose,
    /// Signature algorithm.
    pub algorithm: super::Algorithm,
    /// State in its life cycle.
    pub state: KeyState,
    /// Start of the present state (Unix seconds).
    pub since: u64,
    /// First bundle version that contains the key.
    pub published: u64,
    /// Certain time from which it may sign without force (Unix seconds): by then no reader of
    /// `/jwks` keeps an older document. 0 for the keys of the first start, which every document and
    /// every set of pins contains.
    pub ready_at: u64,
    /// Seconds after its last signature until everything that it signed has expired: the maximum
    /// over all configurations that were in force while it signed.
    pub drain_s: u64,
    /// Public JWK as JSON, with `kid`, `alg` and `use`.
    pub public_jwk: String,
    /// Sealed private half (PKCS#8); `None` once it will not sign again.
    pub sealed: Option<Vec<u8>>,
}

impl KeyRecord {
    /// Returns whether the key was made at the first start.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.ready_at == 0
    }

    /// Returns the name under which the private half is sealed. Schema 1 used the bare `kid`, which
    /// distinguishes a database of schema 1 from one whose MACs were removed.
    #[must_use]
    pub fn seal_name(kid: &str) -> String {
        format!("meshseal key v2 {kid}")
    }

    /// Returns the record in another state. The private half is destroyed if the key will not sign
    /// again (I26).
    #[must_use]
    pub fn entering(self, state: KeyState, since: u64) -> Self {
        // INVARIANT: only a key that may sign has a private half.
        let sealed = self.sealed.filter(|_| state.may_sign());
        Self {
            state,
            since,
            sealed,
            ..self
        }
    }

    /// Returns whether the private half is sealed in the form of schema 1.
    pub(crate) fn is_sealed_as_schema_1(&self, master: &MasterKey) -> bool {
        self.sealed
            .as_ref()
            .is_some_and(|sealed| master.open(&self.kid, sealed).is_some())
    }

    /// Returns the record with its private half, if any, sealed in the present form instead of that
    /// of schema 1.
    pub(crate) fn resealed(self, master: &MasterKey) -> Option<Self> {
        let Some(sealed) = &self.sealed else {
            return Some(self);
        };
        // `None` for a private half that is not in the form of schema 1.
        let sealed = master
            .seal(
                &Self::seal_name(&self.kid),
                &master.open(&self.kid, sealed)?,
            )
            .ok()?;
        Some(Self {
            sealed: Some(sealed),
            ..self
        })
    }
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the private half nor the public one appears in logs.
        let Self {
            kid,
            purpose,
            algorithm,
            state,
            since,
            published,
            ..
        } = self;
        write!(
            out,
            "{} {} {kid} {} since {since}, published in {published}",
            purpose.name(),
            algorithm.name(),
            state.name()
        )
    }
}

/// Step in the life cycle of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Inserts a new key. The store sets its `published` to the version that this change makes.
    Insert(KeyRecord),
    /// Restores a key that the database lost; replaces the row of the same `kid`.
    Restore(KeyRecord),
    /// Moves a key to another state; destroys the private half if the key will not sign there.
    Enter {
        /// Key to change.
        kid: String,
        /// New state.
        state: KeyState,
        /// Start of the state (Unix seconds).
        since: u64,
    },
    /// Extends the draining time, because the key may have signed longer-lived tokens. It never
    /// falls.
    Extend {
        /// Key to change.
        kid: String,
        /// Draining time (seconds).
        drain_s: u64,
    },
    /// Deletes a key.
    Delete {
        /// Key to delete.
        kid: String,
    },
}
