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

/// Fewer single tokens than proxies hold: requests that are under way at once may each have seen room for one more.
const MAX_TOKENS: usize = limits::MAX_REVOKED - 20_000;

/// Whether proxies can take these revocations beside the present ones. Raising an epoch that is there, and revoking all, always
/// fits: that is the way out when nothing else does.
#[must_use]
pub fn fits(trust: &IssuerTrust, tokens: usize, epochs: &[EpochRecord]) -> bool {
    let present = &trust.epochs;
    let names_of = |kind: EpochKind| match kind {
        EpochKind::All => None,
        EpochKind::Kid => Some(&present.kid),
        EpochKind::Subject => Some(&present.sub),
        EpochKind::Client => Some(&present.client),
        EpochKind::Session => Some(&present.sid),
        EpochKind::Grant => Some(&present.grant),
    };
    let is_new = |epoch: &&EpochRecord| names_of(epoch.kind).is_some_and(|names| !names.contains_key(&epoch.name));
    let added: Vec<&EpochRecord> = epochs.iter().filter(is_new).collect();
    if tokens == 0 && added.is_empty() {
        return true;
    }
    let few = trust.revoked.len() + tokens <= MAX_TOKENS;
    let room = added
        .iter()
        .all(|epoch| names_of(epoch.kind).is_none_or(|names| names.len() + added.len() <= limits::MAX_EPOCHS));
    let kinds = [&present.kid, &present.sub, &present.client, &present.sid, &present.grant];
    let names = kinds.iter().flat_map(|kind| kind.keys()).chain(added.iter().map(|epoch| &epoch.name));
    // A name, its time and the punctuation of JSON. Base64 makes four bytes of three.
    let names: usize = names.map(|name| (name.len() + 16) * 4 / 3).sum();
    let indices = trust.revoked.encode().len() * 16 / 9;
    (tokens == 0 || few) && room && names + indices + tokens * TOKEN_BYTES <= BUDGET_BYTES
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

    #[test]
    fn when_nothing_else_fits_all_and_what_is_there_can_still_be_revoked() {
        let mut trust = IssuerTrust::default();
        trust.epochs.sub = (0..limits::MAX_EPOCHS).map(|at| (at.to_string(), 1)).collect();
        trust.revoked = (0..limits::MAX_REVOKED as u64).collect();
        let epoch = |kind, name: &str| [EpochRecord { kind, name: name.into(), before: 9, expires_at: 99 }];
        assert!(!fits(&trust, 0, &epoch(EpochKind::Subject, "new")));
        assert!(fits(&trust, 0, &epoch(EpochKind::Subject, "7")));
        assert!(fits(&trust, 0, &epoch(EpochKind::All, "")));
        assert!(fits(&trust, 0, &epoch(EpochKind::Client, "new")), "another kind has room");
    }
}
