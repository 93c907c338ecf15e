//! Registry of the configured clients, with a rate limit for each.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use meshseal_core::keys::{KeySet, KeyTables};

use super::{Client, Rate};

/// A client and the state of its rate limit.
struct Entry {
    client: Client,
    cell: AtomicU64,
}

/// The configured clients by id.
pub struct Registry {
    clients: HashMap<String, Entry>,
    rate: Rate,
    /// Tables of the clients' keys, in the order of the configuration, up to core's budget.
    tables: KeyTables,
}

impl Registry {
    /// Creates a registry that allows each client `requests_per_second` requests.
    #[must_use]
    pub fn new(clients: Vec<Client>, requests_per_second: u32) -> Self {
        // Tables make verification faster, so all of them are completed before the first request.
        let mut tables = KeyTables::new();
        tables.keep(
            clients
                .iter()
                .filter_map(Client::keys)
                .flat_map(KeySet::iter),
        );
        while tables.advance(1) {}
        let clients = clients
            .into_iter()
            .map(|client| {
                let cell = AtomicU64::new(0);
                (client.id.clone(), Entry { client, cell })
            })
            .collect();
        let rate = Rate::per_second(requests_per_second, 1);
        Self {
            clients,
            rate,
            tables,
        }
    }

    /// Returns the number of clients.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Returns whether no clients are configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Returns the client with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Client> {
        self.clients.get(id).map(|entry| &entry.client)
    }

    /// Returns the tables that verify signatures of clients.
    pub(super) fn verifier(&self) -> &KeyTables {
        &self.tables
    }

    /// Counts a request of this client. Returns false if it exceeds the rate.
    #[must_use]
    pub fn admit(&self, id: &str, now_ms: u64) -> bool {
        self.clients
            .get(id)
            .is_none_or(|entry| self.rate.admit(&entry.cell, now_ms.saturating_mul(1_000)))
    }
}
