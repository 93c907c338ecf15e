//! The running `meshseal serve` over TCP connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use meshseal_issuer::clock::{Clock as _, SystemClock};

use crate::support::database::Database;
use crate::support::process::{Server, run, text};
use crate::support::{basic, yaml};

const CONFIG: &str = "listen: 127.0.0.1:0\ndatabase: sqlite:data.db\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("issuer.yaml"),
        format!("{CONFIG}{}", yaml()),
    )
    .unwrap();
    folder
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Sends a request on a new connection and returns the answer.
fn exchange(server: &Server, request: &str) -> String {
    exchange_on(connect(server), request)
}

fn exchange_on(mut stream: TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(server: &Server, path: &str) -> String {
    exchange(
        server,
        &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
}

fn post(server: &Server, client: &str, path: &str, form: &str) -> String {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {}\r\n",
        basic(client)
    );
    let body = format!(
        "content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    exchange(server, &format!("{head}{body}"))
}

fn body(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn metrics(server: &Server) -> String {
    let stream = TcpStream::connect(&server.admin).unwrap();
    exchange_on(
        stream,
        "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
}

fn version(server: &Server) -> u64 {
    let metrics = metrics(server);
    metrics
        .lines()
        .find_map(|line| line.strip_prefix("meshseal_bundle_version "))
        .unwrap()
        .parse()
        .unwrap()
}

/// Sends a poll, and returns once the issuer counts it as waiting.
fn waiting_poll(server: &Server, have: u64) -> TcpStream {
    let mut stream = connect(server);
    let request = format!(
        "GET /bundle?have={have}&wait=55 HTTP/1.1\r\nhost: x\r\n\
         x-meshseal-worker: 00000000000000aa\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    while !metrics(server).contains("meshseal_polls_waiting 1") {
        std::thread::yield_now();
    }
    stream
}

fn first_bytes(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn revocation_wakes_poll_and_receipt_counts_it() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    assert!(get(&server, "/readyz").starts_with("HTTP/1.1 200"));
    let token = body(&post(
        &server,
        "checkout",
        "/token",
        "grant_type=client_credentials&resource=orders",
    ));
    let token = token["access_token"].as_str().unwrap().to_owned();
    let mut poll = waiting_poll(&server, version(&server));
    let begun = SystemClock::new().now_ms();
    let revoked = post(&server, "checkout", "/revoke", &format!("token={token}"));
    let answer = first_bytes(&mut poll);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("application/jose"),
        "{answer}"
    );
    assert!(SystemClock::new().now_ms() < begun + 1_000);

    // A second revocation reaches the waiting worker, which does not confirm it.
    let have = body(&revoked)["version"].as_u64().unwrap();
    let _again = waiting_poll(&server, have);
    let receipt = body(&post(&server, "operator", "/revoke", "all=true&wait=1"));
    assert_eq!(
        (&receipt["confirmed"], &receipt["proxies"]),
        (&0.into(), &1.into()),
        "the worker received the version and has not confirmed it"
    );
}

#[test]
fn sigterm_answers_waiting_polls_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let folder = folder();
        let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
        let mut poll = waiting_poll(&server, version(&server));
        let begun = SystemClock::new().now_ms();
        server.signal(signal);
        let answer = first_bytes(&mut poll);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (code, log) = server.wait();
        assert_eq!(code, Some(0), "{log}");
        assert!(SystemClock::new().now_ms() < begun + 4_000);
    }
}

#[test]
fn crash_loses_no_acknowledged_revocation() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    let token = body(&post(
        &server,
        "checkout",
        "/token",
        "grant_type=client_credentials&resource=orders",
    ));
    let token = token["access_token"].as_str().unwrap().to_owned();
    post(&server, "checkout", "/revoke", &format!("token={token}"));
    let before = version(&server);
    server.signal("KILL");
    assert_eq!(server.wait().0, None);
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    assert_eq!(version(&server), before);
    assert_eq!(
        body(&post(
            &server,
            "checkout",
            "/introspect",
            &format!("token={token}")
        ))["active"],
        false
    );
}

#[test]
fn logs_contain_no_token_or_secret() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--config", "issuer.yaml", "--log", "json"]);
    let token = body(&post(
        &server,
        "checkout",
        "/token",
        "grant_type=client_credentials&resource=orders",
    ));
    let token = token["access_token"].as_str().unwrap().to_owned();
    post(&server, "checkout", "/revoke", &format!("token={token}"));
    server.signal("TERM");
    let (_, log) = server.wait();
    let secret = crate::support::secret("checkout");
    let signature = token.rsplit_once('.').unwrap().1;
    assert!(
        log.contains("revoked") && !log.contains(signature) && !log.contains(&secret),
        "{log}"
    );
    assert!(
        log.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{log}"
    );
}

