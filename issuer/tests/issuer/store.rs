//! What any database must do for the issuer: the same tests over SQLite and PostgreSQL.

use std::collections::HashSet;
use std::sync::Arc;

use meshseal_issuer::bundle::ProxyRecord;
use meshseal_issuer::keys::{Algorithm, KeyChange, KeyRecord, KeyState, Purpose};
use meshseal_issuer::revocation::{EpochKind, EpochRecord, Full, RevokedToken, Revoker};
use meshseal_issuer::store::{Change, StoreError};

use crate::support::database::{Database, on_both};
use crate::support::{Harness, NOW, config};

on_both! {
    versions_follow_the_clock_and_never_stand_still
    a_change_that_comes_too_late_changes_nothing
    one_key_signs_whatever_replicas_think
    a_key_that_stops_signing_loses_its_private_half
    nobody_gets_an_index_twice
    one_replica_leads_until_its_time_is_over
    epochs_only_rise_and_dead_entries_go
    of_two_expiries_the_later_is_kept
    revoking_again_changes_nothing
    the_last_room_goes_to_one_of_two_replicas
    a_client_has_its_share_and_administrators_the_rest
    one_transaction_of_several_changes_leaves_out_those_refused
    what_is_read_is_of_one_moment
    new_version_is_read_without_older_revocations
    records_of_a_worker_are_merged
    a_constant_keeps_its_first_value
    a_rotation_is_asked_for_once_and_done_once
    many_revocations_at_once
    two_replicas_share_everything
    a_restart_forgets_nothing
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

fn epoch(name: &str, before: u64) -> EpochRecord {
    EpochRecord {
        kind: EpochKind::Subject,
        name: name.into(),
        before,
        expires_at: before + 100,
    }
}

fn revoke(indices: &[u64], expires_at: u64, revoker: Revoker) -> Change {
    let revoke = indices
        .iter()
        .map(|index| RevokedToken {
            index: *index,
            expires_at,
        })
        .collect();
    Change {
        revoke,
        revoker,
        ..Change::default()
    }
}

async fn versions_follow_the_clock_and_never_stand_still(database: Arc<Database>) {
    let store = database.open().await;
    assert_eq!(store.head().await.unwrap().version, 0);
    assert_eq!(
        store.commit(&Change::default(), NOW_MS).await.unwrap(),
        NOW_MS
    );
    assert_eq!(
        store.commit(&Change::default(), NOW_MS).await.unwrap(),
        NOW_MS + 1,
        "twice in a millisecond"
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

async fn a_change_that_comes_too_late_changes_nothing(database: Arc<Database>) {
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

async fn one_key_signs_whatever_replicas_think(database: Arc<Database>) {
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
        "the whole change was undone"
    );
    let bundle = KeyRecord {
        purpose: Purpose::Bundle,
        ..key("c", KeyState::Active)
    };
    store.commit(&insert(bundle), NOW_MS).await.unwrap();
}

async fn a_key_that_stops_signing_loses_its_private_half(database: Arc<Database>) {
    let store = database.open().await;
    store
        .commit(&insert(key("a", KeyState::Active)), NOW_MS)
        .await
        .unwrap();
    store
        .commit(&insert(key("n", KeyState::Next)), NOW_MS)
        .await
        .unwrap();
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

async fn nobody_gets_an_index_twice(database: Arc<Database>) {
    let (one, other) = (database.open().await, database.open().await);
    let lease = |store: Arc<dyn meshseal_issuer::store::Store>| {
        tokio::spawn(async move {
            let mut leased = Vec::new();
            for _ in 0..20 {
                leased.extend(store.lease_indices(10, 0).await.unwrap());
            }
            leased
        })
    };
    let (a, b) = (lease(one), lease(other));
    let all: Vec<u64> = [a.await.unwrap(), b.await.unwrap()].concat();
    let distinct: HashSet<u64> = all.iter().copied().collect();
    assert_eq!(
        (all.len(), distinct.len(), distinct.iter().max()),
        (400, 400, Some(&399)),
        "dense and without repeats"
    );
}

async fn one_replica_leads_until_its_time_is_over(database: Arc<Database>) {
    let store = database.open().await;
    assert!(store.lead("a", NOW, NOW + 15).await.unwrap());
    assert!(!store.lead("b", NOW + 15, NOW + 30).await.unwrap());
    assert!(store.lead("a", NOW + 15, NOW + 30).await.unwrap(), "stays");
    assert!(
        store.lead("b", NOW + 31, NOW + 46).await.unwrap(),
        "its time was over"
    );
    assert!(store.lead("b", NOW + 31, 0).await.unwrap(), "resigns");
    assert!(store.lead("a", NOW + 31, NOW + 46).await.unwrap());
}

async fn epochs_only_rise_and_dead_entries_go(database: Arc<Database>) {
    let store = database.open().await;
    for before in [500, 900, 700] {
        store
            .commit(
                &Change {
                    epochs: vec![epoch("alice", before)],
                    ..Change::default()
                },
                NOW_MS,
            )
            .await
            .unwrap();
    }
    let revoke = vec![
        RevokedToken {
            index: 1,
            expires_at: 999,
        },
        RevokedToken {
            index: 2,
            expires_at: 1_001,
        },
    ];
    store
        .commit(
            &Change {
                revoke,
                ..Change::default()
            },
            NOW_MS,
        )
        .await
        .unwrap();
    assert_eq!(store.load().await.unwrap().epochs, [epoch("alice", 900)]);
    let prune = |before| Change {
        prune_before: Some(before),
        ..Change::default()
    };
    store.commit(&prune(1_000), NOW_MS).await.unwrap();
    let kept = store.load().await.unwrap();
    assert_eq!(
        (kept.epochs.len(), kept.revoked),
        (
            1,
            vec![RevokedToken {
                index: 2,
                expires_at: 1_001
            }]
        )
    );
    store.commit(&prune(1_002), NOW_MS).await.unwrap();
    let kept = store.load().await.unwrap();
    assert_eq!((kept.epochs.len(), kept.revoked.len()), (0, 0));
}

async fn of_two_expiries_the_later_is_kept(database: Arc<Database>) {
    let store = database.open().await;
    for (before, expires_at) in [(900, 2_000), (950, 1_500), (100, 3_000)] {
        let epochs = vec![EpochRecord {
            expires_at,
            ..epoch("alice", before)
        }];
        store
            .commit(
                &Change {
                    epochs,
                    ..Change::default()
                },
                NOW_MS,
            )
            .await
            .unwrap();
    }
    for expires_at in [1_000, 3_000, 2_000] {
        store
            .commit(&revoke(&[1], expires_at, Revoker::default()), NOW_MS)
            .await
            .unwrap();
    }
    let kept = store.load().await.unwrap();
    assert_eq!(
        kept.epochs,
        [EpochRecord {
            expires_at: 3_000,
            ..epoch("alice", 950)
        }]
    );
    assert_eq!(
        kept.revoked,
        [RevokedToken {
            index: 1,
            expires_at: 3_000
        }]
    );
}

async fn revoking_again_changes_nothing(database: Arc<Database>) {
    let store = database.open().await;
    let both = Change {
        epochs: vec![epoch("alice", 900)],
        ..revoke(&[1, 2], 1_000, Revoker::default())
    };
    let version = store.commit(&both, NOW_MS).await.unwrap();
    let earlier = Change {
        epochs: vec![epoch("alice", 800)],
        ..revoke(&[2], 900, Revoker::default())
    };
    for change in [&both, &earlier] {
        assert_eq!(
            store.commit(change, NOW_MS + 5).await.unwrap(),
            version,
            "the version that has it"
        );
    }
    assert_eq!(store.head().await.unwrap().version, version);
    let more = revoke(&[2, 3], 1_000, Revoker::default());
    assert_eq!(store.commit(&more, NOW_MS + 5).await.unwrap(), NOW_MS + 5);
}

async fn the_last_room_goes_to_one_of_two_replicas(database: Arc<Database>) {
    let (one, other) = (database.open().await, database.open().await);
    let named = |name: u64| epoch(&format!("{name:0>2000}"), 900);
    // The budget, three quarters of which become base64, takes 731 names of that length.
    let stuffing = Change {
        epochs: (0..730).map(named).collect(),
        ..Change::default()
    };
    one.commit(&stuffing, NOW_MS).await.unwrap();
    let [a, b] = [1_000, 1_001].map(|name| Change {
        epochs: vec![named(name)],
        ..Change::default()
    });
    let (a, b) = tokio::join!(one.commit(&a, NOW_MS), other.commit(&b, NOW_MS));
    let full = Err(StoreError::Full(Full::Proxies));
    assert!(
        (a.is_ok() && b == full) || (b.is_ok() && a == full),
        "{a:?} {b:?}"
    );
    assert_eq!(
        one.load().await.unwrap().epochs.len(),
        731,
        "what did not fit is not there"
    );
}

async fn a_client_has_its_share_and_administrators_the_rest(database: Arc<Database>) {
    let (one, other) = (database.open().await, database.open().await);
    let by = |client: &str, most| Revoker {
        client: client.into(),
        most,
    };
    let asked = (0..10).map(|index| {
        let (store, change) = (
            if index % 2 == 0 { &one } else { &other },
            revoke(&[index], 9, by("a", Some(3))),
        );
        let store = store.clone();
        tokio::spawn(async move { store.commit(&change, NOW_MS).await })
    });
    let mut refused = 0;
    for answer in asked.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, StoreError::Full(Full::Client));
                refused += 1;
            }
        }
    }
    assert_eq!((refused, one.load().await.unwrap().revoked.len()), (7, 3));
    let kept = one.load().await.unwrap().revoked[0].index;
    one.commit(&revoke(&[kept], 10, by("a", Some(3))), NOW_MS)
        .await
        .expect("one that is there takes no room");
    one.commit(&revoke(&[77], 9, by("b", Some(3))), NOW_MS)
        .await
        .expect("another's share");
    one.commit(&revoke(&[78], 9, by("a", None)), NOW_MS)
        .await
        .expect("an administrator has no share");
}

