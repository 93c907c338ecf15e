//! Connections to a server in this process: limits, timeouts, waiting polls and shutdown (I32).

use std::net::SocketAddr;
use std::time::Duration;

use meshseal_issuer::app;
use meshseal_issuer::http::{Places, serve};
use meshseal_issuer::store::Change;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::{Harness, basic};

/// Serves at most `places` connections until the test ends.
async fn server(harness: &Harness, places: usize) -> SocketAddr {
    serve_on(
        harness,
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        places,
    )
}

fn serve_on(harness: &Harness, listener: TcpListener, places: usize) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    let site = app(harness.issuer.clone());
    let ending = harness.issuer.ending.clone();
    tokio::spawn(
        async move { serve(listener, site, Places::new(places, 0), ending.cancelled()).await },
    );
    address
}

/// Sends bytes on a connection and returns the first bytes of the answer; empty if the connection
/// was closed.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = [0; 8192];
    let length = stream.read(&mut buffer).await.unwrap_or(0);
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

#[tokio::test]
async fn flood_leaves_connections_for_other_use() {
    for (flood, other) in [("/jwks", "/bundle"), ("/bundle", "/jwks")] {
        let address = server(&Harness::new().await, 20).await;

        // One use takes all connections that are not reserved for the other.
        let mut held = Vec::new();
        for _ in 0..18 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(
                ask(&mut stream, &get(flood))
                    .await
                    .starts_with("HTTP/1.1 200")
            );
            held.push(stream);
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        // One connection in ten is reserved for the other use.
        let refused = ask(&mut stream, &get(flood)).await.to_lowercase();
        assert!(
            refused.starts_with("http/1.1 503") && refused.contains("\r\nconnection: close"),
            "{flood}: {refused}"
        );
        assert_eq!(
            stream.read(&mut [0; 64]).await.unwrap_or(0),
            0,
            "the refused connection is closed"
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(
            ask(&mut stream, &get(other))
                .await
                .starts_with("HTTP/1.1 200"),
            "{other}"
        );
    }
}

#[tokio::test]
async fn closes_silent_but_not_idle_connections() {
    let address = server(&Harness::new().await, 16).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut polite = TcpStream::connect(address).await.unwrap();
    assert!(
        ask(&mut polite, &get("/healthz"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0);
    assert!(
        ask(&mut polite, &get("/healthz"))
            .await
            .starts_with("HTTP/1.1 200")
    );
}

/// Silent connections give way to requests. The connection that was silent longest goes first.
#[tokio::test]
async fn silent_connections_give_way_to_requests() {
    let address = server(&Harness::new().await, 20).await;
    for first_bytes in ["", "G", "GET /jwks HTTP/1.1\r\nhost: x\r\n"] {
        let mut silent = Vec::new();
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(first_bytes.as_bytes()).await.unwrap();
            silent.push(stream);
        }

        // Requests on new connections take the places of the oldest silent ones.
        let begun = tokio::time::Instant::now();
        let mut served = Vec::new();
        for path in ["/healthz", "/jwks", "/bundle"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(
                ask(&mut stream, &get(path))
                    .await
                    .starts_with("HTTP/1.1 200"),
                "{first_bytes:?} {path}"
            );
            served.push(stream);
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{first_bytes:?}: before the timeout of silent connections"
        );
        for stream in &mut silent[..3] {
            assert_eq!(
                stream.read(&mut [0; 64]).await.unwrap_or(0),
                0,
                "{first_bytes:?}: the oldest is closed"
            );
        }

        // The newest silent connection can still send its request.
        let rest = if first_bytes.is_empty() {
            get("/jwks")
        } else {
            get("/jwks")[first_bytes.len()..].to_owned()
        };
        assert!(
            ask(&mut silent[19], &rest)
                .await
                .starts_with("HTTP/1.1 200"),
            "{first_bytes:?}: the newest stays"
        );
        for stream in &mut served {
            assert!(
                ask(stream, &get("/healthz"))
                    .await
                    .starts_with("HTTP/1.1 200"),
                "{first_bytes:?}: a connection after a request stays"
            );
        }
    }
}

#[tokio::test]
async fn first_bytes_do_not_extend_head_timeout() {
    let address = server(&Harness::new().await, 16).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(ask(&mut slow, "GET /jwks HTTP/1.1\r\n").await, "");
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn slow_body_times_out() {
    let address = server(&Harness::new().await, 16).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\
         content-length: 500\r\n\r\ngrant_type=",
        basic("checkout")
    );
    // With tokio's clock paused, the timeout fires once all tasks wait.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let answer = ask(&mut stream, &head).await;
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("10 seconds"),
        "{answer}"
    );
    assert_eq!(begun.elapsed().as_secs(), 10);
}

/// Reads the next answer on the connection: head and body.
async fn answer(stream: &mut BufReader<impl AsyncRead + Unpin>) -> (String, String) {
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let begun = head.len();
        assert!(
            stream.read_line(&mut head).await.unwrap() > 0,
            "closed after {head:?}"
        );
        if let Some(value) = head[begun..]
            .to_lowercase()
            .strip_prefix("content-length: ")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn poll(have: u64, more: &str) -> String {
    format!(
        "GET /bundle?have={have}&wait=55 HTTP/1.1\r\nhost: x\r\n\
         x-meshseal-worker: 00000000000000aa\r\n{more}\r\n"
    )
}

async fn until_waiting(harness: &Harness, polls: u64) {
    while harness.issuer.proxies.waiting() != polls {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connection_serves_after_waiting_poll() {
    let harness = Harness::new().await;
    let mut stream = BufReader::new(
        TcpStream::connect(server(&harness, 16).await)
            .await
            .unwrap(),
    );
    for _ in 0..3 {
        let have = harness.issuer.publisher.current().version();
        stream.write_all(poll(have, "").as_bytes()).await.unwrap();
        until_waiting(&harness, 1).await;
        harness
            .issuer
            .publisher
            .commit(&Change::default())
            .await
            .unwrap();
        let (head, body) = answer(&mut stream).await;
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("application/jose"),
            "{head}"
        );
        assert_eq!(body.split('.').count(), 3);
        stream.write_all(get("/healthz").as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.0.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn answers_requests_pipelined_behind_poll() {
    let harness = Harness::new().await;
    for at_once in [true, false] {
        let mut stream = BufReader::new(
            TcpStream::connect(server(&harness, 16).await)
                .await
                .unwrap(),
        );
        let have = harness.issuer.publisher.current().version();
        let next = get("/healthz");
        let first = if at_once {
            poll(have, "") + &next
        } else {
            poll(have, "")
        };
        stream.write_all(first.as_bytes()).await.unwrap();
        until_waiting(&harness, 1).await;
        if !at_once {
            stream.write_all(next.as_bytes()).await.unwrap();
        }
        harness
            .issuer
            .publisher
            .commit(&Change::default())
            .await
            .unwrap();
        assert!(answer(&mut stream).await.0.contains("application/jose"));
        assert!(!answer(&mut stream).await.0.contains("application/jose"));
    }
}

/// The server keeps a connection whose next request began before the poll was answered.
#[tokio::test]
async fn keeps_incomplete_request_behind_poll() {
    let harness = Harness::new().await;
    let mut stream = BufReader::new(
        TcpStream::connect(server(&harness, 16).await)
            .await
            .unwrap(),
    );
    let have = harness.issuer.publisher.current().version();
    let form = "content-type: application/x-www-form-urlencoded\r\ncontent-length: 7";
    let begun =
        poll(have, "") + &format!("POST /introspect HTTP/1.1\r\nhost: x\r\n{form}\r\n\r\ntok");
    stream.write_all(begun.as_bytes()).await.unwrap();
    until_waiting(&harness, 1).await;
    harness
        .issuer
        .publisher
        .commit(&Change::default())
        .await
        .unwrap();
    assert!(answer(&mut stream).await.0.contains("application/jose"));
    stream.write_all(b"en=x").await.unwrap();
    assert!(
        answer(&mut stream).await.0.starts_with("HTTP/1.1 401"),
        "introspection without client authentication"
    );
}

/// Returns a socket with small buffers, which fill up soon.
fn small_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(2048).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket
}

/// A poll that arrives while earlier answers are still being written must not discard them.
#[tokio::test]
async fn poll_behind_unread_answers_loses_none() {
    const ANSWERS: usize = 50;
    let harness = Harness::new().await;
    let listening = small_socket();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = serve_on(&harness, listening.listen(1).unwrap(), 16);
    let (read, mut write) = small_socket().connect(address).await.unwrap().into_split();
    let have = harness.issuer.publisher.current().version();
    // After an unread body hyper parses the next head before it has written the answer.
    let metadata =
        "GET /.well-known/openid-configuration HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx";
    let requests = metadata.repeat(ANSWERS) + &poll(have, "");
    let writing = tokio::spawn(async move {
        write.write_all(requests.as_bytes()).await.unwrap();
        write
    });
    let mut stream = BufReader::with_capacity(64, read);
    for _ in 0..ANSWERS {
        let (head, body) = answer(&mut stream).await;
        assert!(
            head.starts_with("HTTP/1.1 200") && body.ends_with('}'),
            "{head}{body}"
        );
    }
    until_waiting(&harness, 1).await;
    harness
        .issuer
        .publisher
        .commit(&Change::default())
        .await
        .unwrap();
    assert!(answer(&mut stream).await.0.contains("application/jose"));
    drop(writing);
}

#[tokio::test]
async fn disconnect_ends_waiting_poll() {
    let harness = Harness::new().await;
    let mut stream = TcpStream::connect(server(&harness, 16).await)
        .await
        .unwrap();
    let have = harness.issuer.publisher.current().version();
    stream.write_all(poll(have, "").as_bytes()).await.unwrap();
    until_waiting(&harness, 1).await;
    drop(stream);
    let soon = Duration::from_secs(10);
    tokio::time::timeout(soon, until_waiting(&harness, 0))
        .await
        .expect("the poll ends long before its wait");
}

#[tokio::test]
async fn honours_connection_close() {
    let harness = Harness::new().await;
    let mut stream = BufReader::new(
        TcpStream::connect(server(&harness, 16).await)
            .await
            .unwrap(),
    );
    let have = harness.issuer.publisher.current().version();
    stream
        .write_all(poll(have, "connection: close\r\n").as_bytes())
        .await
        .unwrap();
    until_waiting(&harness, 1).await;
    harness
        .issuer
        .publisher
        .commit(&Change::default())
        .await
        .unwrap();
    assert!(
        answer(&mut stream)
            .await
            .0
            .to_lowercase()
            .contains("connection: close")
    );
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn shutdown_answers_poll_and_closes_connection() {
    let harness = Harness::new().await;
    let mut stream = BufReader::new(
        TcpStream::connect(server(&harness, 16).await)
            .await
            .unwrap(),
    );
    let have = harness.issuer.publisher.current().version();
    stream.write_all(poll(have, "").as_bytes()).await.unwrap();
    until_waiting(&harness, 1).await;
    harness.issuer.ending.cancel();
    assert!(answer(&mut stream).await.0.contains("application/jose"));
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn shutdown_closes_idle_connections() {
    let harness = Harness::new().await;
    let address = server(&harness, 16).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut polite = TcpStream::connect(address).await.unwrap();
    assert!(
        ask(&mut polite, &get("/healthz"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    let begun = tokio::time::Instant::now();
    harness.issuer.ending.cancel();
    for stream in [&mut silent, &mut polite] {
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "before the shutdown timeout"
    );
}

/// Opens connections whose peers request more than the socket buffers hold, and read nothing.
async fn deaf(address: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let requests = get("/jwks").repeat(20_000);
    let mut held = Vec::new();
    for _ in 0..connections {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let _full = tokio::time::timeout(
            Duration::from_millis(300),
            stream.write_all(requests.as_bytes()),
        )
        .await;
        held.push(stream);
    }
    held
}

#[tokio::test]
async fn closes_peer_that_does_not_read() {
    let address = server(&Harness::new().await, 16).await;
    let held = deaf(address, 15).await;
    let mut other = TcpStream::connect(address).await.unwrap();
    assert!(
        ask(&mut other, &get("/jwks"))
            .await
            .starts_with("HTTP/1.1 503"),
        "all connections are taken"
    );
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(21)).await;
    tokio::time::resume();
    let mut other = TcpStream::connect(address).await.unwrap();
    assert!(
        ask(&mut other, &get("/jwks"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    drop(held);
}
