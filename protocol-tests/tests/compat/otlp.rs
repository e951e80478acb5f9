//! OpenTelemetry: requests as protobuf and JSON, byte by byte; a Kafka consumer reads what they
//! stored. Real exporters are in `python/test_senders.py`.

use std::io::Write;

use protocol_tests::Floe;
use protocol_tests::clients::create;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::{consumed, post, text, told};

const JSON: (&str, &str) = ("content-type", "application/json");
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

/// A member of a message: its bytes.
fn member(tag: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 128, "one byte of length");
    [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// A log request in protobuf: each record is its severity text.
fn logs(records: &[&[u8]]) -> Vec<u8> {
    let records: Vec<u8> = records.iter().flat_map(|it| member(2, &member(3, it))).collect();
    member(1, &member(2, &records))
}

async fn send(floe: &Floe, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Response {
    let mut request = Client::new().post(floe.url(path)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn values(floe: &Floe, topic: &str) -> Vec<Value> {
    let found = consumed(floe, topic, 4);
    found.iter().map(|it| serde_json::from_str(text(it.value.as_ref()).unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_flat_rows_and_answers_are_in_the_encoding_of_the_request() {
    let floe = Floe::start(&[]).await;
    let body = logs(&[b"INFO", b"WARN"]);
    let sent = send(&floe, "/v1/logs", &[PROTOBUF], body.clone()).await;
    assert_eq!(sent.headers()["content-type"], "application/x-protobuf");
    assert_eq!((sent.status().as_u16(), sent.bytes().await.unwrap().len()), (200, 0));
    let zipped = [PROTOBUF, ("content-encoding", "gzip")];
    let sent = send(&floe, "/v1/logs", &zipped, gzip(&body)).await;
    assert_eq!(sent.status(), 200);
    let found = values(&floe, "otel_logs");
    assert_eq!(found.len(), 4);
    assert_eq!(found[0], json!({"severity_text": "INFO"}));
    // As curl sends it.
    let body = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},
        "scopeSpans":[{"scope":{"name":"lib"},"spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174",
        "name":"I'm a server span","startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000","kind":2,
        "attributes":[{"key":"my.span.attr","value":{"intValue":"3"}}],"status":{}}]}]}]}"#;
    let sent = post(&floe, "/v1/traces", &[JSON], body).await;
    assert_eq!(sent.headers()["content-type"], "application/json");
    assert_eq!(told(sent).await, (200, json!({})));
    let wanted = json!({
        "timestamp": "2018-12-13T14:51:00.000000000Z", "end_timestamp": "2018-12-13T14:51:01.000000000Z",
        "trace_id": "5b8efff798038103d269b633813fc60c", "span_id": "eee19b7ec3c1b174",
        "name": "I'm a server span", "kind": "SERVER", "status_code": "UNSET", "attributes": {"my.span.attr": 3},
        "resource": {"service.name": "shop"}, "scope": {"name": "lib"},
    });
    assert_eq!(values(&floe, "otel_traces"), [wanted]);
    let metrics = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"m","sum":{"aggregationTemporality":2,
        "isMonotonic":true,"dataPoints":[{"asInt":"7","timeUnixNano":"1"},{"asDouble":1.5}]}}]}]}]}"#;
    assert_eq!(post(&floe, "/v1/metrics", &[JSON], metrics).await.status(), 200);
    let found = values(&floe, "otel_metrics");
    let numbers: Vec<&Value> = found.iter().map(|point| &point["value"]).collect();
    assert_eq!(numbers, [7.0, 1.5]);
    // The table has one row for each.
    let flushed = floe.flush("otel_metrics").await;
    assert_eq!(flushed["rows"], 2, "{flushed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn path_parameter_and_header_name_the_topic() {
    let floe = Floe::start(&[]).await;
    let named = ("x-stream", "c");
    for (path, headers, topic) in [
        ("/otlp/a/v1/logs?topic=b", &[PROTOBUF, named][..], "a"),
        ("/v1/logs?other=1&topic=b", &[PROTOBUF, named], "b"),
        ("/v1/logs", &[PROTOBUF, named], "c"),
        ("/v1/logs", &[PROTOBUF], "otel_logs"),
    ] {
        let sent = send(&floe, path, headers, logs(&[b"x"])).await;
        assert_eq!(sent.status(), 200, "{path}");
        assert_eq!(consumed(&floe, topic, 4).len(), 1, "{path}");
    }
    // A request without a record makes no topic.
    for (path, kind, body) in [
        ("/v1/traces", PROTOBUF, &b""[..]),
        ("/v1/traces", JSON, b"{}"),
        ("/v1/metrics", JSON, br#"{"resourceMetrics":[{"scopeMetrics":[]}]}"#),
    ] {
        assert_eq!(send(&floe, path, &[kind], body.to_vec()).await.status(), 200);
    }
    let topics = floe.get("/api/v1/topics").await.to_string();
    assert!(!topics.contains("otel_traces") && !topics.contains("otel_metrics"), "{topics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn some_are_refused_with_the_first_reasons_and_all_with_400() {
    let floe = Floe::start(&[]).await;
    create(&floe, "otel_logs", 4, &[("max.message.bytes", "2000")]).await;
    let long = "x".repeat(3_000);
    let body = format!(
        r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"flags":1}},{{"traceId":"x"}},{{"body":{{"stringValue":"{long}"}}}}]}}]}}]}}"#
    );
    let id = ("x-request-id", "abc");
    let (status, answer) = told(post(&floe, "/v1/logs", &[JSON, id], body).await).await;
    assert_eq!((status, &answer["partialSuccess"]["rejectedLogRecords"]), (200, &json!("2")));
    let message = answer["partialSuccess"]["errorMessage"].as_str().unwrap();
    for part in ["2 log records refused", "1: ", "not hexadecimal", "2: ", "2000", "request abc"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let sent = send(&floe, "/v1/logs", &[PROTOBUF], logs(&[b"good", b"\xff"])).await;
    assert_eq!(sent.status(), 200);
    let answer = sent.bytes().await.unwrap();
    // partial_success { rejected = 1 ..., after a length of one or two bytes.
    let at = if answer[1] < 0x80 { 2 } else { 3 };
    assert_eq!((answer[0], &answer[at..at + 2]), (0x0a, &[0x08, 1][..]));
    assert_eq!(values(&floe, "otel_logs").len(), 2);
    let bad = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"x"}]}]}]}"#;
    let (status, answer) = told(post(&floe, "/v1/logs", &[JSON], bad).await).await;
    assert_eq!((status, &answer["code"]), (400, &json!(3)), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("not hexadecimal"), "{answer}");
    let (status, _) = told(
        post(
            &floe,
            "/v1/traces",
            &[JSON],
            bad.replace("Logs", "Spans").replace("logRecords", "spans"),
        )
        .await,
    )
    .await;
    assert_eq!(status, 400);
    let topics = floe.get("/api/v1/topics").await.to_string();
    assert!(!topics.contains("otel_traces"), "what is refused makes no topic: {topics}");
    assert_eq!(values(&floe, "otel_logs").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_status_that_exporters_do_not_repeat() {
    let floe = Floe::start(&["--auto-create-topics-enable", "false"]).await;
    create(&floe, "otel_logs", 4, &[]).await;
    let zipped = ("content-encoding", "gzip");
    for (path, headers, body, status, code) in [
        ("/v1/logs", &[JSON][..], b"{".to_vec(), 400, 3),
        ("/v1/logs", &[JSON], b"[]".to_vec(), 400, 3),
        ("/v1/logs", &[JSON], Vec::new(), 400, 3),
        ("/v1/logs", &[JSON, zipped], b"no gzip".to_vec(), 400, 3),
        ("/v1/logs", &[JSON, ("content-encoding", "br")], b"{}".to_vec(), 415, 3),
        ("/v1/logs", &[("content-type", "text/plain")], b"{}".to_vec(), 415, 3),
        ("/v1/logs", &[], b"{}".to_vec(), 415, 3),
        ("/v1/logs", &[JSON], vec![b' '; (20 << 20) + 1], 413, 3),
        ("/v1/logs", &[JSON, zipped], gzip(&vec![b' '; (20 << 20) + 1]), 413, 3),
        ("/v1/traces", &[JSON], b"{}".to_vec(), 404, 5),
        ("/v1/logs?topic=no%20name", &[JSON], b"{}".to_vec(), 404, 5),
    ] {
        let sent = send(&floe, path, headers, body).await;
        assert!(!sent.headers().contains_key("retry-after"), "{path}");
        let (found, answer) = told(sent).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{path} {headers:?} {answer}");
        assert!(answer["message"].is_string(), "{answer}");
    }
    let sent = send(&floe, "/v1/logs", &[PROTOBUF], b"\x0a\x7f".to_vec()).await;
    assert_eq!(
        (sent.status(), &sent.headers()["content-type"]),
        (400.try_into().unwrap(), &"application/x-protobuf".parse().unwrap())
    );
    // google.rpc.Status { code = 3 ...
    assert_eq!(sent.bytes().await.unwrap()[..2], [0x08, 3]);
    let wrong = Client::new().get(floe.url("/v1/logs")).send().await.unwrap();
    let (status, answer) = told(wrong).await;
    assert_eq!((status, &answer["code"]), (405, &json!(12)));
    // 20 MiB are taken.
    let (status, answer) = told(
        send(&floe, "/v1/logs", &[JSON], [vec![b' '; (20 << 20) - 2], b"{}".to_vec()].concat())
            .await,
    )
    .await;
    assert_eq!((status, answer), (200, json!({})));
    assert_eq!(consumed(&floe, "otel_logs", 4).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_request_is_not_multiplied() {
    let floe = Floe::start(&[]).await;
    // 40,000 empty records would each get the resource of 100 KB.
    let resource = "x".repeat(100_000);
    let records = vec!["{}"; 40_000].join(",");
    let body = format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{{"key":"a","value":{{"stringValue":"{resource}"}}}}]}},
        "scopeLogs":[{{"logRecords":[{records}]}}]}}]}}"#
    );
    let (status, answer) = told(post(&floe, "/v1/logs", &[JSON], body).await).await;
    assert_eq!((status, &answer["code"]), (413, &json!(3)), "{answer}");
    let peak = protocol_tests::memory::peak_bytes(&floe);
    assert!(peak < 300 << 20, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_is_stored_once() {
    let floe = Floe::start(&[]).await;
    let headers = [PROTOBUF, ("idempotency-key", "k")];
    for _ in 0..2 {
        assert_eq!(send(&floe, "/v1/logs", &headers, logs(&[b"x"])).await.status(), 200);
    }
    let other = send(&floe, "/v1/logs", &headers, logs(&[b"y"])).await;
    assert_eq!(other.status(), 422);
    assert_eq!(consumed(&floe, "otel_logs", 4).len(), 1);
}
