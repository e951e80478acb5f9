//! Streams that bring other tiering down: an idle partition, shapes that alternate, a great many
//! partition values, poison now and then, names that collide, values at the edges. And further tables
//! of a topic: its sinks, over HTTP, and what makes and changes those.

mod native;

use std::collections::BTreeSet;
use std::fmt::Write;

use protocol_tests::clients::create;
use protocol_tests::{Floe, eventually, table};
use reqwest::Method;
use serde_json::{Value, json};

async fn post(floe: &Floe, topic: &str, query: &str, body: String) {
    let url = floe.url(&format!("/api/v1/topics/{topic}/events{query}"));
    let call = reqwest::Client::new().post(url).header("content-type", "application/x-ndjson");
    let answer = call.body(body).send().await.expect("the server answers");
    let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
    assert!(status.is_success(), "{status} {text}");
}

fn lines(numbers: std::ops::Range<i64>, line: impl Fn(i64) -> String) -> String {
    numbers.fold(String::new(), |mut body, i| {
        writeln!(body, "{}", line(i)).expect("a string takes text");
        body
    })
}

/// Offsets of all rows by partition are without holes and doubles; how many rows there are.
async fn rows_without_holes(floe: &Floe, topic: &str) -> usize {
    let rows = table::rows(&floe.url("/iceberg"), topic).await.expect("the table is there");
    let places: BTreeSet<(i32, i64)> = rows.iter().map(|row| (row.partition, row.offset)).collect();
    assert_eq!(places.len(), rows.len(), "a row is there twice");
    for (partition, offset) in &places {
        assert!(*offset == 0 || places.contains(&(*partition, offset - 1)), "{partition} {offset}");
    }
    rows.len()
}

/// The watermark in the newest snapshot, milliseconds.
async fn watermark(floe: &Floe, topic: &str) -> i64 {
    let metadata = table::metadata(&floe.url("/iceberg"), topic).await.expect("a table");
    let snapshot = metadata.current_snapshot().expect("a commit");
    snapshot.summary().additional_properties["floe.watermark-ms"].parse().expect("a number")
}

