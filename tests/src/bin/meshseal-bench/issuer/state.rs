//! Growth of database, memory and bundle: none with issued tokens, some with revoked ones.
//!
//! The issuer stores nothing about a token. It only leases blocks of token indices from the
//! database. So leasing `issued` indices leaves the same database as issuing that many tokens,
//! which would take hours.

use std::fs;
use std::path::Path;

use anyhow::Result;
use meshseal_issuer::keys::MasterKey;
use meshseal_issuer::revocation::RevokedToken;
use meshseal_issuer::store::{Change, Location, open};
use meshseal_tests::clock::{Stopwatch, unix_now};

use super::server::{Credentials, GRANT, Server};
use crate::drive::{Clients, Requests};
use crate::process::{as_f64, measure, rss_mb};
use crate::report::{Table, short};
use crate::{Effort, say, scatter};

/// Numbers of issued and of revoked tokens.
const STATES: [(u64, u64); 9] = [
    (1_000, 100),
    (10_000, 100),
    (100_000, 100),
    (1_000_000, 100),
    (10_000_000, 100),
    (1_000_000, 0),
    (1_000_000, 1_000),
    (1_000_000, 10_000),
    (1_000_000, 100_000),
];

pub(crate) async fn run(credentials: &Credentials, effort: &Effort) -> Result<Table> {
    let mut table = Table::new(
        "Cost with issued and with revoked tokens",
        "Revoked tokens are chosen by chance. A revocation is one more: stored, published, \
         answered.",
        [
            "issued",
            "revoked",
            "database, KB",
            "RSS, MB",
            "full bundle, KB",
            "start, ms",
            "a token, µs CPU",
            "a revocation, ms",
        ],
    );
    for (issued, revoked) in STATES {
        say(&format!(
            "issuer: {issued} tokens issued, {revoked} revoked"
        ));
        // Start once to create the database, fill it, and time the start after that.
        let mut server = Server::start("state", credentials).await?;
        let database = server.database();
        let watch = Stopwatch::start();
        let mut prepared = watch.elapsed();
        let between = async {
            fill(&database, issued, revoked).await?;
            prepared = watch.elapsed();
            Ok(())
        };
        server.restart(between).await?;
        let start = watch.elapsed() - prepared;
        let rss = rss_mb(server.pid())?;
        let bundle = server.bundle().await?;
        let again = Requests::new(vec![credentials.with_secret("/token", GRANT)]);
        let mut clients = Clients::connect(server.address()).await?;
        // The first requests also pay for caches and pages of the fresh process.
        clients.run(&again, 0..1_000, 200).await?;
        let sample = measure(server.pid(), clients.run(&again, 0..effort.requests, 200)).await?;
        // Revocations.
        let mut revocations = Vec::new();
        for _ in 0..9 {
            let token = server.token(credentials).await?;
            let watch = Stopwatch::start();
            server
                .ask(&credentials.with_secret("/revoke", &format!("token={token}")))
                .await?;
            revocations.push(watch.elapsed().as_secs_f64() * 1e3);
        }
        let size = usize::try_from(fs::metadata(&database)?.len())?;
        server.stop().await;
        table.row([
            issued.to_string(),
            revoked.to_string(),
            short(as_f64(size) / 1e3),
            short(rss),
            short(as_f64(bundle.len()) / 1e3),
            short(start.as_secs_f64() * 1e3),
            short(sample.cpu_us),
            short(crate::process::median(revocations)),
        ]);
    }
    Ok(table)
}

/// Leases indices for `issued` tokens and revokes `revoked` of them.
async fn fill(database: &Path, issued: u64, revoked: u64) -> Result<()> {
    let store = open(&Location::Sqlite(database.to_path_buf())).await?;
    let master = fs::read_to_string(database.with_extension("master.key"))?;
    store
        .unlock(&MasterKey::from_base64(&master, "master key")?)
        .await?;
    let indices = store.lease_indices(issued, 0).await?;
    let expires_at = unix_now() + 3_600;
    let revoked = scatter::indices(revoked, issued)?;
    let revoke = revoked
        .into_iter()
        .map(|at| RevokedToken {
            index: indices.start + at,
            expires_at,
        })
        .collect();
    store
        .commit(
            &Change {
                revoke,
                ..Change::default()
            },
            unix_now() * 1_000,
        )
        .await?;
    Ok(())
}
