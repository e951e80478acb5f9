//! What strangers may take of a public topic, who opens one, and when it is closed.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::public::{
    OPEN, alter, assert_code, guarded, half_sent, half_sent_with, read_until, records, told, topic,
};
use super::streams::make_table;
use crate::Guarded;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_closed_while_the_body_comes_does_not_take_it() {
    let guarded = guarded().await;
    make_table(&guarded, "sales").await;
    let admin = Some(guarded.admin.as_str());
    let options = json!({ "topic.public": true, "topic.rate.requests": 1_000 });
    let wish = Some(json!({ "name": "shop", "options": options }));
    assert_eq!(guarded.ask(Method::POST, "/api/v1/streams", admin, wish).await.0, 201);
    let path = "/api/v1/streams/shop/events?table=floe.events.sales";
    let event = Some(json!({ "id": 1 }));
    assert_eq!(guarded.ask(Method::POST, path, admin, event.clone()).await.0, 200);
    assert_eq!(guarded.ask(Method::POST, path, None, event.clone()).await.0, 200);
    let body = b"{\"id\":1}";

    let mut late = half_sent(&guarded, path, body.len()).await;
    let end = "/api/v1/streams/shop/terminate";
    assert_eq!(guarded.ask(Method::POST, end, admin, None).await.0, 200);
    late.write_all(body).await.unwrap();
    let answer = read_until(&mut late, "missing_token").await;
    assert!(answer.contains("HTTP/1.1 401"), "{answer}");
    assert_eq!(records(&guarded, "shop.events.sales").await, 2);

    let mut late = half_sent(&guarded, OPEN, body.len()).await;
    assert_eq!(alter(&guarded, "open", json!({ "topic.public": false })).await.0, 200);
    late.write_all(body).await.unwrap();
    let answer = read_until(&mut late, "missing_token").await;
    assert!(answer.contains("HTTP/1.1 401"), "{answer}");
    assert_eq!(records(&guarded, "open").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_late_is_as_its_stream_is_by_then() {
    let guarded = guarded().await;
    make_table(&guarded, "sales").await;
    make_table(&guarded, "costs").await;
    let admin = Some(guarded.admin.as_str());
    let options = json!({ "topic.public": true, "topic.rate.requests": 1_000 });
    let wish = Some(json!({ "name": "shop", "options": options }));
    assert_eq!(guarded.ask(Method::POST, "/api/v1/streams", admin, wish).await.0, 201);
    let (body, token) = (b"{\"id\":1}", format!("token: {}\r\n", guarded.admin));
    let path = |table: &str| format!("/api/v1/streams/shop/events?table=floe.events.{table}");
    let shop = "/api/v1/streams/shop";

    let mut late = half_sent_with(&guarded, &path("sales"), body.len(), &token).await;
    let close = Some(json!({ "options": { "topic.public": null } }));
    assert_eq!(guarded.ask(Method::PATCH, shop, admin, close).await.0, 200);
    late.write_all(body).await.unwrap();
    let answer = read_until(&mut late, "accepted").await;
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    for events in [&path("sales"), "/api/v1/topics/shop.events.sales/events"] {
        let answer = guarded.ask(Method::POST, events, None, Some(json!({ "id": 2 }))).await;
        assert_code(&answer, (401, "missing_token"), "it was closed before the topic was made");
    }

    let mut late = half_sent_with(&guarded, &path("costs"), body.len(), &token).await;
    assert_eq!(guarded.ask(Method::DELETE, shop, admin, None).await.0, 204);
    late.write_all(body).await.unwrap();
    let answer = read_until(&mut late, "stream_not_found").await;
    assert!(answer.contains("HTTP/1.1 404"), "{answer}");
    let made = guarded.ask(Method::GET, "/api/v1/topics/shop.events.costs", admin, None).await;
    assert_eq!(made.0, 404, "{}", made.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_take_no_more_than_they_send_and_nothing_from_who_has_a_token() {
    let guarded = guarded().await;
    let rate = json!({ "topic.rate.bytes": 65_536, "topic.rate.requests": 0 });
    assert_eq!(alter(&guarded, "open", rate).await.0, 200);
    // What is announced and does not come keeps nobody out.
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(half_sent(&guarded, OPEN, 65_536).await);
    }
    let event = |bytes: usize| json!({ "text": "x".repeat(bytes) }).to_string();
    let send = async |token: Option<&str>, bytes: usize| {
        let request = guarded.request(Method::POST, OPEN, token);
        told(request.body(event(bytes))).await
    };
    assert_eq!(send(None, 10).await.0, 200);
    let large = send(None, 70_000).await;
    assert_code(&large, (413, "too_large"), "more than the topic takes in a second");
    assert!(large.1["detail"].as_str().unwrap().contains("65536 bytes"), "{}", large.1);
    // Nor do strangers who send more than they may keep out who has a token, or the other way round.
    let rate = json!({ "topic.rate.bytes": 0, "topic.rate.requests": 1 });
    assert_eq!(alter(&guarded, "open", rate).await.0, 200);
    let admin = Some(guarded.admin.as_str());
    for (greedy, other) in [(None, admin), (admin, None)] {
        let mut refused = (0, Value::Null);
        for _ in 0..20 {
            refused = send(greedy, 1).await;
            if refused.0 != 200 {
                break;
            }
        }
        assert_code(&refused, (429, "rate_limited"), "too much");
        assert_eq!(send(other, 1).await.0, 200);
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    let body = format!("[{}]", vec![event(100_000); 11].join(","));
    let request = guarded.request(Method::POST, OPEN, None).body(body.clone());
    assert_code(&told(request).await, (413, "too_large"), "1 MiB at most");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(told(guarded.request(Method::POST, OPEN, admin).body(body)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_opened_by_who_may_write_to_all_that_it_leads_to() {
    let guarded = guarded().await;
    let sink = json!({
        "table": { "namespace": "lake", "name": "copy" },
        "mapping": { "columns": [{ "type": "body", "name": "body" }] },
    });
    let admin = Some(guarded.admin.as_str());
    let put = "/api/v1/topics/closed/sinks/copy";
    let made = guarded.ask(Method::PUT, put, admin, Some(sink)).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let open = Some(json!({ "options": { "topic.public": true } }));
    let path = "/api/v1/topics/closed";
    for (name, rules, lacks) in [
        ("one", vec!["alter:topic:closed", "write:table:*"], Some("write:topic:closed")),
        ("two", vec!["alter:topic:closed", "write:topic:closed"], Some("write:table:lake.copy")),
        ("all", vec!["alter:topic:closed", "write:topic:closed", "write:table:lake.copy"], None),
    ] {
        let token = guarded.token(name, &rules).await;
        let (status, answer) = guarded.ask(Method::PATCH, path, Some(&token), open.clone()).await;
        let Some(lacks) = lacks else {
            assert_eq!(status, 200, "{answer}");
            continue;
        };
        assert_eq!(status, 403, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(lacks), "{answer}");
    }
    let maker = guarded.token("maker", &["create:topic:*"]).await;
    let options = json!({ "topic.public": true, "topic.rate.requests": 9 });
    let wish = Some(json!({ "name": "new", "options": options }));
    let made = guarded.ask(Method::POST, "/api/v1/topics", Some(&maker), wish).await;
    assert_code(&made, (403, "forbidden"), "make it");
    let maker = guarded.token("streams", &["all:stream:*", "write:table:*"]).await;
    let wish = Some(json!({ "name": "shop", "options": options }));
    let made = guarded.ask(Method::POST, "/api/v1/streams", Some(&maker), wish).await;
    assert_code(&made, (403, "forbidden"), "make a stream");
    assert!(made.1["detail"].as_str().unwrap().contains("write:topic:shop.*"), "{}", made.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_stream_whose_server_lost_its_rate_is_open_to_tokens_alone() {
    let mut guarded = Guarded::start(&["--http-rate-requests", "1000"]).await;
    make_table(&guarded, "sales").await;
    let page = "https://a.example";
    let options = json!({ "topic.public": true, "topic.cors.origins": page });
    let wish = Some(json!({ "name": "shop", "options": options }));
    let admin = guarded.admin.clone();
    let admin = Some(admin.as_str());
    assert_eq!(guarded.ask(Method::POST, "/api/v1/streams", admin, wish).await.0, 201);
    // One whose stream is not public.
    let wish = Some(json!({ "name": "own" }));
    assert_eq!(guarded.ask(Method::POST, "/api/v1/streams", admin, wish).await.0, 201);
    let options = json!({ "table.mode": "contract", "table.namespace": "events",
        "table.name": "sales", "topic.public": true });
    assert_eq!(topic(&guarded, "own.events.sales", options).await.0, 201);
    guarded.floe.stop().await;
    guarded.floe.restart_with(&[]).await;
    let path = "/api/v1/streams/shop/events?table=floe.events.sales";
    let event = Some(json!({ "id": 1 }));
    let first = guarded.ask(Method::POST, path, admin, event.clone()).await;
    assert_eq!(first.0, 200, "{}", first.1);
    let answer = guarded.ask(Method::POST, path, None, event).await;
    assert_code(&answer, (401, "missing_token"), "no rate bounds it");
    let asked = guarded.request(Method::OPTIONS, path, None).header("origin", page);
    assert_eq!(asked.send().await.unwrap().status(), 204, "its pages are as they were");
    let tags = Some(json!({ "tags": ["a"] }));
    let answer = guarded.ask(Method::PATCH, "/api/v1/streams/shop", admin, tags).await;
    assert_eq!(answer.0, 200, "{}", answer.1);
    // The rate that it lacks opens it.
    let alterer = guarded.token("alterer", &["alter:stream:*"]).await;
    let (shop, own) = ("/api/v1/streams/shop", "/api/v1/streams/own");
    let rate = json!({ "options": { "topic.rate.requests": 9 } });
    let whole = json!({ "options": { "topic.public": true, "topic.rate.requests": 9 } });
    for (method, stream, wish) in
        [(Method::PATCH, shop, &rate), (Method::PUT, shop, &whole), (Method::PATCH, own, &rate)]
    {
        let wish = Some(wish.clone());
        let answer = guarded.ask(method.clone(), stream, Some(&alterer), wish).await;
        assert_code(&answer, (403, "forbidden"), &format!("{method} {stream}"));
        assert!(answer.1["detail"].as_str().unwrap().contains("write:"), "{}", answer.1);
    }
    for topic in ["shop.events.sales", "own.events.sales"] {
        let events = format!("/api/v1/topics/{topic}/events");
        let answer = guarded.ask(Method::POST, &events, None, Some(json!({ "id": 2 }))).await;
        assert_code(&answer, (401, "missing_token"), topic);
    }
    let lag = Some(json!({ "options": { "table.target.lag.ms": 9_000 } }));
    let answer = guarded.ask(Method::PATCH, shop, Some(&alterer), lag).await;
    assert_eq!(answer.0, 200, "another option opens nothing: {}", answer.1);
    assert_eq!(guarded.ask(Method::PATCH, shop, admin, Some(rate)).await.0, 200);
    assert_eq!(guarded.ask(Method::POST, path, None, Some(json!({ "id": 3 }))).await.0, 200);
}
