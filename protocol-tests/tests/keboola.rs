//! Keboola's dialect, as its clients use it: a change is a task that is asked for, a request goes to
//! the URL that the source shows, and what was deleted comes back.

mod management;
mod telemetry;
mod validate;

use protocol_tests::{Floe, eventually, first_token, table};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

const SOURCES: &str = "/v1/branches/default/sources";

/// Status and body of a request.
async fn ask(floe: &Floe, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let call = Client::new().request(method, floe.url(path));
    let call = match body {
        Some(body) => call.json(&body),
        None => call,
    };
    read(call.send().await.expect("the server answers")).await
}

async fn read(answer: Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let text = answer.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Does what a client does after a change: asks for the task, then for what it made.
async fn done(floe: &Floe, method: Method, path: &str, body: Value) -> Value {
    let (status, task) = ask(floe, method, path, Some(body)).await;
    assert_eq!((status, &task["status"]), (202, &json!("processing")), "{path}: {task}");
    let url = task["url"].as_str().unwrap().to_owned();
    let finished = Client::new().get(url).send().await.unwrap();
    let (status, finished) = read(finished).await;
    assert_eq!((status, &finished["status"]), (200, &json!("success")), "{finished}");
    assert_eq!((&finished["isFinished"], &finished["type"]), (&json!(true), &task["type"]));
    finished
}

async fn output(floe: &Floe, task: &Value) -> Value {
    let url = task["outputs"]["url"].as_str().expect("an output").to_owned();
    let path = url.split_once("/v1/").map(|(_, rest)| format!("/v1/{rest}")).unwrap();
    let (status, shown) = ask(floe, Method::GET, &path, None).await;
    assert_eq!(status, 200, "{shown}");
    shown
}

async fn send(url: &str, query: &str, body: &str) -> (u16, Value) {
    let call = Client::new().post(format!("{url}{query}"));
    let call = call.header("content-type", "application/json").body(body.to_owned());
    read(call.send().await.expect("the server answers")).await
}

async fn flush(floe: &Floe, table: &str) {
    let url = floe.url(&format!("/api/v1/tables/{table}/flush"));
    let (status, flushed) = read(Client::new().post(url).send().await.unwrap()).await;
    assert_eq!(status, 200, "{flushed}");
}

fn sink(name: &str, table: &str) -> Value {
    json!({
        "type": "table",
        "name": name,
        "table": {
            "type": "keboola",
            "tableId": table,
            "mapping": { "columns": [
                { "type": "id", "name": "id" },
                { "type": "path", "name": "price", "path": "price" },
                { "type": "path", "name": "who", "path": "who", "rawString": true, "defaultValue": "x" },
            ]},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_a_sink_takes_what_the_sink_has_rows_of() {
    let floe = Floe::start(&["--table-target-lag=1s", "--num-partitions=1"]).await;
    let task = done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "My Shop"})).await;
    let source = output(&floe, &task).await;
    assert_eq!((&source["sourceId"], &source["branchId"]), (&json!("my-shop"), &json!(1)));
    assert_eq!(source["version"]["description"], "New source.");
    let url = source["http"]["url"].as_str().unwrap().to_owned();
    assert_eq!(send(&url, "?verbose=true", "{}").await.1["message"], "No enabled sink found.");
    let path = format!("{SOURCES}/my-shop/sinks");
    let task = done(&floe, Method::POST, &path, sink("Orders", "in.c-shop.all-orders")).await;
    let shown = output(&floe, &task).await;
    assert_eq!(shown["table"]["tableId"], "in.c-shop.all_orders");
    assert_eq!((&shown["table"]["type"], &shown["sinkId"]), (&json!("keboola"), &json!("orders")));
    // What came before the sink is not its.
    assert_eq!(send(&url, "", r#"{"price": 1.5, "who": "ann"}"#).await, (200, json!("OK")));
    let (status, answer) = send(&url, "?verbose=true", r#"{"price": {"a":  1}}"#).await;
    let written = &answer["sources"][0];
    assert_eq!((status, &answer["message"]), (200, &json!("Successfully written to 1/1 sinks.")));
    assert_eq!(
        (&written["sourceId"], &written["sinks"][0]["message"]),
        (&json!("my-shop"), &json!("processed"))
    );
    // Nothing of a request is stored that a sink has no row of.
    let csv = Client::new().post(&url).header("content-type", "text/csv").body("a,b");
    let (status, answer) = read(csv.send().await.unwrap()).await;
    assert_eq!((status, &answer["error"]), (415, &json!("stream.in.unsupportedMediaType")));
    let (status, answer) = send(&url, "", r#"{"who": "ann"}"#).await;
    assert_eq!((status, &answer["error"]), (422, &json!("stream.in.unprocessableContent")));
    let told = &answer["sources"][0]["sinks"][0];
    assert!(told["message"].as_str().unwrap().contains("price"), "{answer}");
    flush(&floe, "in.c-shop.all_orders").await;
    let texts = async |column| {
        let url = floe.url("/iceberg");
        table::texts(&url, "in%1Fc-shop", "all_orders", column).await
    };
    assert_eq!(texts("price").await, ["1.5", r#"{"a":1}"#]);
    assert_eq!(texts("who").await, ["ann", "x"]);
    let (_, total) =
        ask(&floe, Method::GET, &format!("{path}/orders/statistics/total"), None).await;
    assert_eq!(total["levels"]["target"]["recordsCount"], 2, "{total}");
    let files = format!("{path}/orders/statistics/files");
    let (_, listed) = ask(&floe, Method::GET, &files, None).await;
    assert_eq!(listed["files"][0]["state"], "imported", "{listed}");
    let clear = format!("{path}/orders/statistics/clear");
    assert_eq!(ask(&floe, Method::DELETE, &clear, None).await.0, 200);
    let (_, total) =
        ask(&floe, Method::GET, &format!("{path}/orders/statistics/total"), None).await;
    assert_eq!(total["total"]["recordsCount"], 0, "{total}");
    let test = Client::new().post(floe.url(&format!("{SOURCES}/my-shop/test")));
    let test = test.header("content-type", "application/json").body(r#"{"price": 2}"#);
    let (status, tested) = read(test.send().await.unwrap()).await;
    let columns = &tested["tables"][0]["rows"][0]["columns"];
    assert_eq!((status, &columns[1]["value"]), (200, &json!("2")), "{tested}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_comes_back_and_versions_are_kept_over_restarts() {
    let mut floe = Floe::start(&["--table-target-lag=1s", "--num-partitions=1"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    let made = done(&floe, Method::POST, &sinks, sink("orders", "in.shop.orders")).await;
    let source = format!("{SOURCES}/shop");
    let (_, shown) = ask(&floe, Method::GET, &source, None).await;
    let url = shown["http"]["url"].as_str().unwrap().to_owned();
    assert_eq!(send(&url, "", r#"{"price": 1}"#).await.0, 200);
    let rename = json!({"name": "The shop", "changeDescription": "Its name."});
    done(&floe, Method::PATCH, &source, rename).await;
    let more = json!({"table": {"mapping": {"columns": [
        {"type": "path", "name": "price", "path": "price"},
        {"type": "body", "name": "raw"},
    ]}}});
    done(&floe, Method::PATCH, &format!("{sinks}/orders"), more).await;
    done(&floe, Method::PUT, &format!("{sinks}/orders/versions/1/rollback"), json!({})).await;
    floe.kill();
    floe.restart().await;
    let task = made["taskId"].as_str().unwrap();
    let (status, again) = ask(&floe, Method::GET, &format!("/v1/tasks/{task}"), None).await;
    assert_eq!((status, &again["result"]), (200, &json!("Sink has been created successfully.")));
    let (status, _) = ask(&floe, Method::GET, &format!("/v1/tasks/{}9", task), None).await;
    assert_eq!(status, 404, "a task that never was");
    let (_, listed) = ask(&floe, Method::GET, &format!("{sinks}/orders/versions"), None).await;
    let told: Vec<&str> = listed["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["description"].as_str().unwrap())
        .collect();
    assert_eq!(told, ["New sink.", "Updated.", "Rollback to version 1."]);
    let (_, shown) = ask(&floe, Method::GET, &format!("{sinks}/orders"), None).await;
    assert_eq!(shown["table"]["mapping"]["columns"].as_array().unwrap().len(), 3, "{shown}");
    let (_, listed) = ask(&floe, Method::GET, &format!("{source}/versions"), None).await;
    assert_eq!(listed["versions"][1]["description"], "Its name.");
    // Deleted with its sink, and back with it; what came meanwhile was refused.
    done(&floe, Method::DELETE, &source, json!({})).await;
    assert_eq!(ask(&floe, Method::GET, &source, None).await.0, 404);
    let (status, refused) = send(&url, "", r#"{"price": 2}"#).await;
    assert_eq!((status, &refused["error"]), (404, &json!("stream.in.noSourceFound")));
    let (_, deleted) = ask(&floe, Method::GET, &format!("{SOURCES}/deleted"), None).await;
    assert_eq!(deleted["sources"][0]["sourceId"], "shop");
    done(&floe, Method::PUT, &format!("{source}/undelete"), json!({})).await;
    assert_eq!(send(&url, "", r#"{"price": 3}"#).await.0, 200, "with the secret that it had");
    flush(&floe, "in.shop.orders").await;
    let rows = table::texts(&floe.url("/iceberg"), "in%1Fshop", "orders", "price").await;
    assert_eq!(rows, ["1", "3"]);
    done(&floe, Method::DELETE, &format!("{sinks}/orders"), json!({})).await;
    assert_eq!(send(&url, "?verbose=1", r#"{}"#).await.0, 400, "verbose is true or false");
    assert_eq!(send(&url, "", r#"{}"#).await, (200, json!("OK")));
    let (_, deleted) = ask(&floe, Method::GET, &format!("{sinks}/deleted"), None).await;
    assert_eq!(deleted["sinks"][0]["sinkId"], "orders", "{deleted}");
    done(&floe, Method::PUT, &format!("{sinks}/orders/undelete"), json!({})).await;
    // Made again instead, it goes on in its table.
    done(&floe, Method::DELETE, &format!("{sinks}/orders"), json!({})).await;
    done(&floe, Method::POST, &sinks, sink("orders", "in.shop.orders")).await;
    // Who shares a topic keeps its sinks.
    let shared =
        Client::new().put(floe.url("/api/v1/sources/other")).json(&json!({"topic": "shop"}));
    assert_eq!(shared.send().await.unwrap().status(), 201);
    done(&floe, Method::DELETE, &format!("{SOURCES}/other"), json!({})).await;
    assert_eq!(ask(&floe, Method::GET, &format!("{sinks}/orders"), None).await.0, 200);
    let (status, rotated) =
        ask(&floe, Method::POST, &format!("{source}/rotate-secret"), None).await;
    assert_eq!((status, &rotated["version"]["description"]), (200, &json!("Rotated secret.")));
    assert_eq!(send(&url, "", r#"{"price": 4}"#).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_inherited_and_drive_commits_and_answers() {
    let floe = Floe::start(&["--num-partitions=1", "--table-target-lag=1h"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    done(&floe, Method::POST, &sinks, sink("orders", "in.shop.orders")).await;
    let set = |key: &str, value: Value| json!({"settings": [{"key": key, "value": value}]});
    const COUNT: &str = "storage.level.target.import.trigger.count";
    const WAIT: &str = "storage.level.local.encoding.sync.wait";
    let of_source = format!("{SOURCES}/shop/settings");
    let task = done(&floe, Method::PATCH, &of_source, set(COUNT, json!(3))).await;
    assert_eq!(task["result"], "Source settings have been updated successfully.");
    let of_sink = format!("{sinks}/orders/settings");
    let value = async |path: &str, key: &str| {
        let (_, shown) = ask(&floe, Method::GET, path, None).await;
        let settings = shown["settings"].as_array().unwrap().clone();
        let found = settings.into_iter().find(|setting| setting["key"] == key).unwrap();
        (found["value"].clone(), found["overwritten"] == true)
    };
    assert_eq!(value(&of_sink, COUNT).await, (json!(3), false), "the source's");
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    let url = shown["http"]["url"].as_str().unwrap().to_owned();
    for price in 0..3 {
        assert_eq!(send(&url, "", &format!(r#"{{"price": {price}}}"#)).await.0, 200);
    }
    eventually("three records are a commit", || async {
        let path = format!("{sinks}/orders/statistics/total");
        let (_, total) = ask(&floe, Method::GET, &path, None).await;
        (total["levels"]["target"]["recordsCount"] == 3).then_some(())
    })
    .await;
    done(&floe, Method::PATCH, &of_sink, set(WAIT, json!(false))).await;
    let (status, answer) = send(&url, "?verbose=true", r#"{"price": 4}"#).await;
    assert_eq!((status, &answer["sources"][0]["sinks"][0]["message"]), (202, &json!("accepted")));
    done(&floe, Method::PATCH, &of_sink, json!({})).await;
    let (status, refused) = ask(
        &floe,
        Method::PATCH,
        &of_sink,
        Some(set("storage.level.local.compression.type", json!(1))),
    )
    .await;
    assert_eq!((status, &refused["error"]), (403, &json!("stream.api.forbidden")));
    done(&floe, Method::PUT, &format!("{sinks}/orders/disable"), json!({})).await;
    assert_eq!(send(&url, "", r#"{}"#).await.0, 200, "a disabled sink asks for nothing");
    done(&floe, Method::PUT, &format!("{SOURCES}/shop/disable"), json!({})).await;
    let (status, refused) = send(&url, "", r#"{"price": 4}"#).await;
    assert_eq!((status, &refused["error"]), (404, &json!("stream.in.disabledSource")));
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    assert_eq!(shown["disabled"]["reason"], "Disabled.", "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_keboolas_form() {
    let floe = Floe::start(&[]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let name = "x".repeat(41);
    for (method, path, body, wanted) in [
        (
            Method::POST,
            SOURCES,
            json!({"type": "http", "name": "Shop"}),
            (409, "sourceAlreadyExists"),
        ),
        (Method::POST, SOURCES, json!({"name": "a"}), (400, "missingField")),
        (Method::POST, SOURCES, json!({"type": "ftp", "name": "a"}), (400, "invalidEnumValue")),
        (Method::POST, SOURCES, json!({"type": "http", "name": name}), (400, "invalidLength")),
        (Method::POST, SOURCES, json!([]), (400, "badRequest")),
        (Method::GET, "/v1/branches/7/sources", json!({}), (404, "branchNotFound")),
        (Method::GET, "/v1/branches/default/sources/no", json!({}), (404, "sourceNotFound")),
        (Method::GET, "/v1/branches/1/sources/shop/sinks/no", json!({}), (404, "sinkNotFound")),
        (
            Method::GET,
            "/v1/branches/1/sources/shop/versions/9",
            json!({}),
            (404, "versionNotFound"),
        ),
        (Method::GET, "/v1/branches/1/sources?limit=0", json!({}), (400, "invalidRange")),
        (Method::GET, "/v1/tasks/a/b", json!({}), (404, "taskNotFound")),
        (Method::GET, "/v1/branches/1/nothing", json!({}), (404, "endpointNotFound")),
        (Method::PUT, SOURCES, json!({}), (405, "methodNotAllowed")),
    ] {
        let (status, refused) = ask(&floe, method, path, Some(body)).await;
        let error = format!("stream.api.{}", wanted.1);
        assert_eq!((status, refused["error"].as_str()), (wanted.0, Some(error.as_str())), "{path}");
        assert_eq!(refused["statusCode"], status, "{refused}");
        assert!(refused["message"].as_str().unwrap().ends_with('.'), "{refused}");
    }
    let broken = json!({"language": "jsonnet", "content": "Invalid"});
    let mut bad = sink("bad", "in.shop.bad");
    bad["table"]["mapping"]["columns"] =
        json!([{"type": "template", "name": "t", "template": broken}]);
    let sinks = format!("{SOURCES}/shop/sinks");
    let (status, refused) = ask(&floe, Method::POST, &sinks, Some(bad)).await;
    assert_eq!((status, &refused["error"]), (400, &json!("stream.api.badRequest")), "{refused}");
    for (path, wanted) in [
        ("/stream/foo/shop/s", (400, "badRequest")),
        ("/stream/1/shop/wrong", (404, "noSourceFound")),
        ("/stream/2/shop/wrong", (404, "noSourceFound")),
        ("/stream/1", (404, "routeNotFound")),
    ] {
        let (status, refused) = send(&floe.url(path), "", "{}").await;
        let error = format!("stream.in.{}", wanted.1);
        assert_eq!((status, refused["error"].as_str()), (wanted.0, Some(error.as_str())), "{path}");
    }
    let got = Client::new().get(floe.url("/stream/1/shop/x")).send().await.unwrap();
    assert_eq!(got.headers()["server"], "Keboola/Stream/HTTPSource");
    assert_eq!(read(got).await.0, 404);
    let asked = Client::new().request(Method::OPTIONS, floe.url("/stream/1/shop/x"));
    let asked = asked.send().await.unwrap();
    assert_eq!(
        (asked.status().as_u16(), &asked.headers()["access-control-allow-methods"]),
        (200, &"OPTIONS, POST".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_seen_and_changed_with_an_admins_token_alone() {
    let mut floe = Floe::start(&[]).await;
    floe.stop().await;
    let token = first_token(&floe.dir().join("data"));
    floe.restart().await;
    let ask = async |headers: &[(&str, &str)]| {
        let mut call = Client::new().get(floe.url(SOURCES));
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        let (status, answer) = read(call.send().await.unwrap()).await;
        (status, answer["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask(&[("x-storageapi-token", &token)]).await.0, 200);
    let missing = "\"X-StorageApi-Token\" is missing from header.".to_owned();
    assert_eq!(ask(&[]).await, (400, missing));
    assert_eq!(ask(&[("x-storageapi-token", "wrong")]).await.0, 401);
    let preflight = Client::new().request(Method::OPTIONS, floe.url(SOURCES));
    let preflight = preflight.header("origin", "https://a.example").send().await.unwrap();
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
}

/// Runs `floe apply` and tells what it printed.
fn apply(floe: &Floe, path: &std::path::Path, flags: &[&str]) -> (bool, String) {
    let mut command = std::process::Command::new(protocol_tests::binary());
    let run = command.arg("apply").arg(path).args(flags).args(["--url", &floe.url("")]);
    let done = run.output().expect("the binary can be started");
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_makes_what_it_says_and_leaves_alone_what_is_so() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let path = floe.dir().join("floe.toml");
    let text = r#"
[topics.shop]
partitions = 2
options = { "table.mode" = "off", "retention.ms" = 3600000 }

[topics.shop.sinks.prices]
table = { name = "prices" }
mapping.columns = [{ type = "path", name = "price", path = "price", dataType = "double" }]
validate = "sync"

[sources.shop]
topic = "shop"
"#;
    std::fs::write(&path, text).unwrap();
    let results = |printed: &str| -> Vec<String> {
        let last = |line: &str| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
        printed.lines().map(last).collect()
    };
    let (done, printed) = apply(&floe, &path, &["--dry-run"]);
    assert!(done && printed.contains("would be made"), "{printed}");
    assert_eq!(floe.get("/api/v1/topics").await["topics"], json!([]));
    let (done, printed) = apply(&floe, &path, &[]);
    assert!(done, "{printed}");
    assert_eq!(results(&printed), ["made", "made", "made"], "{printed}");
    let (_, printed) = apply(&floe, &path, &[]);
    assert_eq!(results(&printed), ["unchanged", "unchanged", "unchanged"], "{printed}");
    let other = text
        .replace("3600000", "7200000")
        .replace("[topics.shop.sinks.prices]", "[topics.shop.sinks.other]")
        .replace("\"prices\"", "\"others\"");
    std::fs::write(&path, other).unwrap();
    let (_, printed) = apply(&floe, &path, &[]);
    assert_eq!(results(&printed), ["changed", "made", "not in the file", "unchanged"], "{printed}");
    let (_, printed) = apply(&floe, &path, &["--prune"]);
    assert_eq!(results(&printed), ["unchanged", "unchanged", "deleted", "unchanged"], "{printed}");
    std::fs::write(&path, "[topics.shop]\ncolour = 1").unwrap();
    let (done, printed) = apply(&floe, &path, &[]);
    assert!(!done && printed.contains("colour"), "{printed}");
    std::fs::write(&path, "[sources.shop]\nname = 1").unwrap();
    let (done, printed) = apply(&floe, &path, &[]);
    assert!(!done && printed.contains("source shop"), "{printed}");
}
