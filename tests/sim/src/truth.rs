//! What has really happened in a history, as an outside observer knows it: the yardstick of the
//! invariants.

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
    /// `iat` (Unix seconds).
    pub(super) issued_at: u64,
    /// `exp` (Unix seconds).
    pub(super) expires_at: u64,
    /// True time at which a revocation that covers it was acknowledged.
    pub(super) revoked_at: Option<u64>,
    /// Whether a receipt said that no worker accepts it any more.
    pub(super) complete: bool,
    /// Whether it may be revoked although no revocation of it was acknowledged.
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

/// Versions that a restored backup lacks.
#[derive(Debug)]
pub(super) struct Lost {
    /// The newest of them.
    pub(super) version: u64,
    /// Replicas that remember it since before: their positions, and which of their starts that was.
    pub(super) provers: Vec<(usize, usize)>,
    /// Whether one of them has looked.
    pub(super) is_proven: bool,
}

/// A worker that an operator has declared gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten {
    /// True time of that.
    pub(super) at: u64,
    /// Whether a receipt may name it: the answer was lost, or the worker has polled since.
    pub(super) may_be_named: bool,
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
    /// Key ids in the order in which they were seen: a trace names keys by their place, which a
    /// replay repeats.
    key_ids: Vec<String>,
    /// Keys that began to sign without all confirmations, and were counted as forced, or by a
    /// revocation.
    pub(super) forced: BTreeSet<String>,
    /// Whether the answer to the revocation of a key was lost: a key that nobody has seen yet may
    /// sign.
    pub(super) unknown_rotation: bool,
    /// Keys that an operator revoked.
    pub(super) revoked_keys: BTreeSet<String>,
    /// Those of them whose revocation was acknowledged.
    pub(super) acknowledged_keys: BTreeSet<String>,
    /// Readers of `/jwks`.
    pub(super) readers: Vec<Reader>,
    /// Pairs of worker and token (by position) where the worker has rejected the token as revoked.
    pub(super) heard: HashSet<(u64, usize)>,
    /// True time at which a backup was last restored. The record of a worker that serves stale may
    /// be lost for good then: the issuer cannot know that there is such a worker.
    pub(super) restored_at: u64,
    /// Workers that an operator has declared gone, and that were given no bundle since.
    pub(super) forgotten: HashMap<u64, Forgotten>,
    /// True time at which a replica last could not write to the database, or had the time wrong.
    pub(super) troubled_at: u64,
    /// Highest version that any replica has published.
    pub(super) newest: u64,
    /// Versions that restored backups lack, until replicas that remember them have looked.
    pub(super) lost: Vec<Lost>,
    /// True time until which a token may be revoked with its group although it was issued later:
    /// its revocation covers what replicas that did not know of it yet may have issued.
    pub(super) groups_until: u64,
    /// True time until which a receipt may lack workers: their records were lost, and no replica
    /// could know.
    pub(super) unlisted_until: u64,
    /// Whether the database went back while no running replica held the lost state: until a worker
    /// shows its version, no replica can know.
    pub(super) blind: bool,
}

impl Truth {
    /// Marks the tokens that a revocation covers, once it is acknowledged. Returns how many those
    /// are.
    pub(super) fn acknowledge(
        &mut self,
        now: u64,
        covers: impl Fn(usize, &Token) -> bool,
    ) -> usize {
        let mut count = 0;
        for (at, token) in self.tokens.iter_mut().enumerate() {
            if token.is_alive(now) && covers(at, token) {
                token.revoked_at.get_or_insert(now);
                count += 1;
            }
        }
        count
    }

    /// Returns the place of a key id among those that were seen.
    pub(super) fn key_place(&mut self, kid: &str) -> usize {
        self.key_ids
            .iter()
            .position(|known| known == kid)
            .unwrap_or_else(|| {
                self.key_ids.push(kid.to_owned());
                self.key_ids.len().saturating_sub(1)
            })
    }

    /// Returns whether replicas cannot know yet what a restored backup lacks.
    pub(super) fn is_unsure(&self) -> bool {
        self.blind || !self.lost.is_empty()
    }

    /// Marks tokens that may be revoked although no revocation of them was acknowledged: its answer
    /// was lost, or an incident's epoch covers them.
    pub(super) fn may_cover(&mut self, covers: impl Fn(usize, &Token) -> bool) {
        for (at, token) in self.tokens.iter_mut().enumerate() {
            token.covered |= covers(at, token);
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
