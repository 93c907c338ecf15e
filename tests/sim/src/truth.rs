//! The true events of a history, as an outside observer knows them. The invariants compare replicas
//! and workers with them.

use std::collections::{BTreeSet, HashMap, HashSet};

use meshseal_core::rejection::Rejection;

/// Largest clock skew that a proxy may allow after `exp`, in seconds.
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
    /// True if a complete receipt said that no worker accepts the token.
    pub(super) complete: bool,
    /// True if the token may be revoked without an acknowledgement.
    pub(super) covered: bool,
}

impl Token {
    /// Returns whether a worker could still accept the token by its times.
    #[must_use]
    pub(super) const fn is_alive(&self, now: u64) -> bool {
        now < self.expires_at.saturating_add(LEEWAY_S)
    }
}

/// A reader of `/jwks` that caches the key set for its `max-age`.
#[derive(Debug)]
pub(super) struct Reader {
    /// Key ids in the cached set.
    pub(super) kids: BTreeSet<String>,
    /// True time at which the cached set expires.
    pub(super) until: u64,
}

/// Versions that a restored backup lacks.
#[derive(Debug)]
pub(super) struct Lost {
    /// Newest lost version.
    pub(super) version: u64,
    /// Replicas that held the version before the restore: their positions, and the number of their
    /// start at that time.
    pub(super) provers: Vec<(usize, usize)>,
    /// True once these replicas have written the loss back.
    pub(super) is_proven: bool,
}

/// A worker that an operator has declared gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forgotten {
    /// True time of the declaration.
    pub(super) at: u64,
    /// True if a receipt may name the worker: the answer was lost, or the worker has polled since.
    pub(super) may_be_named: bool,
}

/// Events of a history.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Tokens in the order of their issue.
    pub(super) tokens: Vec<Token>,
    /// Values of `jti` seen, to find one that is used twice.
    pub(super) jtis: HashSet<String>,
    /// Token indices seen.
    pub(super) indices: HashSet<u64>,
    /// Public keys by id.
    pub(super) keys: HashMap<String, String>,
    /// Key ids in the order of their first use. A trace names keys by this position, which is the
    /// same in a replay.
    key_ids: Vec<String>,
    /// Keys that began to sign without all confirmations, by a forced rotation or a revocation.
    pub(super) forced: BTreeSet<String>,
    /// True if the answer to the revocation of a key was lost: an unseen key may sign.
    pub(super) unknown_rotation: bool,
    /// Keys that an operator revoked.
    pub(super) revoked_keys: BTreeSet<String>,
    /// Keys whose revocation was acknowledged.
    pub(super) acknowledged_keys: BTreeSet<String>,
    /// Readers of `/jwks`.
    pub(super) readers: Vec<Reader>,
    /// Pairs of worker id and token position where the worker has rejected the token as revoked.
    pub(super) heard: HashSet<(u64, usize)>,
    /// True time at which a backup was last restored. The issuer may then have lost the record of a
    /// worker that serves stale forever, and cannot know of that worker.
    pub(super) restored_at: u64,
    /// Workers that an operator has declared gone, and that have received no bundle since.
    pub(super) forgotten: HashMap<u64, Forgotten>,
    /// True time at which a replica last could not write to the database or had a wrong clock.
    pub(super) troubled_at: u64,
    /// Highest version that any replica has published.
    pub(super) newest: u64,
    /// Versions that restored backups lack, until replicas that remember them have written them
    /// back.
    pub(super) lost: Vec<Lost>,
    /// True time until which the revocation of a group also covers later tokens: replicas that do
    /// not know the revocation yet may issue them.
    pub(super) groups_until: u64,
    /// True time until which a receipt may lack workers, because their records were lost and no
    /// replica could know.
    pub(super) unlisted_until: u64,
    /// True if the database went back while no running replica held the lost state. No replica can
    /// know the loss until a worker proves its version.
    pub(super) blind: bool,
}

impl Truth {
    /// Marks the tokens that an acknowledged revocation covers. Returns their number.
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

    /// Returns the position of a key id in the order of first use.
    pub(super) fn key_place(&mut self, kid: &str) -> usize {
        self.key_ids
            .iter()
            .position(|known| known == kid)
            .unwrap_or_else(|| {
                self.key_ids.push(kid.to_owned());
                self.key_ids.len().saturating_sub(1)
            })
    }

    /// Returns whether replicas cannot know yet which versions a restored backup lacks.
    pub(super) fn is_unsure(&self) -> bool {
        self.blind || !self.lost.is_empty()
    }

    /// Marks tokens that may be revoked without an acknowledgement: the answer was lost, or the
    /// epoch of an incident covers them.
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
