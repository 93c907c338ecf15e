//! Who may hold a connection, and what for (I32): bounded in all, by source address, and so that
//! neither polls nor everything else can take all places from the other. A connection that has sent
//! no whole request head has no share yet: it gives way when a place is needed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// Silence after which a connection may have to give way. The timer runs in the connection's own
/// task, and the runtime looks at sockets before it fires timers. So a request that came during a
/// stall of the runtime is read first.
const LISTEN: Duration = Duration::from_millis(10);

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
    silent: Mutex<Silent>,
}

/// Connections that have not sent a whole request head, in the order of their coming.
#[derive(Default)]
struct Silent {
    next: u64,
    waiting: BTreeMap<u64, Arc<Silence>>,
}

/// A silent connection, as it and the acceptor see it.
#[derive(Default)]
struct Silence {
    /// Whether another connection needs the place of this one.
    wanted: watch::Sender<bool>,
    /// Cancelled when a whole request head has come.
    heard: CancellationToken,
}

impl Places {
    /// So many in all, and so many for one source address (0: no bound).
    #[must_use]
    pub fn new(all: usize, per_address: usize) -> Arc<Self> {
        let share = || Arc::new(Semaphore::new(all - (all / RESERVE).max(1).min(all)));
        let all = Arc::new(Semaphore::new(all));
        Arc::new(Self {
            polls: share(),
            others: share(),
            all,
            per_address,
            addresses: Mutex::default(),
            silent: Mutex::default(),
        })
    }

    /// Returns a place for a connection that has come. If none is free, the longest silent
    /// connection is asked for its own. Another one is asked only when that one turns out not to be
    /// silent, however long its answer takes.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.all.clone().try_acquire_owned() {
            return Some(place);
        }
        let mut place = std::pin::pin!(self.all.clone().acquire_owned());
        while let Some(silence) = self.longest_silent() {
            silence.wanted.send_replace(true);
            tokio::select! {
                biased;
                place = &mut place => {
                    // It may come from another connection.
                    silence.wanted.send_replace(false);
                    return place.ok();
                }
                () = silence.heard.cancelled() => {}
            }
        }
        place.await.ok()
    }

    fn longest_silent(&self) -> Option<Arc<Silence>> {
        let silent = self.silent();
        let (_, silence) = silent.waiting.first_key_value()?;
        Some(Arc::clone(silence))
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether this address has as many connections as it may: one more must evict no
    /// other.
    pub(super) fn is_exhausted(&self, address: IpAddr) -> bool {
        let addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.per_address > 0
            && addresses
                .get(&source(address))
                .is_some_and(|held| *held >= self.per_address)
    }

    /// A place for a connection from this address, unless it has too many. Connections from this
    /// machine are not bounded: they are a sidecar's or gateway's, from anywhere.
    pub(super) fn seat(
        self: &Arc<Self>,
        address: IpAddr,
        place: OwnedSemaphorePermit,
    ) -> Option<Seat> {
        let source = source(address);
        let bounded = self.per_address > 0 && !source.is_loopback();
        if bounded {
            let mut addresses = self
                .addresses
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let held = addresses.entry(source).or_default();
            if *held >= self.per_address {
                return None;
            }
            *held += 1;
        }
        let silence = Arc::<Silence>::default();
        let mut silent = self.silent();
        let number = silent.next;
        silent.next = number.wrapping_add(1);
        silent.waiting.insert(number, Arc::clone(&silence));
        drop(silent);
        Some(Seat {
            places: Arc::clone(self),
            source: bounded.then_some(source),
            number,
            silence,
            used: Mutex::default(),
            _place: place,
        })
    }
}

