//! Rates over HTTP: what is too much is refused before it is stored, in the form of each route, and
//! who comes back when it is told to has everything stored once.

use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use protocol_tests::{Floe, first_token, table};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{consumed, now_s, post, text, told};

const JSON: (&str, &str) = ("content-type", "application/json");
/// One byte a second: the first body is taken, and owed for longer than a test takes.
const ONE_BYTE: &[&str] = &["--topic-rate-bytes", "1"];

async fn change(floe: &Floe, method: Method, path: &str, token: &str, body: Value) -> Value {
    let request = Client::new().request(method, floe.url(path)).header("token", token).json(&body);
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    answer.json().await.unwrap()
}

async fn topic(floe: &Floe, token: &str, name: &str, options: Value) {
    let wish = json!({"name": name, "partitions": 1, "options": options});
    change(floe, Method::POST, "/api/v1/topics", token, wish).await;
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    headers[name].to_str().unwrap().parse().unwrap()
}

/// Sends an event until it is taken, as often as it must and not before it is told to; how often it
/// was refused.
async fn insist(floe: &Floe, path: &str, event: usize, padding: usize) -> usize {
    let body = format!("{{\"n\":{event},\"p\":\"{}\"}}", "x".repeat(padding));
    let mut refused = 0;
    loop {
        let answer = post(floe, path, &[JSON], body.clone()).await;
        if answer.status() == 200 {
            return refused;
        }
        assert_eq!(answer.status(), 429);
        let wait_s = number(answer.headers(), "retry-after");
        assert!((1..=30).contains(&wait_s), "{wait_s}");
        assert_eq!(told(answer).await.1["code"], "rate_limited");
        tokio::time::sleep(Duration::from_secs(wait_s)).await;
        refused += 1;
    }
}