async fn one_transaction_of_several_changes_leaves_out_those_refused(database: Arc<Database>) {
    let store = database.open().await;
    let by = |most| Revoker {
        client: "a".into(),
        most,
    };
    let changes = [
        revoke(&[1], 9, by(Some(2))),
        revoke(&[2, 3], 9, by(Some(2))),
        revoke(&[4], 9, by(Some(2))),
        Change {
            expected_version: Some(7),
            ..revoke(&[5], 9, by(None))
        },
        revoke(&[1], 9, by(None)),
    ];
    let versions = store.commit_all(&changes, NOW_MS).await.unwrap();
    let expected = [
        Ok(NOW_MS),
        Err(StoreError::Full(Full::Client)),
        Ok(NOW_MS),
        Err(StoreError::Conflict),
        Ok(NOW_MS),
    ];
    assert_eq!(versions, expected);
    // What was refused is in neither the rows nor their digest.
    let loaded = database.open().await.load().await.unwrap();
    let mut kept: Vec<u64> = loaded.revoked.iter().map(|token| token.index).collect();
    kept.sort_unstable();
    assert_eq!((kept, loaded.version), (vec![1, 4], NOW_MS), "one version");
    // Repeating a revocation makes no version, so the next change makes one.
    let changes = [
        revoke(&[1], 9, by(None)),
        revoke(&[6], 9, by(None)),
        revoke(&[1], 9, by(None)),
    ];
    let versions = store.commit_all(&changes, NOW_MS + 5).await.unwrap();
    assert_eq!(versions, [Ok(NOW_MS), Ok(NOW_MS + 5), Ok(NOW_MS + 5)]);
}

