//! Concurrent revocations share transactions, queries and publications.

use std::sync::atomic::Ordering::SeqCst;

use meshseal_issuer::revocation::{EpochKind, EpochRecord};
use meshseal_issuer::store::Change;

use crate::support::store::Fickle;
use crate::support::{Harness, ISSUER, NOW};

/// Revocations within 20 ms share a publication (B10).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_share_publications() {
    let harness = std::sync::Arc::new(Harness::new().await);
    let mut versions = harness.issuer.publisher.versions();
    let counted = tokio::spawn(async move {
        let mut publications = 0_u128;
        while versions.changed().await.is_ok() {
            publications += 1;
        }
        publications
    });
    let begun = tokio::time::Instant::now();
    let revocations: Vec<_> = (0..100)
        .map(|at| {
            let harness = harness.clone();
            tokio::spawn(async move {
                harness
                    .post_as("operator", "/revoke", &format!("subject=s{at}"))
                    .await
            })
        })
        .collect();
    for revocation in revocations {
        assert_eq!(revocation.await.unwrap().status, 200);
    }
    let most = begun.elapsed().as_millis() / 20 + 1;
    drop(std::sync::Arc::into_inner(harness).unwrap());
    let publications = counted.await.unwrap();
    assert!(
        publications <= most && publications < 100,
        "{publications} of {most}"
    );
}

/// Callers that present unknown tokens do not decide how often the issuer queries the database and
/// wakes its polls.
#[tokio::test]
async fn unknown_tokens_share_queries_and_publications() {
    let (harness, store) = Harness::fickle().await;
    let other = harness.database.open().await;
    let mut versions = harness.issuer.publisher.versions();
    let begun = tokio::time::Instant::now();
    let asked = store.heads_asked.load(SeqCst);
    let mut publications = 0;
    for at in 0..20 {
        let change = Change {
            epochs: vec![EpochRecord {
                kind: EpochKind::Subject,
                name: format!("s{at}"),
                before: NOW,
                expires_at: NOW + 1_000,
            }],
            ..Change::default()
        };
        other.commit(&change, NOW * 1_000).await.unwrap();
        for _ in 0..3 {
            let answer = harness.post_as("checkout", "/revoke", "token=a.b.c").await;
            assert_eq!(answer.json()["revoked"], false, "{}", answer.text);
        }
        publications += u32::from(versions.has_changed().unwrap());
        versions.mark_unchanged();
    }
    let most = u32::try_from(begun.elapsed().as_millis() / 20 + 1).unwrap();
    let asked = store.heads_asked.load(SeqCst) - asked;
    assert!(
        publications > 0 && publications <= most && asked <= most,
        "{asked} queries, {publications} publications of {most}"
    );
}

/// Revocations that arrive during a transaction share the next one. A request whose client
/// disconnects while the transaction waits for the disk does not abort the others.
#[tokio::test]
async fn revocations_share_transactions() {
    let (harness, store) = Harness::fickle().await;
    let harness = std::sync::Arc::new(harness);
    Fickle::close(&store.groups);
    let ask = |at: u32| {
        let harness = harness.clone();
        tokio::spawn(async move {
            harness
                .post_as("operator", "/revoke", &format!("subject=s{at}&wait=0"))
                .await
        })
    };
    let first = ask(0);
    let mut others: Vec<_> = (1..50).map(ask).collect();
    // Each request advances until it waits.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.groups.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
    // Requests take their turn in the order of arrival, so this one leads the second transaction.
    others.remove(0).abort();
    store.groups.add_permits(100);
    for other in others {
        assert_eq!(other.await.unwrap().status, 200);
    }
    assert_eq!(
        store.transactions.load(SeqCst),
        2,
        "the aborted request began no transaction of its own"
    );
    let epochs = harness
        .issuer
        .publisher
        .current()
        .trust(ISSUER)
        .unwrap()
        .epochs
        .sub
        .len();
    assert_eq!(epochs, 49, "all but the epoch of the aborted request");
}
