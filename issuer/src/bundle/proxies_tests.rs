use super::*;
use crate::bundle::UNBOUNDED;
use crate::clock::FixedClock;

const NOT_AFTER_S: u64 = 600;
const SKEW_S: u64 = 60;

fn proxies_of(most: usize) -> (Arc<FixedClock>, Arc<Proxies>) {
    let clock = Arc::new(FixedClock::at(1_000));
    (
        clock.clone(),
        Arc::new(Proxies::of_at_most(most, clock, "me".into(), NOT_AFTER_S)),
    )
}

fn proxies() -> (Arc<FixedClock>, Arc<Proxies>) {
    proxies_of(10)
}

fn holds(worker: u64, version: u64) -> Contact<'static> {
    Contact {
        worker,
        node: "edge",
        version,
        proven: version > 0,
        protocol: 2,
        staleness: StalenessBound::NotAfter,
        pins: "k",
    }
}

fn record(worker: u64, version: u64, seen_at: u64, accepts_until: u64) -> ProxyRecord {
    let (worker, node, pins) = (format!("{worker:016x}"), "edge".into(), "k".into());
    ProxyRecord {
        worker,
        node,
        version,
        seen_at,
        protocol: 2,
        pins,
        accepts_until,
    }
}

/// Sends a poll that is answered and ends.
fn polls(proxies: &Arc<Proxies>, contact: &Contact<'_>) {
    let issued_at = proxies.clock.now();
    proxies.enter(contact).gave(Validity {
        issued_at,
        not_after: issued_at + NOT_AFTER_S,
    });
}

fn states(proxies: &Proxies) -> Vec<(u64, bool, u64)> {
    let state = |counted: Counted| {
        (
            counted.record.version,
            counted.reachable,
            counted.record.accepts_until,
        )
    };
    proxies.live(true).proxies.into_iter().map(state).collect()
}

#[test]
fn worker_counts_until_its_bundle_expires() {
    let (clock, proxies) = proxies();
    polls(&proxies, &holds(1, 7));
    let until = 1_000 + NOT_AFTER_S + SKEW_S;
    clock.advance(LIVE_S);
    assert_eq!(states(&proxies), [(7, true, until)]);
    clock.advance(1);
    assert_eq!(states(&proxies), [(7, false, until)], "unreachable");
    clock.advance(until - 1_000 - LIVE_S - 1);
    assert_eq!(states(&proxies), [(7, false, until)], "the last second");
    clock.advance(1);
    assert_eq!((states(&proxies), proxies.floor()), (vec![], u64::MAX));
}

#[test]
fn staleness_bounds_how_long_a_worker_counts() {
    for (staleness, until) in [
        (StalenessBound::Seconds(30), 1_000 + 30 + SKEW_S),
        (StalenessBound::Seconds(9_999), 1_000 + NOT_AFTER_S + SKEW_S),
        (StalenessBound::NotAfter, 1_000 + NOT_AFTER_S + SKEW_S),
        (StalenessBound::Unbounded, UNBOUNDED),
    ] {
        let (clock, proxies) = proxies();
        polls(
            &proxies,
            &Contact {
                staleness,
                ..holds(1, 7)
            },
        );
        assert_eq!(states(&proxies), [(7, true, until)], "{staleness:?}");
        clock.advance(NOT_AFTER_S + SKEW_S + 1);
        assert_eq!(
            proxies.live(true).proxies.is_empty(),
            until < UNBOUNDED,
            "{staleness:?}"
        );
    }
}

#[test]
fn waiting_worker_is_reachable_however_long() {
    let (clock, proxies) = proxies();
    let _poll = proxies.enter(&holds(1, 7));
    clock.advance(10 * NOT_AFTER_S);
    assert_eq!(states(&proxies), [(7, true, 0)]);
}

#[test]
fn clock_put_forward_releases_no_worker() {
    let (clock, proxies) = proxies();
    polls(&proxies, &holds(1, 7));
    clock.put_back(-86_400);
    assert_eq!(proxies.live(true).proxies.len(), 1);
    clock.advance(NOT_AFTER_S + SKEW_S + 1);
    assert_eq!(proxies.live(true).proxies.len(), 0);
}

