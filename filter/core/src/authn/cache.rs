//! Cache of token verdicts (V27): keyed by the exact bytes of the token, bounded in number and
//! bytes, never served past the token's expiry.
//!
//! When keys or revocations change, a cached token passes all checks except the signature again
//! before its verdict is used. A revocation therefore takes effect at once, and tokens that it does
//! not affect need no new signature verification.
//!
//! Rejected tokens are cached separately, so that a flood of bad tokens cannot evict good ones.
//! Only an invalid signature is cached: it is the only rejection that the passage of time cannot
//! change.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use super::{Proof, RequestAuthentication, Trust};
use crate::rejection::Rejection;
use crate::{bytes, limits};

/// Cached verdicts. An entry for a good token holds a note of the caller, such as the policy
/// results; notes are valid for one policy. `S` hashes with a secret key, so that an attacker
/// cannot provoke collisions.
pub struct Verdicts<T, S> {
    hasher: S,
    verified: Slots<Good<T>>,
    refused: Slots<()>,
    /// Generation of the trust under which the entries of `refused` were rejected.
    refused_under: u64,
}

/// Number of bytes hashed at a token's end: most of an ECDSA or Ed25519 signature.
///
/// Without the private key, an attacker cannot make a second good token with the same end. Rejected
/// tokens with the same end are easy to make, so only the last one for each hash is cached.
const HASHED_BYTES: usize = 64;

/// Entry of a verified token.
struct Good<T> {
    proof: Proof,
    /// Generation of the trust under which the token last passed all checks.
    generation: u64,
    note: Rc<T>,
}

impl<T, S: BuildHasher> Verdicts<T, S> {
    /// Creates an empty cache with the budgets of [`limits`].
    pub fn new(hasher: S) -> Self {
        Self {
            hasher,
            verified: Slots::new(limits::MAX_CACHED_TOKENS, limits::MAX_CACHED_BYTES),
            refused: Slots::new(
                limits::MAX_CACHED_REFUSALS,
                limits::MAX_CACHED_REFUSAL_BYTES,
            ),
            refused_under: 0,
        }
    }

    /// Returns the verdict on exactly this token, if it still holds. The clock (Unix seconds) is
    /// read for a good token only.
    pub fn get(
        &mut self,
        bytes: &[u8],
        authn: &RequestAuthentication,
        trust: &Trust,
        now: impl FnOnce() -> u64,
    ) -> Option<Result<Rc<T>, Rejection>> {
        let generation = trust.generation();
        let hash = self.hash(bytes);
        // Good tokens first: they are the common case, and only they need the clock.
        if let Some((token, good)) = self.verified.get(hash, bytes) {
            let now = now();
            if now < good.proof.expires_at() {
                if good.generation == generation {
                    return Some(Ok(Rc::clone(&good.note)));
                }
                // Keys or revocations changed: check everything but the signature again.
                if good.proof.still_holds(token, authn, trust, now) {
                    good.generation = generation;
                    return Some(Ok(Rc::clone(&good.note)));
                }
            }
            self.verified.forget(hash, bytes);
            return None;
        }
        // A key may have arrived that verifies the rejected tokens.
        if self.refused_under != generation {
            self.refused.clear();
            self.refused_under = generation;
        }
        self.refused
            .get(hash, bytes)
            .map(|_| Err(Rejection::SignatureInvalid))
    }

    /// Caches a token that was verified under this trust, with the caller's note. `heap_bytes` is
    /// the heap memory that the note holds.
    pub fn accept(
        &mut self,
        token: &str,
        proof: Proof,
        note: Rc<T>,
        heap_bytes: usize,
        trust: &Trust,
    ) {
        // The note is allocated outside of the slot, so it counts in addition.
        let bytes = heap_bytes.saturating_add(size_of::<T>());
        let hash = self.hash(token.as_bytes());
        self.verified.put(
            hash,
            token,
            Good {
                proof,
                generation: trust.generation(),
                note,
            },
            bytes,
        );
    }

    /// Caches a token whose signature is invalid.
    pub fn refuse(&mut self, token: &str, trust: &Trust) {
        // INVARIANT: all cached rejections share the generation `refused_under`.
        if self.refused_under == trust.generation() {
            let hash = self.hash(token.as_bytes());
            // Bounds the chain: an attacker can send many rejected tokens with the same end.
            self.refused.forget_all(hash);
            self.refused.put(hash, token, (), 0);
        }
    }

    /// Returns the keyed hash of the token's last bytes.
    fn hash(&self, token: &[u8]) -> usize {
        let end = token.len().saturating_sub(HASHED_BYTES);
        let hash = self.hasher.hash_one(token.get(end..).unwrap_or_default());
        // The lower half of the hash, because wasm addresses have 32 bits.
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Returns the number of cached good tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verified.len()
    }

