//! Revocations as they are kept, and how many proxies can take.

use meshseal_core::bundle::IssuerTrust;
use meshseal_core::limits;

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
    const ALL: [Self; 6] = [Self::All, Self::Kid, Self::Subject, Self::Client, Self::Session, Self::Grant];

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

/// Bytes of a full bundle that revocations may take up: what proxies accept, less room for keys and the envelope.
const BUDGET_BYTES: usize = limits::MAX_BUNDLE_BYTES - 128 * 1024;

/// Longest encoding of one more revoked token: 10 bytes of LEB128 in base64, twice.
const TOKEN_BYTES: usize = 18;

/// Whether proxies can take these revocations beside the present ones. Base64 makes four bytes of three.
#[must_use]
pub fn fits(trust: &IssuerTrust, tokens: usize, epochs: &[EpochRecord]) -> bool {
    let present = &trust.epochs;
    let kinds = [&present.kid, &present.sub, &present.client, &present.sid, &present.grant];
    let names = kinds.iter().flat_map(|kind| kind.keys()).chain(epochs.iter().map(|epoch| &epoch.name));
    // A name, its time and the punctuation of JSON.
    let names: usize = names.map(|name| (name.len() + 16) * 4 / 3).sum();
    let indices = trust.revoked.encode().len() * 16 / 9;
    let few = trust.revoked.len() + tokens <= limits::MAX_REVOKED;
    let room = kinds.iter().all(|kind| kind.len() + epochs.len() <= limits::MAX_EPOCHS);
    few && room && names + indices + tokens * TOKEN_BYTES <= BUDGET_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_hundred_thousand_scattered_tokens_but_not_for_more_than_proxies_hold() {
        let scattered =
            |count: u64| IssuerTrust { revoked: (0..count).map(|at| at * 1_000).collect(), ..IssuerTrust::default() };
        assert!(fits(&scattered(100_000), 1, &[]));
        assert!(!fits(&scattered(limits::MAX_REVOKED as u64), 1, &[]));
    }

    #[test]
    fn long_names_fill_the_budget_before_their_number_does() {
        let mut trust = IssuerTrust::default();
        trust.epochs.sub = (0..10_000).map(|at| (format!("{at:0>256}"), 1)).collect();
        let one = EpochRecord { kind: EpochKind::Subject, name: "x".into(), before: 1, expires_at: 2 };
        assert!(!fits(&trust, 0, &[one]));
    }
}
