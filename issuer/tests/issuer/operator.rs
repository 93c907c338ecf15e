//! Commands of the operator against a running issuer: exit status, standard output and standard
//! error.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meshseal_issuer::clock::{Clock as _, FixedClock, SystemClock};
use meshseal_issuer::store::Location;
use serde_json::Value;

use crate::support::database::Database;
use crate::support::process::Server;
use crate::support::{Harness, Proxy, config, decode, yaml};

fn start(folder: &Path, more: &[&str]) -> Server {
    let yaml = format!(
        "listen: 127.0.0.1:0\nmasterKey: {{ file: m.key }}\n{}",
        yaml()
    );
    std::fs::write(folder.join("issuer.yaml"), yaml).unwrap();
    std::fs::write(
        folder.join("m.key"),
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    )
    .unwrap();
    Server::start(folder, &[&["--config", "issuer.yaml"], more].concat())
}

/// Starts an issuer in this process, on the database that `start` uses next, with its clock off by
/// `off_s` seconds.
async fn earlier_run(folder: &Path, off_s: i64) -> Harness {
    let database = Database::at(Location::Sqlite(folder.join("meshseal.db")));
    let now = SystemClock::new().now().saturating_add_signed(off_s);
    Harness::at(database, config(), Arc::new(FixedClock::at(now))).await
}

fn poll(server: &Server) {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let head = "GET /bundle HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-meshseal-node: edge\r\n";
    stream
        .write_all(format!("{head}x-meshseal-worker: 00000000000000aa\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn active_kid(listed: &str, purpose: &str) -> String {
    let listed = json(listed);
    let keys = listed["keys"].as_array().unwrap();
    let active = keys
        .iter()
        .find(|key| key["purpose"] == purpose && key["state"] == "active")
        .unwrap();
    active["kid"].as_str().unwrap().to_owned()
}

const MINT: [&str; 4] = ["token", "mint", "--audience", "orders"];

#[test]
fn revoke_exit_status_follows_receipt() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), &[]);
    let ask = |arguments: &[&str]| {
        let revoke = [&["revoke", "--wait", "0"], arguments].concat();
        server.ask(folder.path(), "operator", &revoke, "")
    };
    let (code, _, said) = ask(&["--client", "checkout"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let (code, receipt, said) = ask(&["--client", "chekout"]);
    assert_eq!(
        (code, &json(&receipt)["known"]),
        (Some(0), &false.into()),
        "{receipt}"
    );
    assert!(said.starts_with("warning: no configured client"), "{said}");

    // Requests without effect exit with 1.
    for (arguments, reason) in [
        (
            ["--subject", "a", "--issued-before", "1600000000"].as_slice(),
            "tokens-expired; every token",
        ),
        (
            &["--jti", "AAAAAAAAAAUHBwcHBwcHBw"],
            "jti-expired; no valid token",
        ),
        (&["--key", "x"], "key-unknown; see the key ids"),
    ] {
        let (code, receipt, said) = ask(arguments);
        assert_eq!(
            (code, &json(&receipt)["revoked"]),
            (Some(1), &false.into()),
            "{receipt}"
        );
        assert!(
            said.starts_with(&format!("nothing was revoked: {reason}")),
            "{said}"
        );
    }

    // A worker that has not confirmed makes the receipt incomplete.
    poll(&server);
    let (code, receipt, said) = ask(&["--all"]);
    assert_eq!(
        (code, &json(&receipt)["state"]),
        (Some(1), &"incomplete".into()),
        "{receipt}"
    );
    assert!(
        said.starts_with("pending: node \"edge\" worker 00000000000000aa holds version 0"),
        "{said}"
    );

    // During an incident the issuer may not know all workers.
    let declare = ["incident", "declare", "--reason", "a drill"];
    assert_eq!(
        server.ask(folder.path(), "operator", &declare, "").0,
        Some(0)
    );
    let (code, receipt, said) = ask(&["--all"]);
    assert_eq!(
        (code, &json(&receipt)["state"]),
        (Some(3), &"unknown".into()),
        "{receipt}"
    );
    assert!(said.contains("does not know all workers"), "{said}");
}

#[test]
fn revokes_unavailable_token_by_jti_or_key() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), &[]);
    let ask = |arguments: &[&str]| server.ask(folder.path(), "operator", arguments, "");
    let (_, token, said) = server.ask(folder.path(), "checkout", &MINT, "");
    assert_eq!(token.split('.').count(), 3, "{said}");
    let jti = decode(&token).1["jti"].as_str().unwrap().to_owned();
    let (code, receipt, said) = ask(&["revoke", "--jti", &jti]);
    assert_eq!(
        (code, &json(&receipt)["jti"]),
        (Some(0), &jti.as_str().into()),
        "{said}"
    );
    // A second request for the same revocation creates no new version.
    let (_, again, _) = server.ask(folder.path(), "checkout", &["revoke", "--token"], &token);
    assert_eq!(
        json(&again)["version"],
        json(&receipt)["version"],
        "the same token was revoked"
    );
    let kid = active_kid(&ask(&["keys", "list", "--json"]).1, "token");
    let (code, receipt, said) = ask(&["revoke", "--key", &kid]);
    assert_eq!(
        (code, &json(&receipt)["name"]),
        (Some(0), &kid.as_str().into()),
        "{said}"
    );
    assert_ne!(
        active_kid(&ask(&["keys", "list", "--json"]).1, "token"),
        kid,
        "the standby is active"
    );
}

