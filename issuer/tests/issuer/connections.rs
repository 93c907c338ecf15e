//! Connections: what for, how long without a word, and how long for a body. On a server in this process.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use meshseal_issuer::http::{Places, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Harness, basic};

/// Serves with so many places until the test ends.
async fn server(router: Router, places: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router, Places::new(places, 0), std::future::pending()));
    address
}

/// Sends something on a connection and reads what comes back at once; empty when it was cut off.
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
async fn a_flood_of_one_sort_leaves_places_for_the_other() {
    for (flood, other) in [("/jwks", "/bundle"), ("/bundle", "/jwks")] {
        let address = server(Harness::new().await.router, 20).await;
        let mut held = Vec::new();
        for _ in 0..18 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(ask(&mut stream, &get(flood)).await.starts_with("HTTP/1.1 200"));
            held.push(stream);
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let refused = ask(&mut stream, &get(flood)).await.to_lowercase();
        assert!(refused.starts_with("http/1.1 503") && refused.contains("\r\nconnection: close"), "{flood}: {refused}");
        assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0, "and the place is free");
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut stream, &get(other)).await.starts_with("HTTP/1.1 200"), "{other}");
    }
}

#[tokio::test]
async fn who_says_nothing_is_cut_off_and_who_asked_once_is_not() {
    let address = server(Harness::new().await.router, 16).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut polite = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut polite, &get("/healthz")).await.starts_with("HTTP/1.1 200"));
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0);
    assert!(ask(&mut polite, &get("/healthz")).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let address = server(Harness::new().await.router, 16).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: 500\r\n\r\ngrant_type=",
        basic("checkout")
    );
    // Timers run ahead as soon as everything waits.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let answer = ask(&mut stream, &head).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("10 seconds"), "{answer}");
    assert_eq!(begun.elapsed().as_secs(), 10);
}
