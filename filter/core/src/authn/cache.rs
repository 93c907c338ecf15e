//! Verdicts that were reached before (V27): keyed by the exact bytes of the token, bounded in
//! number and bytes, never served past the token's end.
//!
//! When keys or revocations change, a good token is checked again before it is believed, all but
//! its signature: so a revocation takes effect at once and costs the tokens that it does not
//! concern no verification.
//!
//! Refusals have a place of their own, so that a flood of bad tokens cannot push out good ones.
//! Only the refusal that no passage of time can change is kept: a bad signature.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use super::{Proof, RequestAuthentication, Trust};
use crate::rejection::Rejection;
use crate::{bytes, limits};

/// What is remembered of tokens seen before: for a good one a note of the caller's, such as what
/// the policy makes of it. Notes hold for one policy. `S` hashes with a secret, so that nobody can
/// aim for collisions.
pub struct Verdicts<T, S> {
    hasher: S,
    verified: Slots<Good<T>>,
    refused: Slots<()>,
    /// Of the trust under which `refused` was found out.
    refused_under: u64,
}

/// How much of a token's end is hashed: most of an ECDSA or Ed25519 signature. Nobody can make a
/// second good token with the same end. Anybody can make as many refused ones as they like: of
/// those with one hash only the last is remembered.
const HASHED_BYTES: usize = 64;

struct Good<T> {
    proof: Proof,
    /// Of the trust under which it was last looked at whole.
    generation: u64,
    note: Rc<T>,
}

impl<T, S: BuildHasher> Verdicts<T, S> {
    /// An empty memory with the budgets of [`limits`].
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

    /// What was found out about exactly this token, if it still holds. The clock (Unix seconds) is
    /// read for a good one only.
    pub fn get(
        &mut self,
        bytes: &[u8],
        authn: &RequestAuthentication,
        trust: &Trust,
        now: impl FnOnce() -> u64,
    ) -> Option<Result<Rc<T>, Rejection>> {
        let generation = trust.generation();
        let hash = self.hash(bytes);
        if let Some((token, good)) = self.verified.get(hash, bytes) {
            let now = now();
            if now < good.proof.expires_at() {
                if good.generation == generation {
                    return Some(Ok(Rc::clone(&good.note)));
                }
                if good.proof.still_holds(token, authn, trust, now) {
                    good.generation = generation;
                    return Some(Ok(Rc::clone(&good.note)));
                }
            }
            self.verified.forget(hash, bytes);
            return None;
        }
        if self.refused_under != generation {
            self.refused.clear();
            self.refused_under = generation;
        }
        self.refused
            .get(hash, bytes)
            .map(|_| Err(Rejection::SignatureInvalid))
    }

    /// Remembers a token that was verified under this trust, and what to make of it; `heap_bytes`
    /// is what the note holds.
    pub fn accept(
        &mut self,
        token: &str,
        proof: Proof,
        note: Rc<T>,
        heap_bytes: usize,
        trust: &Trust,
    ) {
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

    /// Remembers a token whose signature is bad.
    pub fn refuse(&mut self, token: &str, trust: &Trust) {
        if self.refused_under == trust.generation() {
            let hash = self.hash(token.as_bytes());
            self.refused.forget_all(hash);
            self.refused.put(hash, token, (), 0);
        }
    }

    fn hash(&self, token: &[u8]) -> usize {
        let end = token.len().saturating_sub(HASHED_BYTES);
        let hash = self.hasher.hash_one(token.get(end..).unwrap_or_default());
        // Where addresses have 32 bits, the lower half.
        usize::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// How many good tokens are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verified.len()
    }

    /// Whether no good token is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A map of fixed budget. A clock hand goes round the slots: it spares an entry that was used since
/// it last came by.
///
/// The chains are its own, because a table that marks what was taken out of it grows when entries
/// come and go at its limit.
struct Slots<V> {
    /// The first slot of each chain; their number is a power of two.
    heads: Vec<usize>,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<usize>,
    hand: usize,
    held_bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

struct Slot<V> {
    token: Box<str>,
    hash: usize,
    /// The next slot of the chain.
    next: usize,
    value: V,
    bytes: usize,
    used: bool,
}

/// In the place of a slot: the chain ends here.
const END: usize = usize::MAX;

/// Chains of a memory with a few entries.
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

    fn clear(&mut self) {
        self.heads.clear();
        self.slots.clear();
        self.free.clear();
        (self.hand, self.held_bytes) = (0, 0);
    }

    fn get(&mut self, hash: usize, token: &[u8]) -> Option<(&str, &mut V)> {
        let at = self.find(hash, |known| bytes::equal(known.as_bytes(), token))?;
        let slot = self.slots.get_mut(at)?.as_mut()?;
        slot.used = true;
        Some((&slot.token, &mut slot.value))
    }

    fn put(&mut self, hash: usize, token: &str, value: V, heap_bytes: usize) {
        let bytes = token
            .len()
            .saturating_add(heap_bytes)
            .saturating_add(size_of::<Slot<V>>());
        self.forget(hash, token.as_bytes());
        if bytes > self.max_bytes {
            return;
        }
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
        if self.slots.len() > self.heads.len() {
            self.lengthen();
        } else {
            self.link(at);
        }
    }

    fn forget(&mut self, hash: usize, token: &[u8]) {
        if let Some(at) = self.find(hash, |known| bytes::equal(known.as_bytes(), token)) {
            self.empty(at);
        }
    }

    /// Forgets whatever has this hash.
    fn forget_all(&mut self, hash: usize) {
        while let Some(at) = self.find(hash, |_| true) {
            self.empty(at);
        }
    }

    fn chain(&self, hash: usize) -> usize {
        hash & self.heads.len().saturating_sub(1)
    }

    fn slot(&self, at: usize) -> Option<&Slot<V>> {
        self.slots.get(at)?.as_ref()
    }

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

    /// Puts the slot into a free place, or a new one; returns where.
    fn place(&mut self, slot: Slot<V>) -> usize {
        let at = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(at) {
            Some(place) => *place = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        at
    }

    /// Makes the slot the first of its chain.
    fn link(&mut self, at: usize) {
        let Some(chain) = self.slot(at).map(|slot| self.chain(slot.hash)) else {
            return;
        };
        if let (Some(head), Some(Some(slot))) = (self.heads.get_mut(chain), self.slots.get_mut(at))
        {
            slot.next = core::mem::replace(head, at);
        }
    }

    /// Doubles the number of chains.
    fn lengthen(&mut self) {
        let chains = self.heads.len().saturating_mul(2).max(FEWEST_CHAINS);
        self.heads.clear();
        self.heads.resize(chains, END);
        for at in 0..self.slots.len() {
            self.link(at);
        }
    }

    fn empty(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::take) else {
            return;
        };
        self.held_bytes = self.held_bytes.saturating_sub(slot.bytes);
        self.free.push(at);
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

    fn evict_one(&mut self) {
        loop {
            let next = self.hand.saturating_add(1);
            self.hand = if next < self.slots.len() { next } else { 0 };
            match self.slots.get_mut(self.hand) {
                Some(Some(slot)) if slot.used => slot.used = false,
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
