//! What a person who is called at night has: the status, the log, metrics; and what keeps one sender
//! from being everybody's trouble.

use std::path::Path;

use protocol_tests::clients::read_all;
use protocol_tests::http1::{Http1, request};
use protocol_tests::{Floe, eventually, first_token};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const EVENTS: &str = "/api/v1/topics/t/events";

async fn post(floe: &Floe, path: &str, headers: &[(&str, &str)], body: String) -> Response {
    let mut request = Client::new().post(floe.url(path)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_there_is_and_that_there_is_no_volume() {
    let memory = Path::new("/dev/shm");
    let is_memory = memory.is_dir();
    let dir = match is_memory {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let data = dir.path().join("data");
    let token = first_token(&data);
    let floe = Floe::start_in(&data, &["--wal-file-bytes", "1MiB"]).await;
    let url = floe.url("/api/v1/status");
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 401);
    let ask = || Client::new().get(&url).header("token", &token).send();
    let sent = post(&floe, EVENTS, &[("token", &token)], "{\"n\":1}".to_owned()).await;
    assert_eq!(sent.status(), 200);
    let status: Value = ask().await.unwrap().json().await.unwrap();
    assert_eq!((&status["status"], &status["reasons"]), (&json!("active"), &json!([])), "{status}");
    assert_eq!((&status["topics"], &status["tables"]["all"]), (&json!(1), &json!(1)), "{status}");
    assert!(status["disk"]["free_bytes"].as_u64() > Some(0) && status["version"].is_string());
    if is_memory {
        let warning = status["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("no volume: ") && warning.contains("tmpfs"), "{status}");
        assert!(floe.log().contains("no volume: "), "{}", floe.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_away_degrades_the_status_and_nothing_else() {
    // Nobody listens at port 1.
    let flags = ["--catalog-uri", "http://127.0.0.1:1", "--table-target-lag", "1s"];
    let floe = Floe::start(&flags).await;
    assert_eq!(floe.get("/api/v1/status").await["catalog"]["reachable"], Value::Null);
    assert_eq!(post(&floe, EVENTS, &[], "{\"n\":1}".to_owned()).await.status(), 200);
    let status = eventually("the catalog's absence", async || {
        let status = floe.get("/api/v1/status").await;
        (status["catalog"]["reachable"] == false).then_some(status)
    });
    let status = status.await;
    assert_eq!(status["status"], "degraded", "{status}");
    assert!(status["reasons"][0].as_str().unwrap().contains("catalog"), "{status}");
    assert_eq!(reqwest::get(floe.url("/readyz")).await.unwrap().status(), 200);
    let late = async || (floe.get("/api/v1/status").await["tables"]["late"] == 1).then_some(());
    eventually("a late table", late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_counted_and_logged_without_what_was_sent() {
    let floe = Floe::start(&["--log", "info,floe::http=debug"]).await;
    let id = ("x-request-id", "find-me");
    let path = format!("{EVENTS}?key=secret-in-the-query");
    let refused = post(&floe, &path, &[id], "{\"password\":\"hunter2\"".to_owned()).await;
    assert_eq!(refused.status(), 400);
    let stored = post(&floe, EVENTS, &[], "{\"n\":1}".to_owned()).await;
    assert_eq!(stored.status(), StatusCode::OK);
    let accepted = post(&floe, &format!("{EVENTS}?ack=accepted"), &[], "{}".to_owned()).await;
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    assert!(floe.metric("floe_http_refusals_total", "code=\"invalid_json\"").await >= 1.0);
    for ack in ["accepted", "durable"] {
        let label = format!("ack=\"{ack}\"");
        assert_eq!(floe.metric("floe_http_ack_seconds_count", &label).await, 1.0, "{ack}");
    }
    for form in ["sent", "decoded"] {
        assert!(floe.metric("floe_http_body_bytes_total", form).await >= 9.0, "{form}");
    }
    assert!(floe.metrics().await.contains("\nfloe_http_in_flight_bytes 0\n"));
    let log = floe.printed("find-me").await;
    let line = log.lines().find(|line| line.contains("find-me")).unwrap();
    for part in ["/api/v1/topics/{topic}/events", "400", "invalid_json", "anonymous"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!log.contains("secret-in-the-query") && !log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_say_which_request_they_came_by_where_their_topic_wants_it() {
    let floe = Floe::start(&["--num-partitions", "1", "--topic-trace-headers", "true"]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("x-request-id", "r1"), ("traceparent", trace)];
    assert_eq!(post(&floe, EVENTS, &headers, "{\"n\":1}".to_owned()).await.status(), 200);
    let malformed = [("x-request-id", "r2"), ("traceparent", "00-1-2-3")];
    let own = [malformed[0], malformed[1], ("x-kafka-header-own", "mine")];
    assert_eq!(post(&floe, EVENTS, &own, "{\"n\":2}".to_owned()).await.status(), 200);
    assert_eq!(post(&floe, "/v0/events?name=t", &headers, "{}".to_owned()).await.status(), 202);
    let stored = tokio::task::block_in_place(|| read_all(&floe, "t", 1));
    let told: Vec<Vec<(String, String)>> = stored
        .into_iter()
        .map(|record| {
            let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
            let pairs = record.headers.into_iter();
            let pairs = pairs.map(|(name, value)| (name, text(value.unwrap())));
            pairs.filter(|(name, _)| !name.starts_with("floe.")).collect()
        })
        .collect();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let both = vec![pair("x-request-id", "r1"), pair("traceparent", trace)];
    let second = vec![pair("own", "mine"), pair("x-request-id", "r2")];
    assert_eq!(told, [both.clone(), second, both]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sender_does_not_hold_the_memory_that_others_need() {
    let share = ["--http-in-bytes", "1MiB", "--http-in-sender-bytes", "512KiB"];
    let floe = Floe::start(&[&share[..], &["--http-trusted-proxies", "127.0.0.1"]].concat()).await;
    assert_eq!(post(&floe, EVENTS, &[], "{}".to_owned()).await.status(), 200);
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.1\r\n\
         Content-Length: 500000\r\n\r\n"
    );
    let mut halves = Vec::new();
    for _ in 0..3 {
        let mut half = TcpStream::connect(floe.http_address()).await.unwrap();
        half.write_all(head.as_bytes()).await.unwrap();
        // Those that get no memory may be told so, and cut, before all of it is sent.
        let _ = half.write_all(&vec![b' '; 400_000]).await;
        halves.push(half);
    }
    let body = format!("{{\"p\":\"{}\"}}", "x".repeat(400_000));
    let of = |sender| [("x-forwarded-for", sender)];
    let own = post(&floe, EVENTS, &of("203.0.113.1"), body.clone()).await;
    assert_eq!(own.status(), 429);
    let why = own.json::<Value>().await.unwrap();
    assert!(why["detail"].as_str().unwrap().contains("http.in.sender.bytes"), "{why}");
    let other = post(&floe, EVENTS, &of("203.0.113.2"), body).await;
    assert_eq!(other.status(), 200, "{}", other.text().await.unwrap());
    drop(halves);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_tells_who_sent_and_how() {
    for (flags, is_trusted) in [
        (&["--http-rate-requests", "1", "--http-trusted-proxies", "127.0.0.0/8"][..], true),
        (&["--http-rate-requests", "1"], false),
    ] {
        let floe = Floe::start(flags).await;
        let of = |sender| [("x-forwarded-for", sender)];
        let mut told = Vec::new();
        for sender in ["203.0.113.1", "203.0.113.2", "198.51.100.9, 203.0.113.1"] {
            told.push(post(&floe, EVENTS, &of(sender), "{}".to_owned()).await.status().as_u16());
        }
        assert_eq!(told, if is_trusted { [200, 200, 429] } else { [200, 429, 429] });
        let mut connection = Http1::new(&floe.http_address());
        let headers = [("Host", "localhost"), ("X-Forwarded-Proto", "https")];
        let about = connection.exchange(&request("GET", "/v1", &headers, "")).await.unwrap();
        let document = about.json()["documentation"].as_str().unwrap().to_owned();
        assert_eq!(document.starts_with("https://"), is_trusted, "{document}");
    }
}
