//! Sources of type `otlp`: what an exporter sends becomes rows of the sinks that want the signal.

use protocol_tests::{Floe, first_token, table};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use super::{SOURCES, ask, done, flush, output, read};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A request of log records with these members.
fn logs(records: &Value) -> Value {
    json!({"resourceLogs": [{"scopeLogs": [{"scope": {"name": "lib"}, "logRecords": records}]}]})
}

fn spans(names: &[&str]) -> Value {
    let spans: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
}

fn export(url: &str, body: &Value) -> RequestBuilder {
    Client::new().post(url).header(JSON.0, JSON.1).body(body.to_string())
}

async fn told(call: RequestBuilder) -> (u16, Value) {
    read(call.send().await.expect("the server answers")).await
}

/// A sink for `signals` of the severity, without which a record has no row, and of all headers.
fn of_severity(name: &str, signals: &Value) -> Value {
    json!({
        "type": "table", "name": name, "allowedSignals": signals,
        "table": {"type": "keboola", "tableId": format!("in.otel.{name}"), "mapping": {"columns": [
            {"type": "path", "name": "severity", "path": "severity_text", "rawString": true},
            {"type": "headers", "name": "headers"},
        ]}},
    })
}

fn of_body(name: &str) -> Value {
    json!({
        "type": "table", "name": name,
        "table": {"type": "keboola", "tableId": format!("in.otel.{name}"), "mapping": {"columns": [
            {"type": "body", "name": "body"},
        ]}},
    })
}

async fn source(floe: &Floe, kind: &str, name: &str) -> Value {
    let task = done(floe, Method::POST, SOURCES, json!({"type": kind, "name": name})).await;
    output(floe, &task).await
}

