//! Tokens in the URL (`http.token.in.query`): where, which, and that nothing else sees them.

use std::path::Path;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::streams::make_table;
use crate::Guarded;

const ON: &str = "--http-token-in-query=true";
const EVENTS: &str = "/api/v1/topics/t/events";

async fn guarded(flags: &[&str]) -> Guarded {
    let guarded = Guarded::start(flags).await;
    let options = json!({ "topic.cors.origins": "https://a.example" });
    let wish = Some(json!({ "name": "t", "partitions": 1, "options": options }));
    let admin = Some(guarded.admin.as_str());
    assert_eq!(guarded.ask(Method::POST, "/api/v1/topics", admin, wish).await.0, 201);
    guarded
}

/// Status and body of an answer.
async fn told(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
    (status, text + &answer.text().await.unwrap())
}

fn post(guarded: &Guarded, path: &str) -> RequestBuilder {
    guarded.request(Method::POST, path, None).body("{\"n\":1}")
}

/// True if a file below `dir` holds the text.
fn is_stored(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return is_stored(&path, text);
        }
        let bytes = std::fs::read(path).unwrap_or_default();
        let mut rest = &bytes[..];
        while let Some(at) = rest.iter().position(|byte| *byte == text.as_bytes()[0]) {
            if rest[at..].starts_with(text.as_bytes()) {
                return true;
            }
            rest = &rest[at + 1..];
        }
        false
    })
}