/// The events of a topic of one partition, ordered.
fn stored(floe: &Floe, topic: &str) -> Vec<u64> {
    let number = |value: Option<&Vec<u8>>| {
        let value: Value = serde_json::from_str(text(value).unwrap()).unwrap();
        value["n"].as_u64().unwrap()
    };
    let mut found: Vec<u64> =
        consumed(floe, topic, 1).iter().map(|record| number(record.value.as_ref())).collect();
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_when_it_is_told_to_has_everything_stored_once() {
    let floe = Floe::start(&[]).await;
    topic(&floe, "", "requests", json!({"topic.rate.requests": "5"})).await;
    topic(&floe, "", "bytes", json!({"topic.rate.bytes": "300"})).await;
    topic(&floe, "", "free", json!({})).await;
    let many = (0..15).map(|event| insist(&floe, "/api/v1/topics/requests/events", event, 0));
    // Each is larger than what comes in a second, and has its turn all the same.
    let large = async {
        let mut refused = 0;
        for event in 0..3 {
            refused += insist(&floe, "/api/v1/topics/bytes/events", event, 900).await;
        }
        refused
    };
    let free = async {
        for event in 0..20 {
            let refused = insist(&floe, "/api/v1/topics/free/events", event, 0).await;
            assert_eq!(refused, 0, "another topic is not disturbed");
        }
    };
    let (many, large, ()) = tokio::join!(futures::future::join_all(many), large, free);
    assert!(many.iter().sum::<usize>() > 0 && large > 0, "{many:?} {large}");
    assert_eq!(stored(&floe, "requests"), (0..15).collect::<Vec<u64>>());
    assert_eq!(stored(&floe, "bytes"), [0, 1, 2]);
    assert_eq!(stored(&floe, "free").len(), 20);
    let counted = |limit: &'static str| floe.metric("floe_http_rate_limited_total", limit);
    assert_eq!(counted("topic-requests").await, many.iter().sum::<usize>() as f64);
    assert_eq!(counted("topic-bytes").await, large as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_what_is_left_to_pages_too() {
    let floe = Floe::start(&["--auth-anonymous", "allow"]).await;
    let options = json!({"topic.rate.requests": "2", "topic.rate.bytes": "100",
        "topic.cors.origins": "https://a.example"});
    topic(&floe, "", "t", options).await;
    let page = ("origin", "https://a.example");
    let body = format!("{{\"p\":\"{}\"}}", "x".repeat(9_992));
    let taken = post(&floe, "/api/v1/topics/t/events", &[JSON, page], body).await;
    assert_eq!(taken.status(), 200);
    let headers = taken.headers();
    assert_eq!(number(headers, "x-ratelimit-limit"), 100);
    assert_eq!(
        (number(headers, "x-ratelimit-remaining"), number(headers, "x-ratelimit-reset")),
        (0, 100)
    );
    let policy = "\"topic-requests\";q=2;w=1, \"topic-bytes\";q=100;w=1;qu=\"content-bytes\"";
    assert_eq!(headers["ratelimit-policy"], policy);
    assert_eq!(headers["ratelimit"], "\"topic-requests\";r=1;t=1, \"topic-bytes\";r=0;t=100");
    let exposed = headers["access-control-expose-headers"].to_str().unwrap();
    for name in ["retry-after", "x-ratelimit-limit", "x-ratelimit-reset", "ratelimit-policy"] {
        assert!(exposed.contains(name), "{exposed}");
    }
    let refused = post(&floe, "/api/v1/topics/t/events", &[JSON, page], "{}").await;
    assert_eq!((refused.status().as_u16(), number(refused.headers(), "retry-after")), (429, 30));
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://a.example");
    assert_eq!(number(refused.headers(), "x-ratelimit-remaining"), 0);
    // Without limits nothing is said, and an option that is taken back counts no more.
    let path = "/api/v1/topics/t";
    let free = json!({"options": {"topic.rate.requests": null, "topic.rate.bytes": null}});
    change(&floe, Method::PATCH, path, "", free).await;
    let taken = post(&floe, "/api/v1/topics/t/events", &[JSON], "{}").await;
    assert_eq!((taken.status().as_u16(), taken.headers().get("ratelimit")), (200, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_counted_when_it_is_there() {
    let floe = Floe::start(ONE_BYTE).await;
    let send = async || {
        let pieces = ["{\"a\":", "123456789}"].map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        let request = Client::new().post(floe.url("/api/v1/topics/t/events")).body(body);
        request.header(JSON.0, JSON.1).send().await.unwrap()
    };
    let taken = send().await;
    assert_eq!((taken.status().as_u16(), number(taken.headers(), "x-ratelimit-reset")), (200, 15));
    let refused = send().await;
    assert_eq!(refused.status(), 429);
    assert!(number(refused.headers(), "retry-after") > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_broken_off_has_counted_from_its_beginning() {
    let floe = Floe::start(&["--topic-rate-bytes", "1000"]).await;
    topic(&floe, "", "t", json!({})).await;
    let path = "/api/v1/topics/t/events";
    let address = floe.url("").trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n");
    let begun = format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n[\r\n");
    stream.write_all(begun.as_bytes()).await.unwrap();
    // What is not known yet counts as something.
    let refused = async || {
        let answer = post(&floe, path, &[JSON], "").await;
        let is_refused = answer.status() == 429;
        let reset_s = is_refused.then(|| number(answer.headers(), "x-ratelimit-reset"));
        tokio::time::sleep(Duration::from_millis(20)).await;
        reset_s
    };
    let until = async |wanted: RangeInclusive<u64>| {
        while !refused().await.is_some_and(|reset_s| wanted.contains(&reset_s)) {}
    };
    let wait = Duration::from_secs(20);
    tokio::time::timeout(wait, until(2..=9)).await.expect("8 KiB are owed");
    let rest = format!("186a0\r\n{}", " ".repeat(100_000));
    stream.write_all(rest.as_bytes()).await.unwrap();
    tokio::time::timeout(wait, until(70..=101)).await.expect("what came is owed");
    drop(stream);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(refused().await.is_some_and(|reset_s| reset_s >= 60), "nothing came back");
    assert!(consumed(&floe, "t", 1).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let admin = first_token(&data);
    let mut floe = Floe::start_in(&data, &["--http-rate-bytes", "1"]).await;
    let made = async |name: &str, more: Value| {
        let mut wish = json!({"name": name});
        wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = change(&floe, Method::POST, "/api/v1/tokens", &admin, wish).await;
        assert_eq!(made["rate_bytes"], more["rate_bytes"]);
        made["token"].as_str().unwrap().to_owned()
    };
    let (a, b) = (made("a", json!({})).await, made("b", json!({})).await);
    let own = made("own", json!({"rate_requests": 1_000, "rate_bytes": 0})).await;
    let send = async |floe: &Floe, token: &str| {
        let body = format!("{{\"n\":1,\"p\":\"{}\"}}", "x".repeat(1_000));
        let headers = [JSON, ("token", token)];
        post(floe, "/api/v1/topics/t/events", &headers, body).await
    };
    for token in [&a, &b] {
        let taken = send(&floe, token).await;
        assert_eq!(
            (taken.status().as_u16(), number(taken.headers(), "x-ratelimit-limit")),
            (200, 1)
        );
        let (status, problem) = told(send(&floe, token).await).await;
        assert_eq!((status, &problem["code"]), (429, &json!("rate_limited")), "{problem}");
        assert_eq!((&problem["retryable"], &problem["retry_after"]), (&json!(true), &json!(30)));
    }
    // A rate of its own is kept with the token.
    for _ in 0..2 {
        for _ in 0..3 {
            assert_eq!(number(send(&floe, &own).await.headers(), "x-ratelimit-limit"), 1_000);
        }
        floe.kill();
        floe.restart().await;
    }
    let listed = Client::new().get(floe.url("/api/v1/tokens")).header("token", &admin);
    let listed: Value = listed.send().await.unwrap().json().await.unwrap();
    let shown = listed["tokens"].as_array().unwrap().iter().find(|it| it["name"] == "own").unwrap();
    assert_eq!((&shown["rate_requests"], &shown["rate_bytes"]), (&json!(1_000), &json!(0)));
    let wish = json!({"name": "c", "rate_requests": 1_000_001});
    let request = Client::new().post(floe.url("/api/v1/tokens")).header("token", &admin);
    let (status, problem) = told(request.json(&wish).send().await.unwrap()).await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_token_wish")), "{problem}");
    // Nothing is kept of what was sent before, and nothing was stored of what was refused.
    let answers = [send(&floe, &a).await.status(), send(&floe, &a).await.status()];
    assert_eq!(answers.map(|status| status.as_u16()), [200, 429]);
    let topics = Client::new().get(floe.url("/api/v1/topics")).header("token", &admin);
    let topics: Value = topics.send().await.unwrap().json().await.unwrap();
    assert_eq!(topics["topics"][0]["records"], 9);
}

/// Sends the same twice: it is taken, and then refused with this status. Its answer then.
async fn twice(send: impl AsyncFn() -> Response, status: u16, name: &str) -> Value {
    let taken = send().await;
    assert!(taken.status().is_success(), "{name}: {}", taken.text().await.unwrap());
    assert!(taken.headers().contains_key("ratelimit-policy"), "{name}");
    let refused = send().await;
    assert_eq!(refused.status().as_u16(), status, "{name}");
    assert!(number(refused.headers(), "retry-after") > 1, "{name}");
    assert!(refused.headers().contains_key("ratelimit"), "{name}");
    told(refused).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_in_its_own_form() {
    let floe = Floe::start(ONE_BYTE).await;
    let cluster = floe.get("/v3/clusters").await;
    let v3 = cluster["data"][0]["cluster_id"].as_str().unwrap().to_owned();
    let v3 = format!("/v3/clusters/{v3}/topics/v3/records");
    topic(&floe, "", "v3", json!({})).await;
    let source = change(&floe, Method::PUT, "/api/v1/sources/s", "", json!({})).await;
    let source = source["path"].as_str().unwrap().to_owned();
    let stream = change(&floe, Method::PUT, "/api/v1/sources/k", "", json!({})).await;
    let secret = stream["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let stream = format!("/stream/1/k/{secret}");
    let otel = change(&floe, Method::PUT, "/api/v1/sources/o", "", json!({"type": "otlp"})).await;
    let otel = format!("{}/v1/logs", otel["path"].as_str().unwrap());
    let hook = json!({"name": "h", "topic": "h", "scheme": "url"});
    let hook = change(&floe, Method::POST, "/api/v1/webhooks", "", hook).await;
    let hook = hook["path"].as_str().unwrap().to_owned();
    let log = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"INFO"}]}]}]}"#;
    let (v2, event) =
        (r#"{"records":[{"value":{"message":"it is a value"}}]}"#, r#"{"event":"much"}"#);
    let v2_json = "application/vnd.kafka.json.v2+json";
    let line = "{\"message\":\"it is a value\"}";
    for (path, kind, body, status, member, wanted) in [
        ("/api/v1/topics/t/events", JSON.1, line, 429, "code", json!("rate_limited")),
        ("/v0/events?name=tinybird", JSON.1, line, 429, "code", json!("rate_limited")),
        ("/topics/v2", v2_json, v2, 429, "error_code", json!(429)),
        (&*v3, JSON.1, r#"{"value":{"type":"JSON","data":"much"}}"#, 429, "error_code", json!(429)),
        ("/v1/logs", JSON.1, log, 429, "code", json!(8)),
        (&*otel, JSON.1, log, 429, "code", json!(8)),
        ("/services/collector", JSON.1, event, 503, "code", json!(9)),
        ("/services/collector/raw?index=raw", "text/plain", "much of it", 503, "code", json!(9)),
        (&*source, JSON.1, line, 429, "code", json!("rate_limited")),
        (&*stream, JSON.1, line, 429, "error", json!("stream.in.tooManyRequests")),
        (&*hook, JSON.1, line, 429, "code", json!("rate_limited")),
    ] {
        let send = async || post(&floe, path, &[("content-type", kind)], body).await;
        let answer = twice(send, status, path).await;
        assert_eq!(answer[member], wanted, "{path}: {answer}");
    }
    let topics = floe.get("/api/v1/topics").await;
    for topic in topics["topics"].as_array().unwrap() {
        assert_eq!(topic["records"], 1, "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topics_of_one_request_are_all_within_their_rates_or_none_is_stored() {
    let floe = Floe::start(&[]).await;
    topic(&floe, "", "slow", json!({"topic.rate.bytes": "1"})).await;
    topic(&floe, "", "fast", json!({"topic.rate.requests": "1000"})).await;
    let body = r#"{"event":1,"index":"fast"}{"event":2,"index":"slow"}"#;
    let send = async || post(&floe, "/services/collector", &[JSON], body).await;
    assert_eq!(twice(send, 503, "both").await["code"], 9);
    let records = async |topic: &str| floe.get(&format!("/api/v1/topics/{topic}")).await;
    for topic in ["slow", "fast"] {
        assert_eq!(consumed(&floe, topic, 1).len(), 1, "{}", records(topic).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_refuse_with_the_status_that_their_senders_take() {
    let floe = Floe::start(&[]).await;
    let fields = json!([{ "id": 1, "name": "id", "required": true, "type": "long" }]);
    for (name, more, status, error) in [
        ("a", json!({}), 429, "TOO_MANY_REQUESTS"),
        ("b", json!({"topic.overload.status": "503"}), 503, "SERVICE_UNAVAILABLE"),
    ] {
        table::create(&floe.url("/iceberg"), "events", name, fields.clone()).await;
        let mut options = json!({"topic.rate.bytes": "1"});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let wish = json!({"name": name, "namespace": "prod", "options": options});
        change(&floe, Method::POST, "/api/v1/streams", "", wish).await;
        let path = format!("/data-plane/prod/event-stream/{name}/ingest");
        let body = r#"[{"id":1},{"id":2},{"id":3},{"id":4}]"#;
        let table = format!("floe.events.{name}");
        let table = ("table", table.as_str());
        let answer = twice(async || post(&floe, &path, &[table], body).await, status, name).await;
        let wanted = (&json!(error), &json!("rate_limited"));
        assert_eq!((&answer["error"], &answer["code"]), wanted, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_sign_takes_nothing_of_who_can() {
    let floe = Floe::start(ONE_BYTE).await;
    let wish = json!({"name": "w", "topic": "w", "scheme": "standard"});
    let made = change(&floe, Method::POST, "/api/v1/webhooks", "", wish).await;
    let secret = made["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned();
    let secret = STANDARD.decode(secret).unwrap();
    let send = async |secret: &[u8], id: &str| {
        let (body, time) = ("{\"message\":\"it is signed\"}", now_s().to_string());
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(format!("{id}.{time}.{body}").as_bytes());
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        let headers = [
            JSON,
            ("webhook-id", id),
            ("webhook-timestamp", &time),
            ("webhook-signature", &signature),
        ];
        post(&floe, "/webhooks/w", &headers, body).await
    };
    for id in ["1", "2", "3"] {
        assert_eq!(send(b"another secret", id).await.status(), 401);
    }
    let answer = twice(async || send(&secret, "4").await, 429, "signed").await;
    assert_eq!(answer["code"], "rate_limited");
    assert_eq!(consumed(&floe, "w", 4).len(), 1);
}
