//! `definitions.file`: sinks and sources are as a file says, and nobody else changes them.

use std::path::Path;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{DeleteTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use protocol_tests::wire::Wire;
use protocol_tests::{Floe, first_token, refused_start};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::{ask, post};

const FILE: &str = r#"
[topics.shop]
partitions = 2
options = { "table.mode" = "off", "retention.ms" = 3600000 }

[topics.shop.sinks.prices]
table = { name = "prices" }
mapping.columns = [{ type = "path", name = "price", path = "price", dataType = "double" }]

[sources.shop]
name = "Shop"
"#;

/// Flags that name a file of this text in the folder.
fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("floe.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Status and code of what is refused, or the document.
async fn told(floe: &Floe, method: Method, path: &str, body: Value) -> (u16, String) {
    let (status, _, answer) = ask(floe, (method, path), &[], &body).await;
    let code = answer["code"].as_str().or(answer["error"].as_str()).unwrap_or_default();
    if code.ends_with("nly") {
        let text = answer["detail"].as_str().or(answer["message"].as_str()).unwrap_or_default();
        assert!(text.contains("floe.toml"), "{answer}");
    }
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_says_is_made_at_the_start_and_changed_by_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), FILE);
    let mut floe = Floe::start(&["--definitions", &path]).await;
    let topic = floe.get("/api/v1/topics/shop").await;
    assert_eq!(topic["partitions"].as_array().unwrap().len(), 2);
    let sink = floe.get("/api/v1/topics/shop/sinks/prices").await;
    // Who may see the sink need not know where the file lies.
    let by = json!("definitions.file");
    assert_eq!((&sink["version"], &sink["created_by"]), (&json!(1), &by));
    let source = floe.get("/api/v1/sources/shop").await;
    let (sinks, keboola) = ("/api/v1/topics/shop/sinks", "/v1/branches/default/sources");
    let one = format!("{sinks}/prices");
    let wish = json!({"table": {"name": "more"}, "mapping": sink["mapping"]});
    let kept = json!({"type": "http", "name": "new"});
    let changes = [
        (Method::PUT, format!("{sinks}/more"), wish.clone()),
        (Method::PUT, one.clone(), sink.clone()),
        (Method::PATCH, one.clone(), json!({})),
        (Method::DELETE, one.clone(), Value::Null),
        (Method::POST, format!("{one}/replay?from=earliest"), json!({})),
        (Method::PUT, "/api/v1/sources/more".to_owned(), json!({})),
        (Method::PATCH, "/api/v1/sources/shop".to_owned(), json!({})),
        (Method::DELETE, "/api/v1/sources/shop".to_owned(), Value::Null),
    ];
    for (method, path, body) in changes {
        let wanted = (403, "read_only".to_owned());
        assert_eq!(told(&floe, method.clone(), &path, body).await, wanted, "{method} {path}");
    }
    for (method, path, body) in [
        (Method::POST, "", kept),
        (Method::PATCH, "/shop", json!({"name": "x"})),
        (Method::DELETE, "/shop", Value::Null),
        (Method::PUT, "/shop/undelete", Value::Null),
        (Method::PUT, "/shop/disable", Value::Null),
        (Method::PATCH, "/shop/settings", json!({})),
        (Method::PUT, "/shop/versions/1/rollback", Value::Null),
        (Method::POST, "/shop/sinks", json!({})),
        (Method::PATCH, "/shop/sinks/prices", json!({})),
        (Method::DELETE, "/shop/sinks/prices", Value::Null),
        (Method::PUT, "/shop/sinks/prices/enable", Value::Null),
        (Method::PATCH, "/shop/sinks/prices/settings", json!({})),
        (Method::PUT, "/shop/sinks/prices/versions/1/rollback", Value::Null),
    ] {
        let (path, wanted) = (format!("{keboola}{path}"), (403, "stream.api.readOnly".to_owned()));
        assert_eq!(told(&floe, method.clone(), &path, body).await, wanted, "{method} {path}");
    }
    // What changes nothing of what they are.
    for (method, path, body) in [
        (Method::PUT, format!("{sinks}/more?dry_run=true"), wish),
        (Method::PATCH, format!("{one}?dry_run=true"), json!({"name": "x"})),
        (Method::POST, format!("{one}/replay?from=earliest&dry_run=true"), json!({})),
        (Method::POST, format!("{one}/test"), json!({"price": 1})),
        (Method::POST, "/api/v1/topics/shop/infer".to_owned(), json!([{"a": 1}])),
        (Method::POST, format!("{keboola}/shop/test"), json!({"price": 1})),
        (Method::DELETE, format!("{keboola}/shop/statistics/clear"), Value::Null),
        (Method::POST, format!("{keboola}/shop/rotate-secret"), Value::Null),
        (Method::POST, "/api/v1/sources/shop/rotate-secret".to_owned(), Value::Null),
    ] {
        let (status, code) = told(&floe, method.clone(), &path, body).await;
        assert_eq!((status, code.as_str()), (200, ""), "{method} {path}");
    }
    let rotated = floe.get("/api/v1/sources/shop").await;
    assert_ne!(rotated["path"], source["path"]);
    // Another start of the same file changes nothing; a secret is none of its business.
    floe.stop().await;
    floe.restart().await;
    assert_eq!(floe.get("/api/v1/sources/shop").await, rotated);
    assert_eq!(floe.get(&one).await["version"], 1);
}