async fn what_is_read_is_of_one_moment(database: Arc<Database>) {
    const LAST: u64 = 150;
    let (writing, reading) = (database.open().await, database.open().await);
    let writer = tokio::spawn(async move {
        for at in 1..=LAST {
            // As long ago, versions only count.
            assert_eq!(
                writing
                    .commit(
                        &Change {
                            epochs: vec![epoch("alice", at)],
                            ..Change::default()
                        },
                        0
                    )
                    .await,
                Ok(at)
            );
        }
    });
    let mut version = 0;
    while version < LAST {
        let kept = reading.load().await.unwrap();
        assert_eq!(
            kept.epochs.first().map_or(0, |epoch| epoch.before),
            kept.version
        );
        version = kept.version;
    }
    writer.await.unwrap();
}

/// Each minute every row is read and proved. In between only what changed is, also where a program
/// of schema 2 wrote it, which does not say in which version.
async fn new_version_is_read_without_older_revocations(database: Arc<Database>) {
    let (store, other) = (database.open().await, database.open().await);
    let revoke = |index| Change {
        revoke: vec![RevokedToken {
            index,
            expires_at: NOW + index,
        }],
        revoker: Revoker {
            client: "checkout".into(),
            most: None,
        },
        ..Change::default()
    };
    let indices = async || {
        store
            .load_changes()
            .await
            .map(|state| state.revoked.iter().map(|it| it.index).collect())
    };
    other.commit(&revoke(7), NOW_MS).await.unwrap();
    assert_eq!(indices().await, Ok(vec![7]));
    // Only who reads this row notices.
    database
        .execute("UPDATE meshseal_revoked SET expires_at = 1 WHERE token_index = 7")
        .await;
    other.commit(&revoke(5), NOW_MS).await.unwrap();
    assert_eq!(indices().await, Ok(vec![5, 7]), "in the order of indices");
    assert!(matches!(store.load().await, Err(StoreError::Tampered(_))));
    database
        .execute(&format!(
            "UPDATE meshseal_revoked SET expires_at = {} WHERE token_index = 7",
            NOW + 7
        ))
        .await;
    assert_eq!(indices().await, Ok(vec![5, 7]));
    other.commit(&revoke(6), NOW_MS).await.unwrap();
    database
        .execute("UPDATE meshseal_revoked SET changed_in = 0")
        .await;
    assert_eq!(indices().await, Ok(vec![5, 6, 7]));
    let later = Change {
        revoke: vec![RevokedToken {
            index: 5,
            expires_at: NOW + 99,
        }],
        ..revoke(5)
    };
    other.commit(&later, NOW_MS).await.unwrap();
    assert_eq!(
        store
            .load_changes()
            .await
            .unwrap()
            .revoked
            .first()
            .map(|token| token.expires_at),
        Some(NOW + 99)
    );
    other
        .commit(
            &Change {
                prune_before: Some(NOW + 8),
                ..Change::default()
            },
            NOW_MS,
        )
        .await
        .unwrap();
    assert_eq!(indices().await, Ok(vec![5]), "what was forgotten is gone");
}

