//! Precomputed multiples of the keys in force, so that a verification needs additions only.
//!
//! Keys are few and live long, while tokens are many. Tables are stored beside the keys, under
//! their ids, and built in small steps off the request path. Until both tables that a signature
//! needs are complete, [`Portable`] verifies it.

use alloc::vec::Vec;
use core::fmt;

use super::{Key, KeyId, Portable, PublicKey, SignatureVerifier};
use crate::crypto::{
    EcKey, Ecdsa, EdDsa, EdKey, Edwards, Es, Group, NARROWEST, P256, P384, P521, Points, Table,
    WIDEST, verify,
};
use crate::jose::Family;
use crate::limits;

/// Tables of one group: one for its generator, which all keys share, and one for each key.
#[derive(Clone)]
struct Tables<G: Group> {
    generator: Option<Table<G>>,
    /// Tables of keys, as many as fit into the budget; searched linearly.
    keys: Vec<(KeyId, Table<G>)>,
}

impl<G: Group> Default for Tables<G> {
    fn default() -> Self {
        Self {
            generator: None,
            keys: Vec::new(),
        }
    }
}

impl<G: Group> Tables<G> {
    /// Returns all tables, the generator's first.
    fn iter(&self) -> impl Iterator<Item = &Table<G>> {
        self.generator
            .iter()
            .chain(self.keys.iter().map(|(_, table)| table))
    }

    /// Returns the table of a key, complete or not.
    fn table(&self, id: KeyId) -> Option<&Table<G>> {
        self.keys
            .iter()
            .find(|(of, _)| *of == id)
            .map(|(_, table)| table)
    }

    /// Returns both tables that a verification needs, if both are complete.
    fn of(&self, id: KeyId) -> Option<(&Table<G>, &Table<G>)> {
        let (generator, key) = (self.generator.as_ref()?, self.table(id)?);
        (generator.is_ready() && key.is_ready()).then_some((generator, key))
    }

    /// Drops the tables of unwanted keys, and the generator's table when no key is left.
    fn retain(&mut self, wanted: &[&Key]) {
        self.keys
            .retain(|(id, _)| wanted.iter().any(|key| key.id() == *id));
        // A generator table is worth its memory only beside a key's table.
        if self.keys.is_empty() {
            self.generator = None;
        }
    }

    /// Returns the bytes that the tables take when complete.
    fn bytes(&self) -> usize {
        self.iter().map(Table::bytes).fold(0, usize::saturating_add)
    }

    /// Queues the missing tables of a key, as far as the budget allows.
    fn add(
        &mut self,
        id: KeyId,
        budget: &mut Budget,
        generator: impl FnOnce(u32) -> Option<Table<G>>,
        key: impl FnOnce(u32) -> Option<Table<G>>,
    ) {
        if self.table(id).is_some() {
            return;
        }
        if self.generator.is_none() {
            self.generator = budget.take::<G>().and_then(generator);
        }
        // A key's table is useless without the generator's.
        if self.generator.is_some()
            && let Some(table) = budget.take::<G>().and_then(key)
        {
            self.keys.push((id, table));
        }
    }

    /// Builds one row of the first incomplete table, the generator's before those of keys.
    fn advance(&mut self) -> bool {
        let mut all = self
            .generator
            .iter_mut()
            .chain(self.keys.iter_mut().map(|(_, table)| table));
        match all.find(|table| table.is_growing()) {
            Some(table) => {
                table.advance();
                true
            }
            None => false,
        }
    }
}

/// Bytes left for tables, and the share of a single table.
struct Budget {
    left: usize,
    share: usize,
}

impl Budget {
    /// Takes the widest window whose table fits into the share, or the narrowest window if only
    /// that fits into the rest of the budget.
    fn take<G: Group>(&mut self) -> Option<u32> {
        // A share below the smallest table still gets that table, if memory is left.
        let most = self
            .share
            .max(Table::<G>::bytes_of(NARROWEST))
            .min(self.left);
        let width = (NARROWEST..=WIDEST)
            .rev()
            .find(|width| Table::<G>::bytes_of(*width) <= most)?;
        self.left = self.left.saturating_sub(Table::<G>::bytes_of(width));
        Some(width)
    }
}

/// Verifier that uses tables for the keys that have them, and works as [`Portable`] for the others.
///
/// Memory stays within [`limits::MAX_TABLES_BYTES`]: each new table takes the widest window that
/// fits into an equal share of the rest. Keys that arrive when the budget is used up have no table
/// until other keys leave.
#[derive(Clone, Default)]
pub struct KeyTables {
    p256: Tables<Points<P256>>,
    p384: Tables<Points<P384>>,
    p521: Tables<Points<P521>>,
    ed25519: Tables<Edwards>,
}

