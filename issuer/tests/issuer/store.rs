//! Properties that every database must have for the issuer: the same tests over SQLite and
//! PostgreSQL.

use std::collections::HashSet;
use std::sync::Arc;

use meshseal_issuer::bundle::ProxyRecord;
use meshseal_issuer::keys::{Algorithm, KeyChange, KeyRecord, KeyState, Purpose};
use meshseal_issuer::revocation::RevokedToken;
use meshseal_issuer::store::{Change, Store, StoreError};
use tokio::task::JoinHandle;

use crate::support::database::{Database, on_both};
use crate::support::{Harness, NOW, config};

on_both! {
    versions_follow_clock_and_always_rise
    conflicting_change_changes_nothing
    only_one_key_is_active
    draining_key_loses_its_private_half
    leases_every_index_once
    one_replica_leads_until_lease_ends
    merges_records_of_worker
    constant_keeps_its_first_value
    rotation_request_is_kept_until_done
    replicas_share_keys_and_revocations
    restart_keeps_keys_and_revocations
}

const NOW_MS: u64 = NOW * 1000;

fn key(kid: &str, state: KeyState) -> KeyRecord {
    KeyRecord {
        kid: kid.into(),
        purpose: Purpose::Token,
        algorithm: Algorithm::Es256,
        state,
        since: NOW,
        published: 0,
        ready_at: 0,
        drain_s: 300,
        public_jwk: "{}".into(),
        sealed: Some(vec![1, 2, 3]),
    }
}

fn insert(key: KeyRecord) -> Change {
    Change {
        keys: vec![KeyChange::Insert(key)],
        ..Change::default()
    }
}

fn enter(kid: &str, state: KeyState) -> KeyChange {
    KeyChange::Enter {
        kid: kid.into(),
        state,
        since: NOW + 1,
    }
}

async fn versions_follow_clock_and_always_rise(database: Arc<Database>) {
    let store = database.open().await;
    assert_eq!(store.head().await.unwrap().version, 0);
    assert_eq!(
        store.commit(&Change::default(), NOW_MS).await.unwrap(),
        NOW_MS
    );
    assert_eq!(
        store.commit(&Change::default(), NOW_MS).await.unwrap(),
        NOW_MS + 1,
        "second change in the same millisecond"
    );
    assert_eq!(
        store
            .commit(&Change::default(), NOW_MS - 5_000)
            .await
            .unwrap(),
        NOW_MS + 2,
        "a clock that went back"
    );
    assert_eq!(
        store.commit(&Change::default(), NOW_MS + 7).await.unwrap(),
        NOW_MS + 7
    );
}

async fn conflicting_change_changes_nothing(database: Arc<Database>) {
    let store = database.open().await;
    let version = store.commit(&Change::default(), NOW_MS).await.unwrap();
    let late = Change {
        expected_version: Some(version - 1),
        ..insert(key("a", KeyState::Active))
    };
    assert_eq!(store.commit(&late, NOW_MS).await, Err(StoreError::Conflict));
    assert_eq!(store.load().await.unwrap().keys, []);
    let in_time = Change {
        expected_version: Some(version),
        ..late
    };
    let version = store.commit(&in_time, NOW_MS).await.unwrap();
    let kept = store.load().await.unwrap();
    assert_eq!(
        kept.keys,
        [KeyRecord {
            published: version,
            ..key("a", KeyState::Active)
        }]
    );
}

async fn only_one_key_is_active(database: Arc<Database>) {
    let store = database.open().await;
    store
        .commit(&insert(key("a", KeyState::Active)), NOW_MS)
        .await
        .unwrap();
    let revoked = RevokedToken {
        index: 7,
        expires_at: NOW,
    };
    let second = Change {
        revoke: vec![revoked],
        ..insert(key("b", KeyState::Active))
    };
    assert!(store.commit(&second, NOW_MS).await.is_err());
    let kept = store.load().await.unwrap();
    assert_eq!(
        (kept.version, kept.keys.len(), kept.revoked.len()),
        (NOW_MS, 1, 0),
        "the whole transaction was rolled back"
    );

    // The limit holds for each purpose.
    let bundle = KeyRecord {
        purpose: Purpose::Bundle,
        ..key("c", KeyState::Active)
    };
    store.commit(&insert(bundle), NOW_MS).await.unwrap();
}

async fn draining_key_loses_its_private_half(database: Arc<Database>) {
    let store = database.open().await;
    store
        .commit(&insert(key("a", KeyState::Active)), NOW_MS)
        .await
        .unwrap();
    store
        .commit(&insert(key("n", KeyState::Next)), NOW_MS)
        .await
        .unwrap();

    // One change exchanges the active key.
    let keys = vec![enter("a", KeyState::Draining), enter("n", KeyState::Active)];
    store
        .commit(
            &Change {
                keys,
                ..Change::default()
            },
            NOW_MS,
        )
        .await
        .unwrap();
    let kept = store.load().await.unwrap().keys;
    let seen: Vec<_> = kept
        .iter()
        .map(|key| (key.kid.as_str(), key.state, key.since, key.sealed.is_some()))
        .collect();
    assert_eq!(
        seen,
        [
            ("a", KeyState::Draining, NOW + 1, false),
            ("n", KeyState::Active, NOW + 1, true)
        ]
    );
    store
        .commit(
            &Change {
                keys: vec![KeyChange::Delete { kid: "a".into() }],
                ..Change::default()
            },
            NOW_MS,
        )
        .await
        .unwrap();
    assert_eq!(store.load().await.unwrap().keys.len(), 1);
}

