//! The clients by id, with the rate of each.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use super::{Client, Rate};

struct Entry {
    client: Client,
    cell: AtomicU64,
}

/// The configured clients.
pub struct Registry {
    clients: HashMap<String, Entry>,
    rate: Rate,
}

impl Registry {
    /// These clients, each with so many requests a second.
    #[must_use]
    pub fn new(clients: Vec<Client>, requests_per_second: u32) -> Self {
        let entry = |client: Client| (client.id.clone(), Entry { client, cell: AtomicU64::new(0) });
        Self { clients: clients.into_iter().map(entry).collect(), rate: Rate::per_second(requests_per_second, 1) }
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

    /// Counts a request of this client; false when it is one too many.
    #[must_use]
    pub fn admit(&self, id: &str, now_ms: u64) -> bool {
        self.clients.get(id).is_none_or(|entry| self.rate.admit(&entry.cell, now_ms.saturating_mul(1_000)))
    }
}
