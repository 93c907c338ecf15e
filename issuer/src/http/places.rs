//! Who may hold a connection, and what for (I32): bounded in all, by source address, and so that neither polls nor everything
//! else can take all places from the other.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One place in so many is out of reach of each of the two uses: what the other can count on.
const RESERVE: usize = 10;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A proxy waits for news.
    Poll,
    /// Everything else.
    Other,
}

/// The places of a server.
pub struct Places {
    all: Arc<Semaphore>,
    polls: Arc<Semaphore>,
    others: Arc<Semaphore>,
    per_address: usize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    /// So many in all, and so many for one source address (0: no bound).
    #[must_use]
    pub fn new(all: usize, per_address: usize) -> Arc<Self> {
        let share = || Arc::new(Semaphore::new(all - (all / RESERVE).max(1).min(all)));
        let all = Arc::new(Semaphore::new(all));
        Arc::new(Self { polls: share(), others: share(), all, per_address, addresses: Mutex::default() })
    }

    /// Waits until there is a place for somebody.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        self.all.clone().acquire_owned().await.ok()
    }

    /// A place for a connection from this address, unless it has too many. Connections from this machine are not bounded:
    /// they are a sidecar's or gateway's, from anywhere.
    pub(super) fn seat(self: &Arc<Self>, address: IpAddr, place: OwnedSemaphorePermit) -> Option<Seat> {
        let source = source(address);
        let bounded = self.per_address > 0 && !source.is_loopback();
        if bounded {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let held = addresses.entry(source).or_default();
            if *held >= self.per_address {
                return None;
            }
            *held += 1;
        }
        Some(Seat {
            places: Arc::clone(self),
            source: bounded.then_some(source),
            used: Mutex::default(),
            _place: place,
        })
    }
}

/// One host has a whole /64 of IPv6 (RFC 4291 §2.5.4).
fn source(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    match address {
        IpAddr::V6(host) if !host.is_loopback() => Ipv6Addr::from_bits(host.to_bits() & (u128::MAX << 64)).into(),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

/// The place of one connection.
pub(super) struct Seat {
    places: Arc<Places>,
    source: Option<IpAddr>,
    /// What for, since its last request; between requests it keeps its share.
    used: Mutex<Option<(Use, OwnedSemaphorePermit)>>,
    _place: OwnedSemaphorePermit,
}

impl Seat {
    /// Takes it for a request; false when that use has its share already.
    pub(super) fn take_for(&self, wanted: Use) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.as_ref().is_some_and(|(used, _)| *used == wanted) {
            return true;
        }
        *used = None;
        let share = if wanted == Use::Poll { &self.places.polls } else { &self.places.others };
        *used = share.clone().try_acquire_owned().ok().map(|permit| (wanted, permit));
        used.is_some()
    }

    /// Whether it was ever used.
    pub(super) fn is_used(&self) -> bool {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut addresses = self.places.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = addresses.get_mut(&source) {
            *held -= 1;
            if *held == 0 {
                addresses.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seat(places: &Arc<Places>, address: &str) -> Option<Seat> {
        places.seat(address.parse().unwrap(), places.free().await.unwrap())
    }

    #[tokio::test]
    async fn one_address_has_so_many_and_gets_them_back() {
        let places = Places::new(100, 2);
        let mut held = vec![seat(&places, "10.0.0.1").await, seat(&places, "::ffff:10.0.0.1").await];
        assert!(held.iter().all(Option::is_some) && seat(&places, "10.0.0.1").await.is_none());
        assert!(seat(&places, "10.0.0.2").await.is_some(), "another");
        held.pop();
        assert!(seat(&places, "10.0.0.1").await.is_some());
        let _one_host = [seat(&places, "2001:db8::1").await, seat(&places, "2001:db8::2").await];
        assert!(seat(&places, "2001:db8::3").await.is_none() && seat(&places, "2001:db8:0:1::1").await.is_some());
        held.clear();
        assert_eq!(places.addresses.lock().unwrap().len(), 1, "who has left is forgotten");
    }

    #[tokio::test]
    async fn a_sidecar_is_not_bounded_and_nobody_need_be() {
        for (per_address, address) in [(1, "127.0.0.6"), (1, "::1"), (0, "10.0.0.1")] {
            let places = Places::new(100, per_address);
            let held = [seat(&places, address).await, seat(&places, address).await];
            assert!(held.iter().all(Option::is_some), "{address}");
        }
    }

    #[tokio::test]
    async fn each_use_leaves_room_for_the_other() {
        for (flood, other) in [(Use::Poll, Use::Other), (Use::Other, Use::Poll)] {
            let places = Places::new(20, 0);
            let mut held = Vec::new();
            for _ in 0..19 {
                held.extend(seat(&places, "10.0.0.1").await);
            }
            let taken: Vec<bool> = held.iter().map(|seat| seat.take_for(flood)).collect();
            assert_eq!(taken.iter().filter(|taken| **taken).count(), 18, "{flood:?}");
            assert!(held[0].take_for(flood), "keeps what it has");
            assert!(seat(&places, "10.0.0.1").await.unwrap().take_for(other));
            assert!(held[0].take_for(other), "and may change");
            assert!(held[18].take_for(flood), "which leaves a place");
        }
    }
}