fn rss_mb(floe: &Floe) -> u64 {
    let path = format!("/proc/{}/status", floe.pid());
    let status = std::fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number") / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_partition_holds_back_neither_rows_nor_the_watermark() {
    let floe = Floe::start(&["--table-target-lag=1s", "--num-partitions=16"]).await;
    let mut last = 0;
    for turn in 0..3_i64 {
        for partition in 0..15 {
            let body = lines(turn * 10..turn * 10 + 10, |i| format!("{{\"i\":{i}}}"));
            post(&floe, "t", &format!("?partition={partition}"), body).await;
        }
        let wanted = 150 * usize::try_from(turn + 1).unwrap();
        eventually("the rows", || async {
            let rows = table::rows(&floe.url("/iceberg"), "t").await?;
            (rows.len() == wanted).then_some(())
        })
        .await;
        let now = watermark(&floe, "t").await;
        assert!(now > last, "the watermark stands still at {now}");
        last = now;
    }
    // Rows are in the catalog a moment before their table says so.
    eventually("a table that has everything", || async {
        let status = floe.get("/api/v1/tables/streams.t").await;
        (status["lag_ms"] == 0 && status["pending_offsets"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shapes_that_alternate_record_by_record_cost_no_file_each() {
    let floe = Floe::start(&["--table-target-lag=1h", "--num-partitions=1"]).await;
    let body = lines(0..6_000, |i| match i % 3 {
        0 => format!("{{\"i\":{i},\"a\":1}}"),
        1 => format!("{{\"i\":{i},\"b\":{{\"c\":[\"x\"]}}}}"),
        _ => format!("{{\"i\":{i},\"a\":\"text\"}}"),
    });
    post(&floe, "t", "", body).await;
    let status = floe.flush("t").await;
    assert_eq!(status["rows"], 6_000, "{status}");
    let files = status["last_files"].as_array().map_or(0, Vec::len);
    let commits = status["commits"].as_u64().unwrap();
    assert!(files <= 3 && commits <= 2, "{files} files in the last of {commits} commits");
    assert_eq!(rows_without_holes(&floe, "t").await, 6_000);
}

/// More than the peak that was measured (about 270 MB in a debug build), less than a file each.
const MANY_VALUES_RSS_MB: u64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_partition_values_in_one_batch_stay_within_memory() {
    let floe = Floe::start(&["--table-target-lag=1h", "--num-partitions=1"]).await;
    let options = [("table.partition.spec", "identity(k)"), ("table.mode", "json")];
    create(&floe, "t", 1, &options).await;
    post(&floe, "t", "", lines(0..3_000, |i| format!("{{\"i\":{i},\"k\":\"key-{i}\"}}"))).await;
    let status = floe.flush("t").await;
    assert_eq!(status["rows"], 3_000, "{status}");
    assert_eq!(rows_without_holes(&floe, "t").await, 3_000);
    let peak = rss_mb(&floe);
    println!("three thousand partition values: {peak} MB at most");
    assert!(peak < MANY_VALUES_RSS_MB, "{peak} MB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_now_and_then_is_counted_to_the_record() {
    let floe = Floe::start(&["--table-target-lag=1h", "--num-partitions=2"]).await;
    create(&floe, "t", 2, &[("table.mode", "json")]).await;
    let mut wire = protocol_tests::wire::Wire::connect(&floe.bootstrap()).await;
    let values: Vec<String> = (0..20_000)
        .map(|i| if i % 1_000 == 999 { "{poison".to_owned() } else { format!("{{\"i\":{i}}}") })
        .collect();
    for (turn, some) in values.chunks(1_000).enumerate() {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        let partition = i32::try_from(turn % 2).unwrap();
        assert_eq!(wire.produce("t", partition, &some).await.error_code, 0);
    }
    let status = floe.flush("t").await;
    assert_eq!((&status["rows"], &status["dlq_rows"]), (&json!(19_980), &json!(20)), "{status}");
    assert_eq!(status["gap_offsets"], 0);
    let dead = table::rows(&floe.url("/iceberg"), "t__dlq").await.expect("dead letters");
    assert!(dead.iter().all(|row| row.offset % 1_000 == 999), "{dead:?}");
}

/// Names of the columns, with those of nested ones.
fn columns(status: &Value) -> Vec<String> {
    let columns = status["columns"].as_array().expect("columns");
    columns.iter().map(|column| column["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_collide_without_case_and_values_at_the_edges_are_kept() {
    let floe = Floe::start(&["--table-target-lag=1h", "--num-partitions=1"]).await;
    let deep = (0..60).fold("1".to_owned(), |inner, _| format!("{{\"n\":{inner}}}"));
    let values = [
        r#"{"Name":"a","name":"b","NAME":"c"}"#.to_owned(),
        r#"{"i":18446744073709551615}"#.to_owned(),
        r#"{"i":-9223372036854775808,"f":1e400}"#.to_owned(),
        r#"{"i":1,"i":2}"#.to_owned(),
        r#"{"":"no name","floe":{"offset":7},"_rest":1}"#.to_owned(),
        format!("{{\"deep\":{deep}}}"),
        "[]".to_owned(),
        "null".to_owned(),
    ];
    let mut wire = protocol_tests::wire::Wire::connect(&floe.bootstrap()).await;
    create(&floe, "t", 1, &[]).await;
    for value in &values {
        assert_eq!(wire.produce("t", 0, &[value]).await.error_code, 0, "{value}");
    }
    let status = floe.flush("t").await;
    assert_eq!(
        (&status["rows"], &status["dlq_rows"]),
        (&json!(values.len()), &json!(0)),
        "{status}"
    );
    let columns = columns(&status);
    let folded: BTreeSet<String> = columns.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(folded.len(), columns.len(), "{columns:?}");
    assert_eq!(rows_without_holes(&floe, "t").await, values.len());
}

const SINK: &str = "/api/v1/topics/t/sinks/prices";

/// Status, entity tag and JSON of an answer.
async fn ask(
    floe: &Floe,
    (method, path): (Method, &str),
    headers: &[(&str, &str)],
    body: &Value,
) -> (u16, String, Value) {
    let mut request = reqwest::Client::new().request(method, floe.url(path));
    if !body.is_null() {
        request = request.json(body);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let tag = answer.headers().get("etag").map_or("", |tag| tag.to_str().unwrap()).to_owned();
    let text = answer.text().await.unwrap();
    (status, tag, serde_json::from_str(&text).unwrap_or_default())
}

fn prices() -> Value {
    json!({
        "table": {"name": "prices"},
        "mapping": {"columns": [
            {"type": "path", "name": "price", "path": "price", "dataType": "double"},
            {"type": "headers", "name": "headers"},
        ]},
        "commit": {"lag_ms": 1_000},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_made_changed_tried_and_deleted_over_http() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let put = async |headers: &[(&str, &str)], body: &Value| {
        ask(&floe, (Method::PUT, SINK), headers, body).await
    };
    let code = |answer: &(u16, String, Value)| (answer.0, answer.2["code"].clone());
    assert_eq!(code(&put(&[], &prices()).await), (404, json!("unknown_topic")));
    post(&floe, "t", "", r#"{"price":1.5}"#.to_owned()).await;
    let mut bad = prices();
    bad["mapping"]["columns"][0]["path"] = json!("a[");
    bad["commit"]["records"] = json!(0);
    let refused = put(&[], &bad).await;
    assert_eq!(code(&refused), (400, json!("invalid_sink")));
    let detail = refused.2["detail"].as_str().unwrap();
    assert!(detail.contains("\"price\"") && detail.contains("commit.records"), "{detail}");
    let samples = json!([{"price": 1, "city": "Brno"}, {"price": 2.5}]);
    let infer = (Method::POST, "/api/v1/topics/t/infer");
    let (status, _, proposed) = ask(&floe, infer.clone(), &[], &samples).await;
    let wish = json!({"table": {"name": "proposed"}, "mapping": proposed["mapping"]});
    assert_eq!((status, &proposed["left_out"]), (200, &json!([])), "{proposed}");
    let dry = "/api/v1/topics/t/sinks/proposed?dry_run=true";
    let (status, _, shown) = ask(&floe, (Method::PUT, dry), &[], &wish).await;
    assert_eq!((status, &shown["mapping"]), (200, &proposed["mapping"]), "{shown}");
    let names = proposed["mapping"]["columns"].as_array().unwrap();
    assert!(names.iter().any(|column| column["name"] == "city"), "{proposed}");
    assert_eq!(ask(&floe, infer, &[], &json!([1])).await.0, 400);
    let dry = format!("{SINK}?dry_run=true");
    let (status, _, shown) = ask(&floe, (Method::PUT, &dry), &[], &prices()).await;
    assert_eq!((status, &shown["version"]), (200, &json!(1)));
    assert_eq!(ask(&floe, (Method::GET, SINK), &[], &Value::Null).await.0, 404);
    let (status, tag, made) = put(&[("if-none-match", "*")], &prices()).await;
    assert_eq!((status, &made["status"]["table"]), (201, &json!("streams.prices")), "{made}");
    assert_eq!(code(&put(&[("if-none-match", "*")], &prices()).await).0, 412);
    // What was read can be sent back.
    let (status, same, _) = put(&[("if-match", &tag)], &made).await;
    assert_eq!((status, &same), (200, &tag));
    let mut other = made.clone();
    other["name"] = json!("Prices");
    let (status, newer, replaced) = put(&[("if-match", &tag)], &other).await;
    assert_eq!((status, &replaced["version"], &replaced["name"]), (200, &json!(2), &other["name"]));
    let stale = put(&[("if-match", &tag)], &prices()).await;
    assert_eq!(code(&stale), (412, json!("precondition_failed")));
    let taken = json!({"table": {"name": "T"}, "mapping": prices()["mapping"]});
    let taken = ask(&floe, (Method::PUT, "/api/v1/topics/t/sinks/own"), &[], &taken).await;
    assert_eq!(code(&taken), (409, json!("table_taken")));
    let test = format!("{SINK}/test");
    let secret = [("cookie", "session=Bearer"), ("x-shop", "eu")];
    let (status, _, row) = ask(&floe, (Method::POST, &test), &secret, &json!({"price": 2})).await;
    assert_eq!((status, &row["columns"][0]["value"]), (200, &json!(2.0)), "{row}");
    assert_eq!(row["columns"][0]["type"], "double");
    let headers = row["columns"][1]["value"].as_str().unwrap();
    assert!(headers.contains("X-Shop") && !headers.contains("Bearer"), "{headers}");
    let refused = ask(&floe, (Method::POST, &test), &[], &json!({"price": "x"})).await;
    assert_eq!(code(&refused), (422, json!("unmappable_event")));
    let error = &refused.2["errors"][0];
    assert_eq!((&error["field"], &error["code"]), (&json!("price"), &json!("TYPE_MISMATCH")));
    eventually("the row of before the sink", || async {
        let sinks = floe.get("/api/v1/topics/t/sinks").await;
        (sinks["sinks"][0]["status"]["rows"] == 1).then_some(())
    })
    .await;
    let mut text = prices();
    text["mapping"]["columns"][0]["dataType"] = json!("long");
    assert_eq!(code(&put(&[], &text).await), (400, json!("invalid_sink")));
    let delete = async |tag: &str| {
        ask(&floe, (Method::DELETE, SINK), &[("if-match", tag)], &Value::Null).await.0
    };
    assert_eq!(delete(&tag).await, 412);
    assert_eq!(delete(&newer).await, 204);
    assert_eq!(delete("*").await, 404);
    let rows = table::rows(&floe.url("/iceberg"), "prices").await.expect("the table stays");
    assert_eq!(rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_stores_whole_requests_that_sinks_make_rows_of() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    const SOURCE: &str = "/api/v1/sources/shop";
    let put = async |headers: &[(&str, &str)], body: &Value| {
        ask(&floe, (Method::PUT, SOURCE), headers, body).await
    };
    let (status, tag, made) = put(&[("if-none-match", "*")], &json!({})).await;
    assert_eq!((status, &made["topic"]), (201, &json!("shop")), "{made}");
    let path = made["path"].as_str().unwrap().to_owned();
    let send = async |path: &str, headers: &[(&str, &str)], body: &Value| {
        let (status, _, answer) = ask(&floe, (Method::POST, path), headers, body).await;
        (status, answer)
    };
    let headers = [("x-shop", "eu"), ("authorization", "Bearer hidden"), ("idempotency-key", "k")];
    for duplicate in [false, true] {
        let (status, answer) = send(&path, &headers, &json!({"price": 1.5})).await;
        assert_eq!((status, &answer["duplicate"]), (200, &json!(duplicate)), "{answer}");
    }
    let (status, answer) = send("/sources/shop/wrong", &[], &json!({})).await;
    assert_eq!((status, &answer["code"]), (404, &json!("unknown_source")));
    let columns = json!([
        {"type": "path", "name": "price", "path": "price", "dataType": "double"},
        {"type": "ip", "name": "ip"},
        {"type": "headers", "name": "headers"},
    ]);
    let sink = json!({"table": {"name": "prices"}, "mapping": {"columns": columns}});
    let made = ask(&floe, (Method::PUT, "/api/v1/topics/shop/sinks/prices"), &[], &sink).await;
    assert_eq!(made.0, 201, "{}", made.2);
    let (status, tested) =
        send(&format!("{SOURCE}/test"), &[("x-shop", "eu")], &json!({"price": 2})).await;
    assert_eq!((status, &tested["sinks"][0]["columns"][1]["value"]), (200, &json!("127.0.0.1")));
    let (_, tested) = send(&format!("{SOURCE}/test"), &[], &json!({})).await;
    assert_eq!(tested["sinks"][0]["error"]["field"], "price", "{tested}");
    floe.flush("prices").await;
    let texts =
        async |column: &str| table::texts(&floe.url("/iceberg"), "streams", "prices", column).await;
    assert_eq!(texts("ip").await, ["127.0.0.1"]);
    let headers = texts("headers").await.join("");
    assert!(headers.contains(r#""X-Shop":"eu""#), "{headers}");
    assert!(!headers.contains("hidden") && !headers.contains("floe.ip"), "{headers}");
    let (_, _, rotated) = ask(
        &floe,
        (Method::POST, &format!("{SOURCE}/rotate-secret")),
        &[("if-match", &tag)],
        &json!(1),
    )
    .await;
    assert_eq!(send(&path, &[], &json!({})).await.0, 404, "the old secret opens nothing");
    let path = rotated["path"].as_str().unwrap();
    assert_eq!(send(path, &[], &json!({"price": 3})).await.0, 200);
    assert_eq!(put(&[], &json!({"enabled": false})).await.0, 200);
    let (status, answer) = send(path, &[], &json!({})).await;
    assert_eq!((status, &answer["code"]), (404, &json!("source_disabled")));
    assert_eq!(ask(&floe, (Method::DELETE, SOURCE), &[], &Value::Null).await.0, 204);
    assert_eq!(send(path, &[], &json!({})).await.1["code"], "unknown_source");
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_fill_columns() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    // Every tenth has no n, so the template has no value for it.
    let event = |i: i64| if i % 10 == 9 { "{}".to_owned() } else { format!("{{\"n\":{i}}}") };
    post(&floe, "t", "", lines(0..300, event)).await;
    let template = |content: &str| {
        let template = json!({"language": "jsonnet", "content": content});
        json!({
            "table": {"name": "doubled"},
            "mapping": {"columns": [
                {"type": "template", "name": "i", "dataType": "long", "template": template},
            ]},
            "commit": {"lag_ms": 1_000},
        })
    };
    let put = async |sink: &str, body: &Value| {
        let path = format!("/api/v1/topics/t/sinks/{sink}");
        ask(&floe, (Method::PUT, &path), &[], body).await
    };
    let (status, _, refused) = put("doubled", &template("Body('n') * Two")).await;
    assert_eq!((status, &refused["code"]), (400, &json!("invalid_sink")));
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.contains("\"i\": the template is invalid: 1:13-16 Unknown variable: Two"),
        "{detail}"
    );
    assert_eq!(put("doubled", &template("Body('n') * 2")).await.0, 201);

    eventually("all rows and dead letters of the sink", || async {
        let sinks = floe.get("/api/v1/topics/t/sinks").await;
        let status = &sinks["sinks"][0]["status"];
        (status["rows"] == 270 && status["dlq_rows"] == 30).then_some(())
    })
    .await;
    let rows = table::rows(&floe.url("/iceberg"), "doubled").await.expect("the table is there");
    let rows: BTreeSet<(i64, Option<i64>)> = rows.iter().map(|row| (row.offset, row.i)).collect();
    let doubled = (0..300).filter(|i| i % 10 != 9).map(|i| (i, Some(2 * i)));
    assert_eq!(rows, doubled.collect());
}
