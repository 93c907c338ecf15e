//! Revoked and retired keys: the standby takes over, and no copy of a private half remains (ADR 21).

use meshseal_issuer::keys::{Algorithm, KeyChange, KeyRecord, KeyState, Purpose, generate};
use meshseal_issuer::store::Change;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};

use crate::rotation::request_rotation;
use crate::support::database::Database;
use crate::support::{Harness, NOW, Proxy, accepts, master};

#[tokio::test]
async fn revoked_key_stops_signing_immediately() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let (stolen, standby) = (harness.active_kid(), harness.next_kid());
    let token = harness.token().await;
    assert!(accepts(&harness, &proxy.trust, &token));

    // The standby signs at once, and proxies know it.
    let answer = harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={stolen}"))
        .await;
    assert_eq!(answer.json()["version"], harness.version());
    assert_eq!(
        harness.active_kid(),
        standby,
        "the standby takes over without confirmations"
    );
    assert!(!harness.get("/jwks").await.text.contains(&stolen));
    let fresh = harness.token().await;
    assert!(
        accepts(&harness, &proxy.trust, &fresh),
        "proxies had the standby already"
    );

    // The next bundle revokes the tokens of the key.
    proxy.poll(&harness).await;
    assert!(!accepts(&harness, &proxy.trust, &token));
    assert!(!harness.is_active(&token).await);
    harness.tick().await;
    assert_ne!(harness.next_kid(), standby, "a new standby exists");
}

#[tokio::test]
async fn revoking_other_keys_keeps_active_key() {
    let harness = Harness::new().await;
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    let by_json = axum::http::Request::post("/admin/keys/revoke")
        .header("authorization", crate::support::basic("operator"))
        .header("content-type", "application/json")
        .body(json!({ "kid": standby }).to_string().into())
        .unwrap();
    assert_eq!(harness.send(by_json).await.status, 200);
    harness.tick().await;
    assert_eq!(harness.active_kid(), active);
    assert_ne!(harness.next_kid(), standby);

    // A draining key.
    let token = harness.token().await;
    request_rotation(&harness).await;
    harness.tick().await;
    assert!(harness.is_active(&token).await, "the old key drains");
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={active}"))
        .await;
    assert!(!harness.is_active(&token).await);
    let unknown = harness
        .post_as("operator", "/admin/keys/revoke", "kid=nonsense")
        .await;
    assert_eq!(unknown.error(), (400, "invalid_request".into()));
}

/// Free pages and the write-ahead log keep no copy of a destroyed private half.
#[tokio::test]
async fn destroyed_private_half_leaves_no_copy() {
    let harness = Harness::new().await;
    let sealed = harness
        .key(Purpose::Token, KeyState::Active)
        .unwrap()
        .sealed
        .unwrap();
    let copies = || {
        ["", "-wal", "-shm", "-journal"].iter().filter(|suffix| {
            let path = format!("{}{suffix}", harness.database.file().display());
            std::fs::read(path)
                .is_ok_and(|file| file.windows(24).any(|window| window == &sealed[20..44]))
        })
    };
    assert!(copies().count() > 0, "stored while the key signs");
    request_rotation(&harness).await;
    harness.tick().await;
    assert_eq!(copies().collect::<Vec<_>>(), Vec::<&&str>::new());
    let retired = harness.active_kid();
    let sealed_again = harness
        .key(Purpose::Token, KeyState::Active)
        .unwrap()
        .sealed
        .unwrap();
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={retired}"))
        .await;
    let wal =
        std::fs::read(format!("{}-wal", harness.database.file().display())).unwrap_or_default();
    let file = std::fs::read(harness.database.file()).unwrap();
    assert!([wal, file].iter().all(|bytes| {
        !bytes
            .windows(24)
            .any(|window| window == &sealed_again[20..44])
    }));
}

/// SQLite reuses the freed bytes of a short row at once. The bytes of an RSA key stay in their page,
/// and longer values stay in overflow pages, unless the store overwrites them.
#[tokio::test]
async fn destroyed_private_half_is_overwritten() {
    let database = Database::sqlite();
    let store = database.open().await;
    let state = KeyState::Next;
    let record = generate(Purpose::Token, Algorithm::EdDsa, state, NOW, &master()).unwrap();
    for length in [1_300_u16, 9_000] {
        let sealed: Vec<u8> = (0..length).flat_map(u16::to_be_bytes).collect();
        let key = KeyRecord {
            kid: format!("with {length} numbers"),
            sealed: Some(sealed.clone()),
            ..record.clone()
        };
        let entered = KeyChange::Enter {
            kid: key.kid.clone(),
            state: KeyState::Draining,
            since: NOW,
        };
        let copies = || {
            let files = ["", "-wal", "-journal"].map(|suffix| {
                let path = format!("{}{suffix}", database.file().display());
                std::fs::read(path).unwrap_or_default()
            });
            let files = files.concat();
            let parts = sealed.chunks_exact(100);
            parts
                .filter(|part| files.windows(part.len()).any(|window| window == *part))
                .count()
        };
        for (step, change) in [KeyChange::Insert(key), entered].into_iter().enumerate() {
            let change = Change {
                keys: vec![change],
                ..Change::default()
            };
            store.commit(&change, NOW * 1_000).await.unwrap();
            store.tidy().await;
            assert_eq!(copies() == 0, step == 1, "{length}");
        }
    }
}

/// A reader, such as a backup program, keeps the write-ahead log. The store empties it later.
#[tokio::test]
async fn destroyed_private_half_leaves_log_after_readers() {
    let harness = Harness::new().await;
    let (kid, sealed) = (
        harness.active_kid(),
        harness
            .key(Purpose::Token, KeyState::Active)
            .unwrap()
            .sealed
            .unwrap(),
    );
    let file = harness.database.file().display().to_string();
    let holds = |name: &str| {
        std::fs::read(name)
            .unwrap()
            .windows(24)
            .any(|window| window == &sealed[20..44])
    };
    let mut reader = sqlx::SqliteConnection::connect(&format!("sqlite:{file}"))
        .await
        .unwrap();
    reader
        .execute("BEGIN; SELECT * FROM meshseal_keys")
        .await
        .unwrap();
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={kid}"))
        .await;
    assert!(
        holds(&format!("{file}-wal")) || holds(&file),
        "the reader holds the old content"
    );
    reader.execute("ROLLBACK").await.unwrap();
    harness.issuer.store.tidy().await;
    assert!(!holds(&format!("{file}-wal")) && !holds(&file));
}
