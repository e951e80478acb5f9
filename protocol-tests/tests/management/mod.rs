//! Requests of the management API with their answers, as the files beside this one have them: each
//! file is what one client asks of a server that is new, in order, and what it must be told.
//!
//! ```text
//! METHOD PATH BODY
//! STATUS MEMBERS
//! = NAME POINTER
//! ```
//!
//! An answer has the members that are written, perhaps more; `null` is a member that is not there,
//! `*` in a text is any text, and alone any value. What a third line keeps is `$NAME` from there on.
//! Lines that begin with spaces go on with the one before. The task of a change is asked for at
//! once: its line tells how it ended. Statistics are asked for until they are as written.

mod again;
mod documents;
mod limits;
mod waits;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol_tests::{Floe, WAIT_MAX, first_token};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{SOURCES, ask, done, read, sink};

/// A request and its answer.
#[derive(Default)]
struct Pair {
    request: String,
    status: u16,
    wanted: Option<Value>,
    /// Names and pointers of what is kept of the answer.
    kept: Vec<(String, String)>,
}

fn parse(text: &str) -> Vec<Pair> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match lines.last_mut() {
            Some(last) if line.starts_with(' ') => last.push_str(line.trim_start()),
            _ => lines.push(line.to_owned()),
        }
    }
    let mut pairs: Vec<Pair> = Vec::new();
    for line in lines {
        if let Some((name, pointer)) = line.strip_prefix("= ").and_then(|it| it.split_once(' ')) {
            pairs.last_mut().unwrap().kept.push((name.to_owned(), pointer.to_owned()));
        } else if line.starts_with(|c: char| c.is_ascii_digit()) {
            let (status, wanted) = line.split_once(' ').unwrap_or((&line, ""));
            let pair = pairs.last_mut().unwrap();
            assert_eq!(pair.status, 0, "two answers: {line}");
            pair.status = status.parse().unwrap_or_else(|_| panic!("{line}"));
            let value = |text| serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            pair.wanted = (!wanted.is_empty()).then(|| value(wanted));
        } else {
            assert!(pairs.last().is_none_or(|last| last.status > 0), "no answer before {line}");
            pairs.push(Pair { request: line, ..Pair::default() });
        }
    }
    pairs
}