/// Leases blocks of indices, and returns all of their indices.
fn lease_all(store: Arc<dyn Store>) -> JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut leased = Vec::new();
        for _ in 0..20 {
            leased.extend(store.lease_indices(10, 0).await.unwrap());
        }
        leased
    })
}

async fn leases_every_index_once(database: Arc<Database>) {
    let (one, other) = (database.open().await, database.open().await);
    let (a, b) = (lease_all(one), lease_all(other));
    let all: Vec<u64> = [a.await.unwrap(), b.await.unwrap()].concat();
    let distinct: HashSet<u64> = all.iter().copied().collect();
    assert_eq!(
        (all.len(), distinct.len(), distinct.iter().max()),
        (400, 400, Some(&399)),
        "dense and without repeats"
    );
}

async fn one_replica_leads_until_lease_ends(database: Arc<Database>) {
    let store = database.open().await;
    assert!(store.lead("a", NOW, NOW + 15).await.unwrap());
    assert!(!store.lead("b", NOW + 15, NOW + 30).await.unwrap());
    assert!(store.lead("a", NOW + 15, NOW + 30).await.unwrap(), "stays");
    assert!(
        store.lead("b", NOW + 31, NOW + 46).await.unwrap(),
        "the lease of a has ended"
    );
    assert!(store.lead("b", NOW + 31, 0).await.unwrap(), "resigns");
    assert!(store.lead("a", NOW + 31, NOW + 46).await.unwrap());
}

fn seen(version: u64, seen_at: u64, accepts_until: u64) -> ProxyRecord {
    ProxyRecord {
        worker: "00ff".into(),
        node: format!("edge-{seen_at}"),
        version,
        seen_at,
        protocol: 2,
        pins: "k".into(),
        accepts_until,
    }
}

async fn merges_records_of_worker(database: Arc<Database>) {
    let store = database.open().await;
    for (replica, record, others) in [
        ("a", seen(5, 100, 900), vec![]),
        ("b", seen(7, 110, 800), vec![seen(5, 100, 900)]),
        ("a", seen(8, 105, 700), vec![seen(7, 110, 900)]),
        ("a", seen(8, 105, 700), vec![]),
    ] {
        assert_eq!(
            store.save_proxies(replica, &[record]).await.unwrap(),
            others,
            "{replica} reads the other record"
        );
    }

    // The newest version, the last sighting and the latest end are kept.
    let merged = seen(8, 110, 900);
    assert_eq!(
        store.proxies("b").await.unwrap(),
        std::slice::from_ref(&merged),
        "a wrote it last"
    );
    assert_eq!(store.proxies("a").await.unwrap(), []);
    store.forget_proxies(900).await.unwrap();
    assert_eq!(
        store.proxies("").await.unwrap(),
        [merged],
        "the worker may still accept tokens"
    );

    // A worker that is declared gone accepts nothing more, until it polls again.
    store
        .proxies_are_gone(&["00ff".into(), "other".into()], 120)
        .await
        .unwrap();
    for replica in ["a", "b"] {
        let gone = ProxyRecord {
            node: "edge-110".into(),
            ..seen(8, 120, 0)
        };
        assert_eq!(
            store.proxies(replica).await.unwrap(),
            [gone],
            "every replica reads the change"
        );
    }
    store.save_proxies("a", &[seen(8, 130, 950)]).await.unwrap();
    assert_eq!(
        store.proxies("b").await.unwrap(),
        [seen(8, 130, 950)],
        "the worker polls again"
    );
    store.forget_proxies(951).await.unwrap();
    assert_eq!(store.proxies("").await.unwrap(), []);
}

async fn constant_keeps_its_first_value(database: Arc<Database>) {
    let store = database.open().await;
    assert_eq!(store.constant("x", "first").await.unwrap(), "first");
    assert_eq!(store.constant("x", "second").await.unwrap(), "first");
}

async fn rotation_request_is_kept_until_done(database: Arc<Database>) {
    let store = database.open().await;
    store.request_rotation(NOW).await.unwrap();
    store.request_rotation(NOW + 5).await.unwrap();
    assert_eq!(store.head().await.unwrap().rotation_requested, Some(NOW));
    store
        .commit(
            &Change {
                rotation_done: true,
                ..Change::default()
            },
            NOW_MS,
        )
        .await
        .unwrap();
    assert_eq!(store.head().await.unwrap().rotation_requested, None);
}

async fn replicas_share_keys_and_revocations(database: Arc<Database>) {
    let one = Harness::on(database, config()).await;
    let other = one.restarted().await;
    assert_eq!(one.active_kid(), other.active_kid(), "keys are made once");
    let (mine, theirs) = (one.token().await, other.token().await);
    assert!(one.is_active(&theirs).await && other.is_active(&mine).await);
    let indices = [mine.clone(), theirs].map(|token| {
        crate::support::decode(&token).1["jti"]
            .as_str()
            .map(str::to_owned)
    });
    assert_ne!(indices[0], indices[1]);
    other
        .post_as("checkout", "/revoke", &format!("token={mine}"))
        .await;
    assert!(one.is_active(&mine).await, "not noticed yet");
    let before = one.version();
    one.tick().await;
    assert!(!one.is_active(&mine).await);
    assert_eq!(one.version(), other.version());
    assert!(one.version() > before);
}

async fn restart_keeps_keys_and_revocations(database: Arc<Database>) {
    let before = Harness::on(database, config()).await;
    let token = before.token().await;
    let revoked = before.token().await;
    before
        .post_as("checkout", "/revoke", &format!("token={revoked}"))
        .await;
    let after = before.restarted().await;
    assert_eq!(
        (after.active_kid(), after.version()),
        (before.active_kid(), before.version())
    );
    assert!(after.is_active(&token).await);
    assert!(!after.is_active(&revoked).await);
}
