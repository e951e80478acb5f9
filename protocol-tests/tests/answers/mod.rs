//! What answers of the HTTP side say besides their status: limits, where reading ended, who answers.

use protocol_tests::Floe;
use protocol_tests::http1::{Answer, Http1, request};
use serde_json::{Value, json};

const EVENTS: &str = "/api/v1/topics/told/events";

/// A request with a body and these headers, over `connection`.
async fn send(
    connection: &mut Http1,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let length = body.len().to_string();
    let own = [("Host", "localhost"), ("Content-Length", length.as_str())];
    let headers = [&own, headers].concat();
    connection.exchange(&request(method, path, &headers, body)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_long_is_refused_in_the_form_of_its_route_and_the_connection_goes_on() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let mut connection = Http1::new(&floe.http_address());
    let long = "v".repeat(17 << 10);
    let cookies = [("Cookie", long.as_str()), ("X-Request-Id", "r-1")];
    let query = format!("?key={}", "k".repeat(9 << 10));
    let ingest = "/data-plane/n/event-stream/s/ingest";
    for (path, key, of_headers, of_path) in [
        (EVENTS, "code", json!("headers_too_large"), json!("uri_too_long")),
        ("/healthz", "code", json!("headers_too_large"), json!("uri_too_long")),
        (ingest, "error", json!("REQUEST_HEADER_FIELDS_TOO_LARGE"), json!("URI_TOO_LONG")),
        ("/topics/told", "error_code", json!(431), json!(414)),
        ("/services/collector", "code", json!(6), json!(6)),
        ("/v1/logs", "code", json!(3), json!(3)),
    ] {
        let target = format!("{path}{query}");
        for (path, headers, status, wanted) in
            [(path, &cookies[..], 431, of_headers), (&target, &cookies[1..], 414, of_path)]
        {
            let answer = send(&mut connection, ("POST", path), headers, "[{\"a\":1}]").await;
            assert_eq!(answer.status, status, "{path}: {}", answer.body);
            assert_eq!(answer.header("x-request-id"), Some("r-1"));
            assert_eq!(answer.header("connection"), None, "{path}");
            assert_eq!(answer.json()[key], wanted, "{path}: {}", answer.body);
        }
    }
    let answer = send(&mut connection, ("POST", EVENTS), &cookies, "{}").await;
    assert_eq!((&answer.json()["max_bytes"], answer.status), (&json!(16 << 10), 431));
    let few = [("Cookie", &long[..15 << 10])];
    assert_eq!(send(&mut connection, ("POST", EVENTS), &few, "{}").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_tells_where_reading_ended_and_what_would_be_taken() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let mut connection = Http1::new(&floe.http_address());
    let json = ("Content-Type", "application/json");
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let mut post = async |query: &str, kind, body: &str| {
        let path = format!("{EVENTS}{query}");
        let answer = send(&mut connection, ("POST", &path), &[kind], body).await;
        (answer.status, answer.json())
    };
    let broken = "[{\"a\":1},{\"b\":]";
    for on_error in ["skip", "quarantine"] {
        let (status, told) = post(&format!("?on_error={on_error}"), json, broken).await;
        assert_eq!((status, &told["accepted"], &told["rejected"]), (200, &json!(1), &json!(1)));
        assert_eq!(told["stopped_at"], json!({"index": 1, "offset_bytes": 9}), "{told}");
    }
    let lines = ("Content-Type", "application/x-ndjson");
    let (status, told) = post("?on_error=skip", lines, "{\"a\":1}\n{bad\n{\"a\":2}\n").await;
    assert_eq!((status, &told["accepted"], &told["stopped_at"]), (200, &json!(2), &Value::Null));
    let cloud = ("Content-Type", "application/cloudevents-batch+json");
    let event = r#"{"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}"#;
    let (status, told) = post("?on_error=skip", cloud, &format!("[{event},{{]")).await;
    assert_eq!((status, &told["stopped_at"]["index"]), (200, &json!(1)), "{told}");
    let comma = "[{\"a\":1},]";
    let (status, told) = post("", json, comma).await;
    assert_eq!(status, 400);
    assert!(told["detail"].as_str().unwrap().contains("json=lenient"), "{told}");
    let (status, told) = post("?json=lenient", json, comma).await;
    assert_eq!((status, &told["accepted"], &told["stopped_at"]), (200, &json!(1), &Value::Null));
    // `curl -d` of what Java prints is no form.
    let (status, told) = post("", form, "Struct{a=1,b=x}").await;
    assert_eq!((status, &told["code"]), (400, &json!("invalid_json")), "{told}");
    assert!(told["detail"].as_str().unwrap().contains("toString"), "{told}");
    let (status, told) = post("", ("Content-Type", "application/msgpack"), "\u{1}").await;
    assert_eq!(status, 415);
    assert!(told["detail"].as_str().unwrap().contains("cloudevents+json"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_told_with_the_limit() {
    let floe = Floe::start(&["--num-partitions=1", "--http-body-max-bytes=4KiB"]).await;
    let mut connection = Http1::new(&floe.http_address());
    let large = format!("[\"{}\"]", "v".repeat(5 << 10));
    for (path, max_bytes) in [(EVENTS, 4 << 10), ("/oauth/token", 16 << 10)] {
        let body = if max_bytes > large.len() { large.repeat(4) } else { large.clone() };
        let answer = send(&mut connection, ("POST", path), &[], &body).await;
        let told = answer.json();
        assert_eq!((answer.status, &told["max_bytes"]), (413, &json!(max_bytes)), "{told}");
        assert!(told["detail"].as_str().unwrap().contains("send "), "{told}");
    }
    let small = "/api/v1/topics/small";
    let wish = r#"{"name": "small", "options": {"max.message.bytes": "1024"}}"#;
    let made = send(&mut connection, ("POST", "/api/v1/topics"), &[], wish).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let event = format!("{{\"a\":\"{}\"}}", "v".repeat(2 << 10));
    let answer = send(&mut connection, ("POST", &format!("{small}/events")), &[], &event).await;
    let told = answer.json();
    assert_eq!((answer.status, &told["max_bytes"]), (413, &json!(1024)), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_is_told_without_a_token() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let mut connection = Http1::new(&floe.http_address());
    let wish = r#"{"name": "admin"}"#;
    let made = send(&mut connection, ("POST", "/api/v1/tokens"), &[], wish).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let mut get = async |path: &str| {
        let answer = send(&mut connection, ("GET", path), &[], "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer
    };
    assert_eq!(get("/status/ready").await.body, get("/readyz").await.body);
    let version = get("/version").await.json();
    assert_eq!(version, json!({"name": "floe", "version": env!("CARGO_PKG_VERSION")}));
    assert!(get("/docs").await.body.contains("/status/ready"));
    assert!(get("/problems").await.body.contains("id=\"uri_too_long\""));
    let refused = send(&mut connection, ("GET", "/api/v1/topics"), &[], "").await;
    assert_eq!(refused.status, 401);
    let told = refused.json();
    let id = told["request_id"].as_str().unwrap();
    assert_eq!(told["instance"], format!("urn:uuid:{id}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_files_need_no_token_and_run_nothing_else() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let mut connection = Http1::new(&floe.http_address());
    let wish = r#"{"name": "admin"}"#;
    let made = send(&mut connection, ("POST", "/api/v1/tokens"), &[], wish).await;
    assert_eq!(made.status, 201, "{}", made.body);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/ui/app.js", "text/javascript; charset=utf-8"),
        ("/ui/page.js", "text/javascript; charset=utf-8"),
        ("/ui/connect.js", "text/javascript; charset=utf-8"),
        ("/ui/tables.js", "text/javascript; charset=utf-8"),
        ("/ui/topics.js", "text/javascript; charset=utf-8"),
        ("/ui/style.css", "text/css; charset=utf-8"),
        ("/ui/icon.svg", "image/svg+xml"),
        ("/ui/programs.json", "application/json"),
    ] {
        let answer = send(&mut connection, ("GET", path), &[], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        let tag = answer.header("etag").unwrap().to_owned();
        let known = [("If-None-Match", tag.as_str())];
        let again = send(&mut connection, ("GET", path), &known, "").await;
        assert_eq!((again.status, again.body.as_str()), (304, ""), "{path}");
    }
    let none = send(&mut connection, ("GET", "/ui/other.js"), &[], "").await;
    assert_eq!((none.status, &none.json()["code"]), (404, &json!("not_found")));
}