impl KeyTables {
    /// Creates a verifier without tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the keys in force. Tables of other keys are dropped; missing tables are queued for
    /// [`KeyTables::advance`].
    pub fn keep<'k>(&mut self, keys: impl IntoIterator<Item = &'k Key>) {
        // Configurations share issuers: each key counts once.
        let mut wanted: Vec<&Key> = Vec::new();
        for key in keys.into_iter().filter(|key| has_tables(key)) {
            if wanted.len() < limits::MAX_KEYS && wanted.iter().all(|known| known.id() != key.id())
            {
                wanted.push(key);
            }
        }
        self.p256.retain(&wanted);
        self.p384.retain(&wanted);
        self.p521.retain(&wanted);
        self.ed25519.retain(&wanted);
        // The rest of the budget is divided equally among the missing tables.
        let left = limits::MAX_TABLES_BYTES.saturating_sub(self.bytes());
        let share = left
            .checked_div(self.missing(&wanted))
            .unwrap_or(0)
            .min(limits::MAX_TABLE_BYTES);
        let mut budget = Budget { left, share };
        for key in wanted {
            self.add(key, &mut budget);
        }
    }

    /// Returns the number of missing tables.
    fn missing(&self, wanted: &[&Key]) -> usize {
        let generators = [
            (Family::P256, self.p256.generator.is_none()),
            (Family::P384, self.p384.generator.is_none()),
            (Family::P521, self.p521.generator.is_none()),
            (Family::Ed25519, self.ed25519.generator.is_none()),
        ];
        let generators = generators
            .into_iter()
            .filter(|(family, missing)| {
                *missing && wanted.iter().any(|key| key.alg().family() == *family)
            })
            .count();
        wanted
            .iter()
            .filter(|key| !self.has_table(key.id()))
            .count()
            .saturating_add(generators)
    }

    /// Returns whether a key has a table, complete or not.
    fn has_table(&self, id: KeyId) -> bool {
        self.p256.table(id).is_some()
            || self.p384.table(id).is_some()
            || self.p521.table(id).is_some()
            || self.ed25519.table(id).is_some()
    }

    /// Queues the missing tables of a key.
    fn add(&mut self, key: &Key, budget: &mut Budget) {
        fn ec<C: Ecdsa>(
            tables: &mut Tables<Points<C>>,
            id: KeyId,
            key: &EcKey<C>,
            budget: &mut Budget,
        ) {
            tables.add(id, budget, EcKey::<C>::generator_table, |width| {
                Some(key.table(width))
            });
        }
        match key.public_key() {
            PublicKey::P256(public) => ec(&mut self.p256, key.id(), public, budget),
            PublicKey::P384(public) => ec(&mut self.p384, key.id(), public, budget),
            PublicKey::P521(public) => ec(&mut self.p521, key.id(), public, budget),
            PublicKey::Ed25519(public) => {
                self.ed25519.add(
                    key.id(),
                    budget,
                    |width| Some(EdKey::generator_table(width)),
                    |width| Some(public.table(width)),
                );
            }
            PublicKey::Rsa(_) | PublicKey::Secret(_) => {}
        }
    }

    /// Performs up to `steps` steps of building; each builds one row of one table. Returns whether
    /// any table is incomplete.
    pub fn advance(&mut self, steps: usize) -> bool {
        // Stops at the first step without work.
        let _ = (0..steps).all(|_| {
            self.ed25519.advance()
                || self.p256.advance()
                || self.p384.advance()
                || self.p521.advance()
        });
        self.is_growing()
    }

    /// Returns whether a table is incomplete, so that [`KeyTables::advance`] has work to do.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        self.p256.iter().any(Table::is_growing)
            || self.p384.iter().any(Table::is_growing)
            || self.p521.iter().any(Table::is_growing)
            || self.ed25519.iter().any(Table::is_growing)
    }

    /// Returns the bytes that all tables take when complete.
    #[must_use]
    pub fn bytes(&self) -> usize {
        [
            self.p256.bytes(),
            self.p384.bytes(),
            self.p521.bytes(),
            self.ed25519.bytes(),
        ]
        .into_iter()
        .sum()
    }

    /// Returns whether signatures of this key are already verified with tables.
    #[must_use]
    pub fn is_ready(&self, key: &Key) -> bool {
        match key.public_key() {
            PublicKey::P256(_) => self.p256.of(key.id()).is_some(),
            PublicKey::P384(_) => self.p384.of(key.id()).is_some(),
            PublicKey::P521(_) => self.p521.of(key.id()).is_some(),
            PublicKey::Ed25519(_) => self.ed25519.of(key.id()).is_some(),
            PublicKey::Rsa(_) | PublicKey::Secret(_) => false,
        }
    }
}

impl fmt::Debug for KeyTables {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KeyTables")
            .field("bytes", &self.bytes())
            .field("growing", &self.is_growing())
            .finish()
    }
}

/// Returns whether tables accelerate the key's algorithm.
fn has_tables(key: &Key) -> bool {
    !matches!(key.public_key(), PublicKey::Rsa(_) | PublicKey::Secret(_))
}

impl SignatureVerifier for KeyTables {
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        match key.public_key() {
            PublicKey::P256(public) => {
                verify(&Es(self.p256.of(key.id())), public, message, signature)
            }
            PublicKey::P384(public) => {
                verify(&Es(self.p384.of(key.id())), public, message, signature)
            }
            PublicKey::P521(public) => {
                verify(&Es(self.p521.of(key.id())), public, message, signature)
            }
            PublicKey::Ed25519(public) => verify(
                &EdDsa(self.ed25519.of(key.id())),
                public,
                message,
                signature,
            ),
            PublicKey::Rsa(_) | PublicKey::Secret(_) => Portable.verify(key, message, signature),
        }
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
