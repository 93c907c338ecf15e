//! Connection limits (I32): a total, a limit for each source address, and a share for each use, so
//! that neither polls nor other requests can take all connections. A connection that has not sent
//! a complete request head belongs to no share; it is closed first when another connection waits.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// Silence after which a connection may be closed for another one. The timer runs in the
/// connection's own task, and the runtime polls sockets before timers. A request that arrived
/// during a stall of the runtime is therefore read first.
const LISTEN: Duration = Duration::from_millis(10);

/// Inverse of the fraction of connections that is reserved for polls, and of the fraction that is
/// reserved for all other requests.
const RESERVE: usize = 10;

/// The use of a connection, by its latest request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A proxy polls for a bundle.
    Poll,
    /// Any other request.
    Other,
}

/// The connection limiter of a server. A *place* is the right to hold one connection.
pub struct Places {
    /// Permits for all connections.
    all: Arc<Semaphore>,
    /// Permits for connections whose latest request is a poll.
    polls: Arc<Semaphore>,
    /// Permits for connections whose latest request is not a poll.
    others: Arc<Semaphore>,
    /// Most connections of one source address; 0 sets no limit.
    per_address: usize,
    /// Number of connections by source address.
    addresses: Mutex<HashMap<IpAddr, usize>>,
    silent: Mutex<Silent>,
}

/// Connections that have not sent a complete request head, by order of acceptance.
#[derive(Default)]
struct Silent {
    next: u64,
    waiting: BTreeMap<u64, Arc<Silence>>,
}

/// State of a silent connection, shared by its task and the accept loop.
#[derive(Default)]
struct Silence {
    /// True while another connection waits for the place of this one.
    wanted: watch::Sender<bool>,
    /// Cancelled when a complete request head has arrived.
    heard: CancellationToken,
}

impl Places {
    /// Creates a limiter for `all` connections, and `per_address` for one source address (0: no
    /// limit).
    #[must_use]
    pub fn new(all: usize, per_address: usize) -> Arc<Self> {
        // Each use may take all places but its reserve, which is at least one place.
        let share = all - (all / RESERVE).max(1).min(all);
        Arc::new(Self {
            polls: Arc::new(Semaphore::new(share)),
            others: Arc::new(Semaphore::new(share)),
            all: Arc::new(Semaphore::new(all)),
            per_address,
            addresses: Mutex::default(),
            silent: Mutex::default(),
        })
    }

    /// Waits for a place for a new connection. If no place is free, this asks the connection that
    /// has been silent longest to close. It asks another one only after the first has sent a
    /// request, however long that takes.
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
                    // The place may come from another connection, so withdraw the request.
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

    /// Returns whether this address holds as many connections as it may. The accept loop checks
    /// this first, so that a connection over the limit closes no other one.
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

    /// Gives a place to a connection from this address. Returns `None` if the address has reached
    /// its limit. Connections from loopback have no limit, because a sidecar or gateway forwards
    /// requests of many clients.
    pub(super) fn seat(
        self: &Arc<Self>,
        address: IpAddr,
        place: OwnedSemaphorePermit,
    ) -> Option<Seat> {
        let source = source(address);
        let bounded = self.per_address > 0 && !source.is_loopback();
        // Count the connection for its address; `Drop` takes it off.
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
        // Register the connection as silent until it has sent a request head.
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

/// Returns the address under which connections are counted: for IPv6 the /64 prefix, because one
/// host has a whole /64 (RFC 4291 §2.5.4).
fn source(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    match address {
        IpAddr::V6(host) if !host.is_loopback() => {
            Ipv6Addr::from_bits(host.to_bits() & (u128::MAX << 64)).into()
        }
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

/// The place of one connection; dropping it frees the place.
pub(super) struct Seat {
    places: Arc<Places>,
    source: Option<IpAddr>,
    number: u64,
    silence: Arc<Silence>,
    /// Use of the latest request, with its permit. The connection keeps both between requests.
    used: Mutex<Option<(Use, OwnedSemaphorePermit)>>,
    _place: OwnedSemaphorePermit,
}

impl Seat {
    /// Moves the connection to the share of `wanted`. Returns false if that share is full.
    pub(super) fn take_for(&self, wanted: Use) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.as_ref().is_some_and(|(used, _)| *used == wanted) {
            return true;
        }
        // Free the old permit first: a connection counts in one share only.
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

    /// Records that a complete request head has arrived: the connection is no longer silent.
    pub(super) fn hear(&self) {
        if self.silence.heard.is_cancelled() {
            return;
        }
        // Remove the entry first, so that the accept loop does not choose this connection again.
        self.places.silent().waiting.remove(&self.number);
        self.silence.heard.cancel();
    }

    /// Resolves when this silent connection must close: at `until`, or earlier if another
    /// connection waits for its place. Never resolves once a request head has arrived.
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
    async fn limits_connections_of_one_address() {
        let places = Places::new(100, 2);
        let mut held = vec![
            seat(&places, "10.0.0.1").await,
            seat(&places, "::ffff:10.0.0.1").await,
        ];
        assert!(held.iter().all(Option::is_some) && seat(&places, "10.0.0.1").await.is_none());
        assert!(places.is_exhausted("10.0.0.1".parse().unwrap()));
        assert!(!places.is_exhausted("10.0.0.2".parse().unwrap()));
        assert!(seat(&places, "10.0.0.2").await.is_some(), "another");
        held.pop();
        assert!(seat(&places, "10.0.0.1").await.is_some());
        // One /64 counts as one host.
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
            "an address without connections has no entry"
        );
    }

    #[tokio::test]
    async fn loopback_and_zero_have_no_limit() {
        for (per_address, address) in [(1, "127.0.0.6"), (1, "::1"), (0, "10.0.0.1")] {
            let places = Places::new(100, per_address);
            let held = [seat(&places, address).await, seat(&places, address).await];
            assert!(held.iter().all(Option::is_some), "{address}");
        }
    }

    #[tokio::test]
    async fn each_use_leaves_places_for_the_other() {
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
            assert!(held[0].take_for(flood), "keeps its permit");
            assert!(seat(&places, "10.0.0.1").await.unwrap().take_for(other));
            assert!(held[0].take_for(other), "and may change its use");
            assert!(held[18].take_for(flood), "which leaves a place");
        }
    }

    fn wanted(seats: &[Seat]) -> Vec<bool> {
        let silences = seats.iter().map(|seat| &seat.silence);
        silences.map(|silence| *silence.wanted.borrow()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn slow_silent_connection_costs_no_other_place() {
        let places = Places::new(3, 0);
        let mut seats = Vec::new();
        for _ in 0..3 {
            seats.extend(seat(&places, "10.0.0.1").await);
        }
        let newcomer = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.free().await }
        });
        sleep(Duration::from_secs(1)).await;
        assert_eq!(wanted(&seats), [true, false, false], "only one is asked");
        seats[0].hear();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(wanted(&seats)[1..], [true, false], "the first one stays");
        seats.pop();
        let _place = newcomer.await.unwrap();
        assert_eq!(wanted(&seats)[1..], [false], "the request is withdrawn");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_gives_way_only_after_listening() {
        let places = Places::new(1, 0);
        let seat = seat(&places, "10.0.0.1").await.unwrap();
        seat.silence.wanted.send_replace(true);
        // Simulate a stall between acceptance and the first poll of the task.
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
