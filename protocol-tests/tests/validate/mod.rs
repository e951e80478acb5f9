//! `validate = sync`: a request of which a template has no result is refused before it is stored.

use std::time::{Duration, Instant};

use protocol_tests::{Floe, table};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{SOURCES, ask, done, flush, read, send};

const VALIDATE: &str = "floe.validate";

/// A mapping whose first column is twice the member `n`, and takes no text.
fn twice() -> Value {
    let template = json!({"language": "jsonnet", "content": "Body('n') * 2"});
    json!({"columns": [
        {"type": "template", "name": "twice", "template": template, "dataType": "long"},
        {"type": "body", "name": "body"},
    ]})
}

fn of_keboola(table: &str, mapping: &Value) -> Value {
    let table = json!({"type": "keboola", "tableId": table, "mapping": mapping});
    json!({"type": "table", "name": "twice", "table": table})
}

fn set(value: &Value) -> Value {
    json!({"settings": [{"key": VALIDATE, "value": value}]})
}

/// The record that comes next, of a topic with one partition.
async fn end(floe: &Floe, topic: &str) -> i64 {
    let (_, shown) = ask(floe, Method::GET, &format!("/api/v1/topics/{topic}"), None).await;
    let end = &shown["partitions"][0]["high_watermark"];
    end.as_i64().unwrap_or_else(|| panic!("{shown}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_refuses_a_request_only_where_its_sink_wants_it() {
    let floe = Floe::start(&["--num-partitions=1", "--table-target-lag=1s"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    done(&floe, Method::POST, &sinks, of_keboola("in.shop.twice", &twice())).await;
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    let url = shown["http"]["url"].as_str().unwrap().to_owned();
    assert_eq!(send(&url, "", r#"{"n": "late"}"#).await.0, 200, "it is a dead letter later");
    let settings = format!("{sinks}/twice/settings");
    done(&floe, Method::PATCH, &settings, set(&json!("sync"))).await;
    let (_, shown) = ask(&floe, Method::GET, "/api/v1/topics/shop/sinks/twice", None).await;
    assert_eq!(shown["validate"], "sync", "{shown}");
    let before = end(&floe, "shop").await;
    for (body, why) in [
        (r#"{"n": "now"}"#, "Invalid"),
        (r#"{"m": 1}"#, "path \"n\" not found in the body"),
        (r#"{"n": 0.25}"#, "expected long, got number"),
    ] {
        let (status, answer) = send(&url, "", body).await;
        let (error, told) = (&answer["error"], &answer["sources"][0]["sinks"][0]);
        assert_eq!((status, error), (422, &json!("stream.in.unprocessableContent")), "{answer}");
        let message = told["message"].as_str().unwrap();
        assert!(message.starts_with("column \"twice\": ") && message.contains(why), "{message}");
    }
    assert_eq!(end(&floe, "shop").await, before, "nothing is stored of what is refused");
    assert_eq!(send(&url, "", r#"{"n": 21}"#).await, (200, json!("OK")));
    done(&floe, Method::PATCH, &settings, set(&Value::Null)).await;
    assert_eq!(send(&url, "", r#"{"n": "late"}"#).await.0, 200);
    flush(&floe, "in.shop.twice").await;
    let rows = table::texts(&floe.url("/iceberg"), "in%1Fshop", "twice", "body").await;
    assert_eq!(rows, [r#"{"n": 21}"#]);
    let (_, shown) = ask(&floe, Method::GET, "/api/v1/topics/shop/sinks/twice", None).await;
    assert_eq!((&shown["validate"], &shown["status"]["dlq_rows"]), (&json!("commit"), &json!(2)));
    let (status, _) = ask(&floe, Method::PATCH, &settings, Some(set(&json!("never")))).await;
    assert_eq!(status, 400);
    let of_source = format!("{SOURCES}/shop/settings");
    let (status, refused) = ask(&floe, Method::PATCH, &of_source, Some(set(&json!("sync")))).await;
    assert_eq!(status, 400, "a source has no templates: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_already_is_answered_whatever_its_templates_say_now() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    done(&floe, Method::POST, &sinks, of_keboola("in.shop.twice", &twice())).await;
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    let url = shown["http"]["url"].as_str().unwrap().to_owned();
    let native = url.split("/shop/").last().map(|secret| format!("/sources/shop/{secret}"));
    let urls = [url, floe.url(&native.unwrap())];
    let send = async |url: &str, headers: [(&str, &str); 2]| {
        let post = Client::new().post(url).header("content-type", "application/json");
        let [one, two] = headers;
        let post = post.header(one.0, one.1).header(two.0, two.1);
        let (status, _) = read(post.body(r#"{"n": "late"}"#).send().await.unwrap()).await;
        status
    };
    let keyed = |key| [("idempotency-key", key), ("x-any", "1")];
    let placed = |token| [("x-channel", "c"), ("x-offset-token", token)];
    assert_eq!(send(&urls[0], keyed("a")).await, 200);
    assert_eq!(send(&urls[0], placed("5")).await, 200);
    done(&floe, Method::PATCH, &format!("{sinks}/twice/settings"), set(&json!("sync"))).await;
    for url in &urls {
        assert_eq!(send(url, keyed("a")).await, 200);
        assert_eq!(send(url, placed("5")).await, 200);
        assert_eq!(send(url, keyed("b")).await, 422, "it is new");
        assert_eq!(send(url, placed("6")).await, 422, "it is new");
    }
    assert_eq!(end(&floe, "shop").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_request_is_refused_with_the_records_that_have_no_row() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let make = json!({"topic": "shop", "split": "array"});
    let (_, source) = ask(&floe, Method::PUT, "/api/v1/sources/shop", Some(make)).await;
    let url = floe.url(source["path"].as_str().unwrap());
    let path = "/api/v1/topics/shop/sinks/twice";
    let wish = |more: Value| {
        let mut wish = json!({"table": {"name": "twice"}, "mapping": twice()});
        wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Some(wish)
    };
    assert_eq!(send(&url, "", "[]").await.0, 200);
    let (status, _) =
        ask(&floe, Method::POST, "/api/v1/topics", Some(json!({"name": "shop"}))).await;
    assert_eq!(status, 201);
    let (status, refused) = ask(&floe, Method::PUT, path, wish(json!({"validate": "never"}))).await;
    assert_eq!((status, &refused["code"]), (400, &json!("invalid_sink")), "{refused}");
    let (status, shown) = ask(&floe, Method::PUT, path, wish(json!({"validate": "sync"}))).await;
    assert_eq!((status, &shown["validate"]), (201, &json!("sync")), "{shown}");
    assert_eq!(send(&url, "", "[]").await.0, 200, "nothing has no row");
    let (status, refused) = send(&url, "", r#"[{"n": 1}, {"n": "x"}, {"n": 2}, {"m": 1}]"#).await;
    assert_eq!((status, &refused["code"]), (422, &json!("invalid_events")), "{refused}");
    let errors = refused["errors"].as_array().unwrap();
    let told: Vec<_> = errors.iter().map(|it| (&it["index"], &it["offset_bytes"])).collect();
    assert_eq!(told, [(&json!(1), &json!(11)), (&json!(3), &json!(33))], "{refused}");
    assert_eq!((&errors[0]["field"], &errors[1]["code"]), (&json!("twice"), &json!("TEMPLATE")));
    let message = errors[1]["message"].as_str().unwrap();
    assert_eq!(message, "sink twice: column \"twice\": path \"n\" not found in the body");
    assert_eq!(end(&floe, "shop").await, 0);
    let many: Vec<Value> = (0..300).map(|n| json!({ "n": n })).collect();
    let (status, stored) = send(&url, "", &json!(many).to_string()).await;
    assert_eq!((status, &stored["accepted"]), (200, &json!(300)), "{stored}");
    // What is no template is looked at too; a sink that is off asks for nothing.
    let column = json!({"type": "path", "name": "m", "path": "m", "dataType": "long"});
    let more = json!({"validate": "sync", "mapping": {"columns": [column]}});
    assert_eq!(ask(&floe, Method::PUT, path, wish(more)).await.0, 200);
    assert_eq!(send(&url, "", r#"[{"n": 1}]"#).await.0, 422);
    let off = json!({"validate": "sync", "enabled": false});
    assert_eq!(ask(&floe, Method::PUT, path, wish(off)).await.0, 200);
    assert_eq!(send(&url, "", r#"[{"m": "x"}]"#).await.0, 200);
    assert_eq!(ask(&floe, Method::PUT, path, wish(json!({}))).await.1["validate"], "commit");
    assert_eq!(send(&url, "", r#"[{"m": "x"}]"#).await.0, 200);
}

/// Makes a source of telemetry whose sink takes records with a number as body; where its sinks are.
async fn telemetry(floe: &Floe) -> String {
    done(floe, Method::POST, SOURCES, json!({"type": "otlp", "name": "telemetry"})).await;
    let sinks = format!("{SOURCES}/telemetry/sinks");
    let content = "std.parseInt(Body('body')) + 1";
    let template = json!({"language": "jsonnet", "content": content});
    let mapping = json!({"columns": [{"type": "template", "name": "next", "template": template}]});
    done(floe, Method::POST, &sinks, of_keboola("in.otel.next", &mapping)).await;
    sinks
}

#[tokio::test(flavor = "multi_thread")]
async fn telemetry_that_is_stored_already_is_answered_whatever_its_templates_say_now() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let sinks = telemetry(&floe).await;
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/telemetry"), None).await;
    let url = format!("{}/v1/logs", shown["otlp"]["url"].as_str().unwrap());
    let export = async |key: &str| {
        let logs = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
            {"body": {"stringValue": "1"}}, {"body": {"stringValue": "one"}},
        ]}]}]});
        let post = Client::new().post(&url).header("idempotency-key", key).json(&logs);
        read(post.send().await.unwrap()).await
    };
    assert_eq!(export("a").await, (200, json!({})), "the second one is a dead letter later");
    done(&floe, Method::PATCH, &format!("{sinks}/twice/settings"), set(&json!("sync"))).await;
    assert_eq!(export("a").await, (200, json!({})), "as it was told before");
    assert_eq!(end(&floe, "telemetry").await, 2);
    let (status, answer) = export("b").await;
    let rejected = &answer["partialSuccess"]["rejectedLogRecords"];
    assert_eq!((status, rejected), (200, &json!("1")), "it is new");
    assert_eq!(end(&floe, "telemetry").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_telemetry_is_refused_by_a_template_and_the_others_are_stored() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let sinks = telemetry(&floe).await;
    done(&floe, Method::PATCH, &format!("{sinks}/twice/settings"), set(&json!("sync"))).await;
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/telemetry"), None).await;
    let url = format!("{}/v1/logs", shown["otlp"]["url"].as_str().unwrap());
    let export = async |bodies: &[&str]| {
        let records: Vec<Value> =
            bodies.iter().map(|text| json!({"body": {"stringValue": text}})).collect();
        let logs = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]});
        read(Client::new().post(&url).json(&logs).send().await.unwrap()).await
    };
    let (status, answer) = export(&["1", "one", "2", "two", "3"]).await;
    assert_eq!((status, &answer["partialSuccess"]["rejectedLogRecords"]), (200, &json!("2")));
    let why = answer["partialSuccess"]["errorMessage"].as_str().unwrap();
    assert!(why.contains("1: sink twice: column \"next\"") && why.contains("; 3: sink"), "{why}");
    assert_eq!(end(&floe, "telemetry").await, 3);
    assert_eq!(export(&["one"]).await.0, 400);
    assert_eq!(export(&["1"]).await, (200, json!({})));
    assert_eq!(end(&floe, "telemetry").await, 4);
    flush(&floe, "in.otel.next").await;
    let rows = table::texts(&floe.url("/iceberg"), "in%1Fotel", "next", "next").await;
    assert_eq!(rows, ["2", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_does_not_end_refuses_its_request_and_holds_up_nobody() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    let content = "local text = std.repeat('x', 999999);
        if Body('slow') then std.foldl(function(sum, n) sum + std.length(std.sha512(text)),
            std.range(1, 20000), 0) else 'quick'";
    let template = json!({"language": "jsonnet", "content": content});
    let mapping = json!({"columns": [{"type": "template", "name": "t", "template": template}]});
    done(&floe, Method::POST, &sinks, of_keboola("in.shop.slow", &mapping)).await;
    done(&floe, Method::PATCH, &format!("{sinks}/twice/settings"), set(&json!("sync"))).await;
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    let url = shown["http"]["url"].as_str().unwrap().to_owned();
    let began = Instant::now();
    let (slow, quick) = tokio::join!(send(&url, "", r#"{"slow": true}"#), async {
        let quick = send(&url, "", r#"{"slow": false}"#).await;
        (quick, began.elapsed())
    });
    let (status, answer) = slow;
    let told = answer["sources"][0]["sinks"][0]["message"].as_str().unwrap_or_default();
    assert_eq!(status, 422, "{answer}");
    assert_eq!(told, "column \"t\": the template did not end in time");
    assert_eq!(quick.0, (200, json!("OK")));
    assert!(quick.1 < Duration::from_secs(5), "it waited for the slow one: {:?}", quick.1);
    assert_eq!(end(&floe, "shop").await, 1);
}
