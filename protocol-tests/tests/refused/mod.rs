//! Bodies that are no JSON, and events that are JSON and cannot be taken: the first is 400, the second
//! 422, and of neither is anything stored unless the sender asks for the rest.

use protocol_tests::Floe;
use reqwest::Client;
use serde_json::{Value, json};

const EVENTS: &str = "/api/v1/topics/refused/events?partition=0";
const LINES: &str = "application/x-ndjson";
const JSON: &str = "application/json";

async fn send(floe: &Floe, query: &str, kind: &str, body: &str) -> (u16, Value) {
    let call = Client::new().post(floe.url(&format!("{EVENTS}{query}")));
    let call = call.header("content-type", kind).body(body.to_owned());
    let answer = call.send().await.unwrap();
    let status = answer.status().as_u16();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let problem = if status == 200 { JSON } else { "application/problem+json" };
    assert_eq!(kind, problem, "{status}");
    (status, answer.json().await.unwrap())
}

/// What was sent, and index and code of each event that is refused.
type Case<'a> = ((&'a str, &'a str, &'a str), u16, &'a str, &'a [(u64, &'a str)]);

const CASES: &[Case<'_>] = &[
    // No JSON.
    (("", JSON, "[{\"id\":1},{\"id\":]"), 400, "invalid_json", &[(1, "invalid_json")]),
    (("", JSON, "{\"id\":1}{\"id\""), 400, "invalid_json", &[(1, "invalid_json")]),
    (("", LINES, "{\"id\":1}\nno\n{\"id\":2}\n"), 400, "invalid_json", &[(1, "invalid_json")]),
    (("&dedup_field=$.id", JSON, "[{]"), 400, "invalid_json", &[(0, "invalid_json")]),
    // JSON, without what the request says that events have.
    (
        ("&dedup_field=$.id", JSON, "[{\"id\":1},{\"n\":2}]"),
        422,
        "invalid_events",
        &[(1, "bad_id")],
    ),
    (("&dedup_field=$.id", JSON, "{\"id\":null}"), 422, "invalid_events", &[(0, "bad_id")]),
    (
        ("&timestamp=$.at", JSON, "[{\"at\":\"never\"},{\"at\":true}]"),
        422,
        "invalid_events",
        &[(0, "bad_timestamp"), (1, "bad_timestamp")],
    ),
    // Some are the one, some the other: what is no JSON is said first.
    (
        ("&dedup_field=$.id", LINES, "no\n{\"n\":1}\n{\"id\":3}\n"),
        400,
        "invalid_json",
        &[(0, "invalid_json")],
    ),
    // With `skip` only where nothing is left.
    (
        ("&dedup_field=$.id&on_error=skip", JSON, "[{},{}]"),
        422,
        "invalid_events",
        &[(0, "bad_id"), (1, "bad_id")],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_malformed_and_an_event_is_unprocessable() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let good = send(&floe, "&dedup_field=$.id", JSON, "{\"id\":\"first\"}").await;
    assert_eq!(good.0, 200, "{}", good.1);
    for ((query, kind, body), status, code, events) in CASES {
        let (found, told) = send(&floe, query, kind, body).await;
        let what = format!("{query} {body}: {told}");
        assert_eq!((found, &told["code"]), (*status, &json!(code)), "{what}");
        assert_eq!(
            (&told["status"], &told["retryable"]),
            (&json!(status), &json!(false)),
            "{what}"
        );
        let errors: Vec<(u64, &str)> = told["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["index"].as_u64().unwrap(), one["code"].as_str().unwrap()))
            .collect();
        assert_eq!(errors, *events, "{what}");
        assert_eq!(told["rejected"], events.len(), "{what}");
    }
    let shown = floe.get("/api/v1/topics/refused").await;
    assert_eq!(shown["partitions"][0]["high_watermark"], 1, "nothing of all that was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_rest_gets_it_stored_and_is_told_what_was_left_out() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let query = "&dedup_field=$.id&on_error=skip";
    let (status, told) = send(&floe, query, LINES, "{\"id\":1}\nno\n{\"n\":1}\n{\"id\":2}\n").await;
    assert_eq!(status, 200, "{told}");
    assert_eq!((&told["accepted"], &told["rejected"]), (&json!(2), &json!(2)), "{told}");
    let code = |at: usize| &told["errors"][at]["code"];
    assert_eq!((code(0), code(1)), (&json!("invalid_json"), &json!("bad_id")), "{told}");
}