#[test]
fn starts_without_configuration_and_names_busy_port() {
    let folder = tempfile::tempdir().unwrap();
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    std::fs::write(
        folder.path().join("issuer.yaml"),
        format!("listen: {address}"),
    )
    .unwrap();
    let refused = run(folder.path(), &["serve", "--config", "issuer.yaml"], "");
    let message = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        message.contains(&address) && message.contains("`listen`"),
        "{message}"
    );

    // The administration listener has a busy port.
    let admin = format!("listen: 127.0.0.1:0\nadmin: {{ listen: \"{address}\" }}");
    std::fs::write(folder.path().join("issuer.yaml"), admin).unwrap();
    let refused = run(folder.path(), &["serve", "--config", "issuer.yaml"], "");
    assert!(text(&refused.stderr).contains("`admin.listen`"));
    assert!(
        !folder.path().join("meshseal.db").exists(),
        "a failed start creates no database"
    );
    std::fs::write(folder.path().join("issuer.yaml"), "listen: 127.0.0.1:0").unwrap();

    // Free ports: the issuer creates its files.
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    let metadata = body(&get(&server, "/.well-known/oauth-authorization-server"));
    assert_eq!(
        metadata["issuer"],
        format!("http://{}", server.address),
        "the issuer names the port that the system chose"
    );
    assert!(
        folder.path().join("meshseal.db").exists()
            && folder.path().join("meshseal.master.key").exists()
    );
}

#[test]
fn requires_one_valid_host() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    for (hosts, status) in [
        ("host: a\r\n", "200"),
        ("", "400"),
        ("host: a\r\nhost: b\r\n", "400"),
        ("host: a\r\nhost: a\r\n", "400"),
        ("host:\r\n", "400"),
        ("host: a:80:80\r\n", "400"),
        ("host: u@a\r\n", "400"),
    ] {
        let answer = exchange(
            &server,
            &format!("GET /healthz HTTP/1.1\r\n{hosts}connection: close\r\n\r\n"),
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{hosts:?}: {answer}"
        );
    }
}

#[test]
fn tells_slow_and_broken_bodies_apart() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    let head =
        "POST /token HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\n";
    let broken = exchange(
        &server,
        &format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\n"),
    );
    assert!(broken.starts_with("HTTP/1.1 400"), "{broken}");
    let slow = exchange(
        &server,
        &format!("{head}content-length: 100\r\n\r\ngrant_type="),
    );
    assert!(
        slow.starts_with("HTTP/1.1 408") && slow.contains("connection: close"),
        "{slow}"
    );
}

#[test]
fn failed_authentication_is_logged_within_bounds() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--config", "issuer.yaml", "--log", "json"]);
    let wrong = "mss_this-is-some-secret";
    for at in 0..50 {
        let client = if at % 2 == 0 {
            "checkout".to_owned()
        } else {
            format!("made-up-{at}")
        };
        let form =
            format!("grant_type=client_credentials&client_id={client}&client_secret={wrong}");
        let head = "POST /token HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        let kind = "content-type: application/x-www-form-urlencoded";
        exchange(
            &server,
            &format!(
                "{head}{kind}\r\ncontent-length: {}\r\n\r\n{form}",
                form.len()
            ),
        );
    }
    exchange(
        &server,
        &format!(
            "GET /healthz HTTP/1.1\r\nhost: x\r\nauthorization: Basic {wrong}\r\n\
             connection: close\r\n\r\n"
        ),
    );
    server.signal("TERM");
    let (_, log) = server.wait();

    // The log names client, source and reason, but no secret.
    let failures: Vec<serde_json::Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &serde_json::Value| line["message"] == "client authentication failed")
        .collect();
    assert!(
        (2..=20).contains(&failures.len()),
        "bounded for known and made-up clients: {log}"
    );
    let line = failures
        .iter()
        .find(|line| line["client"] == "checkout")
        .unwrap();
    assert_eq!(
        (&line["source"], &line["reason"], &line["endpoint"]),
        (&"127.0.0.1".into(), &"secret-wrong".into(), &"token".into())
    );
    assert!(!log.contains(wrong), "{log}");
}

#[test]
fn oversized_head_closes_connection() {
    let folder = folder();
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    let long = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "a".repeat(40_000)
    );
    let mut stream = connect(&server);
    // The server may close the connection before the client has written all of it.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert!(get(&server, "/healthz").starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_on_postgresql() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let meshseal_issuer::store::Location::Postgres(url) = &database.location else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "listen: 127.0.0.1:0\ndatabase: {url}\nmasterKey: {{ file: master.key }}\n{}",
        yaml()
    );
    std::fs::write(folder.path().join("issuer.yaml"), config).unwrap();
    std::fs::write(
        folder.path().join("master.key"),
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
    )
    .unwrap();

    // Two replicas: one issues and revokes, and the poll waits at the other.
    let servers = [(); 2].map(|()| Server::start(folder.path(), &["--config", "issuer.yaml"]));
    let token = body(&post(
        &servers[0],
        "checkout",
        "/token",
        "grant_type=client_credentials&resource=orders",
    ));
    let token = token["access_token"].as_str().unwrap().to_owned();
    let mut poll = waiting_poll(&servers[1], version(&servers[1]));
    let begun = SystemClock::new().now_ms();
    post(
        &servers[0],
        "checkout",
        "/revoke",
        &format!("token={token}"),
    );
    assert!(
        first_bytes(&mut poll).starts_with("HTTP/1.1 200"),
        "a poll at the other replica wakes"
    );
    assert!(SystemClock::new().now_ms() < begun + 1_000);
}
