//! The native ingest route as senders see it: methods, early refusals, bodies in pieces.

mod answers;
mod compat;
mod connectors;
mod drain;
mod refused;

use std::time::Duration;

use protocol_tests::{Floe, WAIT_MAX};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(floe: &Floe) -> TcpStream {
    let address = floe.url("").trim_start_matches("http://").to_owned();
    TcpStream::connect(address).await.unwrap()
}

/// What comes until the peer closes, or says nothing more for two seconds.
async fn answer(stream: &mut TcpStream) -> String {
    let (mut bytes, mut pause) = (Vec::<u8>::new(), WAIT_MAX);
    while let Ok(Ok(1..)) = tokio::time::timeout(pause, stream.read_buf(&mut bytes)).await {
        pause = Duration::from_secs(2);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn head(path: &str, length: usize, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn put_and_patch_are_taken_as_post() {
    let floe = Floe::start(&[]).await;
    let client = Client::new();
    for (at, method) in [Method::POST, Method::PUT, Method::PATCH].into_iter().enumerate() {
        let url = floe.url("/api/v1/topics/methods/events?partition=1");
        let sent = client.request(method, url).json(&json!({"n": at})).send().await.unwrap();
        assert_eq!(sent.status(), 200);
        let stored: Value = sent.json().await.unwrap();
        assert_eq!(stored["partitions"][0]["first_offset"], json!(at));
    }
    let url = floe.url("/api/v1/topics/methods/events");
    let refused = client.delete(url).send().await.unwrap();
    assert_eq!(refused.status(), 405);
    let allowed = refused.headers()["allow"].to_str().unwrap();
    assert!(["POST", "PUT", "PATCH"].iter().all(|method| allowed.contains(method)), "{allowed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_early_reads_its_answer() {
    let floe = Floe::start(&["--auto-create-topics-enable", "false"]).await;
    for (path, status) in
        [("/api/v1/topics/none/events", 404), ("/api/v1/topics/none/events?x=1", 400)]
    {
        // Sent whole before anything is read: a connection that is reset would lose the answer.
        let mut stream = connect(&floe).await;
        let body = vec![b'x'; 8 << 20];
        stream.write_all(head(path, body.len(), "").as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let text = answer(&mut stream).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        // Who asks first is not told to go on.
        let mut stream = connect(&floe).await;
        let asks = head(path, body.len(), "Expect: 100-continue\r\n");
        stream.write_all(asks.as_bytes()).await.unwrap();
        let text = answer(&mut stream).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_pieces_is_stored_as_it_was_sent() {
    let floe = Floe::start(&[]).await;
    let event = format!("{{\"text\":\"{}\"}}\n", "ä".repeat(300));
    let body = event.repeat(3_000);
    let mut stream = connect(&floe).await;
    let path = "/api/v1/topics/pieces/events?partition=0";
    let more = "Content-Type: application/x-ndjson\r\nConnection: close\r\n";
    stream.write_all(head(path, body.len(), more).as_bytes()).await.unwrap();
    for piece in body.as_bytes().chunks(70_001) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let text = answer(&mut stream).await;
    assert!(text.contains("\"accepted\":3000") && text.contains("\"last_offset\":2999"), "{text}");
}
