//! Revocations as stored in the database.

/// One revoked token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedToken {
    /// Token index of its `jti`.
    pub index: u64,
    /// Time after which every proxy rejects the token as expired (Unix seconds).
    pub expires_at: u64,
}

/// Kind of group that an epoch revokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochKind {
    /// All tokens of the issuer.
    All,
    /// Tokens signed by a key.
    Kid,
    /// Tokens of a subject (`sub`).
    Subject,
    /// Tokens of a client (`client_id`).
    Client,
    /// Tokens of a session (`sid`).
    Session,
    /// Tokens of a grant (`grant_id`).
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

    /// Returns the kind with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the name, as stored in the database.
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

/// Revocation of all tokens of one group that were issued before a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// Kind of group.
    pub kind: EpochKind,
    /// Name of the group; empty for [`EpochKind::All`].
    pub name: String,
    /// Tokens with a lower `iat` are revoked (Unix seconds).
    pub before: u64,
    /// Time after which every such token has expired (Unix seconds).
    pub expires_at: u64,
}
