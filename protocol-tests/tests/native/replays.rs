//! Sinks that begin at a time, and replays of what the log still has.

use protocol_tests::{Floe, eventually, table};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::{SINK, ask, post, prices};

const MINUTE: i64 = 60_000;

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the server has no other clock either")]
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}

/// Three events, two minutes, one minute and no time ago; when they were.
async fn three(floe: &Floe) -> [i64; 3] {
    let now = now_ms();
    let times = [now - 2 * MINUTE, now - MINUTE, now];
    for (at, time) in (1..).zip(times) {
        let event = json!({"price": at, "ts": time}).to_string();
        post(floe, "t", "?timestamp=$.ts", event).await;
    }
    times
}

/// A sink whose prices are whole.
fn wish() -> Value {
    let mut wish = prices();
    wish["mapping"]["columns"][0]["dataType"] = json!("long");
    wish
}

/// The prices that a table has.
async fn rows(floe: &Floe, namespace: &str, name: &str) -> Vec<i64> {
    let flush = format!("/api/v1/tables/{namespace}.{name}/flush");
    let (status, _, flushed) = ask(floe, (Method::POST, &flush), &[], &Value::Null).await;
    assert_eq!(status, 200, "{flushed}");
    table::longs(&floe.url("/iceberg"), namespace, name, "price").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_writes_what_the_log_has_to_a_table_of_its_own() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let [_, second, _] = three(&floe).await;
    let replay = async |query: &str, body: &Value| {
        ask(&floe, (Method::POST, &format!("{SINK}/replay{query}")), &[], body).await
    };
    let code = |answer: &(u16, String, Value)| (answer.0, answer.2["code"].clone());
    let unknown = replay("?from=earliest", &json!({})).await;
    assert_eq!(code(&unknown), (404, json!("unknown_sink")));
    assert_eq!(ask(&floe, (Method::PUT, SINK), &[], &wish()).await.0, 201);
    assert_eq!(rows(&floe, "streams", "prices").await, [1, 2, 3]);
    for query in ["", "?from=latest", "?from=soon", "?from=-5", "?from=earliest&colour=1"] {
        assert_eq!(code(&replay(query, &json!({})).await), (400, json!("bad_request")), "{query}");
    }
    let from = format!("?from={second}");
    let (status, _, tried) = replay(&format!("{from}&dry_run=true"), &Value::Null).await;
    assert_eq!((status, &tried["id"]), (200, &json!("prices-replay-1")), "{tried}");
    let url = floe.url(&format!("{SINK}/replay{from}"));
    let made = reqwest::Client::new().post(url).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let place = made.headers()["location"].to_str().unwrap().to_owned();
    assert!(made.headers().contains_key("etag"));
    let made: Value = serde_json::from_str(&made.text().await.unwrap()).unwrap();
    let name = json!({"namespace": "streams", "name": "prices_replay_1"});
    assert_eq!((&made["id"], &made["table"]), (&json!("prices-replay-1"), &name));
    assert_eq!(made["mapping"], floe.get(SINK).await["mapping"]);
    assert_eq!(floe.get(&place).await["from"], made["from"]);
    assert_eq!(rows(&floe, "streams", "prices_replay_1").await, [2, 3]);
    // It goes on as any sink, and the one that it is of has nothing twice.
    post(&floe, "t", "", r#"{"price":4}"#.to_owned()).await;
    assert_eq!(rows(&floe, "streams", "prices_replay_1").await, [2, 3, 4]);
    assert_eq!(rows(&floe, "streams", "prices").await, [1, 2, 3, 4]);
    let named = json!({"sink": "again", "table": "floe.other.again"});
    let (status, _, again) = replay("?from=earliest", &named).await;
    assert_eq!((status, &again["table"]["namespace"]), (201, &json!("other")), "{again}");
    assert_eq!(rows(&floe, "other", "again").await, [1, 2, 3, 4]);
    for (body, wanted) in [
        (json!({"sink": "again"}), (409, json!("exists"))),
        (json!({"table": "other.again"}), (409, json!("table_taken"))),
        (json!({"table": "again"}), (400, json!("bad_request"))),
        (json!({"sink": "a b"}), (400, json!("invalid_sink"))),
        (json!({"colour": 1}), (400, json!("bad_request"))),
    ] {
        assert_eq!(code(&replay("?from=earliest", &body).await), wanted, "{body}");
    }
    // A table outlives its sink, and its name is not free then.
    assert_eq!(ask(&floe, (Method::DELETE, &place), &[], &Value::Null).await.0, 204);
    let (status, _, next) = replay("?from=earliest", &json!({})).await;
    assert_eq!((status, &next["id"]), (201, &json!("prices-replay-2")), "{next}");
    // One that is marked as deleted can come back: its id is not free.
    let source = (Method::PUT, "/api/v1/sources/shop");
    assert_eq!(ask(&floe, source, &[], &json!({"topic": "t"})).await.0, 201);
    let again = (Method::DELETE, "/v1/branches/default/sources/shop/sinks/again");
    let (status, _, deleted) = ask(&floe, again, &[], &Value::Null).await;
    assert_eq!(status, 202, "{deleted}");
    eventually("the sink is deleted", || async {
        let path = "/api/v1/topics/t/sinks/again";
        (ask(&floe, (Method::GET, path), &[], &Value::Null).await.0 == 404).then_some(())
    })
    .await;
    let taken = replay("?from=earliest", &json!({"sink": "again"})).await;
    assert_eq!(code(&taken), (409, json!("exists")));
    for number in 3..21 {
        let answer = replay("?from=earliest", &json!({})).await;
        assert_eq!((answer.0, &answer.2["id"]), (201, &json!(format!("prices-replay-{number}"))));
    }
    let full = replay("?from=earliest", &json!({})).await;
    assert_eq!(code(&full), (409, json!("limit_reached")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_begins_at_a_time_that_is_looked_up_once() {
    let mut floe = Floe::start(&["--num-partitions=1", "--table-target-lag=1h"]).await;
    let [_, second, third] = three(&floe).await;
    let made = async |id: &str, from: Value| {
        let mut wish = wish();
        (wish["from"], wish["table"]["name"], wish["commit"]) = (from, json!(id), json!({}));
        let path = format!("/api/v1/topics/t/sinks/{id}");
        let (status, _, shown) = ask(&floe, (Method::PUT, &path), &[], &wish).await;
        assert_eq!(status, 201, "{shown}");
        // What is shown can be sent back.
        let (status, _, same) = ask(&floe, (Method::PUT, &path), &[], &shown).await;
        assert_eq!((status, &same["version"]), (200, &json!(1)), "{same}");
        wish["from"] = json!("latest");
        let (status, _, refused) = ask(&floe, (Method::PUT, &path), &[], &wish).await;
        assert_eq!((status, &refused["code"]), (400, &json!("invalid_sink")));
    };
    made("second", json!(second)).await;
    made("later", json!(third + 1)).await;
    let mut wish = wish();
    wish["from"] = json!("soon");
    let (status, _, refused) = ask(&floe, (Method::PUT, SINK), &[], &wish).await;
    assert_eq!((status, &refused["code"]), (400, &json!("invalid_sink")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("milliseconds since 1970"), "{refused}");
    floe.stop().await;
    floe.restart().await;
    // Its time is before both starts, but it comes after them in the log. Were they looked up again,
    // the second one had no start at all.
    let late = json!({"price": 4, "ts": third - 3 * MINUTE}).to_string();
    post(&floe, "t", "?timestamp=$.ts", late).await;
    assert_eq!(rows(&floe, "streams", "second").await, [2, 3, 4]);
    assert_eq!(rows(&floe, "streams", "later").await, [4], "it began where the log ended");
}