#[test]
fn bundle_key_rotates_by_command() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), &[]);
    let ask = |arguments: &[&str]| server.ask(folder.path(), "operator", arguments, "");
    let active = |purpose: &str| active_kid(&ask(&["keys", "list", "--json"]).1, purpose);
    let before = [active("bundle"), active("token")];
    let (code, kid, said) = ask(&["keys", "rotate", "--bundle"]);
    assert_eq!(
        (code, kid.as_str()),
        (Some(0), active("bundle").as_str()),
        "{said}"
    );
    assert_ne!(kid, before[0]);
    assert_eq!(active("token"), before[1], "the other key stays");
    let (_, listed, _) = ask(&["keys", "list"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(
        lines
            .first()
            .is_some_and(|heading| heading.starts_with("kid") && heading.ends_with("confirmed"))
    );
    let line = lines.iter().find(|line| line.starts_with(&kid)).unwrap();
    assert!(line.ends_with("0/0"), "{listed}");
    assert_eq!(
        (line.find("bundle"), line.find("active")),
        (lines[0].find("signs"), lines[0].find("state")),
        "{listed}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_worker_is_listed_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = earlier_run(folder.path(), -120).await;
    Proxy::of(&earlier, 0xbb).confirm(&earlier).await;
    earlier.tick().await;
    drop(earlier);

    // The worker polled two minutes ago, so it is unreachable.
    let server = start(folder.path(), &[]);
    let ask = |arguments: &[&str]| server.ask(folder.path(), "operator", arguments, "");
    let (code, listed, said) = ask(&["proxies", "list"]);
    assert_eq!(
        (code, listed.lines().count()),
        (Some(0), 2),
        "{listed}{said}"
    );
    let worker = listed.lines().nth(1).unwrap();
    assert!(
        worker.starts_with("00000000000000bb  unreachable") && worker.ends_with("edge"),
        "{listed}"
    );
    let (_, json_listed, _) = ask(&["proxies", "list", "--json"]);
    assert_eq!(
        json(&json_listed)["proxies"][0]["worker"],
        "00000000000000bb"
    );
    let (code, _, said) = ask(&["proxies", "forget", "other"]);
    assert_eq!(
        (code, said.contains("no counted worker or node")),
        (Some(1), true),
        "{said}"
    );
    let (code, answer, said) = ask(&["proxies", "forget", "edge"]);
    assert_eq!(
        (code, &json(&answer)["forgotten"][0]),
        (Some(0), &"00000000000000bb".into()),
        "{said}"
    );
    assert_eq!(
        ask(&["proxies", "list"]).1.lines().count(),
        1,
        "the heading"
    );
}

#[test]
fn incident_is_declared_shown_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), &[]);
    let ask = |arguments: &[&str]| server.ask(folder.path(), "operator", arguments, "");
    let (code, shown, _) = ask(&["incident", "show"]);
    assert_eq!(
        (code, &json(&shown)["incident"]),
        (Some(0), &Value::Null),
        "{shown}"
    );
    let (code, _, said) = ask(&["incident", "end"]);
    assert_eq!(
        (code, said.contains("no incident to end")),
        (Some(1), true),
        "{said}"
    );
    let (code, declared, said) = ask(&["incident", "declare", "--reason", "restored a backup"]);
    assert_eq!(
        (code, json(&declared)["version"].is_u64()),
        (Some(0), true),
        "{said}"
    );
    let (code, shown, _) = ask(&["incident", "show"]);
    let reason = &json(&shown)["incident"]["reason"];
    assert_eq!(
        (code, reason),
        (Some(1), &"declared by operator: restored a backup".into()),
        "{shown}"
    );
    assert_eq!(ask(&["incident", "end"]).0, Some(0));
    assert_eq!(ask(&["incident", "show"]).0, Some(0));
}

/// The database holds a later clock mark than the clock of the machine shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_accepts_clock_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = earlier_run(folder.path(), 3_600).await;
    earlier.tick().await;
    drop(earlier);
    let mint = |server: &Server| server.ask(folder.path(), "checkout", &MINT, "");
    let (code, _, said) = mint(&start(folder.path(), &[]));
    assert_eq!((code, said.contains("503")), (Some(1), true), "{said}");
    let (code, _, said) = mint(&start(folder.path(), &["--accept-clock"]));
    assert_eq!(code, Some(0), "{said}");
}
