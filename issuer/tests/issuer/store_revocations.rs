//! Revocations in the database: merging, expiry, capacity and quotas, over SQLite and PostgreSQL.

use std::sync::Arc;

use meshseal_issuer::revocation::{EpochKind, EpochRecord, Full, RevokedToken, Revoker};
use meshseal_issuer::store::{Change, StoreError};

use crate::support::NOW;
use crate::support::database::{Database, on_both};

on_both! {
    epochs_only_rise_and_expired_entries_go
    keeps_later_of_two_expiries
    revoking_again_changes_nothing
    one_replica_gets_the_last_capacity
    quota_binds_clients_but_not_administrators
    shared_transaction_leaves_out_rejected_changes
    load_reads_one_snapshot
    reads_new_version_without_older_revocations
    commits_many_revocations_at_once
}

const NOW_MS: u64 = NOW * 1000;

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

fn prune(before: u64) -> Change {
    Change {
        prune_before: Some(before),
        ..Change::default()
    }
}

async fn epochs_only_rise_and_expired_entries_go(database: Arc<Database>) {
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

    // One token expires before the time of the pruning, one after it.
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

async fn keeps_later_of_two_expiries(database: Arc<Database>) {
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

    // Of the epochs, the latest one and the latest expiry are kept.
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
            "the version that contains the revocations"
        );
    }
    assert_eq!(store.head().await.unwrap().version, version);
    let more = revoke(&[2, 3], 1_000, Revoker::default());
    assert_eq!(store.commit(&more, NOW_MS + 5).await.unwrap(), NOW_MS + 5);
}

/// Returns an epoch whose name has 2000 digits.
fn long_epoch(name: u64) -> EpochRecord {
    epoch(&format!("{name:0>2000}"), 900)
}

async fn one_replica_gets_the_last_capacity(database: Arc<Database>) {
    let (one, other) = (database.open().await, database.open().await);
    // The size limit of a bundle, less a quarter for base64, holds 731 names of this length.
    let stuffing = Change {
        epochs: (0..730).map(long_epoch).collect(),
        ..Change::default()
    };
    one.commit(&stuffing, NOW_MS).await.unwrap();
    let [a, b] = [1_000, 1_001].map(|name| Change {
        epochs: vec![long_epoch(name)],
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
        "the rejected epoch is not stored"
    );
}

/// Returns a revoking client with its quota.
fn by(client: &str, most: Option<u64>) -> Revoker {
    Revoker {
        client: client.into(),
        most,
    }
}

async fn quota_binds_clients_but_not_administrators(database: Arc<Database>) {
    let (one, other) = (database.open().await, database.open().await);
    let asked = (0..10).map(|index| {
        let (store, change) = (
            if index % 2 == 0 { &one } else { &other },
            revoke(&[index], 9, by("a", Some(3))),
        );
        let store = store.clone();
        tokio::spawn(async move { store.commit(&change, NOW_MS).await })
    });

    // Two replicas together admit three of ten revocations.
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
        .expect("a stored revocation needs no quota");
    one.commit(&revoke(&[77], 9, by("b", Some(3))), NOW_MS)
        .await
        .expect("another client has its own quota");
    one.commit(&revoke(&[78], 9, by("a", None)), NOW_MS)
        .await
        .expect("administrators have no quota");
}

async fn shared_transaction_leaves_out_rejected_changes(database: Arc<Database>) {
    let store = database.open().await;
    let changes = [
        revoke(&[1], 9, by("a", Some(2))),
        revoke(&[2, 3], 9, by("a", Some(2))),
        revoke(&[4], 9, by("a", Some(2))),
        Change {
            expected_version: Some(7),
            ..revoke(&[5], 9, by("a", None))
        },
        revoke(&[1], 9, by("a", None)),
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
    // The refused changes are in neither the rows nor their digest.
    let loaded = database.open().await.load().await.unwrap();
    let mut kept: Vec<u64> = loaded.revoked.iter().map(|token| token.index).collect();
    kept.sort_unstable();
    assert_eq!((kept, loaded.version), (vec![1, 4], NOW_MS), "one version");
    // A repeated revocation creates no version, so the next change creates one.
    let changes = [
        revoke(&[1], 9, by("a", None)),
        revoke(&[6], 9, by("a", None)),
        revoke(&[1], 9, by("a", None)),
    ];
    let versions = store.commit_all(&changes, NOW_MS + 5).await.unwrap();
    assert_eq!(versions, [Ok(NOW_MS), Ok(NOW_MS + 5), Ok(NOW_MS + 5)]);
}

async fn load_reads_one_snapshot(database: Arc<Database>) {
    const LAST: u64 = 150;
    let (writing, reading) = (database.open().await, database.open().await);
    let writer = tokio::spawn(async move {
        for at in 1..=LAST {
            // At time 0 versions count up by one.
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

/// Returns the revocation of a token that expires `index` seconds from now.
fn revoke_one(index: u64) -> Change {
    revoke(&[index], NOW + index, by("checkout", None))
}

/// A replica reads and proves every row once a minute, and in between only changed rows. Programs of
/// schema 2 do not record the version of a change.
async fn reads_new_version_without_older_revocations(database: Arc<Database>) {
    let (store, other) = (database.open().await, database.open().await);
    let indices = async || {
        store
            .load_changes()
            .await
            .map(|state| state.revoked.iter().map(|it| it.index).collect())
    };
    other.commit(&revoke_one(7), NOW_MS).await.unwrap();
    assert_eq!(indices().await, Ok(vec![7]));
    // Only a reader of this row can detect the change.
    database
        .execute("UPDATE meshseal_revoked SET expires_at = 1 WHERE token_index = 7")
        .await;
    other.commit(&revoke_one(5), NOW_MS).await.unwrap();
    assert_eq!(indices().await, Ok(vec![5, 7]), "in the order of indices");
    assert!(matches!(store.load().await, Err(StoreError::Tampered(_))));
    database
        .execute(&format!(
            "UPDATE meshseal_revoked SET expires_at = {} WHERE token_index = 7",
            NOW + 7
        ))
        .await;
    assert_eq!(indices().await, Ok(vec![5, 7]));
    other.commit(&revoke_one(6), NOW_MS).await.unwrap();
    database
        .execute("UPDATE meshseal_revoked SET changed_in = 0")
        .await;
    assert_eq!(indices().await, Ok(vec![5, 6, 7]));

    // A later expiry of a known token is a change, too.
    let later = Change {
        revoke: vec![RevokedToken {
            index: 5,
            expires_at: NOW + 99,
        }],
        ..revoke_one(5)
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
    assert_eq!(indices().await, Ok(vec![5]), "pruned rows are gone");
}

async fn commits_many_revocations_at_once(database: Arc<Database>) {
    let store = database.open().await;
    let indices: Vec<u64> = (0..1_201).collect();
    let change = revoke(&indices, NOW, Revoker::default());
    store.commit(&change, NOW_MS).await.unwrap();
    store.commit(&change, NOW_MS).await.unwrap();
    assert_eq!(
        store.load().await.unwrap().revoked.len(),
        1_201,
        "several statements, repeated without effect"
    );
}