#[test]
fn slowest_worker_decides_the_floor() {
    let (_clock, proxies) = proxies();
    let mut told = proxies.floor_changes();
    assert_eq!(
        (proxies.floor(), proxies.live(true).confirmed()),
        (u64::MAX, u64::MAX)
    );
    let _one = proxies.enter(&holds(1, 7));
    let _two = proxies.enter(&holds(2, 9));
    let live = proxies.live(true);
    assert_eq!(
        (
            proxies.floor(),
            live.confirmed(),
            live.holding(8),
            live.holding(7)
        ),
        (7, 7, 1, 2)
    );
    assert_eq!((proxies.below(9).len(), proxies.below(7).len()), (1, 0));
    assert_eq!(*told.borrow_and_update(), 7);
    let _three = proxies.enter(&holds(2, 10));
    assert!(
        !told.has_changed().unwrap(),
        "subscribers learn only changes of the lowest version"
    );
    let _four = proxies.enter(&holds(1, 11));
    assert_eq!(*told.borrow_and_update(), 10);
    assert_eq!(
        proxies.live(false).confirmed(),
        0,
        "while the workers of other replicas are unknown"
    );
}

#[test]
fn writes_changes_once_and_long_polls_regularly() {
    let (clock, proxies) = proxies();
    let poll = proxies.enter(&holds(0xabc, 7));
    // The record reaches a minute past a bundle that is issued now.
    assert_eq!(
        proxies.take_unsaved(),
        [record(0xabc, 7, 1_000, 1_000 + 60 + NOT_AFTER_S + SKEW_S)]
    );
    proxies
        .lock()
        .workers
        .values_mut()
        .for_each(|worker| worker.saved(&record(0xabc, 7, 1_000, 1_720)));
    assert_eq!(proxies.take_unsaved(), []);
    clock.advance(SIGHTING_EVERY_S);
    assert_eq!(proxies.take_unsaved().len(), 1);
    drop(poll);
    let _next = proxies.enter(&holds(0xabc, 8));
    assert_eq!(
        proxies.take_unsaved().first().map(|record| record.version),
        Some(8)
    );
}

/// Confirms the write of these records.
fn saved(proxies: &Proxies, records: &[ProxyRecord]) {
    for record in records {
        proxies
            .lock()
            .workers
            .get_mut(&record.id().unwrap())
            .unwrap()
            .saved(record);
    }
}

#[test]
fn many_confirmations_are_written_in_turns() {
    let (_clock, proxies) = proxies_of(10_000);
    let most = u64::try_from(MAX_CONFIRMATIONS_SAVED).unwrap();
    let _polls: Vec<_> = (0..most + 1)
        .map(|worker| proxies.enter(&holds(worker, 1)))
        .collect();
    let first = proxies.take_unsaved();
    assert_eq!(
        first.len(),
        MAX_CONFIRMATIONS_SAVED + 1,
        "a new worker is recorded at once"
    );
    saved(&proxies, &first);
    let _polls: Vec<_> = (0..most + 1)
        .map(|worker| proxies.enter(&holds(worker, 2)))
        .collect();
    let second = proxies.take_unsaved();
    assert_eq!(second.len(), MAX_CONFIRMATIONS_SAVED);
    saved(&proxies, &second);
    assert_eq!(proxies.take_unsaved().len(), 1);
}

#[test]
fn worker_counts_until_its_record_is_answered() {
    let (clock, proxies) = proxies();
    polls(&proxies, &holds(1, 7));
    proxies.lock().workers.get_mut(&1).unwrap().being_saved();
    clock.advance(900);
    assert_eq!(
        proxies.below(8).len(),
        1,
        "the database may hold the record"
    );
    proxies
        .lock()
        .workers
        .get_mut(&1)
        .unwrap()
        .saved(&record(1, 7, 1_000, 1_100));
    proxies.lock().swept_at = None;
    assert_eq!(proxies.below(8), []);
}

#[test]
fn records_of_two_replicas_are_merged() {
    let (clock, proxies) = proxies();
    polls(&proxies, &holds(1, 7));
    clock.advance(5);
    proxies.learn(&[record(1, 9, 1_005, 2_000)]);
    assert_eq!(states(&proxies), [(9, true, 2_000)]);
    proxies.learn(&[record(1, 8, 900, 1_900)]);
    assert_eq!(
        states(&proxies),
        [(9, true, 2_000)],
        "an older record changes nothing"
    );
    proxies.learn(&[record(2, 5, 900, 1_900)]);
    assert_eq!(
        (
            proxies.floor(),
            proxies.below(9).first().map(|counted| counted.reachable)
        ),
        (5, Some(false))
    );
    proxies.learn(&[record(3, 1, 10, 900)]);
    assert_eq!(proxies.floor(), 5, "its bundle has expired");
}

