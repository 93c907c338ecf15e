//! A key as it is kept.

use std::fmt;

use super::MasterKey;

/// What a key signs. Tokens and bundles never share one (I7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Access tokens.
    Token,
    /// Trust bundles: pinned by every proxy.
    Bundle,
}

impl Purpose {
    /// By name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Token, Self::Bundle]
            .into_iter()
            .find(|purpose| purpose.name() == name)
    }

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bundle => "bundle",
        }
    }
}

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Published, not signing yet: takes over at a rotation, or at once when the active key is
    /// revoked.
    Next,
    /// Signs.
    Active,
    /// Signs no more, its private half is destroyed; its last tokens may still live.
    Draining,
    /// Published no more; kept for the record.
    Retired,
}

impl KeyState {
    const ALL: [Self; 4] = [Self::Next, Self::Active, Self::Draining, Self::Retired];

    /// By name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }

    /// Whether a key here signs, or may one day.
    #[must_use]
    pub const fn may_sign(self) -> bool {
        matches!(self, Self::Next | Self::Active)
    }

    /// As proxies are told; `None` for what they are not told.
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

/// A key as it is kept: the private half sealed under the master key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// What it signs.
    pub purpose: Purpose,
    /// How it signs.
    pub algorithm: super::Algorithm,
    /// Where it is in its life.
    pub state: KeyState,
    /// Since when it is there, Unix seconds.
    pub since: u64,
    /// The first bundle version that carried it.
    pub published: u64,
    /// When it may sign unforced (Unix seconds of time that has passed for certain): no reader of
    /// `/jwks` keeps an older document by then. 0 for the keys of the first start, which every
    /// document and every set of pins carries.
    pub ready_at: u64,
    /// Seconds after its last signature until nothing that it signed can be alive: the longest
    /// under any configuration that was in force while it signed.
    pub drain_s: u64,
    /// The public JWK as JSON, with `kid`, `alg` and `use`.
    pub public_jwk: String,
    /// The private half (PKCS#8), sealed; gone once it will not sign again.
    pub sealed: Option<Vec<u8>>,
}

impl KeyRecord {
    /// Returns whether it was made at the first start.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.ready_at == 0
    }

    /// Name under which the private half is sealed. In schema 1 it was the bare `kid`, which tells
    /// a database of schema 1 from one whose MACs were removed.
    #[must_use]
    pub fn seal_name(kid: &str) -> String {
        format!("meshseal key v2 {kid}")
    }

    /// Returns the record in another state. A key that will not sign again has no private half any
    /// more (I26).
    #[must_use]
    pub fn entering(self, state: KeyState, since: u64) -> Self {
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

    /// Returns the record with its private half, if it has one, sealed in the present form instead
    /// of that of schema 1.
    pub(crate) fn resealed(self, master: &MasterKey) -> Option<Self> {
        let Some(sealed) = &self.sealed else {
            return Some(self);
        };
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

/// One step in the life of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// A new key. Its `published` is set by the store to the version that this change makes.
    Insert(KeyRecord),
    /// A key as it was before the database lost it; replaces the row of the same `kid`.
    Restore(KeyRecord),
    /// Enters another state; the private half is destroyed if it will not sign there.
    Enter {
        /// Which.
        kid: String,
        /// Where to.
        state: KeyState,
        /// When, Unix seconds.
        since: u64,
    },
    /// May have signed longer-lived tokens. The time never falls.
    Extend {
        /// Which.
        kid: String,
        /// Seconds.
        drain_s: u64,
    },
    /// Is forgotten.
    Delete {
        /// Which.
        kid: String,
    },
}
