//! Events that were refused and kept: listed, shown, sent again.

use protocol_tests::{Floe, table};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::ask;

const ALL: &str = "/api/v1/quarantine";

async fn get(floe: &Floe, path: &str) -> (u16, Value) {
    let (status, _, answer) = ask(floe, (Method::GET, path), &[], &Value::Null).await;
    (status, answer)
}

async fn replay(floe: &Floe, query: &str) -> (u16, Value) {
    let path = format!("{ALL}/t/replay{query}");
    let (status, _, answer) = ask(floe, (Method::POST, &path), &[], &Value::Null).await;
    (status, answer)
}

/// Sends lines; those that are refused are kept.
async fn send(floe: &Floe, lines: &str) -> Value {
    let url = floe.url("/api/v1/topics/t/events?on_error=quarantine");
    let call = reqwest::Client::new().post(url).header("content-type", "application/x-ndjson");
    let answer = call.body(lines.to_owned()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

/// How many records, and how many of them were sent again.
async fn counts(floe: &Floe) -> (i64, i64) {
    let (_, listed) = get(floe, ALL).await;
    let one = &listed["quarantine"][0];
    assert_eq!((&one["topic"], &one["name"]), (&json!("t"), &json!("t.quarantine")));
    assert!(one["oldest_ms"].as_i64().unwrap() <= one["newest_ms"].as_i64().unwrap());
    (one["records"].as_i64().unwrap(), one["replayed"].as_i64().unwrap())
}

async fn prices(floe: &Floe) -> Vec<i64> {
    floe.flush("t").await;
    table::longs(&floe.url("/iceberg"), "streams", "t", "price").await
}

async fn alter(floe: &Floe, bytes: u64) {
    let options = json!({"options": {"max.message.bytes": bytes}});
    let altered = ask(floe, (Method::PATCH, "/api/v1/topics/t"), &[], &options).await;
    assert_eq!(altered.0, 200, "{}", altered.2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_events_are_sent_again_once_each_and_what_is_refused_again_is_kept() {
    let mut floe = Floe::start(&["--num-partitions=1"]).await;
    assert_eq!(get(&floe, ALL).await, (200, json!({"quarantine": []})));
    assert_eq!(get(&floe, "/api/v1/quarantine/t").await.1["code"], "unknown_topic");
    send(&floe, "{\"price\":0}\n").await;
    alter(&floe, 400).await;
    let large = |price: i32| json!({"price": price, "text": "x".repeat(600)}).to_string();
    let sent = send(&floe, &format!("{}\n{{\"price\":\n{}\n", large(1), large(2))).await;
    assert_eq!((&sent["accepted"], &sent["rejected"]), (&json!(0), &json!(3)), "{sent}");
    assert_eq!(counts(&floe).await, (3, 0));
    let (_, shown) = get(&floe, "/api/v1/quarantine/t?limit=2").await;
    let records = shown["records"].as_array().unwrap();
    assert_eq!((records.len(), &shown["next"]), (2, &json!("0-2")), "{shown}");
    assert_eq!(
        (&records[0]["payload"]["price"], &records[0]["code"]),
        (&json!(1), &json!("too_large"))
    );
    assert_eq!(records[1]["code"], "invalid_json");
    assert_eq!(records[1]["payload_base64"], "eyJwcmljZSI6", "it is no JSON");
    let (_, rest) = get(&floe, "/api/v1/quarantine/t.quarantine?limit=2&after=0-2").await;
    assert_eq!(rest["records"][0]["payload"]["price"], 2);
    assert_eq!((&rest["records"][1], &rest["next"]), (&Value::Null, &Value::Null));
    // Still too large: what is refused again goes to the end, and nothing is sent.
    let (status, dry) = replay(&floe, "?dry_run=true").await;
    assert_eq!((status, &dry["replayed"], &dry["refused"]), (200, &json!(0), &json!(3)), "{dry}");
    assert_eq!(counts(&floe).await, (3, 0));
    // Now the large ones are taken, but not the one between them that is no JSON.
    alter(&floe, 1_000_000).await;
    let (_, dry) = replay(&floe, "?dry_run=true").await;
    assert_eq!((&dry["replayed"], &dry["refused"]), (&json!(2), &json!(1)), "{dry}");
    assert_eq!(prices(&floe).await, [0], "it was only tried");
    let (status, part) = replay(&floe, "?partition=0&until=1").await;
    assert_eq!(
        (status, &part["replayed"], &part["refused"]),
        (200, &json!(1), &json!(0)),
        "{part}"
    );
    let (_, done) = replay(&floe, "").await;
    assert_eq!((&done["replayed"], &done["refused"]), (&json!(1), &json!(1)), "{done}");
    let error = &done["errors"][0];
    assert_eq!((&error["offset"], &error["code"]), (&json!(1), &json!("invalid_json")), "{done}");
    assert_eq!(counts(&floe).await, (4, 3));
    // However often, and over a crash: the good ones are there once, the other one is still to be had.
    for _ in 0..2 {
        floe.kill();
        floe.restart().await;
        let (_, again) = replay(&floe, "").await;
        assert_eq!((&again["replayed"], &again["refused"]), (&json!(0), &json!(1)), "{again}");
    }
    assert_eq!(prices(&floe).await, [0, 1, 2]);
    let (_, shown) = get(&floe, "/api/v1/quarantine/t?partition=0&offset=5").await;
    let last = &shown["records"][0];
    assert_eq!(
        (&last["code"], &last["replayed"]),
        (&json!("invalid_json"), &json!(false)),
        "{shown}"
    );
    assert_eq!(last["payload_base64"], "eyJwcmljZSI6");
    assert_eq!(counts(&floe).await, (6, 5));
}

/// Each answer takes at most 1,000 records at once: a part in which all is stored already is no
/// obstacle to the next one, and is done with at the end too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_meanwhile_is_passed_for_good() {
    let mut floe = Floe::start(&["--num-partitions=1"]).await;
    send(&floe, "{\"price\":0}\n").await;
    let options = json!({"options": {"max.message.bytes": 400, "topic.dedup.field": "$.price"}});
    assert_eq!(ask(&floe, (Method::PATCH, "/api/v1/topics/t"), &[], &options).await.0, 200);
    let text = "x".repeat(500);
    let lines = |from: i32, to: i32| -> String {
        (from..=to).map(|at| format!("{{\"price\":{at},\"text\":\"{text}\"}}\n")).collect()
    };
    let kept = send(&floe, &lines(1, 1_000)).await;
    assert_eq!(kept["rejected"], 1_000);
    send(&floe, &lines(1_001, 1_001)).await;
    alter(&floe, 1_000_000).await;
    assert_eq!(send(&floe, &lines(1, 1_000)).await["accepted"], 1_000);
    let (status, done) = replay(&floe, "").await;
    assert_eq!((status, &done["replayed"]), (200, &json!(1_001)), "{done}");
    assert_eq!(prices(&floe).await.len(), 1_002);
    // Nothing follows.
    alter(&floe, 400).await;
    send(&floe, &lines(1_002, 1_002)).await;
    alter(&floe, 1_000_000).await;
    send(&floe, &lines(1_002, 1_002)).await;
    assert_eq!(replay(&floe, "").await.1["replayed"], 1);
    assert_eq!(counts(&floe).await, (1_002, 1_002));
    floe.kill();
    floe.restart().await;
    assert_eq!(counts(&floe).await, (1_002, 1_002));
    assert_eq!(replay(&floe, "").await.1["replayed"], 0);
    // To try tells what it would be.
    send(&floe, &format!("{{\"text\":\"{text}\"}}\n")).await;
    for query in ["?dry_run=true", ""] {
        let (_, told) = replay(&floe, query).await;
        assert_eq!((&told["replayed"], &told["refused"]), (&json!(0), &json!(1)), "{query} {told}");
        assert_eq!(told["errors"][0]["code"], "bad_id", "{query} {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_half_way_tells_what_was_sent() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    send(&floe, "{\"price\":0}\n").await;
    alter(&floe, 400).await;
    let text = "x".repeat(500);
    let lines: String =
        (1..=1_000).map(|at| format!("{{\"price\":{at},\"text\":\"{text}\"}}\n")).collect();
    send(&floe, &lines).await;
    send(&floe, &format!("{{\"{text}\n")).await;
    alter(&floe, 1_000_000).await;
    // What is refused again finds no place.
    let limit = async |bytes: u64| {
        let options = json!({"options": {"max.message.bytes": bytes}});
        let path = "/api/v1/topics/t.quarantine";
        assert_eq!(ask(&floe, (Method::PATCH, path), &[], &options).await.0, 200);
    };
    limit(400).await;
    let (status, part) = replay(&floe, "").await;
    assert_eq!((status, &part["replayed"], &part["refused"]), (200, &json!(1_000), &json!(0)));
    assert_eq!((&part["next"], &part["stopped_by"]), (&json!("0-1000"), &json!("invalid_events")));
    let (status, refused) = replay(&floe, "").await;
    assert_eq!((status, &refused["code"]), (422, &json!("invalid_events")), "nothing was done");
    limit(1_000_000).await;
    let (_, done) = replay(&floe, "").await;
    assert_eq!((&done["replayed"], &done["refused"]), (&json!(0), &json!(1)), "{done}");
    assert_eq!((&done["next"], &done["stopped_by"]), (&Value::Null, &Value::Null), "{done}");
    assert_eq!(prices(&floe).await.len(), 1_001);
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_at_once_send_nothing_twice() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    send(&floe, "{\"price\":0}\n").await;
    alter(&floe, 400).await;
    let text = "x".repeat(600);
    let lines: String =
        (1..=40).map(|at| format!("{{\"price\":{at},\"text\":\"{text}\"}}\n")).collect();
    send(&floe, &lines).await;
    alter(&floe, 1_000_000).await;
    let all = [(); 4].map(|()| replay(&floe, ""));
    let [a, b, c, d] = all;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let mut sent = 0;
    for (status, answer) in [a, b, c, d] {
        // Who comes second is told to come again, or finds nothing to do.
        assert!(status == 200 || answer["code"] == "request_in_flight", "{status} {answer}");
        sent += answer["replayed"].as_i64().unwrap_or(0);
    }
    assert_eq!(sent, 40);
    assert_eq!(replay(&floe, "").await.1["replayed"], 0);
    assert_eq!(prices(&floe).await.len(), 41);
    for (method, query) in [
        (Method::GET, "?limit=0"),
        (Method::GET, "?limit=1001"),
        (Method::GET, "?offset=1"),
        (Method::GET, "?after=x"),
        (Method::GET, "?colour=1"),
        (Method::POST, "/replay?until=1"),
        (Method::POST, "/replay?dry_run=x"),
        (Method::POST, "/replay?partition=-1"),
    ] {
        let path = format!("{ALL}/t{query}");
        let (status, _, refused) = ask(&floe, (method, &path), &[], &Value::Null).await;
        assert_eq!((status, &refused["code"]), (400, &json!("bad_request")), "{query}");
    }
    assert_eq!(replay(&floe, "?partition=1").await.1["code"], "invalid_partition");
}
