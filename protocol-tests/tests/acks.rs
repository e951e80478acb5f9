//! What an answer of the native ingest route may mean, and how senders are kept apart: levels of
//! acknowledgement, refused events that are kept, ids of events, overload, foreign pages.

use std::time::{Duration, Instant};

use protocol_tests::{Floe, eventually};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn post(floe: &Floe, topic: &str, query: &str) -> RequestBuilder {
    Client::new().post(floe.url(&format!("/api/v1/topics/{topic}/events{query}")))
}

async fn parts(request: RequestBuilder) -> (StatusCode, HeaderMap, Value) {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    (status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn make(floe: &Floe, topic: &str, options: Value) {
    let wish = json!({"name": topic, "partitions": 2, "options": options});
    let made = Client::new().post(floe.url("/api/v1/topics")).json(&wish).send().await.unwrap();
    assert_eq!(made.status(), 201, "{}", made.text().await.unwrap());
}

async fn records(floe: &Floe, topic: &str) -> i64 {
    let all = floe.get("/api/v1/topics").await;
    let topics = all["topics"].as_array().unwrap();
    let found = topics.iter().find(|it| it["name"] == json!(topic));
    found.map_or(0, |topic| topic["records"].as_i64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_is_answered_before_the_events_are_stored() {
    let floe = Floe::start(&[]).await;
    for (query, prefer) in [("?ack=accepted", "x"), ("", "respond-async")] {
        let request = post(&floe, "t", query).header("Prefer", prefer).json(&json!([1, 2]));
        let (status, _, answer) = parts(request).await;
        assert_eq!((status.as_u16(), &answer["ack"]), (202, &json!("accepted")));
        assert_eq!((&answer["accepted"], &answer["partitions"]), (&json!(2), &json!([])));
    }
    // What is wrong with them is told all the same.
    let (status, _, _) = parts(post(&floe, "t", "?ack=accepted").body("[1,")).await;
    assert_eq!(status, 400);
    eventually("the events", async || (records(&floe, "t").await == 4).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_waits_for_the_table_or_says_where_to_look() {
    let floe = Floe::start(&[]).await;
    make(&floe, "t", json!({"table.target.lag.ms": 3_600_000})).await;
    // Who waits is not told to come back in an hour.
    let (status, headers, answer) =
        parts(post(&floe, "t", "?ack=committed").json(&json!([{"a": 1}, {"a": 2}]))).await;
    assert_eq!((status.as_u16(), &answer["ack"]), (200, &json!("committed")), "{answer}");
    assert!(!headers.contains_key("location"));
    let ack = floe.get(answer["ack_url"].as_str().unwrap()).await;
    assert_eq!((&ack["committed"], &ack["durable"]), (&json!(true), &json!(true)), "{ack}");
    // Nobody waits: the commit comes by the lag that the topic has.
    make(&floe, "u", json!({"table.target.lag.ms": 2_000})).await;
    let request = post(&floe, "u", "?ack=committed&wait=0").json(&json!({"a": 3}));
    let (status, headers, answer) = parts(request).await;
    assert_eq!((status.as_u16(), &answer["ack"]), (202, &json!("durable")));
    let location = headers["location"].to_str().unwrap().to_owned();
    assert_eq!(answer["ack_url"], json!(location));
    let committed = async || (floe.get(&location).await["committed"] == json!(true)).then_some(());
    eventually("the commit", committed).await;
    make(&floe, "plain", json!({"table.mode": "off"})).await;
    let (status, _, _) = parts(post(&floe, "plain", "?ack=committed").json(&json!(1))).await;
    assert_eq!((status.as_u16(), records(&floe, "plain").await), (400, 0));
    for token in ["x", "AQ"] {
        let url = floe.url(&format!("/api/v1/acks/{token}"));
        let (status, _, problem) = parts(Client::new().get(url)).await;
        assert_eq!((status.as_u16(), &problem["code"]), (404, &json!("unknown_ack")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_events_are_kept_with_the_reason_and_once() {
    let mut floe = Floe::start(&[]).await;
    let body = "{\"k\":1}\n{\"no\":2}\n{broken\n{\"k\":4}\n";
    let send = |floe: &Floe| {
        post(floe, "t", "?on_error=quarantine&key=$.k")
            .header("Content-Type", "application/x-ndjson")
            .header("Idempotency-Key", "q1")
            .body(body)
    };
    let (status, _, answer) = parts(send(&floe)).await;
    assert_eq!((status.as_u16(), &answer["accepted"]), (200, &json!(2)), "{answer}");
    assert_eq!(answer["rejected"], json!(2));
    assert_eq!((records(&floe, "t").await, records(&floe, "t.quarantine").await), (2, 2));
    floe.kill();
    std::fs::remove_dir_all(floe.dir().join("data/state")).unwrap();
    floe.restart().await;
    let (_, _, again) = parts(send(&floe)).await;
    assert_eq!((&again["duplicate"], &again["rejected"]), (&json!(true), &json!(2)));
    assert_eq!(again["partitions"], answer["partitions"]);
    assert_eq!((records(&floe, "t").await, records(&floe, "t.quarantine").await), (2, 2));
    // All of them refused: kept all the same, and the key is known.
    let all = post(&floe, "t", "?on_error=quarantine").header("Idempotency-Key", "q2").body("[bad");
    let all = || all.try_clone().unwrap();
    let (status, _, answer) = parts(all()).await;
    assert_eq!((status.as_u16(), &answer["accepted"]), (200, &json!(0)), "{answer}");
    assert_eq!(parts(all()).await.2["duplicate"], json!(true));
    assert_eq!((records(&floe, "t").await, records(&floe, "t.quarantine").await), (2, 3));
    let (status, _, _) =
        parts(post(&floe, "t.quarantine", "?on_error=quarantine").body("[1]")).await;
    assert_eq!(status, 400);
    floe.flush("t_quarantine").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preferences_change_how_a_request_is_handled_and_answered() {
    let floe = Floe::start(&[]).await;
    let prefer = "handling=lenient, return=minimal";
    let request = post(&floe, "t", "").header("Prefer", prefer).body("{\"a\":1} 2 {bad");
    let (status, _, answer) = parts(request).await;
    assert_eq!((status.as_u16(), answer), (200, json!("")));
    assert_eq!(records(&floe, "t").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_with_a_known_id_is_stored_once() {
    let mut floe = Floe::start(&[]).await;
    make(&floe, "t", json!({"topic.dedup.field": "$.id"})).await;
    let send = async |floe: &Floe, ids: &[i64]| {
        let events: Vec<Value> = ids.iter().map(|id| json!({"id": id, "n": 1})).collect();
        let (status, _, answer) = parts(post(floe, "t", "").json(&events)).await;
        assert_eq!(status, 200, "{answer}");
        (answer["accepted"].as_i64().unwrap(), answer["duplicates"].as_i64().unwrap())
    };
    assert_eq!(send(&floe, &[1, 2, 2]).await, (2, 1));
    assert_eq!(send(&floe, &[2, 3]).await, (1, 1));
    assert_eq!(send(&floe, &[1, 2, 3]).await, (0, 3));
    for lose in [false, true] {
        floe.kill();
        if lose {
            std::fs::remove_dir_all(floe.dir().join("data/state")).unwrap();
        }
        floe.restart().await;
        assert_eq!(send(&floe, &[1, 2, 3]).await, (0, 3));
    }
    assert_eq!(records(&floe, "t").await, 3);
    // The same event from many senders at once.
    let all = futures::future::join_all((0..16).map(|_| send(&floe, &[100, 101]))).await;
    assert_eq!(all.iter().map(|(accepted, _)| accepted).sum::<i64>(), 2);
    let (status, _, problem) = parts(post(&floe, "t", "").json(&json!({"n": 1}))).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["code"]), (422, &json!("bad_id")));
    // Named by the request, on a topic that has no option; a number is no string.
    let named =
        async |body: Value| parts(post(&floe, "u", "?dedup_field=$.m.id").json(&body)).await.2;
    assert_eq!(named(json!([{"m": {"id": 7}}, {"m": {"id": "7"}}])).await["accepted"], json!(2));
    assert_eq!(named(json!({"m": {"id": "7"}})).await["duplicates"], json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_route_an_event_comes_by_its_id_counts() {
    let floe = Floe::start(&[]).await;
    make(&floe, "t", json!({"topic.dedup.field": "$.id"})).await;
    make(&floe, "hec", json!({"topic.dedup.field": "$.event.id"})).await;
    let client = Client::new();
    let source = client.put(floe.url("/api/v1/sources/s")).json(&json!({"topic": "t"}));
    let (status, _, source) = parts(source).await;
    assert_eq!(status, 201, "{source}");
    let (source, json) = (source["path"].as_str().unwrap(), "application/json");
    let twice = r#"{"records": [{"value": {"id": 1}}, {"value": {"id": 1}}]}"#;
    for (topic, path, kind, body) in [
        ("t", source, "text/plain", r#"{"id":1}"#),
        ("t", "/topics/t", "application/vnd.kafka.json.v2+json", twice),
        ("t", "/v0/events?name=t", json, r#"{"id":1}"#),
        ("t", "/api/v1/topics/t/events", json, r#"{"id":1}"#),
        ("hec", "/services/collector?index=hec", json, r#"{"event":{"id":1}}{"event":{"id":1}}"#),
    ] {
        for _ in 0..2 {
            let request = client.post(floe.url(path)).header("content-type", kind);
            let (status, _, answer) = parts(request.body(body)).await;
            assert!(status.is_success(), "{path}: {status} {answer}");
        }
        assert_eq!(records(&floe, topic).await, 1, "{path}");
    }
    let (status, _, problem) = parts(client.post(floe.url(source)).body("no JSON")).await;
    assert_eq!((status.as_u16(), &problem["errors"][0]["code"]), (422, &json!("bad_id")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_counts_by_body_does_so_on_every_route() {
    let floe = Floe::start(&[]).await;
    make(&floe, "t", json!({"topic.idempotency": "body"})).await;
    let client = Client::new();
    let log = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "a"}}]}]}]});
    let routes = [
        ("/topics/t", "application/vnd.kafka.json.v2+json", json!({"records": [{"value": 1}]})),
        ("/services/collector/event?index=t", "application/json", json!({"event": 1})),
        ("/otlp/t/v1/logs", "application/json", log),
        ("/api/v1/topics/t/events", "application/json", json!({"i": 1})),
    ];
    for (at, (path, kind, body)) in (1..).zip(routes) {
        for _ in 0..3 {
            let request = client.post(floe.url(path)).header("content-type", kind);
            let (status, _, answer) = parts(request.body(body.to_string())).await;
            assert!(status.is_success(), "{path}: {status} {answer}");
        }
        assert_eq!(records(&floe, "t").await, at, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_has_the_status_that_the_topic_asks_for() {
    let floe = Floe::start(&["--http-in-bytes", "1MiB"]).await;
    make(&floe, "flink", json!({"topic.overload.status": "503"})).await;
    make(&floe, "other", json!({})).await;
    for (topic, wanted) in [("flink", 503), ("other", 429)] {
        let head = format!(
            "POST /api/v1/topics/{topic}/events HTTP/1.1\r\nHost: localhost\r\n\
             Content-Length: 950000\r\n\r\n"
        );
        let refused = async || {
            // Half a body holds the memory for a moment; where that is over, another one does.
            let mut half = TcpStream::connect(floe.http_address()).await.unwrap();
            half.write_all(head.as_bytes()).await.unwrap();
            let _ = half.write_all(&vec![b' '; 900_000]).await;
            let body = format!("\"{}\"", "x".repeat(600_000));
            let (status, headers, problem) = parts(post(&floe, topic, "").body(body)).await;
            (problem["code"] == "overloaded").then_some((status, headers, problem))
        };
        let (status, headers, problem) = eventually("overload", refused).await;
        assert_eq!(status.as_u16(), wanted);
        assert_eq!((&problem["status"], &problem["retryable"]), (&json!(wanted), &json!(true)));
        assert_eq!(headers["retry-after"], "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_may_send_events() {
    let floe = Floe::start(&["--auth-anonymous", "allow"]).await;
    make(&floe, "t", json!({"topic.cors.origins": "https://a.example"})).await;
    let url = floe.url("/api/v1/topics/t/events");
    let ask = |origin: &str| {
        let request = Client::new().request(Method::OPTIONS, &url).header("Origin", origin);
        request.header("Access-Control-Request-Method", "POST")
    };
    let (status, headers, _) = parts(ask("https://a.example")).await;
    assert_eq!(
        (status.as_u16(), &headers["access-control-max-age"]),
        (204, &"600".parse().unwrap())
    );
    assert_eq!(headers["access-control-allow-origin"], "https://a.example");
    assert!(headers["access-control-allow-headers"].to_str().unwrap().contains("idempotency-key"));
    assert_eq!(parts(ask("https://b.example")).await.0, 403);
    // On every answer, refusals too.
    for (body, wanted) in [("{\"a\":1}", 200), ("[1,", 400), ("", 400)] {
        let request = post(&floe, "t", "").header("Origin", "https://a.example").body(body);
        let (status, headers, _) = parts(request).await;
        assert_eq!(status, wanted);
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("retry-after"));
        assert!(headers["vary"].to_str().unwrap().contains("origin"));
    }
    let request = post(&floe, "t", "").header("Origin", "https://b.example").body("1");
    assert!(!parts(request).await.1.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_repeats_what_cannot_succeed_waits() {
    let floe = Floe::start(&[]).await;
    let client = Client::new();
    let send = async |topic: &str, body: &'static str| {
        let url = floe.url(&format!("/api/v1/topics/{topic}/events"));
        let began = Instant::now();
        let status = client.post(url).body(body).send().await.unwrap().status().as_u16();
        (status, began.elapsed())
    };
    for _ in 0..30 {
        assert_eq!(send("t", "[1,").await.0, 400);
    }
    // On a slow machine the count begins anew meanwhile.
    let late = Duration::from_millis(400);
    let waits = async || (send("t", "[1,").await.1 > late).then_some(());
    eventually("a refusal that waits", waits).await;
    // It is not the others' fault, nor that of what succeeds: of as many as are free, one is soon
    // answered on any machine.
    for (topic, body, wanted) in [("u", "[1,", 400), ("t", "[1]", 200)] {
        let mut soonest = Duration::MAX;
        for _ in 0..20 {
            let (status, took) = send(topic, body).await;
            assert_eq!(status, wanted);
            soonest = soonest.min(took);
        }
        assert!(soonest < late, "{topic} {body}: {soonest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_may_make_a_record_of_each_event_of_a_request() {
    let floe = Floe::start(&[]).await;
    let client = Client::new();
    make(&floe, "s", json!({"table.mode": "off"})).await;
    let source = client.put(floe.url("/api/v1/sources/s")).json(&json!({"split": "auto"}));
    let (status, _, source) = parts(source).await;
    assert_eq!((status.as_u16(), &source["split"]), (201, &json!("auto")), "{source}");
    let columns =
        json!([{"type": "path", "name": "a", "path": "a"}, {"type": "uuid", "name": "id"}]);
    let sink = json!({"table": {"name": "rows"}, "mapping": {"columns": columns}});
    let made = client.put(floe.url("/api/v1/topics/s/sinks/rows")).json(&sink);
    let (status, _, made) = parts(made).await;
    assert!(status.is_success(), "{made}");
    let path = source["path"].as_str().unwrap();
    let keboola = path.replace("/sources/", "/stream/1/");
    let (json, lines) = ("application/json", "application/x-ndjson");
    for (path, kind, body, wanted) in [
        (path, json, r#"[{"a": 1}, {"a": 2}]"#, 200),
        (path, lines, "{\"a\": 3}\n{\"a\": 4}\n", 200),
        (&*keboola, json, r#"[{"a": 5}, {"a": 6}]"#, 200),
        (path, json, "[]", 200),
        (path, json, r#"[{"a": 7}, {"#, 400),
        // One event that a sink has no row of refuses all.
        (&*keboola, json, r#"[{"a": 8}, {"b": 9}]"#, 422),
    ] {
        let request = client.post(floe.url(path)).header("content-type", kind);
        let (status, _, answer) = parts(request.body(body)).await;
        assert_eq!(status.as_u16(), wanted, "{path} {body}: {answer}");
    }
    assert_eq!(records(&floe, "s").await, 6);
    let (_, _, flushed) = parts(client.post(floe.url("/api/v1/tables/streams.rows/flush"))).await;
    assert_eq!((&flushed["rows"], &flushed["dlq_rows"]), (&json!(6), &json!(0)), "{flushed}");
}
