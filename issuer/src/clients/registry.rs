//! The clients by id, with the rate of each.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use meshseal_core::keys::{KeySet, KeyTables};

use super::{Client, Rate};

struct Entry {
    client: Client,
    cell: AtomicU64,
}

/// The configured clients.
pub struct Registry {
    clients: HashMap<String, Entry>,
    rate: Rate,
    /// Of the clients' keys, as far as core's budget for them goes; the first clients come first.
    tables: KeyTables,
}

impl Registry {
    /// These clients, each with so many requests a second.
    #[must_use]
    pub fn new(clients: Vec<Client>, requests_per_second: u32) -> Self {
        let mut tables = KeyTables::new();
        tables.keep(
            clients
                .iter()
                .filter_map(Client::keys)
                .flat_map(KeySet::iter),
        );
        while tables.advance(1) {}
        let entry = |client: Client| {
            (
                client.id.clone(),
                Entry {
                    client,
                    cell: AtomicU64::new(0),
                },
            )
        };
        let rate = Rate::per_second(requests_per_second, 1);
        Self {
            clients: clients.into_iter().map(entry).collect(),
            rate,
            tables,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The client with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Client> {
        self.clients.get(id).map(|entry| &entry.client)
    }

    /// Verifies signatures of clients.
    pub(super) fn verifier(&self) -> &KeyTables {
        &self.tables
    }

    /// Counts a request of this client; false when it is one too many.
    #[must_use]
    pub fn admit(&self, id: &str, now_ms: u64) -> bool {
        self.clients
            .get(id)
            .is_none_or(|entry| self.rate.admit(&entry.cell, now_ms.saturating_mul(1_000)))
    }
}
