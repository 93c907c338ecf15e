//! Revocations as they are kept.

/// One revoked token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedToken {
    /// The index in its `jti`.
    pub index: u64,
    /// When nobody can accept it any more, Unix seconds.
    pub expires_at: u64,
}

/// What tokens an epoch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochKind {
    /// All of them.
    All,
    /// Signed by a key.
    Kid,
    /// Of a subject (`sub`).
    Subject,
    /// Of a client (`client_id`).
    Client,
    /// Of a session (`sid`).
    Session,
    /// Of a grant (`grant_id`).
    Grant,
}

impl EpochKind {
    const ALL: [Self; 6] = [
        Self::All,
        Self::Kid,
        Self::Subject,
        Self::Client,
        Self::Session,
        Self::Grant,
    ];

    /// By name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Kid => "kid",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Session => "session",
            Self::Grant => "grant",
        }
    }
}

/// Tokens of one group issued before a time are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// Which sort of group.
    pub kind: EpochKind,
    /// Which group; empty for all.
    pub name: String,
    /// A token with `iat` less than this is revoked.
    pub before: u64,
    /// When no such token can be alive any more, Unix seconds.
    pub expires_at: u64,
}
