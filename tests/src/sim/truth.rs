//! What has really happened in a history, as an outside observer knows it: the yardstick of the invariants.

use std::collections::{BTreeSet, HashMap, HashSet};

use meshseal_core::rejection::Rejection;

/// Largest leeway that a proxy may grant after `exp`, in seconds.
pub(super) const LEEWAY_S: u64 = meshseal_core::limits::MAX_CLOCK_SKEW_S;

/// A token whose client has received it.
#[derive(Debug)]
pub(super) struct Token {
    /// The compact JWS.
    pub(super) text: String,
    /// `kid` of its header.
    pub(super) kid: String,
    /// `client_id`.
    pub(super) client: String,
    /// `exp` (Unix seconds).
    pub(super) expires_at: u64,
    /// True time at which a revocation that covers it was acknowledged.
    pub(super) revoked_at: Option<u64>,
    /// Whether a receipt said that no worker accepts it any more.
    pub(super) complete: bool,
    /// Whether an incident may have revoked it (B2: its epoch covers what cannot be proven).
    pub(super) covered: bool,
}

impl Token {
    /// Returns whether some worker could still accept it by its times.
    #[must_use]
    pub(super) const fn is_alive(&self, now: u64) -> bool {
        now < self.expires_at.saturating_add(LEEWAY_S)
    }
}

/// A reader of `/jwks` that keeps what it read for as long as `max-age` says.
#[derive(Debug)]
pub(super) struct Reader {
    /// The key ids that it has.
    pub(super) kids: BTreeSet<String>,
    /// True time at which it reads again.
    pub(super) until: u64,
}

/// What has happened.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Tokens, by the order of their issue.
    pub(super) tokens: Vec<Token>,
    /// Token identifiers seen, to find one that is used twice.
    pub(super) jtis: HashSet<String>,
    /// Token indices seen.
    pub(super) indices: HashSet<u64>,
    /// Public keys by id.
    pub(super) keys: HashMap<String, String>,
    /// Keys that began to sign without all confirmations, and were counted as forced, or by a revocation.
    pub(super) forced: BTreeSet<String>,
    /// Keys that an operator revoked.
    pub(super) revoked_keys: BTreeSet<String>,
    /// Readers of `/jwks`.
    pub(super) readers: Vec<Reader>,
    /// Pairs of worker and token (by position) where the worker has rejected the token as revoked.
    pub(super) heard: HashSet<(u64, usize)>,
    /// Whether the database went back while no running replica held the lost state: until a worker shows its version, no
    /// replica can know.
    pub(super) blind: bool,
}

impl Truth {
    /// Marks the tokens that a revocation covers, once it is acknowledged. Returns how many those are.
    pub(super) fn acknowledge(&mut self, now: u64, covers: impl Fn(usize, &Token) -> bool) -> usize {
        let mut count = 0;
        for (at, token) in self.tokens.iter_mut().enumerate() {
            if token.is_alive(now) && covers(at, token) {
                token.revoked_at.get_or_insert(now);
                count += 1;
            }
        }
        count
    }

    /// Marks every token issued so far as one that an incident's epoch may cover.
    pub(super) fn cover_all(&mut self) {
        for token in &mut self.tokens {
            token.covered = true;
        }
    }
}

/// Returns whether a rejection means that the token was revoked.
#[must_use]
pub(super) fn says_revoked(rejection: Rejection) -> bool {
    matches!(
        rejection,
        Rejection::TokenRevoked
            | Rejection::KeyRevoked
            | Rejection::IssuedBeforeEpoch
            | Rejection::SubjectRevoked
            | Rejection::ClientRevoked
            | Rejection::SessionRevoked
            | Rejection::GrantRevoked
    )
}