/// One host has a whole /64 of IPv6 (RFC 4291 §2.5.4).
fn source(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    match address {
        IpAddr::V6(host) if !host.is_loopback() => {
            Ipv6Addr::from_bits(host.to_bits() & (u128::MAX << 64)).into()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

/// The place of one connection.
pub(super) struct Seat {
    places: Arc<Places>,
    source: Option<IpAddr>,
    number: u64,
    silence: Arc<Silence>,
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
        let share = if wanted == Use::Poll {
            &self.places.polls
        } else {
            &self.places.others
        };
        *used = share
            .clone()
            .try_acquire_owned()
            .ok()
            .map(|permit| (wanted, permit));
        used.is_some()
    }

    /// Notes that a whole request head has come: the connection is silent no more.
    pub(super) fn hear(&self) {
        if self.silence.heard.is_cancelled() {
            return;
        }
        // Removed first, so that the acceptor does not find it again.
        self.places.silent().waiting.remove(&self.number);
        self.silence.heard.cancel();
    }

    /// Resolves when this silent connection must end, at `until` or before: another one needs its
    /// place.
    pub(super) async fn silence_over(&self, until: Instant) {
        let mut wanted = self.silence.wanted.subscribe();
        let gives_way = async {
            sleep(LISTEN).await;
            let _open = wanted.wait_for(|wanted| *wanted).await;
        };
        let _late = timeout_at(until, gives_way).await;
        if self.silence.heard.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.places.silent().waiting.remove(&self.number);
        let Some(source) = self.source else { return };
        let mut addresses = self
            .places
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
        let mut held = vec![
            seat(&places, "10.0.0.1").await,
            seat(&places, "::ffff:10.0.0.1").await,
        ];
        assert!(held.iter().all(Option::is_some) && seat(&places, "10.0.0.1").await.is_none());
        let exhausted = |address: &str| places.is_exhausted(address.parse().unwrap());
        assert!(exhausted("10.0.0.1") && !exhausted("10.0.0.2"));
        assert!(seat(&places, "10.0.0.2").await.is_some(), "another");
        held.pop();
        assert!(seat(&places, "10.0.0.1").await.is_some());
        let _one_host = [
            seat(&places, "2001:db8::1").await,
            seat(&places, "2001:db8::2").await,
        ];
        assert!(
            seat(&places, "2001:db8::3").await.is_none()
                && seat(&places, "2001:db8:0:1::1").await.is_some()
        );
        held.clear();
        assert_eq!(
            places.addresses.lock().unwrap().len(),
            1,
            "who has left is forgotten"
        );
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
            assert_eq!(
                taken.iter().filter(|taken| **taken).count(),
                18,
                "{flood:?}"
            );
            assert!(held[0].take_for(flood), "keeps what it has");
            assert!(seat(&places, "10.0.0.1").await.unwrap().take_for(other));
            assert!(held[0].take_for(other), "and may change");
            assert!(held[18].take_for(flood), "which leaves a place");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_silent_connection_costs_no_other_place() {
        let places = Places::new(3, 0);
        let mut seats = Vec::new();
        for _ in 0..3 {
            seats.extend(seat(&places, "10.0.0.1").await);
        }
        let wanted = |seats: &[Seat]| -> Vec<bool> {
            let silences = seats.iter().map(|seat| &seat.silence);
            silences.map(|it| *it.wanted.borrow()).collect()
        };
        let comer = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.free().await }
        });
        sleep(Duration::from_secs(1)).await;
        assert_eq!(wanted(&seats), [true, false, false], "the stall asks once");
        seats[0].hear();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(wanted(&seats)[1..], [true, false], "the first one stays");
        seats.pop();
        let _place = comer.await.unwrap();
        assert_eq!(wanted(&seats)[1..], [false], "another one left");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_gives_way_only_after_listening() {
        let places = Places::new(1, 0);
        let seat = seat(&places, "10.0.0.1").await.unwrap();
        seat.silence.wanted.send_replace(true);
        // A stall between acceptance and the first poll of the task.
        tokio::time::advance(Duration::from_secs(1)).await;
        let until = Instant::now() + Duration::from_secs(60);
        let mut over = std::pin::pin!(seat.silence_over(until));
        assert!(timeout_at(Instant::now(), &mut over).await.is_err());
        let listening = LISTEN.saturating_sub(Duration::from_millis(1));
        tokio::time::advance(listening).await;
        assert!(timeout_at(Instant::now(), &mut over).await.is_err());
        over.await;
        assert!(Instant::now() < until);
    }
}