/// That neither the log of the server nor its metrics nor its data hold any of these.
async fn assert_unseen(guarded: &Guarded, tokens: &[&str]) {
    let (floe, admin) = (&guarded.floe, &guarded.admin);
    assert!(is_stored(guarded.dir.path(), "writer"), "names of tokens are stored");
    let metrics = reqwest::Client::new().get(floe.url("/metrics")).header("token", admin);
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("floe_http_requests_total"), "{metrics}");
    let log = floe.log();
    for token in tokens {
        assert!(!log.contains(token) && !metrics.contains(token), "{token} is seen");
        assert!(!is_stored(guarded.dir.path(), token), "{token} is stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_in_the_url_is_refused_unless_it_is_switched_on() {
    let guarded = guarded(&[]).await;
    let writer = guarded.token("writer", &["write:topic:t*", "create:topic:t*"]).await;
    let paths = [
        EVENTS,
        "/api/v1/streams/s/events",
        "/data-plane/n/event-stream/s/ingest",
        "/v0/events?name=t",
    ];
    for path in paths {
        let mark = if path.contains('?') { '&' } else { '?' };
        for token in [None, Some(writer.as_str())] {
            let path = format!("{path}{mark}token={writer}");
            let request = guarded.request(Method::POST, &path, token).body("{}");
            let (status, answer) = told(request).await;
            assert_eq!(status, 400, "{path}: {answer}");
            assert!(
                answer.contains("http.token.in.query") && answer.contains("header"),
                "{answer}"
            );
            assert!(!answer.contains(&writer), "{answer}");
        }
    }
    let elsewhere = format!("/api/v1/topics?token={writer}");
    let request = guarded.request(Method::GET, &elsewhere, None);
    assert_eq!(told(request).await.0, 401, "only where events go");
    assert_unseen(&guarded, &[&writer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_only_writes_may_stand_in_the_url_and_nothing_else_sees_it() {
    let guarded = guarded(&[ON]).await;
    let writer = guarded.token("writer", &["write:topic:t*", "create:topic:t*"]).await;
    let wide = guarded.token("wide", &["write:topic:t", "read:topic:t"]).await;
    let cluster = guarded.token("cluster", &["write:topic:t", "create:cluster"]).await;
    let unknown = "floe_abcdefghij_0123456789012345678901234567890123456789";
    let with = |token: &str| format!("{EVENTS}?token={token}&key=k");
    let stored = told(post(&guarded, &with(&writer)).header("x-kafka-header-h", "v")).await;
    assert_eq!(stored.0, 200, "{}", stored.1);
    for (path, status, code) in [
        (with(&guarded.admin), 403, "forbidden"),
        (with(&wide), 403, "forbidden"),
        (with(&cluster), 403, "forbidden"),
        (with(unknown), 401, "invalid_token"),
        (with("no"), 401, "invalid_token"),
        (with(""), 401, "missing_token"),
        (format!("{}&token={writer}", with(&writer)), 400, "bad_request"),
        (format!("/api/v1/topics/other/events?token={writer}"), 403, "forbidden"),
        (format!("{EVENTS}?x=1&token={writer}"), 400, "bad_request"),
    ] {
        let (found, answer) = told(post(&guarded, &path)).await;
        assert_eq!(found, status, "{path}: {answer}");
        assert!(answer.contains(code), "{path}: {answer}");
        for token in [&writer, &wide, &cluster, &guarded.admin, unknown] {
            assert!(!answer.contains(token), "{path}: {answer}");
        }
    }
    let why = told(post(&guarded, &with(&wide))).await.1;
    assert!(why.contains("more than write"), "{why}");
    let both = told(post(&guarded, &with(&writer)).header("token", &writer)).await;
    assert_eq!(both.0, 400, "{}", both.1);
    for (method, path) in [(Method::GET, "/api/v1/topics"), (Method::POST, "/v1/logs")] {
        let path = format!("{path}?token={writer}");
        assert_eq!(told(guarded.request(method, &path, None)).await.0, 401, "{path}");
    }
    let events = format!("{EVENTS}?%74oken={writer}");
    let event = post(&guarded, &events).header("ce-specversion", "1.0").header("ce-id", "1");
    let event = event.header("ce-source", "/s").header("ce-type", "t");
    assert_eq!(told(event).await.0, 200);
    let rows = told(post(&guarded, &format!("/v0/events?token={writer}&name=t"))).await;
    assert_eq!(rows.0, 202, "{}", rows.1);
    let bare = told(post(&guarded, &format!("/v0/events?token={unknown}&name=t"))).await;
    assert!(bare.0 == 401 && !bare.1.contains(unknown), "{}", bare.1);
    let secrets: [&str; 5] = [&writer, &wide, &cluster, &guarded.admin, unknown];
    assert_unseen(&guarded, &secrets).await;
    guarded.revoke("writer").await;
    assert_eq!(told(post(&guarded, &with(&writer))).await.0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_take_it_too() {
    let guarded = guarded(&[ON]).await;
    make_table(&guarded, "sales").await;
    let wish = Some(json!({ "name": "shop", "namespace": "prod" }));
    let admin = Some(guarded.admin.as_str());
    assert_eq!(guarded.ask(Method::POST, "/api/v1/streams", admin, wish).await.0, 201);
    // Who may write to a table may commit to it: that is more than to send events.
    let rules = ["write:stream:shop", "write:table:events.sales"];
    let wide = guarded.token("wide", &rules).await;
    let path = format!("/api/v1/streams/shop/events?token={wide}&table=floe.events.sales");
    assert_eq!(told(post(&guarded, &path)).await.0, 403);
    let writer = guarded.token("writer", &["write:stream:shop", "write:topic:shop.*"]).await;
    for path in ["/api/v1/streams/shop/events", "/data-plane/prod/event-stream/shop/ingest"] {
        let path = format!("{path}?token={writer}&table=floe.events.sales");
        let request = guarded.request(Method::POST, &path, None).body("[{\"id\":1}]");
        let (status, answer) = told(request).await;
        assert_eq!(status, 200, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_send_it_where_the_topic_lists_them_and_it_is_no_part_of_a_request() {
    let guarded = guarded(&[ON]).await;
    let one = guarded.token("writer", &["write:topic:t*", "create:topic:t*"]).await;
    let (listed, other) = ("https://a.example", "https://b.example");
    for path in [format!("{EVENTS}?token={one}"), format!("/v0/events?name=t&token={one}")] {
        for (origin, is_allowed) in [(listed, true), (other, false)] {
            let request = post(&guarded, &path).header("origin", origin);
            let answer = request.header("content-type", "text/plain").send().await.unwrap();
            let allowed = answer.headers().get("access-control-allow-origin").cloned();
            assert_eq!(answer.status().is_success(), is_allowed, "{path} {origin}");
            assert_eq!(allowed.is_some(), is_allowed, "{path} {origin}");
            if !is_allowed {
                let told: Value = answer.json().await.unwrap();
                assert_eq!(told["code"], "foreign_origin", "{told}");
            }
            let asked = guarded.request(Method::OPTIONS, &path, None).header("origin", origin);
            let asked = asked.send().await.unwrap();
            assert_eq!(asked.status().is_success(), is_allowed, "{path} {origin}");
        }
    }
    // The same request with another token of that name, or with a header, is the same.
    guarded.revoke("writer").await;
    let two = guarded.token("writer", &["write:topic:t*"]).await;
    let old = format!("{EVENTS}?token={two}&ack=durable");
    let plain = format!("{EVENTS}?ack=durable");
    let keyed = |request: RequestBuilder| request.header("idempotency-key", "k");
    let first = told(keyed(post(&guarded, &old))).await;
    let again = told(keyed(post(&guarded, &plain)).header("token", &two)).await;
    assert_eq!((first.0, again.0), (200, 200), "{} {}", first.1, again.1);
    assert!(first.1.contains("\"duplicate\":false") && again.1.contains("\"duplicate\":true"));
}