async fn records_of_a_worker_are_merged(database: Arc<Database>) {
    let store = database.open().await;
    let seen = |version, seen_at, accepts_until| ProxyRecord {
        worker: "00ff".into(),
        node: format!("edge-{seen_at}"),
        version,
        seen_at,
        protocol: 2,
        pins: "k".into(),
        accepts_until,
    };
    for (replica, record, others) in [
        ("a", seen(5, 100, 900), vec![]),
        ("b", seen(7, 110, 800), vec![seen(5, 100, 900)]),
        ("a", seen(8, 105, 700), vec![seen(7, 110, 900)]),
        ("a", seen(8, 105, 700), vec![]),
    ] {
        assert_eq!(
            store.save_proxies(replica, &[record]).await.unwrap(),
            others,
            "{replica} learns it"
        );
    }
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
        "it may still accept"
    );
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
            "both are told"
        );
    }
    store.save_proxies("a", &[seen(8, 130, 950)]).await.unwrap();
    assert_eq!(
        store.proxies("b").await.unwrap(),
        [seen(8, 130, 950)],
        "it polls again"
    );
    store.forget_proxies(951).await.unwrap();
    assert_eq!(store.proxies("").await.unwrap(), []);
}

async fn a_constant_keeps_its_first_value(database: Arc<Database>) {
    let store = database.open().await;
    assert_eq!(store.constant("x", "first").await.unwrap(), "first");
    assert_eq!(store.constant("x", "second").await.unwrap(), "first");
}

async fn a_rotation_is_asked_for_once_and_done_once(database: Arc<Database>) {
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

async fn many_revocations_at_once(database: Arc<Database>) {
    let store = database.open().await;
    let token = |index| RevokedToken {
        index,
        expires_at: NOW,
    };
    let change = Change {
        revoke: (0..1_201).map(token).collect(),
        ..Change::default()
    };
    store.commit(&change, NOW_MS).await.unwrap();
    store.commit(&change, NOW_MS).await.unwrap();
    assert_eq!(
        store.load().await.unwrap().revoked.len(),
        1_201,
        "in several statements, and again without harm"
    );
}

async fn two_replicas_share_everything(database: Arc<Database>) {
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

async fn a_restart_forgets_nothing(database: Arc<Database>) {
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