    /// Returns whether the cache holds no good token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A hash map with a fixed budget and CLOCK eviction: the hand moves over the slots and spares an
/// entry that was used since its last visit.
///
/// It has its own chains: a hash table that marks removed entries with tombstones would keep
/// growing when entries come and go at its limit.
struct Slots<V> {
    /// First slot of each chain. INVARIANT: the number of chains is zero or a power of two.
    heads: Vec<usize>,
    /// Entries; `None` marks a free slot.
    slots: Vec<Option<Slot<V>>>,
    /// Indices of the free slots.
    free: Vec<usize>,
    /// Position of the CLOCK hand.
    hand: usize,
    held_bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

/// Entry of a [`Slots`] map.
struct Slot<V> {
    token: Box<str>,
    hash: usize,
    /// Next slot of the chain, or [`END`].
    next: usize,
    value: V,
    /// Bytes that the entry counts towards the budget.
    bytes: usize,
    /// True if the entry was used since the hand's last visit.
    used: bool,
}

/// End mark of a chain.
const END: usize = usize::MAX;

/// Number of chains of a map with few entries.
const FEWEST_CHAINS: usize = 16;

impl<V> Slots<V> {
    fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            heads: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            held_bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// Removes all entries.
    fn clear(&mut self) {
        self.heads.clear();
        self.slots.clear();
        self.free.clear();
        (self.hand, self.held_bytes) = (0, 0);
    }

    /// Returns the entry of exactly this token and marks it as used.
    fn get(&mut self, hash: usize, token: &[u8]) -> Option<(&str, &mut V)> {
        let at = self.find(hash, |known| bytes::equal(known.as_bytes(), token))?;
        let slot = self.slots.get_mut(at)?.as_mut()?;
        slot.used = true;
        Some((&slot.token, &mut slot.value))
    }

    /// Inserts an entry and evicts others until it fits; drops an entry larger than the whole
    /// budget.
    fn put(&mut self, hash: usize, token: &str, value: V, heap_bytes: usize) {
        let bytes = token
            .len()
            .saturating_add(heap_bytes)
            .saturating_add(size_of::<Slot<V>>());
        self.forget(hash, token.as_bytes());
        if bytes > self.max_bytes {
            return;
        }
        // INVARIANT: the loop ends, because `bytes` fits into an empty map.
        while self.len() >= self.max_entries
            || self.held_bytes.saturating_add(bytes) > self.max_bytes
        {
            self.evict_one();
        }
        let at = self.place(Slot {
            token: token.into(),
            hash,
            next: END,
            value,
            bytes,
            used: false,
        });
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        // Growing relinks every slot, the new one included.
        if self.slots.len() > self.heads.len() {
            self.lengthen();
        } else {
            self.link(at);
        }
    }

    /// Removes the entry of exactly this token.
    fn forget(&mut self, hash: usize, token: &[u8]) {
        if let Some(at) = self.find(hash, |known| bytes::equal(known.as_bytes(), token)) {
            self.empty(at);
        }
    }

    /// Removes every entry with this hash.
    fn forget_all(&mut self, hash: usize) {
        while let Some(at) = self.find(hash, |_| true) {
            self.empty(at);
        }
    }

    /// Returns the chain of a hash; the number of chains is a power of two.
    fn chain(&self, hash: usize) -> usize {
        hash & self.heads.len().saturating_sub(1)
    }

    fn slot(&self, at: usize) -> Option<&Slot<V>> {
        self.slots.get(at)?.as_ref()
    }

    /// Returns the index of the first entry with this hash that satisfies `is`.
    fn find(&self, hash: usize, is: impl Fn(&str) -> bool) -> Option<usize> {
        let mut at = *self.heads.get(self.chain(hash))?;
        while let Some(slot) = self.slot(at) {
            if slot.hash == hash && is(&slot.token) {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    /// Stores an entry in a free slot or a new one and returns its index.
    fn place(&mut self, slot: Slot<V>) -> usize {
        let at = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(at) {
            Some(place) => *place = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        at
    }

    /// Makes the slot the head of its chain.
    fn link(&mut self, at: usize) {
        let Some(chain) = self.slot(at).map(|slot| self.chain(slot.hash)) else {
            return;
        };
        if let (Some(head), Some(Some(slot))) = (self.heads.get_mut(chain), self.slots.get_mut(at))
        {
            slot.next = core::mem::replace(head, at);
        }
    }

    /// Doubles the number of chains and relinks every entry.
    fn lengthen(&mut self) {
        let chains = self.heads.len().saturating_mul(2).max(FEWEST_CHAINS);
        self.heads.clear();
        self.heads.resize(chains, END);
        for at in 0..self.slots.len() {
            self.link(at);
        }
    }

    /// Removes the entry of a slot and unlinks it from its chain.
    fn empty(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.held_bytes = self.held_bytes.saturating_sub(slot.bytes);
        self.free.push(at);
        // Finds the link that points to the slot, to let it skip the slot.
        let chain = self.chain(slot.hash);
        let mut link = self.heads.get_mut(chain);
        while let Some(next) = link {
            if *next == at {
                *next = slot.next;
                return;
            }
            let next = *next;
            link = self
                .slots
                .get_mut(next)
                .and_then(Option::as_mut)
                .map(|slot| &mut slot.next);
        }
    }

    /// Evicts the next entry that was not used since the hand's last visit.
    fn evict_one(&mut self) {
        loop {
            let next = self.hand.saturating_add(1);
            self.hand = if next < self.slots.len() { next } else { 0 };
            match self.slots.get_mut(self.hand) {
                Some(Some(slot)) if slot.used => slot.used = false,
                // The second visit to an entry finds `used` cleared, so the loop ends.
                Some(Some(_)) => return self.empty(self.hand),
                Some(None) if self.held_bytes > 0 => {}
                Some(None) | None => return self.clear(),
            }
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