/// The sinks of a topic would go with it, and not their tables, which the next start would find.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_the_file_is_not_deleted_and_keeps_partitions_that_were_added() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), FILE);
    let mut floe = Floe::start(&["--definitions", &path]).await;
    let topic = "/api/v1/topics/shop";
    let (status, _, kept) = ask(&floe, (Method::DELETE, topic), &[], &Value::Null).await;
    assert_eq!((status, &kept["code"]), (403, &json!("read_only")), "{kept}");
    let name = TopicName(StrBytes::from_static_str("shop"));
    let shop = DeleteTopicState::default().with_name(Some(name));
    let request = DeleteTopicsRequest::default().with_topics(vec![shop]).with_timeout_ms(1_000);
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let answer = wire.call(6, &request).await;
    assert_eq!(answer.responses[0].error_code, 44, "POLICY_VIOLATION");
    let more = json!({"partitions": 4});
    assert_eq!(ask(&floe, (Method::PATCH, topic), &[], &more).await.0, 200);
    floe.stop().await;
    floe.restart().await;
    let shown = floe.get(topic).await;
    assert_eq!(shown["partitions"].as_array().unwrap().len(), 4);
    assert_eq!(floe.get("/api/v1/topics/shop/sinks/prices").await["version"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_counts_from_the_next_start_on_and_deletes_only_if_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), FILE);
    let mut floe = Floe::start(&["--definitions-file", &path]).await;
    let secret = floe.get("/api/v1/sources/shop").await["path"].clone();
    let other = FILE
        .replace("3600000", "7200000")
        .replace("[topics.shop.sinks.prices]", "[topics.shop.sinks.other]")
        .replace("\"prices\"", "\"others\"")
        .replace("[sources.shop]", "[sources.other]\ntopic = \"shop\"");
    file(dir.path(), &other);
    floe.stop().await;
    floe.restart().await;
    let ids = async |path: &str, list: &str| -> Vec<String> {
        let listed = floe.get(path).await;
        let all = listed[list].as_array().unwrap().iter();
        all.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("/api/v1/topics/shop/sinks", "sinks").await, ["other", "prices"]);
    assert_eq!(ids("/api/v1/sources", "sources").await, ["other", "shop"]);
    let options = floe.get("/api/v1/topics/shop").await["options"].clone();
    let retention = |options: &Value| {
        let mut all = options.as_array().unwrap().iter();
        let found = all.find(|option| option["key"] == "retention.ms").unwrap();
        (found["value"].clone(), found["source"].clone())
    };
    assert_eq!(retention(&options), (json!("7200000"), json!("topic")));
    let less = other.replace(", \"retention.ms\" = 7200000", "").replace("\nname = \"Shop\"", "");
    file(dir.path(), &less);
    floe.stop().await;
    floe.restart_with(&["--definitions-file", &path, "--definitions-prune", "true"]).await;
    let listed = floe.get("/api/v1/topics/shop/sinks").await;
    assert_eq!((&listed["sinks"][0]["id"], &listed["sinks"][1]), (&json!("other"), &Value::Null));
    let listed = floe.get("/api/v1/sources").await;
    assert_eq!(
        (&listed["sources"][0]["id"], &listed["sources"][1]),
        (&json!("other"), &Value::Null)
    );
    assert_eq!(listed["sources"][0]["name"], "");
    assert_ne!(listed["sources"][0]["path"], secret);
    let options = floe.get("/api/v1/topics/shop").await["options"].clone();
    assert_eq!(retention(&options).1, "default");
    // Without it requests say what there is.
    floe.stop().await;
    floe.restart_with(&[]).await;
    let made = told(&floe, Method::PUT, "/api/v1/sources/third", json!({})).await;
    assert_eq!(made, (201, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_which_a_part_cannot_be_changes_nothing_and_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    {
        let floe = Floe::start_in(Path::new(data), &["--num-partitions=1"]).await;
        post(&floe, "taken", "", "{}".to_owned()).await;
        floe.flush("taken").await;
    }
    let column = "mapping.columns = [{ type = \"uuid\", name = \"id\" }]";
    let sink = |id: &str, table: &str| {
        format!("[topics.shop.sinks.{id}]\ntable = {{ name = \"{table}\" }}\n{column}\n")
    };
    for (text, reason) in [
        ("[topics.shop]\ncolour = 1\n".to_owned(), "colour"),
        (format!("{FILE}colour = 1\n"), "source shop"),
        (FILE.replace("\"off\"", "\"blue\""), "topic shop: "),
        (FILE.replace("partitions = 2", "partitions = 0"), "at least 1"),
        (format!("[topics.new]\n{FILE}"), "the limit is 2"),
        (FILE.replace("price\", dataType", "a[\", dataType"), "sink shop/prices: "),
        (format!("{FILE}{}", sink("more", "PRICES")), "would belong to two sinks"),
        (format!("{FILE}{}", sink("more", "taken")), "sink shop/more: table streams.taken"),
    ] {
        let path = file(dir.path(), &text);
        let data = format!("--set=data.dir={data}");
        let flags = [&*data, "--topics-max=2", "--definitions", &path];
        let (code, printed) = refused_start(&[&flags[..], &free()].concat());
        assert_ne!(code, Some(0), "{printed}");
        assert!(printed.contains("floe.toml") && printed.contains(reason), "{reason}: {printed}");
    }
    let floe = Floe::start_in(Path::new(data), &["--num-partitions=1"]).await;
    let topics = floe.get("/api/v1/topics").await;
    assert_eq!(
        (&topics["topics"][0]["name"], &topics["topics"][1]),
        (&json!("taken"), &Value::Null)
    );
    assert_eq!(floe.get("/api/v1/sources").await["sources"], json!([]));
}

/// Any ports.
fn free() -> [&'static str; 2] {
    ["--kafka-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"]
}

/// Whoever may not change a sink, or has no say in the cluster, does not hear where the file lies.
#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_change_something_is_asked_for_first() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let admin = first_token(&data);
    let path = file(dir.path(), FILE);
    let floe = Floe::start_in(&data, &["--definitions", &path]).await;
    let token = [("token", admin.as_str())];
    let wish = json!({"name": "reader", "allow": ["read:topic:*", "describe:topic:*"]});
    let (_, _, made) = ask(&floe, (Method::POST, "/api/v1/tokens"), &token, &wish).await;
    let reader = [("token", made["token"].as_str().unwrap())];
    let wish = json!({"name": "editor", "allow": ["alter:topic:*"]});
    let (_, _, made) = ask(&floe, (Method::POST, "/api/v1/tokens"), &token, &wish).await;
    let editor = [("token", made["token"].as_str().unwrap())];
    let sink = (Method::DELETE, "/api/v1/topics/shop/sinks/prices");
    for (who, is_told) in [(token, true), (editor, false)] {
        let refused = ask(&floe, sink.clone(), &who, &Value::Null).await.2;
        assert_eq!(refused["code"], "read_only", "{refused}");
        assert_eq!(refused["detail"].as_str().unwrap().contains("floe.toml"), is_told);
    }
    for path in ["/api/v1/topics/shop/sinks/prices", "/api/v1/sources/shop"] {
        let refused = ask(&floe, (Method::DELETE, path), &reader, &Value::Null).await.2;
        assert_eq!(refused["code"], "forbidden", "{refused}");
        let refused = ask(&floe, (Method::DELETE, path), &token, &Value::Null).await.2;
        assert_eq!(refused["code"], "read_only", "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_as_a_file_says_if_it_speaks_of_them() {
    const STREAMS: &str = "/api/v1/streams";
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), FILE);
    let prune = ["--definitions", &path, "--definitions-prune", "true"];
    let mut floe = Floe::start(&prune).await;
    for name in ["old", "other"] {
        let made = told(&floe, Method::PUT, &format!("{STREAMS}/{name}"), json!({})).await;
        assert_eq!(made.0, 201, "{name}: a file that says nothing of streams leaves them open");
    }
    let with = format!(
        "{FILE}\n[streams.shop]\nnamespace = \"prod\"\noptions = {{ \"retention.ms\" = -1 }}\n\n[streams.old]\n"
    );
    file(dir.path(), &with);
    assert_eq!(floe.stop().await, Some(0));
    floe.restart_with(&prune).await;
    let listed = floe.get(STREAMS).await;
    let names: Vec<&Value> =
        listed["streams"].as_array().unwrap().iter().map(|stream| &stream["name"]).collect();
    assert_eq!(names, [&json!("old"), &json!("shop")], "what it does not have is deleted");
    assert_eq!(floe.get(&format!("{STREAMS}/shop")).await["namespace"], "prod");
    let one = format!("{STREAMS}/shop");
    for (method, path, body) in [
        (Method::POST, STREAMS, json!({"name": "new"})),
        (Method::PUT, &one, json!({})),
        (Method::PATCH, &one, json!({"tags": []})),
        (Method::DELETE, &one, Value::Null),
    ] {
        let refused = (403, "read_only".to_owned());
        assert_eq!(told(&floe, method.clone(), path, body).await, refused, "{method} {path}");
    }
    let tried = told(&floe, Method::PUT, &format!("{one}?dry_run=true"), json!({})).await;
    assert_eq!(tried.0, 200, "to try one changes nothing");
    let ended = told(&floe, Method::POST, &format!("{one}/terminate"), Value::Null).await;
    assert_eq!(ended.0, 200, "a switch is not in the file");
    // The same by hand, without a file at the start.
    assert_eq!(floe.stop().await, Some(0));
    floe.restart_with(&[]).await;
    let apply = || {
        let ran = std::process::Command::new(protocol_tests::binary())
            .args(["apply", &path, "--url", &floe.url("")])
            .env_remove("FLOE_TOKEN")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let shown = |text: &str, wanted: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with("stream"));
        lines.any(|line| line.contains("shop") && line.ends_with(wanted))
    };
    let first = apply();
    assert!(shown(&first, "unchanged"), "{first}");
    file(dir.path(), &with.replace("prod", "test"));
    let second = apply();
    assert!(shown(&second, "changed") && !shown(&second, "unchanged"), "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_a_file_no_longer_has_leaves_the_topics_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let with = format!(
        "{FILE}\n[topics.\"old.events.sales\"]\noptions = {{ \"table.mode\" = \"contract\", \
         \"table.namespace\" = \"events\", \"table.name\" = \"sales\" }}\n"
    );
    let path = file(dir.path(), &with);
    let prune = ["--definitions", &path, "--definitions-prune", "true"];
    let mut floe = Floe::start(&prune).await;
    assert_eq!(told(&floe, Method::PUT, "/api/v1/streams/old", json!({})).await.0, 201);
    let topic = "/api/v1/topics/old.events.sales";
    let before = floe.get(topic).await;
    let of_stream = floe.get("/api/v1/streams/old").await;
    assert_eq!(of_stream["tables"][0]["topic"], "old.events.sales", "{of_stream}");
    file(dir.path(), &format!("{with}\n[streams.shop]\n"));
    assert_eq!(floe.stop().await, Some(0));
    floe.restart_with(&prune).await;
    assert_eq!(told(&floe, Method::GET, "/api/v1/streams/old", Value::Null).await.0, 404);
    let (status, _, after) = ask(&floe, (Method::GET, topic), &[], &Value::Null).await;
    assert_eq!((status, &after["id"]), (200, &before["id"]), "{after}");
}
