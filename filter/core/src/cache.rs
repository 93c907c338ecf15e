//! Verdicts that were reached before (V27): keyed by the exact bytes of the token, forgotten when keys or revocations change,
//! bounded in number and bytes, never served past the token's end.
//!
//! Refusals have a place of their own, so that a flood of bad tokens cannot push out good ones. Only the refusal that no
//! passage of time can change is kept: a bad signature.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use hashbrown::HashTable;

use crate::limits;
use crate::rejection::Rejection;
use crate::validate::Verified;

/// What is remembered of tokens seen before. `S` hashes with a secret, so that nobody can aim for collisions.
pub struct Verdicts<S> {
    generation: u64,
    verified: Slots<Rc<Verified>, S>,
    refused: Slots<(), S>,
}

impl<S: BuildHasher + Clone> Verdicts<S> {
    /// An empty memory with the budgets of [`limits`].
    pub fn new(hasher: S) -> Self {
        Self {
            generation: 0,
            verified: Slots::new(hasher.clone(), limits::MAX_CACHED_TOKENS, limits::MAX_CACHED_BYTES),
            refused: Slots::new(hasher, limits::MAX_CACHED_REFUSALS, limits::MAX_CACHED_REFUSAL_BYTES),
        }
    }

    /// What was found out about exactly this token, if it still holds; `generation` is [`crate::trust::Trust::generation`].
    pub fn get(&mut self, token: &str, generation: u64, now: u64) -> Option<Result<Rc<Verified>, Rejection>> {
        if generation != self.generation {
            self.verified.clear();
            self.refused.clear();
            self.generation = generation;
        }
        if self.refused.get(token).is_some() {
            return Some(Err(Rejection::SignatureInvalid));
        }
        let verified = self.verified.get(token)?;
        (now < verified.expires_at()).then(|| Ok(Rc::clone(verified)))
    }

    /// Remembers a verdict; one that was reached under another generation than the last one asked for is dropped.
    pub fn put(&mut self, token: &str, verdict: &Result<Rc<Verified>, Rejection>, generation: u64) {
        if generation != self.generation {
            return;
        }
        match verdict {
            Ok(verified) => self.verified.put(token, Rc::clone(verified), verified.heap_bytes()),
            Err(Rejection::SignatureInvalid) => self.refused.put(token, (), 0),
            Err(_) => {}
        }
    }

    /// How many good tokens are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verified.table.len()
    }

    /// Whether no good token is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A map of fixed budget. A clock hand goes round the slots: it spares an entry that was used since it last came by.
struct Slots<V, S> {
    hasher: S,
    /// Indices into `slots`, by hash of the token.
    table: HashTable<usize>,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<usize>,
    hand: usize,
    held_bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

struct Slot<V> {
    token: Box<str>,
    hash: u64,
    value: V,
    bytes: usize,
    used: bool,
}

impl<V, S: BuildHasher> Slots<V, S> {
    fn new(hasher: S, max_entries: usize, max_bytes: usize) -> Self {
        Self {
            hasher,
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            held_bytes: 0,
            max_entries,
            max_bytes,
        }
    }

    fn clear(&mut self) {
        self.table.clear();
        self.slots.clear();
        self.free.clear();
        (self.hand, self.held_bytes) = (0, 0);
    }

    fn get(&mut self, token: &str) -> Option<&V> {
        let hash = self.hasher.hash_one(token);
        let holds = |at: &usize| matches!(self.slots.get(*at), Some(Some(slot)) if *slot.token == *token);
        let at = *self.table.find(hash, holds)?;
        let slot = self.slots.get_mut(at)?.as_mut()?;
        slot.used = true;
        Some(&slot.value)
    }

    fn put(&mut self, token: &str, value: V, heap_bytes: usize) {
        let bytes = token.len().saturating_add(heap_bytes).saturating_add(size_of::<Slot<V>>());
        let hash = self.hasher.hash_one(token);
        self.forget(hash, token);
        if bytes > self.max_bytes {
            return;
        }
        while self.table.len() >= self.max_entries || self.held_bytes.saturating_add(bytes) > self.max_bytes {
            self.evict_one();
        }
        let slot = Slot { token: token.into(), hash, value, bytes, used: false };
        let at = self.place(slot);
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        let slots = &self.slots;
        let rehash = |at: &usize| slots.get(*at).and_then(Option::as_ref).map_or(0, |slot| slot.hash);
        self.table.insert_unique(hash, at, rehash);
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

    fn forget(&mut self, hash: u64, token: &str) {
        let holds = |at: &usize| matches!(self.slots.get(*at), Some(Some(slot)) if *slot.token == *token);
        if let Ok(entry) = self.table.find_entry(hash, holds) {
            let (at, _) = entry.remove();
            self.empty(at);
        }
    }

    fn empty(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at).and_then(Option::take) {
            self.held_bytes = self.held_bytes.saturating_sub(slot.bytes);
            self.free.push(at);
        }
    }

    fn evict_one(&mut self) {
        loop {
            let next = self.hand.saturating_add(1);
            self.hand = if next < self.slots.len() { next } else { 0 };
            match self.slots.get_mut(self.hand) {
                Some(Some(slot)) if slot.used => slot.used = false,
                Some(Some(slot)) => {
                    let (hash, at) = (slot.hash, self.hand);
                    if let Ok(entry) = self.table.find_entry(hash, |other| *other == at) {
                        entry.remove();
                    }
                    return self.empty(at);
                }
                Some(None) if self.held_bytes > 0 => {}
                Some(None) | None => return self.clear(),
            }
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
