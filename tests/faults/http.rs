//! The log fails under requests: senders are told so in the form that they read, and a repeat with
//! the same key makes each event be there once, whatever became of the first try.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use floe::broker::Broker;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{components, config, eventually, in_a_life, kill, read_log, start, stop};

const STREAM: &str = "/data-plane/prod/event-stream/shop/ingest";
const NATIVE: &str = "/api/v1/topics/plain/events";
const SOURCES: &str = "/v1/branches/default/sources";
const ONE: &[&str] = &["Table: floe.events.sales", "Idempotency-Key: once"];
const EVENTS: &str = r#"[{"id":2},{"id":3},{"id":4}]"#;

/// An answer.
struct Told {
    status: u16,
    /// In lower case.
    head: String,
    body: Value,
}

impl Told {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

async fn send(broker: &Broker, request: &str, headers: &[&str], body: &str) -> Told {
    let stream = TcpStream::connect(broker.http_address()).await.unwrap();
    exchange(stream, request, headers, body).await
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
    headers: &[&str],
    body: &str,
) -> Told {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let request = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head[9..12].parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
    Told { status, head: head.to_lowercase(), body }
}

/// Makes the table `events.sales`, the stream `shop` and the source `shop`; the path of the last.
async fn prepare(broker: &Broker) -> String {
    let fields = json!([{ "id": 1, "name": "id", "required": true, "type": "long" }]);
    let schema = json!({ "type": "struct", "schema-id": 0, "fields": fields });
    for (request, body, status) in [
        ("POST /iceberg/v1/namespaces", json!({ "namespace": ["events"] }), 200),
        (
            "POST /iceberg/v1/namespaces/events/tables",
            json!({ "name": "sales", "schema": schema }),
            200,
        ),
        ("POST /api/v1/streams", json!({ "name": "shop", "namespace": "prod" }), 201),
        (&format!("POST {SOURCES}"), json!({ "type": "http", "name": "shop" }), 202),
    ] {
        let json = ["Content-Type: application/json"];
        let made = send(broker, request, &json, &body.to_string()).await;
        assert_eq!(made.status, status, "{request}: {}", made.body);
    }
    let shown = send(broker, &format!("GET {SOURCES}/shop"), &[], "").await.body;
    let url = shown["http"]["url"].as_str().unwrap();
    url[url.find("/stream/").unwrap()..].to_owned()
}

/// Stores one event by each route, then lets the log fail at `point` under the next; the answers to
/// those.
async fn fail_at(dir: &Path, point: &'static str) -> [Told; 3] {
    let (components, fatal) = components();
    let fail_points = components.fail_points.clone();
    let broker = Broker::start(&config(dir, &[]), components).await.unwrap();
    let source = prepare(&broker).await;
    let [stream, native, source] = [STREAM, NATIVE, &source].map(|path| format!("POST {path}"));
    for request in [&stream, &native, &source] {
        let stored = send(&broker, request, &ONE[..1], r#"[{"id":1}]"#).await;
        assert_eq!(stored.status, 200, "{request}: {}", stored.body);
    }
    fail_points.set(point, || Err("the disk is gone".to_owned()));
    let told = tokio::join!(
        send(&broker, &stream, ONE, EVENTS),
        send(&broker, &native, ONE, EVENTS),
        send(&broker, &source, ONE, EVENTS),
    );
    // Who waits is told a moment before.
    eventually("the end of the program", async || !fatal.lock().unwrap().is_empty()).await;
    kill(broker, &fail_points).await;
    told.into()
}

fn assert_told([stream, native, source]: [Told; 3]) {
    let body = &stream.body;
    assert_eq!((stream.status, &body["status"]), (500, &json!(500)), "{body}");
    assert_eq!(stream.header("content-type"), Some("application/problem+json"));
    assert_eq!(body["error"], "INTERNAL_SERVER_ERROR");
    assert_eq!((&body["code"], &body["retryable"]), (&json!("outcome_unknown"), &json!(true)));
    assert_eq!(body["type"], "/problems#outcome_unknown");
    assert_eq!((&body["message"], &body["errors"]), (&body["detail"], &json!([])));
    assert_eq!(body["request_id"].as_str(), stream.header("x-request-id"));
    assert_eq!(stream.header("retry-after"), None, "it does not pass by waiting");
    let body = &native.body;
    assert_eq!((native.status, &body["code"]), (500, &json!("outcome_unknown")), "{body}");
    assert_eq!((native.header("retry-after"), &body["retryable"]), (None, &json!(true)));
    let body = &source.body;
    assert_eq!((source.status, &body["error"]), (500, &json!("stream.in.writeFailed")), "{body}");
    assert_eq!(body["statusCode"], 500);
    let id = format!("keboola-stream-{}", source.header("x-request-id").unwrap());
    assert_eq!(body["exceptionId"], id);
}

/// The answer at an address, which none of them is if nobody listens there yet.
async fn ask(address: SocketAddr, request: &str, body: &str) -> Option<Told> {
    let stream = TcpStream::connect(address).await.ok()?;
    Some(exchange(stream, request, &[], body).await)
}

#[test]
fn who_comes_while_the_server_starts_is_told_so_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("definitions.toml");
    std::fs::write(&file, "[topics.made]\npartitions = 1\n").unwrap();
    // Another port may be taken meanwhile; this one is its own again at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let listen = address.to_string();
    let more = [("http.listen", listen.as_str()), ("definitions.file", file.to_str().unwrap())];
    in_a_life(async {
        let (components, _) = components();
        let fail_points = components.fail_points.clone();
        let held = Arc::new(AtomicBool::new(true));
        let hold = Arc::clone(&held);
        // The definitions are written to the log, the last thing before it is ready.
        fail_points.set("wal.before_write", move || {
            while hold.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        let config = config(dir.path(), &more);
        let starting = tokio::spawn(async move { Broker::start(&config, components).await });
        let turns = async || ask(address, "GET /healthz", "").await.filter(|it| it.status == 200);
        eventually("an answer", async || turns().await.is_some()).await;
        for (request, code) in [
            ("GET /readyz", "starting"),
            ("GET /api/v1/status", "starting"),
            (&format!("POST {NATIVE}"), "starting"),
            (&format!("POST {STREAM}"), "starting"),
        ] {
            let told = ask(address, request, EVENTS).await.unwrap();
            assert_eq!((told.status, &told.body["code"]), (503, &json!(code)), "{request}");
            assert!(told.header("retry-after").is_some(), "{request}");
        }
        assert!(!starting.is_finished(), "it is not ready");
        // A connection of that time is good afterwards.
        let mut kept = TcpStream::connect(address).await.unwrap();
        held.store(false, Ordering::Relaxed);
        let broker = starting.await.unwrap().unwrap();
        let told = exchange(&mut kept, "GET /readyz", &[], "").await;
        assert_eq!(told.status, 200, "{}", told.body);
        assert!(broker.topics().get("plain").is_none(), "nothing of it was stored");
        let stored = send(&broker, &format!("POST {NATIVE}"), &[], EVENTS).await;
        assert_eq!(stored.status, 200, "{}", stored.body);
        stop(broker).await;
    });
}

#[test]
fn a_log_that_fails_is_told_as_500_and_a_repeat_counts_once() {
    for point in ["wal.before_write", "wal.before_sync"] {
        let dir = tempfile::tempdir().unwrap();
        in_a_life(async { assert_told(fail_at(dir.path(), point).await) });
        in_a_life(async {
            let broker = start(dir.path(), &[]).await;
            for (path, topic) in [(STREAM, "shop.events.sales"), (NATIVE, "plain")] {
                let count = async || {
                    let topic = broker.topics().get(topic).unwrap();
                    read_log(&broker, &topic).await.0.len()
                };
                let before = count().await;
                assert!([1, 4].contains(&before), "{point}: all or none, not {before}");
                let again = send(&broker, &format!("POST {path}"), ONE, EVENTS).await;
                assert_eq!((again.status, &again.body["accepted"]), (200, &json!(3)), "{point}");
                let is_repeat = again.header("idempotency-replayed") == Some("true");
                assert_eq!(is_repeat, before == 4, "{point} {path}: {}", again.head);
                assert_eq!(count().await, 4, "{point}: each once");
            }
            stop(broker).await;
        });
    }
}

/// Changes an option of the stream `shop` while the log fails from the write `cut` on.
async fn cut_short(dir: &Path, request: &str, cut: usize) {
    let (components, fatal) = components();
    let fail_points = components.fail_points.clone();
    let broker = Broker::start(&config(dir, &[]), components).await.unwrap();
    prepare(&broker).await;
    let stored = send(&broker, &format!("POST {STREAM}"), &ONE[..1], r#"[{"id":1}]"#).await;
    assert_eq!(stored.status, 200, "{}", stored.body);
    let written = AtomicUsize::new(0);
    fail_points.set("wal.before_write", move || {
        match written.fetch_add(1, Ordering::Relaxed) + 1 < cut {
            true => Ok(()),
            false => Err("the disk is gone".to_owned()),
        }
    });
    let wish = json!({ "tags": ["a"], "options": { "retention.ms": 5_000 } }).to_string();
    let json = ["Content-Type: application/json"];
    let told = send(&broker, &format!("{request} /api/v1/streams/shop"), &json, &wish).await;
    assert_eq!((told.status, &told.body["code"]), (500, &json!("internal")), "{request} {cut}");
    eventually("the end of the program", async || !fatal.lock().unwrap().is_empty()).await;
    kill(broker, &fail_points).await;
}

#[test]
fn wherever_a_change_of_a_stream_is_cut_short_its_topics_have_its_options_after_a_start() {
    for (request, cut) in
        ["PUT", "PATCH"].into_iter().flat_map(|request| (1..=3).map(move |cut| (request, cut)))
    {
        let dir = tempfile::tempdir().unwrap();
        in_a_life(cut_short(dir.path(), request, cut));
        in_a_life(async {
            let broker = start(dir.path(), &[]).await;
            let stream = send(&broker, "GET /api/v1/streams/shop", &[], "").await.body;
            let topic = broker.topics().get("shop.events.sales").unwrap();
            let of_topic = topic.overrides.get("retention.ms").map(String::as_str);
            let of_stream = stream["options"]["retention.ms"].as_str();
            assert_eq!(of_topic, of_stream, "{request} {cut}: {stream}");
            stop(broker).await;
        });
    }
}
