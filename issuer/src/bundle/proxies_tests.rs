use super::*;
use crate::clock::FixedClock;

fn proxies() -> (Arc<FixedClock>, Arc<Proxies>) {
    let clock = Arc::new(FixedClock::at(1_000));
    (clock.clone(), Arc::new(Proxies::new(clock)))
}

#[test]
fn a_waiting_proxy_is_live_and_one_that_left_is_until_its_back_off_is_over() {
    let (clock, proxies) = proxies();
    let poll = proxies.enter(1, "edge", 7);
    clock.advance(1_000);
    assert_eq!(proxies.live(Some(&[])).holding(7), 1, "however long it waits");
    drop(poll);
    clock.advance(LIVE_S);
    assert_eq!(proxies.live(Some(&[])).proxies.len(), 1);
    clock.advance(1);
    assert_eq!(proxies.live(Some(&[])), Live { proxies: Vec::new(), all_known: true });
}

#[test]
fn the_slowest_decides_what_is_confirmed() {
    let (_clock, proxies) = proxies();
    assert_eq!(proxies.live(Some(&[])).confirmed(), u64::MAX);
    let _one = proxies.enter(1, "edge", 7);
    let _two = proxies.enter(2, "edge", 9);
    let live = proxies.live(Some(&[]));
    assert_eq!((live.confirmed(), live.holding(8), live.holding(7)), (7, 1, 2));
}

#[test]
fn each_change_is_written_once_and_a_long_wait_now_and_then() {
    let (clock, proxies) = proxies();
    let poll = proxies.enter(0xabc, "edge", 7);
    let unsaved = proxies.take_unsaved();
    let expected = ProxyRecord { worker: "0000000000000abc".into(), node: "edge".into(), version: 7, seen_at: 1_000 };
    assert_eq!(unsaved, [expected]);
    assert_eq!(proxies.take_unsaved(), []);
    clock.advance(SIGHTING_EVERY_S);
    assert_eq!(proxies.take_unsaved().len(), 1);
    proxies.not_saved(&unsaved);
    assert_eq!(proxies.take_unsaved().len(), 1, "what failed is tried again");
    drop(poll);
    let _next = proxies.enter(0xabc, "edge", 8);
    assert_eq!(proxies.take_unsaved().first().map(|record| record.version), Some(8));
}

#[test]
fn a_worker_that_moved_to_another_replica_is_counted_once() {
    let (clock, proxies) = proxies();
    drop(proxies.enter(1, "edge", 7));
    clock.advance(5);
    let elsewhere = ProxyRecord { worker: format!("{:016x}", 1), node: "edge".into(), version: 9, seen_at: 1_005 };
    let live = proxies.live(Some(std::slice::from_ref(&elsewhere)));
    assert_eq!(live.proxies, std::slice::from_ref(&elsewhere));
    let _back = proxies.enter(1, "edge", 10);
    assert_eq!(proxies.live(Some(&[elsewhere])).confirmed(), 10);
}

#[test]
fn nothing_is_confirmed_while_others_are_unknown_or_too_many_to_count() {
    let clock = Arc::new(FixedClock::at(1_000));
    let proxies = Arc::new(Proxies::of_at_most(2, clock.clone()));
    let _counted = [1, 2].map(|worker| proxies.enter(worker, "edge", 7));
    assert_eq!((proxies.live(Some(&[])).confirmed(), proxies.live(None).confirmed()), (7, 0));
    let more = [3, 4].map(|worker| proxies.enter(worker, "edge", 7));
    assert_eq!((proxies.live(Some(&[])).confirmed(), proxies.too_many()), (0, true));
    let others = Arc::new(Proxies::of_at_most(2, clock.clone()));
    assert_eq!(others.live(Some(&proxies.take_unsaved())).confirmed(), 0, "other replicas are told");
    let _again = proxies.enter(2, "edge", 8);
    assert_eq!(proxies.live(Some(&[])).holding(7), 2, "who is counted stays counted");
    drop(more);
    clock.advance(LIVE_S + 1);
    assert_eq!((proxies.live(Some(&[])).confirmed(), proxies.too_many()), (7, false));
}

#[test]
fn another_replicas_clock_may_be_behind_and_ours_may_jump() {
    let (clock, proxies) = proxies();
    let poll = proxies.enter(1, "edge", 7);
    drop(poll);
    clock.put_back(-3_600);
    assert_eq!(proxies.live(Some(&[])).proxies.len(), 1, "no time has passed");
    let seen_at = 4_600 - LIVE_S - SIGHTING_EVERY_S - CLOCK_SPREAD_S;
    let late = ProxyRecord { worker: format!("{:016x}", 2), node: "edge".into(), version: 5, seen_at };
    assert_eq!(proxies.live(Some(&[late])).confirmed(), 5);
}
