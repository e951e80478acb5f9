//! Routes whose clients read refusals in a form of their own: OpenTelemetry, Splunk.

use reqwest::Method;
use serde_json::{Value, json};

use crate::Guarded;

/// True for paths of these routes.
pub(crate) fn is_route(path: &str) -> bool {
    ["/v1/", "/otlp/", "/services/", "/v0/"].iter().any(|start| path.starts_with(start))
}

const WRONG: &str = "floe_abcdefghij_0123456789012345678901234567890123456789";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_is_closed_in_its_own_form() {
    let guarded = Guarded::start(&[]).await;
    let strong = guarded.token("strong", &["write:topic:t", "create:topic:t"]).await;
    let log = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"flags": 1}]}]}]});
    for path in ["/v1/logs", "/v1/traces", "/v1/metrics", "/otlp/other/v1/logs"] {
        let ask = async |token: Option<&str>| {
            guarded.ask(Method::POST, path, token, Some(log.clone())).await
        };
        for token in [None, Some(WRONG)] {
            let (status, answer) = ask(token).await;
            assert_eq!((status, &answer["code"]), (401, &json!(16)), "{path} {answer}");
        }
        let (status, answer) = ask(Some(&strong)).await;
        assert_eq!((status, &answer["code"]), (403, &json!(7)), "{path} {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("lacks the rule write:topic:"), "{message}");
    }
    for path in ["/v1/logs?topic=t", "/otlp/t/v1/logs"] {
        let (status, answer) =
            guarded.ask(Method::POST, path, Some(&strong), Some(log.clone())).await;
        assert_eq!((status, answer), (200, json!({})), "{path}");
    }
    // Protobuf is answered in protobuf: google.rpc.Status { code = 16 ...
    let sent = guarded.request(Method::POST, "/v1/logs", None);
    let sent = sent.header("content-type", "application/x-protobuf").send().await.unwrap();
    assert_eq!(sent.status(), 401);
    assert!(sent.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
    assert_eq!(sent.bytes().await.unwrap()[..2], [0x08, 16]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_collector_is_closed_in_its_own_form() {
    let guarded = Guarded::start(&[]).await;
    let strong = guarded.token("strong", &["write:topic:t", "create:topic:t"]).await;
    let paths = ["", "/event", "/event/1.0", "/raw", "/raw/1.0"];
    let send = async |path: &str, token: Option<&str>| -> (u16, Value) {
        let request = reqwest::Client::new().post(guarded.floe.url(path));
        let request = request.body(r#"{"event": 1}"#);
        let request = match token {
            Some(token) => request.header("authorization", format!("Splunk {token}")),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    for path in paths {
        let path = format!("/services/collector{path}");
        let (status, answer) = send(&path, None).await;
        assert_eq!((status, &answer["code"]), (401, &json!(2)), "{path} {answer}");
        assert_eq!(answer["text"], "Token is required");
        let (status, answer) = send(&path, Some(WRONG)).await;
        assert_eq!((status, &answer["code"]), (403, &json!(4)), "{path} {answer}");
        let (status, answer) = send(&path, Some(&strong)).await;
        assert_eq!((status, &answer["code"]), (403, &json!(7)), "{path} {answer}");
        assert!(answer["detail"].as_str().unwrap().contains("write:topic:splunk"), "{answer}");
        let (status, answer) = send(&format!("{path}?index=t"), Some(&strong)).await;
        assert_eq!((status, &answer["text"]), (200, &json!("Success")), "{path} {answer}");
    }
    let (status, answer) = send("/services/collector/ack?channel=c", None).await;
    assert_eq!((status, &answer["code"]), (401, &json!(2)));
    // One index that the token may not write to refuses all.
    let request = reqwest::Client::new().post(guarded.floe.url("/services/collector"));
    let body = r#"{"event": 1, "index": "t"}{"event": 1, "index": "other"}"#;
    let request = request.body(body).header("authorization", format!("Splunk {strong}"));
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["invalid-event-number"], 1, "{answer}");
    let events = guarded.ask(Method::GET, "/api/v1/topics/t", Some(&guarded.admin), None).await.1;
    let ends = events["partitions"].as_array().unwrap().iter();
    let stored: i64 = ends.map(|it| it["high_watermark"].as_i64().unwrap()).sum();
    assert_eq!(stored, 5);
    for path in ["/services/collector/health", "/services/collector/health/1.0"] {
        let (status, answer) = guarded.ask(Method::GET, path, None, None).await;
        assert_eq!((status, &answer["code"]), (200, &json!(17)));
    }
}