async fn rows(floe: &Floe, name: &str, column: &str) -> Vec<String> {
    flush(floe, &format!("in.otel.{name}")).await;
    table::texts(&floe.url("/iceberg"), "in%1Fotel", name, column).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_a_row_of_the_sinks_that_take_its_signal() {
    let floe = Floe::start(&["--table-target-lag=1s", "--num-partitions=1"]).await;
    let shown = source(&floe, "otlp", "Telemetry").await;
    assert_eq!((&shown["type"], &shown["http"]), (&json!("otlp"), &Value::Null), "{shown}");
    let text = |name: &str| shown["otlp"][name].as_str().unwrap().to_owned();
    let (url, base, secret) = (text("url"), text("baseUrl"), text("secret"));
    assert_eq!(url, format!("{base}/{secret}"));
    let sinks = format!("{SOURCES}/telemetry/sinks");
    let task = done(&floe, Method::POST, &sinks, of_severity("some", &json!(["logs"]))).await;
    assert_eq!(output(&floe, &task).await["allowedSignals"], json!(["logs"]));
    let task = done(&floe, Method::POST, &sinks, of_body("all")).await;
    assert_eq!(output(&floe, &task).await["allowedSignals"], Value::Null);
    // The second has no row of the first sink: it is refused, and the others are stored.
    let body = logs(&json!([{"severityText": "INFO"}, {"flags": 1}, {"severityText": "WARN"}]));
    let (status, answer) = told(export(&format!("{url}/v1/logs"), &body)).await;
    assert_eq!((status, &answer["partialSuccess"]["rejectedLogRecords"]), (200, &json!("1")));
    let why = answer["partialSuccess"]["errorMessage"].as_str().unwrap();
    assert!(why.contains("1: sink some: column \"severity\": path \"severity_text\""), "{why}");
    // A sink is not asked for what it does not take. The scheme may be written in any case.
    let call = export(&format!("{base}/v1/traces"), &spans(&["a span"]));
    let call = call.header("authorization", format!("bearer {secret}")).header("x-shop", "7");
    assert_eq!(told(call).await, (200, json!({})));
    let none = logs(&json!([{"flags": 1}]));
    let (status, answer) = told(export(&format!("{url}/v1/logs"), &none)).await;
    assert_eq!((status, &answer["code"]), (400, &json!(3)), "{answer}");
    assert_eq!(rows(&floe, "some", "severity").await, ["INFO", "WARN"]);
    let all = rows(&floe, "all", "body").await;
    let named = |name: &str| all.iter().filter(|row| row.contains(name)).count();
    assert_eq!((all.len(), named("a span"), named("\"scope\":{\"name\":\"lib\"}")), (3, 1, 2));
    // Another mapping takes what the first left out, with the headers of the request but no secret.
    let again = json!({"allowedSignals": ["traces"], "table": {"mapping": {"columns": [
        {"type": "path", "name": "severity", "path": "severity_text", "defaultValue": "none"},
        {"type": "headers", "name": "headers"},
    ]}}});
    done(&floe, Method::PATCH, &format!("{sinks}/some"), again).await;
    let call = export(&format!("{base}/v1/traces"), &spans(&["another"]));
    let call = call.header("authorization", format!("Bearer {secret}")).header("x-shop", "7");
    assert_eq!(told(call).await, (200, json!({})));
    assert_eq!(told(export(&format!("{url}/v1/logs"), &none)).await, (200, json!({})));
    let headers = rows(&floe, "some", "headers").await;
    assert_eq!(headers.len(), 3, "{headers:?}");
    let of_span = headers.iter().find(|row| row.contains("\"X-Shop\":\"7\"")).unwrap();
    assert!(of_span.contains("\"Content-Type\":\"application/json\""), "{of_span}");
    for hidden in ["uthorization", "floe.", &secret] {
        assert!(!of_span.contains(hidden), "{of_span}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_opens_only_routes_of_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let token = first_token(&dir.path().join("data"));
    let floe = Floe::start_in(&dir.path().join("data"), &["--table-target-lag=1s"]).await;
    let admin = |call: RequestBuilder| call.header("token", &token);
    for (kind, name) in [("otlp", "telemetry"), ("http", "shop")] {
        let make = Client::new().post(floe.url(SOURCES)).json(&json!({"type": kind, "name": name}));
        assert_eq!(told(admin(make)).await.0, 202);
    }
    let shown = async |name: &str| {
        told(admin(Client::new().get(floe.url(&format!("{SOURCES}/{name}"))))).await.1
    };
    let telemetry = shown("telemetry").await;
    let secret = telemetry["otlp"]["secret"].as_str().unwrap().to_owned();
    let of_shop = shown("shop").await["http"]["url"].as_str().unwrap().to_owned();
    let secret_of_shop = of_shop.rsplit('/').next().unwrap().to_owned();
    let body = logs(&json!([{"flags": 1}]));
    for (path, bearer, wanted) in [
        (format!("/otlp/1/telemetry/{secret}/v1/logs"), None, 200),
        ("/otlp/1/telemetry/v1/logs".to_owned(), Some(&secret), 200),
        ("/otlp/1/telemetry/v1/logs".to_owned(), None, 401),
        ("/otlp/1/telemetry/v1/logs".to_owned(), Some(&secret_of_shop), 404),
        (format!("/otlp/2/telemetry/{secret}/v1/logs"), None, 404),
        (format!("/otlp/x/telemetry/{secret}/v1/logs"), None, 400),
        (format!("/otlp/1/shop/{secret_of_shop}/v1/logs"), None, 404),
        (format!("/stream/1/telemetry/{secret}"), None, 404),
        (format!("/sources/telemetry/{secret}"), None, 404),
        (format!("/otlp/1/telemetry/{secret}/v1/profiles"), None, 401),
        ("/otlp//telemetry/v1/logs".to_owned(), Some(&secret), 401),
    ] {
        let call = export(&floe.url(&path), &body);
        let call = match bearer {
            Some(bearer) => call.bearer_auth(bearer),
            None => call,
        };
        let (status, answer) = told(call).await;
        assert_eq!(status, wanted, "{path} {bearer:?}: {answer}");
    }
    let path = floe.url(&format!("{SOURCES}/telemetry/disable"));
    assert_eq!(told(admin(Client::new().put(path))).await.0, 202);
    let call = export(&floe.url(&format!("/otlp/1/telemetry/{secret}/v1/logs")), &body);
    let (status, answer) = told(call).await;
    let why = answer["message"].as_str().unwrap();
    assert!(status == 404 && why.starts_with("the source is disabled"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_shows_the_rows_of_each_record() {
    let floe = Floe::start(&[]).await;
    source(&floe, "otlp", "telemetry").await;
    let sinks = format!("{SOURCES}/telemetry/sinks");
    done(&floe, Method::POST, &sinks, of_severity("some", &json!(["logs"]))).await;
    done(&floe, Method::POST, &sinks, of_body("all")).await;
    let test = async |query: &str, body: &Value| {
        told(export(&floe.url(&format!("{SOURCES}/telemetry/test{query}")), body)).await
    };
    let two = logs(&json!([{"severityText": "INFO"}, {"severityText": "WARN"}]));
    let (status, answer) = test("?signal=logs", &two).await;
    assert_eq!((status, answer["tables"].as_array().map(Vec::len)), (200, Some(2)), "{answer}");
    let of_some = answer["tables"].as_array().unwrap().iter().find(|it| it["sinkId"] == "some");
    let second = &of_some.unwrap()["rows"][1]["columns"][0];
    assert_eq!(second, &json!({"name": "severity", "value": "WARN"}), "{answer}");
    let (status, answer) = test("?signal=traces", &spans(&["a"])).await;
    assert_eq!((status, answer["tables"].as_array().map(Vec::len)), (200, Some(1)), "{answer}");
    let (status, answer) = test("?signal=logs", &logs(&json!([{"flags": 1}]))).await;
    assert_eq!((status, &answer["error"]), (422, &json!("stream.api.unprocessableContent")));
    for query in ["", "?signal=profiles"] {
        assert_eq!(test(query, &two).await.0, 400, "{query}");
    }
    assert_eq!(test("?signal=logs", &json!({"resourceLogs": 1})).await.0, 400);
    // The native twin says of each record what each sink makes of it.
    let url = floe.url("/api/v1/sources/telemetry/test?signal=logs");
    let (status, answer) =
        told(export(&url, &logs(&json!([{"severityText": "INFO"}, {"flags": 1}])))).await;
    let tried = answer["sinks"].as_array().unwrap();
    let refused: Vec<&Value> = tried.iter().filter(|row| row.get("error").is_some()).collect();
    assert_eq!((status, tried.len(), refused.len()), (200, 4, 1), "{answer}");
    assert_eq!((&refused[0]["record"], &refused[0]["sink"]), (&json!(1), &json!("some")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_native_twin_makes_such_sources_too() {
    let floe = Floe::start(&[]).await;
    let put = async |id: &str, wish: Value| {
        ask(&floe, Method::PUT, &format!("/api/v1/sources/{id}"), Some(wish)).await
    };
    let (status, shown) = put("telemetry", json!({"type": "otlp"})).await;
    assert_eq!((status, &shown["type"]), (201, &json!("otlp")), "{shown}");
    let path = shown["path"].as_str().unwrap().to_owned();
    assert!(path.starts_with("/otlp/1/telemetry/"), "{path}");
    let sent = told(export(&floe.url(&format!("{path}/v1/traces")), &spans(&["a"]))).await;
    assert_eq!(sent, (200, json!({})));
    let (status, again) = put("telemetry", shown.clone()).await;
    assert_eq!((status, &again["path"]), (200, &shown["path"]), "what it answers can be put");
    let (status, refused) = put("other", json!({"type": "otlp", "split": "auto"})).await;
    assert_eq!((status, &refused["code"]), (400, &json!("invalid_source")), "{refused}");
    assert_eq!(put("other", json!({"type": "ftp"})).await.0, 400);
    // As one of type http its secret opens the other routes.
    let (_, shown) = put("telemetry", json!({"type": "http"})).await;
    let (secret, path) = (path.rsplit('/').next().unwrap(), shown["path"].as_str().unwrap());
    assert_eq!(path, format!("/sources/telemetry/{secret}"));
    assert_eq!(told(export(&floe.url(path), &json!({"a": 1}))).await.0, 200);
}