#[test]
fn records_of_other_replicas_count_longer() {
    let (_clock, proxies) = proxies();
    proxies.learn(&[
        record(1, 7, 1_000 - LIVE_ELSEWHERE_S, 2_000),
        record(2, 7, 999 - LIVE_ELSEWHERE_S, 2_000),
    ]);
    let reachable: Vec<bool> = proxies
        .live(true)
        .proxies
        .iter()
        .map(|counted| counted.reachable)
        .collect();
    assert_eq!(reachable, [true, false]);
}

#[test]
fn polling_worker_is_not_gone() {
    let (clock, proxies) = proxies();
    polls(&proxies, &holds(1, 7));
    clock.advance(LIVE_S + 1);
    proxies.learn(&[record(1, 7, 1_000 - 1, 0)]);
    assert_eq!(proxies.count(), 1, "seen after it was declared gone");
    proxies.learn(&[record(1, 7, 1_010, 0)]);
    assert_eq!(proxies.count(), 0);
    polls(&proxies, &holds(1, 7));
    assert_eq!(proxies.count(), 1);
}

#[test]
fn uncounted_workers_confirm_nothing() {
    let (clock, proxies) = proxies_of(2);
    let _counted = [1, 2].map(|worker| proxies.enter(&holds(worker, 7)));
    assert_eq!((proxies.floor(), proxies.too_many()), (7, false));
    for worker in [3, 4] {
        polls(&proxies, &holds(worker, 7));
    }
    assert_eq!((proxies.floor(), proxies.too_many()), (0, true));
    let (_, other) = proxies_of(2);
    let unsaved = proxies.take_unsaved();
    saved(&proxies, &unsaved);
    other.learn(&unsaved);
    assert_eq!(other.floor(), 0, "other replicas learn of it");
    let _again = proxies.enter(&holds(2, 8));
    assert_eq!(
        proxies.live(true).holding(8),
        1,
        "a counted worker stays counted"
    );
    clock.advance(LIVE_S + 1);
    assert!(proxies.too_many(), "they may still act on their bundles");
    clock.advance(NOT_AFTER_S + SKEW_S);
    assert_eq!((proxies.floor(), proxies.too_many()), (7, false));
}

#[test]
fn proved_version_never_falls() {
    let (_clock, proxies) = proxies();
    let _proved = proxies.enter(&holds(1, 7));
    let _less = proxies.enter(&holds(1, 0));
    assert_eq!(proxies.floor(), 7);
}

#[test]
fn pins_are_counted_by_statement() {
    let (_clock, proxies) = proxies();
    let pinning = |worker, pins| Contact {
        pins,
        ..holds(worker, 7)
    };
    let pins = |kid| proxies.live(true).pins(kid);
    let _both = proxies.enter(&pinning(1, "old,new"));
    assert_eq!((pins("new"), pins("ne")), ((1, 0), (0, 1)));
    let _silent = proxies.enter(&pinning(2, ""));
    assert_eq!(pins("new"), (1, 0), "of two proxies");
    let _both_now = proxies.enter(&pinning(2, "new,old"));
    assert_eq!(pins("new"), (2, 0));
}

#[test]
fn receipt_names_first_pending_workers() {
    let (clock, proxies) = proxies_of(300);
    let mut held: Vec<Presence> = (0..300)
        .map(|worker| proxies.enter(&holds(worker, 7)))
        .collect();
    held.iter().for_each(|present| {
        present.gave(Validity {
            issued_at: 1_000,
            not_after: 1_000 + NOT_AFTER_S,
        });
    });
    let sizes = |version| {
        let behind = proxies.behind(version, 100);
        (behind.pending, behind.unreachable, behind.named.len())
    };
    assert_eq!((sizes(7), sizes(8)), ((0, 0, 0), (300, 0, 100)));
    held.truncate(297);
    clock.advance(LIVE_S + 1);
    assert_eq!(sizes(8), (297, 3, 103), "all that are unreachable");
    held.push(proxies.enter(&holds(0, 9)));
    assert_eq!(sizes(8), (296, 3, 103));
}
