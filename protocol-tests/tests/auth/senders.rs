//! Routes whose clients read refusals in a form of their own: OpenTelemetry.

use reqwest::Method;
use serde_json::json;

use crate::Guarded;

/// True for paths of these routes.
pub(crate) fn is_route(path: &str) -> bool {
    ["/v1/", "/otlp/"].iter().any(|start| path.starts_with(start))
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
