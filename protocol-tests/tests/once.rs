//! Exactly once over HTTP: whatever happens between append and answer, a request that is sent
//! again with its key or token is stored once.

use std::time::{Duration, Instant};

use futures::future::join_all;
use protocol_tests::{Floe, eventually};
use rand::Rng;
use reqwest::header::HeaderMap;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;

async fn send(floe: &Floe, topic: &str, headers: &[(&str, &str)], body: &Value) -> Response {
    let url = floe.url(&format!("/api/v1/topics/{topic}/events"));
    let mut request = Client::new().post(url).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn parts(response: Response) -> (StatusCode, HeaderMap, Value) {
    let (status, headers) = (response.status(), response.headers().clone());
    (status, headers, response.json().await.unwrap())
}

/// Records that were ever stored in a topic.
async fn stored(floe: &Floe, topic: &str) -> i64 {
    let described = floe.get(&format!("/api/v1/topics/{topic}")).await;
    let partitions = described["partitions"].as_array().unwrap();
    partitions.iter().map(|partition| partition["high_watermark"].as_i64().unwrap()).sum()
}

fn lose_state(floe: &Floe) {
    std::fs::remove_dir_all(floe.dir().join("data/state")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_is_stored_once_and_its_answer_is_given_again() {
    let floe = Floe::start(&[]).await;
    let body = json!([{"k": "a"}, {"k": "b"}, {"k": "c"}]);
    let key = [("Idempotency-Key", "\"order-1\"")];
    let (status, headers, first) = parts(send(&floe, "orders", &key, &body).await).await;
    assert_eq!((status, &first["duplicate"]), (StatusCode::OK, &json!(false)));
    assert!(!headers.contains_key("idempotency-replayed"));
    // Without quotes it is the same key.
    let bare = [("Idempotency-Key", "order-1")];
    let (status, headers, mut again) = parts(send(&floe, "orders", &bare, &body).await).await;
    assert_eq!((status, &again["duplicate"]), (StatusCode::OK, &json!(true)));
    assert_eq!(headers["idempotency-replayed"], "true");
    again["duplicate"] = json!(false);
    again["request_id"] = first["request_id"].clone();
    assert_eq!(again, first);
    assert_eq!(stored(&floe, "orders").await, 3);
    // Another body, other options: another request under a used key.
    let (status, _, problem) = parts(send(&floe, "orders", &key, &json!([1])).await).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("idempotency_key_reused")));
    let placed = [key[0], ("X-Kafka-Key", "k")];
    let (status, _, _) = parts(send(&floe, "orders", &placed, &body).await).await;
    assert_eq!(status.as_u16(), 422);
    // Another topic has keys of its own.
    let (status, _, other) = parts(send(&floe, "others", &key, &body).await).await;
    assert_eq!((status.as_u16(), &other["duplicate"]), (200, &json!(false)));
    for bad in ["a b", "\"open", &"k".repeat(256)] {
        let (status, _, problem) =
            parts(send(&floe, "orders", &[("Idempotency-Key", bad)], &body).await).await;
        let code = json!("invalid_idempotency_key");
        assert_eq!((status.as_u16(), &problem["code"]), (400, &code), "{bad}");
    }
    assert_eq!(stored(&floe, "orders").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_leaves_its_key_free() {
    let floe = Floe::start(&[]).await;
    let key = [("Idempotency-Key", "k")];
    let bad = json!([{"k": 1}, {"no": 1}]);
    let url = "t";
    let path = format!("{url}/events?key=$.k");
    let post = async |body: &Value| {
        let url = floe.url(&format!("/api/v1/topics/{path}"));
        Client::new().post(url).header(key[0].0, key[0].1).json(body).send().await.unwrap()
    };
    assert_eq!(post(&bad).await.status(), 422);
    assert_eq!(post(&json!([{"k": 1}])).await.status(), 200);
    assert_eq!(stored(&floe, "t").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_with_one_key_one_is_stored() {
    let floe = Floe::start(&[]).await;
    send(&floe, "t", &[], &json!(0)).await;
    for round in 0..10 {
        let key = format!("k{round}");
        let headers = [("Idempotency-Key", key.as_str())];
        let body = json!({"round": round});
        let all = (0..16).map(|_| send(&floe, "t", &headers, &body));
        let mut fresh = 0;
        for response in join_all(all).await {
            let (status, headers, answer) = parts(response).await;
            match status.as_u16() {
                200 => fresh += i64::from(answer["duplicate"] == json!(false)),
                409 => {
                    assert_eq!(answer["code"], json!("request_in_flight"));
                    assert_eq!(headers["retry-after"], "1");
                }
                other => panic!("{other} {answer}"),
            }
        }
        assert_eq!(fresh, 1, "round {round}");
    }
    assert_eq!(stored(&floe, "t").await, 11);
}

/// Kills between append and answer, at any moment in between, with and without the state store:
/// every request is sent until it is answered, and is there once.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_append_and_answer_a_retry_is_stored_once() {
    let mut floe = Floe::start(&[]).await;
    send(&floe, "t", &[], &json!("first")).await;
    let (mut sent, mut repeated) = (0, 0);
    for round in 0..12 {
        let keys: Vec<String> = (0..8).map(|i| format!("r{round}-{i}")).collect();
        let answered = Notify::new();
        let one = async |key: &str| {
            let url = floe.url("/api/v1/topics/t/events");
            let request = Client::new().post(url).header("Idempotency-Key", key);
            let answer = request.json(&json!([{"key": key}, {"more": key}])).send().await;
            answered.notify_one();
            answer.ok().filter(|answer| answer.status().is_success())
        };
        let wait = Duration::from_micros(rand::rng().random_range(0..6_000));
        let pid = floe.pid();
        // The answer may come or not: it is not looked at.
        let kill = async {
            // On a slow machine no other kill may come after an append.
            match round % 4 {
                3 => answered.notified().await,
                _ => tokio::time::sleep(wait).await,
            }
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        };
        let sends = join_all(keys.iter().map(|key| one(key)));
        tokio::join!(sends, kill);
        floe.kill();
        if round % 3 == 2 {
            lose_state(&floe);
        }
        floe.restart().await;
        for key in &keys {
            let headers = [("Idempotency-Key", key.as_str())];
            let body = json!([{"key": key}, {"more": key}]);
            let (status, _, answer) = parts(send(&floe, "t", &headers, &body).await).await;
            assert_eq!(status, 200, "{answer}");
            sent += 2;
            repeated += u32::from(answer["duplicate"] == json!(true));
        }
        assert_eq!(stored(&floe, "t").await, sent + 1, "round {round}");
    }
    assert!(repeated > 0, "no kill came after an append");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_outlives_the_events_of_its_request() {
    let flags = ["--wal-file-bytes", "1MiB", "--retention-check-interval", "200ms"];
    let mut floe = Floe::start(&flags).await;
    let wish = json!({"name": "t", "partitions": 1, "options": {"retention.ms": 1500, "table.mode": "off"}});
    let url = floe.url("/api/v1/topics");
    assert!(Client::new().post(url).json(&wish).send().await.unwrap().status().is_success());
    let (key, body) = ([("Idempotency-Key", "old")], json!([{"a": 1}, {"a": 2}]));
    let (_, _, first) = parts(send(&floe, "t", &key, &body).await).await;
    let noise = json!("x".repeat(400_000));
    let gone = async |floe: &Floe| {
        send(floe, "t", &[], &noise).await;
        let described = floe.get("/api/v1/topics/t").await;
        let start = described["partitions"][0]["log_start_offset"].as_i64().unwrap();
        (start >= 2).then_some(())
    };
    eventually("retention", || gone(&floe)).await;
    // Two orderly stops write the two snapshots that free the file of the request; then the
    // state is lost too.
    for lose in [false, true] {
        floe.stop().await;
        if lose {
            lose_state(&floe);
        }
        floe.restart().await;
        let (status, _, again) = parts(send(&floe, "t", &key, &body).await).await;
        assert_eq!((status.as_u16(), &again["duplicate"]), (200, &json!(true)));
        assert_eq!(again["partitions"], first["partitions"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_forgotten_by_age_and_number() {
    let floe = Floe::start(&["--http-idempotency-max", "5"]).await;
    for key in 0..20 {
        let key = key.to_string();
        let headers = [("Idempotency-Key", key.as_str())];
        let sent = async || {
            let response = send(&floe, "t", &headers, &json!(1)).await;
            // More than twice as many as are kept wait until some are forgotten.
            (response.status() == 200).then_some(())
        };
        eventually("room for a key", sent).await;
    }
    let known = async |key: &str| {
        let (_, _, answer) =
            parts(send(&floe, "t", &[("Idempotency-Key", key)], &json!(1)).await).await;
        answer["duplicate"] == json!(true)
    };
    let old = async || (!known("0").await).then_some(());
    eventually("the oldest key to be forgotten", old).await;
    assert!(known("19").await);
    let floe = Floe::start(&["--http-idempotency-age", "2s"]).await;
    let send_one = async || {
        let headers = [("Idempotency-Key", "k")];
        let (_, _, answer) = parts(send(&floe, "t", &headers, &json!(1)).await).await;
        answer["duplicate"] == json!(false)
    };
    let began = Instant::now();
    assert!(send_one().await);
    // On a slow machine it may be forgotten by now.
    assert!(!send_one().await || began.elapsed() > Duration::from_millis(1_990));
    eventually("the key to be forgotten", || async { send_one().await.then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_stores_each_token_once() {
    let mut floe = Floe::start(&[]).await;
    let channel = |token: &'static str| [("X-Channel", "c1"), ("X-Offset-Token", token)];
    let path = "/api/v1/topics/t/channels/c1";
    for (token, duplicate) in [("5", false), ("5", true), ("3", true), ("9", false), ("9", true)] {
        let (status, _, answer) =
            parts(send(&floe, "t", &channel(token), &json!([1, 2])).await).await;
        let found = (status.as_u16(), answer["duplicate"].clone());
        assert_eq!(found, (200, json!(duplicate)), "{token}");
    }
    assert_eq!(stored(&floe, "t").await, 4);
    assert_eq!(floe.get(path).await["token"], json!(9));
    // A refused request leaves the token as it was.
    let url = floe.url("/api/v1/topics/t/events");
    let bad = Client::new().post(&url).header("X-Channel", "c1").header("X-Offset-Token", "10");
    assert_eq!(bad.body("[1,").send().await.unwrap().status(), 400);
    assert_eq!(floe.get(path).await["token"], json!(9));
    for lose in [false, true] {
        floe.kill();
        if lose {
            lose_state(&floe);
        }
        floe.restart().await;
        assert_eq!(floe.get(path).await["token"], json!(9));
        let (_, _, answer) = parts(send(&floe, "t", &channel("9"), &json!([1, 2])).await).await;
        assert_eq!(answer["duplicate"], json!(true));
    }
    assert_eq!(stored(&floe, "t").await, 4);
    floe.flush("t").await;
    let committed = async || {
        let status = floe.get(path).await;
        (status["committed_token"] == json!(9)).then_some(())
    };
    eventually("the token to be in the table", committed).await;
    let missing = reqwest::get(floe.url("/api/v1/topics/t/channels/none")).await.unwrap();
    let (status, _, problem) = parts(missing).await;
    assert_eq!((status.as_u16(), &problem["code"]), (404, &json!("unknown_channel")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_that_repeats_byte_by_byte_is_stored_once_by_its_body() {
    let mut floe = Floe::start(&[]).await;
    let send = async |floe: &Floe, path: &str, body: &str| {
        let url = floe.url(&format!("/api/v1/topics/{path}"));
        let answer = Client::new().post(url).body(body.to_owned()).send().await.unwrap();
        parts(answer).await
    };
    for duplicate in [false, true] {
        let (status, headers, answer) = send(&floe, "a/events?dedup=body", "[{\"n\":1}]").await;
        assert_eq!((status, &answer["duplicate"]), (StatusCode::OK, &json!(duplicate)));
        assert_eq!(headers.contains_key("idempotency-replayed"), duplicate);
    }
    let (_, _, other) = send(&floe, "a/events?dedup=body", "[{\"n\":2}]").await;
    assert_eq!(other["duplicate"], false);
    // Without it each is stored, and a key of the sender's comes before.
    assert_eq!(send(&floe, "a/events", "[{\"n\":1}]").await.2["duplicate"], false);
    assert_eq!(stored(&floe, "a").await, 3);
    let wish = json!({"name": "b", "options": {"topic.idempotency": "body"}});
    let made = Client::new().post(floe.url("/api/v1/topics")).json(&wish).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    assert_eq!(send(&floe, "b/events", "{}").await.2["duplicate"], false);
    floe.kill();
    lose_state(&floe);
    floe.restart().await;
    assert_eq!(send(&floe, "b/events", "{}").await.2["duplicate"], true);
    assert_eq!(stored(&floe, "b").await, 1);
    // What comes to the topic through a source too.
    let source = Client::new().put(floe.url("/api/v1/sources/b")).body("{}").send().await.unwrap();
    let (status, _, source) = parts(source).await;
    assert_eq!(status, StatusCode::CREATED);
    let url = floe.url(source["path"].as_str().unwrap());
    for duplicate in [false, true] {
        let answer = Client::new().post(&url).body("{\"n\":3}").send().await.unwrap();
        assert_eq!(parts(answer).await.2["duplicate"], duplicate);
    }
    assert_eq!(stored(&floe, "b").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_may_take_no_request_without_a_key() {
    let floe = Floe::start(&["--topic-idempotency", "required"]).await;
    let refused = async |path: &str, body: &str| {
        let answer = Client::new().post(floe.url(path)).body(body.to_owned()).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let (status, answer) = refused("/api/v1/topics/a/events", "{}").await;
    assert_eq!((status, &answer["code"]), (400, &json!("missing_idempotency_key")));
    let missing = Client::new().get(floe.url("/api/v1/topics/a")).send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND, "what is refused makes no topic");
    assert_eq!(refused("/topics/a", r#"{"records":[{"value":"AA=="}]}"#).await.0, 400);
    let body = json!([{"n": 1}]);
    for headers in [
        &[("idempotency-key", "k")][..],
        &[("x-channel", "c"), ("x-offset-token", "1")],
        // A CloudEvent brings an id of its own.
        &[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")],
    ] {
        let (status, _, answer) = parts(send(&floe, "a", headers, &body).await).await;
        assert_eq!(status, StatusCode::OK, "{headers:?}: {answer}");
    }
}