/// True if the text is the pattern with something for each `*`.
fn is_like(pattern: &str, text: &str) -> bool {
    let (first, rest) = pattern.split_once('*').unwrap_or((pattern, "\0"));
    let Some(mut text) = text.strip_prefix(first) else { return false };
    if rest == "\0" {
        return text.is_empty();
    }
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// Where `found` is not as `wanted`.
fn differences(wanted: &Value, found: &Value, at: &str, into: &mut Vec<String>) {
    let is_so = match (wanted, found) {
        (Value::Object(members), Value::Object(_)) => {
            for (name, wanted) in members {
                differences(wanted, &found[name], &format!("{at}/{name}"), into);
            }
            true
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (i, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                differences(wanted, found, &format!("{at}/{i}"), into);
            }
            true
        }
        (Value::String(pattern), _) if pattern == "*" => !found.is_null(),
        (Value::String(pattern), Value::String(text)) => is_like(pattern, text),
        _ => wanted == found,
    };
    if !is_so {
        into.push(format!("{at}: {found} is not {wanted}"));
    }
}

fn all_differences(wanted: &Value, found: &Value) -> Vec<String> {
    let mut all = Vec::new();
    differences(wanted, found, "", &mut all);
    all
}

/// What is wrong with the form of an error.
fn malformed(status: u16, error: &Value) -> Option<String> {
    let message = error["message"].as_str().unwrap_or_default();
    let is_sentence = message.ends_with('.') && !message.starts_with(char::is_lowercase);
    let id = error["exceptionId"].as_str().is_some_and(|id| id.starts_with("keboola-stream-"));
    let is_named = error["error"].as_str().is_some_and(|name| name.starts_with("st"));
    let is_formed =
        error["statusCode"] == status && is_sentence && is_named && id == (status >= 500);
    (!is_formed).then(|| format!("it is no error as Keboola's: {error}"))
}

/// Asks for a task until it is done, at every address that it has.
async fn followed(floe: &Floe, task: &Value, faults: &mut Vec<String>) -> Value {
    let begun = json!({
        "taskId": "api.*.*/1/*", "type": "api.*", "url": format!("{}*", floe.url("/v1/tasks/")),
        "status": "processing", "isFinished": false, "createdAt": "*T*Z", "finishedAt": null,
        "result": null, "error": null, "outputs": null,
    });
    faults.extend(all_differences(&begun, task));
    let id = task["taskId"].as_str().unwrap_or_default();
    let source = id.split('/').nth(2).unwrap_or_default();
    let (status, finished) = ask(floe, Method::GET, &format!("/v1/tasks/{id}"), None).await;
    let documented = format!("{SOURCES}/{source}/tasks/{id}");
    let (_, again) = ask(floe, Method::GET, &documented, None).await;
    if (status, &again) != (200, &finished) {
        faults.push(format!("the task is {status} {finished}, at its source {again}"));
    }
    let ended = json!({
        "taskId": id, "type": task["type"], "url": task["url"], "status": "success",
        "isFinished": true, "createdAt": task["createdAt"], "finishedAt": "*T*Z", "error": null,
        "duration": "*", "outputs": { "projectId": 1, "branchId": 1, "sourceId": source },
    });
    faults.extend(all_differences(&ended, &finished));
    let output = finished["outputs"]["url"].as_str().unwrap_or_default();
    let path = output.strip_prefix(&floe.url("")).unwrap_or_default();
    let (status, _) = ask(floe, Method::GET, path, None).await;
    let wanted = if id.starts_with("api.delete.") { 404 } else { 200 };
    if status != wanted {
        faults.push(format!("its output {output} is {status}"));
    }
    finished
}

/// The members with what was kept.
fn with(wanted: &Value, kept: &BTreeMap<String, String>) -> Value {
    let quoted = |text: &str| Value::from(text).to_string().trim_matches('"').to_owned();
    let mut text = wanted.to_string();
    for (name, value) in kept {
        text = text.replace(&format!("\"${name}\""), &format!("\"{}\"", quoted(value)));
    }
    serde_json::from_str(&text).unwrap()
}

/// Sends the request of a pair with what was kept, and tells what is wrong with its answer.
async fn exchange(floe: &Floe, pair: &Pair, kept: &mut BTreeMap<String, String>) -> Vec<String> {
    let mut request = pair.request.clone();
    for (name, value) in &*kept {
        request = request.replace(&format!("${name}"), value);
    }
    let mut parts = request.splitn(3, ' ');
    let method = Method::from_bytes(parts.next().unwrap().as_bytes()).unwrap();
    let path = parts.next().unwrap_or_else(|| panic!("{request}"));
    let url = if path.starts_with('/') { floe.url(path) } else { path.to_owned() };
    let mut call = Client::new().request(method, url);
    if let Some(body) = parts.next() {
        call = call.header("content-type", "application/json").body(body.to_owned());
    }
    let (status, mut found) = read(call.send().await.unwrap()).await;
    if status != pair.status {
        return vec![format!("{status} is not {}: {found}", pair.status)];
    }
    let mut faults = Vec::new();
    if status >= 400 {
        faults.extend(malformed(status, &found));
    }
    if status == 202 && found["taskId"].is_string() {
        found = followed(floe, &found, &mut faults).await;
    }
    if let Some(wanted) = &pair.wanted {
        faults.extend(all_differences(&with(wanted, kept), &found));
    }
    for (name, pointer) in &pair.kept {
        let value = found.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        kept.insert(name.clone(), value.to_owned());
    }
    faults
}

/// Texts that are longer than they may be, for what is refused.
fn too_long() -> BTreeMap<String, String> {
    let column = |at: usize| format!("{{\"type\": \"body\", \"name\": \"c{at}\"}}");
    let columns: Vec<String> = (0..101).map(column).collect();
    let pairs = [
        ("long_id", "i".repeat(49)),
        ("long_name", "n".repeat(41)),
        ("long_text", "t".repeat(4_097)),
        ("many_columns", columns.join(", ")),
    ];
    pairs.map(|(name, text)| (name.to_owned(), text)).into()
}

async fn replay(floe: &Floe, text: &str) {
    let (pairs, mut kept, mut faults) = (parse(text), too_long(), Vec::new());
    for pair in &pairs {
        let mut found = exchange(floe, pair, &mut kept).await;
        // What waits for a table is counted a moment after it was stored.
        let is_count = ["/statistics/", "/aggregation/"].iter().any(|it| pair.request.contains(it));
        let deadline = Instant::now() + WAIT_MAX;
        while is_count && pair.request.starts_with("GET ") && !found.is_empty() {
            if Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            found = exchange(floe, pair, &mut kept).await;
        }
        if !found.is_empty() {
            faults.push(format!("{}\n    {}", pair.request, found.join("\n    ")));
        }
    }
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), pairs.len(), faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_are_managed_as_recorded() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    replay(&floe, include_str!("sources.http")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_are_managed_as_recorded() {
    let floe = Floe::start(&["--num-partitions=1", "--table-target-lag=1h"]).await;
    replay(&floe, include_str!("sinks.http")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_managed_as_recorded() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    replay(&floe, include_str!("settings.http")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_told_as_recorded() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    replay(&floe, include_str!("refusals.http")).await;
}

/// The token is looked at before the branch, the source and the body.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_that_may_change_sources_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let admin = first_token(&dir.path().join("data"));
    let floe = Floe::start_in(&dir.path().join("data"), &["--num-partitions=1"]).await;
    let wish = json!({ "name": "reader", "allow": ["read:topic:*"] });
    let made = Client::new().post(floe.url("/api/v1/tokens")).header("token", &admin).json(&wish);
    let (status, made) = read(made.send().await.unwrap()).await;
    assert_eq!(status, 201, "{made}");
    let reader = made["token"].as_str().unwrap();
    let missing =
        (400, "stream.api.missingField", "\"X-StorageApi-Token\" is missing from header.");
    let unknown = (401, "storage.tokenInvalid", "*.");
    let barred = "Only admin token can do write operations on streams*.";
    let barred = (403, "stream.api.forbidden", barred);
    for (method, path) in [
        (Method::GET, SOURCES),
        (Method::POST, SOURCES),
        (Method::GET, "/v1/branches/9/sources"),
        (Method::DELETE, "/v1/branches/default/sources/none"),
        (Method::PUT, "/v1/branches/default/sources/none/versions/1/rollback"),
        (Method::PATCH, "/v1/branches/default/sources/none/sinks/none/settings"),
        (Method::GET, "/v1/branches/default/aggregation/sources"),
        (Method::GET, "/v1/tasks/api.create.source/1/none/x"),
    ] {
        for (token, wanted) in [(None, missing), (Some("wrong"), unknown), (Some(reader), barred)] {
            let mut call = Client::new().request(method.clone(), floe.url(path)).body("{");
            if let Some(token) = token {
                call = call.header("x-storageapi-token", token);
            }
            let (status, refused) = read(call.send().await.unwrap()).await;
            assert_eq!(status, wanted.0, "{method} {path} {token:?}: {refused}");
            assert_eq!(malformed(status, &refused), None, "{method} {path}");
            let wanted = json!({ "error": wanted.1, "message": wanted.2 });
            assert_eq!(all_differences(&wanted, &refused), [""; 0], "{method} {path} {token:?}");
        }
    }
    for path in ["/v1", "/health-check", "/v1/documentation/openapi3.json"] {
        assert_eq!(ask(&floe, Method::GET, path, None).await.0, 200, "{path} needs none");
    }
}

#[test]
fn the_files_are_read_as_they_say() {
    let pairs = parse("# x\nGET /a\n200 {\"b\":\n  1}\n= c /b\nPUT /d {}\n404\n");
    let told = |pair: &Pair| (pair.request.clone(), pair.status, pair.wanted.clone());
    assert_eq!(told(&pairs[0]), ("GET /a".to_owned(), 200, Some(json!({"b": 1}))));
    assert_eq!(told(&pairs[1]), ("PUT /d {}".to_owned(), 404, None));
    assert_eq!(pairs[0].kept, [("c".to_owned(), "/b".to_owned())]);
    for (pattern, text, is) in
        [("a", "a", true), ("a", "ab", false), ("a*c", "abc", true), ("a*b*", "acd", false)]
    {
        assert_eq!(is_like(pattern, text), is, "{pattern} {text}");
    }
    let found = json!({"a": "x", "list": [1]});
    assert_eq!(all_differences(&json!({"a": "*", "none": null, "list": [1]}), &found), [""; 0]);
    assert_eq!(all_differences(&json!({"a": null, "none": "*", "list": []}), &found).len(), 3);
}
