//! Event streams as their senders know them, and what a crash leaves of them.

use std::time::Duration;

use protocol_tests::proxy::{Fault, Proxy, always};
use protocol_tests::{Floe, WAIT_MAX, eventually, table};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{post, told};

const SHOP: &str = "/data-plane/prod/event-stream/shop/ingest";
const TABLE: (&str, &str) = ("table", "floe.events.sales");

async fn make_stream(floe: &Floe, options: Value) {
    let body = json!({ "name": "shop", "namespace": "prod", "options": options });
    let made = Client::new().post(floe.url("/api/v1/streams")).json(&body).send().await.unwrap();
    assert_eq!(made.status(), 201);
}

async fn make_table(floe: &Floe) {
    let fields = json!([
        { "id": 1, "name": "id", "required": true, "type": "long" },
        { "id": 2, "name": "n", "required": false, "type": "int" },
        { "id": 3, "name": "at", "required": false, "type": "timestamptz" },
    ]);
    table::create(&floe.url("/iceberg"), "events", "sales", fields).await;
}

async fn flush(floe: &Floe) -> Value {
    let url = floe.url("/api/v1/tables/events.sales/flush");
    told(Client::new().post(url).send().await.unwrap()).await.1
}

/// Sends as the client of the route's documentation does: again on anything but 200.
async fn insist(floe_url: &str, id: i64) {
    let body = format!("[{{\"id\":{id},\"n\":1}}]");
    let client = Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let mut pause = Duration::from_millis(20);
    loop {
        let request = client.post(format!("{floe_url}{SHOP}")).header(TABLE.0, TABLE.1);
        let request = request.header("idempotency-key", format!("event-{id}"));
        if let Ok(answer) = request.body(body.clone()).send().await
            && answer.status() == 200
        {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_every_event_is_in_the_table_once() {
    let mut floe = Floe::start(&["--table-target-lag=1s"]).await;
    make_stream(&floe, json!({ "table.commit.min.interval.ms": 0 })).await;
    make_table(&floe).await;
    let url = floe.url("");
    let sending = async {
        for id in 0..150 {
            insist(&url, id).await;
        }
    };
    let killing = async {
        for turn in 0..4 {
            tokio::time::sleep(Duration::from_millis(700 + 150 * turn)).await;
            floe.kill();
            floe.restart().await;
        }
    };
    tokio::join!(sending, killing);
    let status = flush(&floe).await;
    assert_eq!(status["dlq_rows"], 0, "{status}");
    let found = table::longs(&floe.url("/iceberg"), "events", "sales", "id").await;
    assert_eq!(found, (0..150).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_is_away_is_told_as_such() {
    // Nobody is given this port by chance.
    let floe = Floe::start(&["--catalog-uri=http://127.0.0.1:1"]).await;
    make_stream(&floe, json!({})).await;
    let response = post(&floe, SHOP, &[TABLE], "[]").await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, answer) = told(response).await;
    assert_eq!((status, &answer["code"]), (503, &json!("catalog_unavailable")), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_goes_away_stops_no_sender_to_a_table_that_is_known() {
    let keeper = Floe::start(&["--table-mode=off"]).await;
    let proxy = Proxy::start(&keeper.url(""), always(Fault::None)).await;
    let uri = format!("--catalog-uri={}/iceberg", proxy.url());
    let flags = [&uri, "--table-target-lag=1s", "--table-commit-min-interval=0s"];
    let floe = Floe::start(&flags).await;
    make_stream(&floe, json!({})).await;
    make_table(&keeper).await;
    let send = async |table: &str, id: i64| {
        let body = format!("[{{\"id\":{id},\"n\":1}}]");
        told(post(&floe, SHOP, &[("table", table)], body).await).await
    };
    assert_eq!(send(TABLE.1, 0).await.0, 200);
    let catalog = keeper.url("/iceberg");
    assert_eq!(flush(&floe).await["rows"], 1);
    proxy.set(always(Fault::Reset));
    // Longer than a schema counts, and than the catalog is left alone after it did not answer.
    let (begun, mut sent) = (std::time::Instant::now(), 1);
    while begun.elapsed() < Duration::from_secs(5) {
        let (status, answer) = send(TABLE.1, sent).await;
        assert_eq!((status, &answer["accepted"]), (200, &json!(1)), "{answer}");
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The schema that was known is what they are checked by.
    let wrong = post(&floe, SHOP, &[TABLE], r#"[{"id":"one"}]"#).await;
    let (status, answer) = told(wrong).await;
    assert_eq!((status, &answer["code"]), (400, &json!("schema_mismatch")), "{answer}");
    let (status, answer) = send("floe.events.other", 0).await;
    assert_eq!((status, &answer["code"]), (503, &json!("catalog_unavailable")), "{answer}");
    assert_eq!(table::longs(&catalog, "events", "sales", "id").await, [0]);
    proxy.calm();
    let wanted: Vec<i64> = (0..sent).collect();
    eventually("all rows are in the table", async || {
        (table::longs(&catalog, "events", "sales", "id").await == wanted).then_some(())
    })
    .await;
    assert_eq!(flush(&floe).await["dlq_rows"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_nobody_is_asked_anything() {
    let floe = Floe::start_unready(&["--disk-free-min-bytes", "1000TiB"]).await;
    let response = post(&floe, SHOP, &[], "{bad").await;
    assert_eq!(response.headers()["retry-after"], "30");
    let (status, answer) = told(response).await;
    assert_eq!((status, &answer["code"]), (503, &json!("storage_unavailable")), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_at_once_is_told_to_come_again() {
    let body = format!("[{}{{\"id\":1}}]", "{\"id\":1},".repeat(300_000));
    assert!(body.len() < 5 << 20);
    for (options, wanted, error) in [
        (json!({}), 429, "TOO_MANY_REQUESTS"),
        (json!({"topic.overload.status": 503}), 503, "SERVICE_UNAVAILABLE"),
    ] {
        let floe = Floe::start(&["--http-in-bytes=1MiB"]).await;
        make_stream(&floe, options).await;
        make_table(&floe).await;
        let response = post(&floe, SHOP, &[TABLE], body.clone()).await;
        assert!(response.headers().contains_key("retry-after"));
        let (status, answer) = told(response).await;
        assert_eq!((status, &answer["error"]), (wanted, &json!(error)), "{answer}");
        assert_eq!(answer["code"], "overloaded");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_not_count_is_refused_and_pages_may_send_where_the_stream_lists_them() {
    // Otherwise no page of another site may send anything.
    let floe = Floe::start(&["--auth-anonymous=allow"]).await;
    make_stream(&floe, json!({"topic.cors.origins": "https://a.example"})).await;
    make_table(&floe).await;
    let ours = "/api/v1/streams/shop/events?table=floe.events.sales";
    let send = async |path: &str| told(post(&floe, path, &[], "[{\"id\": 1}]").await).await;
    assert_eq!(send(ours).await.0, 200);
    for path in [
        format!("{ours}&key=a"),
        format!("{ours}&table=floe.events.other"),
        format!("{SHOP}?table=floe.events.sales&source=a"),
        format!("{SHOP}?table=floe.events.sales&on_error=skip"),
    ] {
        let (status, answer) = send(&path).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_request")), "{path}: {answer}");
    }
    assert_eq!(send(&format!("{SHOP}?table=floe.events.sales")).await.0, 200);
    for path in [ours, SHOP] {
        for (origin, wanted) in [("https://a.example", true), ("https://b.example", false)] {
            let asked = Client::new().request(reqwest::Method::OPTIONS, floe.url(path));
            let asked = asked.header("origin", origin).send().await.unwrap();
            let allowed = asked.headers().get("access-control-allow-origin");
            assert_eq!(allowed.is_some(), wanted, "{path} {origin}: {}", asked.status());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_of_a_stream_are_how_its_events_are_cast() {
    let floe = Floe::start(&["--table-target-lag=1h"]).await;
    let options = json!({
        "table.contract.coerce": "lenient", "table.contract.match": "case_insensitive",
        "table.contract.timestamp.unit": "s",
    });
    make_stream(&floe, options).await;
    make_table(&floe).await;
    let body = r#"[{"ID":"1","n":"none","at":"2"},{"Id":2.0,"N":"7","at":3}]"#;
    let (status, answer) = told(post(&floe, SHOP, &[TABLE], body).await).await;
    assert_eq!((status, &answer["accepted"], &answer["nulled"]), (200, &json!(2), &json!(1)));
    let (status, answer) = told(post(&floe, SHOP, &[TABLE], r#"[{"id":1,"ID":2}]"#).await).await;
    assert_eq!((status, &answer["code"]), (400, &json!("schema_mismatch")), "{answer}");
    let status = flush(&floe).await;
    assert_eq!((&status["rows"], &status["dlq_rows"]), (&json!(2), &json!(0)), "{status}");
    let ids = table::longs(&floe.url("/iceberg"), "events", "sales", "id").await;
    assert_eq!(ids, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_altered_with_the_topics_behind_it() {
    let floe = Floe::start(&["--table-target-lag=1h"]).await;
    let options = json!({ "table.contract.coerce": "lenient", "retention.ms": "-1" });
    make_stream(&floe, options).await;
    make_table(&floe).await;
    let lenient = r#"[{"id":"1"}]"#;
    assert_eq!(told(post(&floe, SHOP, &[TABLE], lenient).await).await.0, 200);
    let url = floe.url("/api/v1/streams/shop");
    let alter = async |edit: Value| {
        told(Client::new().patch(&url).body(edit.to_string()).send().await.unwrap()).await
    };
    let edit = json!({ "tags": ["team=shop"], "options": {
        "table.contract.coerce": null, "floe.table.commit.min.interval.ms": 7 } });
    let (status, stream) = alter(edit).await;
    assert_eq!((status, &stream["tags"]), (200, &json!(["team=shop"])), "{stream}");
    let options = json!({ "retention.ms": "-1", "table.commit.min.interval.ms": "7" });
    assert_eq!(stream["options"], options);
    // What is not named stays, and what is refused changes nothing.
    let (status, stream) = alter(json!({})).await;
    assert_eq!((status, &stream["tags"][0]), (200, &json!("team=shop")));
    for refused in [
        json!({ "options": { "table.name": "t" } }),
        json!({ "options": { "retention.ms": "x" }, "tags": [] }),
        json!({ "tags": [""], "options": { "retention.ms": 5 } }),
    ] {
        let (status, answer) = alter(refused).await;
        assert_eq!((status, &answer["code"]), (400, &json!("invalid_stream")), "{answer}");
    }
    assert_eq!(alter(json!({ "name": "x" })).await.1["code"], "bad_request");
    let now: Value = floe.get("/api/v1/streams/shop").await;
    assert_eq!((&now["options"], &now["tags"]), (&options, &json!(["team=shop"])));
    let topic = floe.get("/api/v1/topics/shop.events.sales").await;
    let value = |key: &str| {
        let options = topic["options"].as_array().unwrap();
        let option = options.iter().find(|option| option["key"] == key).unwrap();
        (option["value"].as_str().unwrap().to_owned(), option["source"] == "topic")
    };
    assert_eq!(value("table.commit.min.interval.ms"), ("7".to_owned(), true));
    assert_eq!(value("retention.ms"), ("-1".to_owned(), true));
    assert_eq!(value("table.mode"), ("contract".to_owned(), true));
    assert!(!value("table.contract.coerce").1);
    let (status, answer) = told(post(&floe, SHOP, &[TABLE], lenient).await).await;
    assert_eq!((status, &answer["code"]), (400, &json!("schema_mismatch")), "{answer}");
    let none = floe.url("/api/v1/streams/none");
    let (_, answer) = told(Client::new().patch(none).body("{}").send().await.unwrap()).await;
    assert_eq!(answer["code"], "stream_not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_by_key_is_answered_as_the_first_was() {
    let floe = Floe::start(&[]).await;
    make_stream(&floe, json!({})).await;
    make_table(&floe).await;
    let key = ("idempotency-key", "k-1");
    let (_, first) = told(post(&floe, SHOP, &[TABLE, key], "[{\"id\":1}]").await).await;
    let again = post(&floe, SHOP, &[TABLE, key], "[{\"id\":1}]").await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let (status, again) = told(again).await;
    assert_eq!((status, &again["first_offset"]), (200, &first["first_offset"]));
    let (status, other) = told(post(&floe, SHOP, &[TABLE, key], "[{\"id\":2}]").await).await;
    assert_eq!((status, &other["code"]), (422, &json!("idempotency_key_reused")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_makes_ends_and_shows_streams() {
    let floe = Floe::start(&[]).await;
    let run = |arguments: &[&str]| {
        let url = floe.url("");
        let ran = std::process::Command::new(protocol_tests::binary())
            .arg("stream")
            .args(arguments)
            .args(["--url", &url])
            .env_remove("FLOE_TOKEN")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
        (ran.status.code(), text, errors)
    };
    let made = run(&["create", "shop", "--namespace", "prod", "-o", "table.target.lag.ms=5s"]);
    assert_eq!(made.0, Some(0), "{}", made.2);
    assert!(made.1.contains(SHOP), "{}", made.1);
    assert_eq!(run(&["create", "shop"]).0, Some(1));
    let refused = run(&["create", "x", "-o", "table.mode=auto"]);
    assert!(
        refused.0 == Some(1) && refused.2.contains("each request names its table"),
        "{}",
        refused.2
    );
    assert!(run(&["terminate", "shop"]).1.contains("Stopped"));
    assert!(run(&["list"]).1.contains("Stopped"));
    assert!(run(&["start", "shop"]).1.contains("Active"));
    let shown = run(&["describe", "shop"]).1;
    assert!(shown.contains("table.target.lag.ms=5s") && shown.contains(SHOP), "{shown}");
    let altered = run(&["alter", "shop", "--unset", "table.target.lag.ms", "--tag", "tier=1"]);
    assert!(altered.1.contains("tier=1") && !altered.1.contains("lag.ms"), "{altered:?}");
    assert_eq!(run(&["alter", "shop"]).0, Some(2));
    assert!(!run(&["alter", "shop", "--no-tags"]).1.contains("tier=1"));
    assert_eq!(run(&["delete", "shop"]).0, Some(0));
    assert_eq!(run(&["describe", "shop"]).0, Some(1));
}

/// A request that began before the server was asked to end, and comes whole after it.
async fn answered_while_it_ends(floe: &Floe, requests: [(&str, &str); 3]) -> [String; 3] {
    let mut streams = Vec::new();
    for (head, _) in requests {
        let mut stream = TcpStream::connect(floe.http_address()).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: localhost\r\n").as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // Who comes after them is served: they are accepted, and what they sent is read.
    let healthy = reqwest::get(floe.url("/healthz")).await.unwrap();
    assert_eq!(healthy.status(), 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    floe.terminate();
    // It drains before it lets its port go.
    eventually("the end of the listener", async || {
        TcpStream::connect(floe.http_address()).await.is_err().then_some(())
    })
    .await;
    let mut answers = requests.map(|_| String::new());
    for ((stream, (_, rest)), answer) in streams.iter_mut().zip(requests).zip(&mut answers) {
        stream.write_all(rest.as_bytes()).await.unwrap();
        let read = stream.read_to_string(answer);
        tokio::time::timeout(WAIT_MAX, read).await.unwrap().unwrap();
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_ends_senders_are_told_to_come_again_and_the_stream_is_draining() {
    let mut floe = Floe::start(&["--shutdown-timeout=40s"]).await;
    make_stream(&floe, json!({})).await;
    make_table(&floe).await;
    let post = format!("POST {SHOP} HTTP/1.1");
    let sent = "table: floe.events.sales\r\ncontent-length: 10\r\n\r\n[{\"id\":1}]";
    // A token that nobody made: who comes now should come again, whoever it is.
    let wrong = format!("token: wrong\r\n{sent}");
    let requests =
        [(&*post, sent), (&*post, &*wrong), ("GET /api/v1/streams/shop HTTP/1.1", "\r\n")];
    let [refused, unknown, shown] = answered_while_it_ends(&floe, requests).await;
    for answer in [refused, unknown] {
        let lower = answer.to_ascii_lowercase();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(lower.contains("retry-after: 5\r\n") && lower.contains("connection: close"));
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let told = (&body["code"], &body["error"], &body["retryable"]);
        assert_eq!(told, (&json!("draining"), &json!("SERVICE_UNAVAILABLE"), &json!(true)));
    }
    assert!(shown.starts_with("HTTP/1.1 200"), "{shown}");
    let shown: Value = serde_json::from_str(shown.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(shown["state"], "Draining", "{shown}");
    assert_eq!(floe.stop().await, Some(0));
    floe.restart().await;
    assert_eq!(flush(&floe).await["code"], "unknown_table", "no event made a topic for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_the_native_path_events_come_in_every_form_of_json() {
    const EVENTS: &str = "/api/v1/streams/shop/events";
    let floe = Floe::start(&["--table-target-lag=1h"]).await;
    make_stream(&floe, json!({ "topic.idempotency": "body" })).await;
    make_table(&floe).await;
    let lines = ("content-type", "application/x-ndjson");
    let by_parameter = format!("{EVENTS}?table={}", TABLE.1);
    let skipping = format!("{by_parameter}&on_error=skip");
    for (path, headers, body, accepted) in [
        (EVENTS, &[TABLE][..], r#"{"id":1}"#, 1),
        (EVENTS, &[TABLE], r#"{"id":2} {"id":3}"#, 2),
        (EVENTS, &[TABLE, lines], "{\"id\":4}\n\n{\"id\":5,\"other\":1}\n", 2),
        // A repeat: its fields are not counted again.
        (EVENTS, &[TABLE, lines], "{\"id\":4}\n\n{\"id\":5,\"other\":1}\n", 2),
        (&by_parameter, &[], r#"[{"id":6},{"id":7}]"#, 2),
        // The same body again counts once: the stream's topics go by it.
        (&by_parameter, &[], r#"[{"id":6},{"id":7}]"#, 2),
    ] {
        let response = post(&floe, path, headers, body).await;
        let ignored = response.headers().get("x-ignored-fields").cloned();
        assert_eq!(ignored.is_some(), body.contains("other"), "{body}");
        let (status, answer) = told(response).await;
        assert_eq!((status, &answer["accepted"]), (200, &json!(accepted)), "{body}: {answer}");
    }
    for (path, headers, body, status, code) in [
        (EVENTS, &[][..], "{}", 400, "missing_table_header"),
        (EVENTS, &[TABLE], "", 400, "bad_request"),
        (EVENTS, &[TABLE], "{\"id\":", 400, "invalid_json"),
        (EVENTS, &[TABLE], "[{\"id\":8},9]", 400, "schema_mismatch"),
        (EVENTS, &[TABLE], "{\"id\":\"x\"}", 400, "schema_mismatch"),
        (EVENTS, &[TABLE, ("content-type", "text/csv")], "1", 415, "unsupported_media_type"),
        ("/api/v1/streams/none/events", &[TABLE], "{}", 404, "stream_not_found"),
        (&skipping, &[], "[{\"id\":\"x\"},9]", 400, "schema_mismatch"),
    ] {
        let (found, answer) = told(post(&floe, path, headers, body).await).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{body}: {answer}");
    }
    assert_eq!(flush(&floe).await["rows"], 7);
    let ids = table::longs(&floe.url("/iceberg"), "events", "sales", "id").await;
    assert_eq!(ids, (1..=7).collect::<Vec<i64>>());
    let metrics = floe.metrics().await;
    let ignored = r#"floe_stream_ignored_fields_total{stream="shop"} 1"#;
    assert!(metrics.contains(ignored), "the fields without a column are counted: {metrics}");
    let rejected = r#"floe_http_events_total{result="rejected"} 5"#;
    assert!(metrics.contains(rejected), "what is refused is counted: {metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_may_name_the_field_that_an_event_is_known_by() {
    let floe = Floe::start(&["--table-target-lag=1h"]).await;
    make_stream(&floe, json!({ "table.contract.id.field": "$.order" })).await;
    make_table(&floe).await;
    let body = r#"[{"id":1,"order":"o-1"},{"id":2,"order":17}]"#;
    let (status, answer) = told(post(&floe, SHOP, &[TABLE], body).await).await;
    assert_eq!((status, &answer["accepted"]), (200, &json!(2)), "{answer}");
    let (status, answer) = told(post(&floe, SHOP, &[TABLE], r#"[{"id":3}]"#).await).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (400, &json!("bad_id")), "{answer}");
    assert_eq!(flush(&floe).await["rows"], 2);
    let ids = table::texts(&floe.url("/iceberg"), "events", "sales", "__id__").await;
    assert_eq!(ids, ["17", "o-1"]);
}
