//! What Confluent's document of Kafka REST v3 (`api/v3/openapi.yaml` of kafka-rest) says of
//! requests and answers, as `confluent_v3.json` has it in short: the members of each object with
//! their types, `?` behind those that need not be there. Answers of the real server against it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use protocol_tests::Floe;
use protocol_tests::clients::create;
use protocol_tests::http1::{Http1, request};
use reqwest::Client;
use serde_json::{Value, json};

use super::{consumed, post, text};

const PLAIN: (&str, &str) = ("content-type", "application/json");

/// RFC 3339, as far as its form goes.
fn is_time(text: &str) -> bool {
    let form: String = text.chars().map(|it| if it.is_ascii_digit() { '0' } else { it }).collect();
    let Some(rest) = form.strip_prefix("0000-00-00T00:00:00") else { return false };
    let rest = match rest.strip_prefix('.') {
        Some(part) => part.trim_start_matches('0'),
        None => rest,
    };
    ["Z", "+00:00", "-00:00"].contains(&rest)
}

/// What is wrong with a value that should be a `kind`, each with its place.
pub(super) fn wrong(value: &Value, kind: &str) -> Vec<String> {
    let contract: Value = serde_json::from_str(include_str!("confluent_v3.json")).unwrap();
    let mut wrong = Vec::new();
    check(&contract, value, kind, "$", &mut wrong);
    wrong
}

fn check(contract: &Value, value: &Value, kind: &str, at: &str, wrong: &mut Vec<String>) {
    if let Some(kind) = kind.strip_suffix("|null") {
        if !value.is_null() {
            check(contract, value, kind, at, wrong);
        }
        return;
    }
    if let Some(kind) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')) {
        match value.as_array() {
            Some(items) => items.iter().enumerate().for_each(|(number, item)| {
                check(contract, item, kind, &format!("{at}[{number}]"), wrong);
            }),
            None => wrong.push(format!("{at} is no list")),
        }
        return;
    }
    let is_so = match kind {
        "any" => true,
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        "base64" => value.as_str().is_some_and(|text| STANDARD.decode(text).is_ok()),
        "date-time" => value.as_str().is_some_and(is_time),
        name => {
            let members = contract[name].as_object().unwrap_or_else(|| panic!("no kind {name}"));
            return match value.as_object() {
                Some(found) => check_members(contract, (found, members), at, wrong),
                None => wrong.push(format!("{at} is no {name}")),
            };
        }
    };
    if !is_so {
        wrong.push(format!("{at} is no {kind}: {value}"));
    }
}

type Members = serde_json::Map<String, Value>;

fn check_members(
    contract: &Value,
    (found, members): (&Members, &Members),
    at: &str,
    wrong: &mut Vec<String>,
) {
    let name_of = |member: &str| member.trim_end_matches('?').to_owned();
    for (member, kind) in members {
        let (name, kind) = (name_of(member), kind.as_str().unwrap());
        match found.get(&name) {
            Some(value) => check(contract, value, kind, &format!("{at}.{name}"), wrong),
            None if member.ends_with('?') => {}
            None => wrong.push(format!("{at}.{name} is missing")),
        }
    }
    // Clients that are made from the document need not know any other.
    let other = found.keys().filter(|own| !members.keys().any(|member| name_of(member) == **own));
    wrong.extend(other.map(|own| format!("{at}.{own} is not in the document")));
}

#[track_caller]
fn is(value: &Value, kind: &str) {
    assert_eq!(wrong(value, kind), [""; 0], "{kind}: {value}");
}

#[test]
fn the_check_finds_what_is_wrong() {
    let good = json!({"error_code": 200, "cluster_id": "c", "topic_name": "t", "partition_id": 0,
        "offset": 1, "timestamp": "2021-02-05T19:14:42Z", "key": null, "value": {"size": 1}});
    is(&good, "Receipt");
    for (member, value, reason) in [
        ("offset", json!("1"), "$.offset is no integer: \"1\""),
        ("timestamp", json!("soon"), "$.timestamp is no date-time: \"soon\""),
        ("error_code", json!(1_i64 << 40), "$.error_code is no int32: 1099511627776"),
        ("value", json!({}), "$.value.size is missing"),
        ("value", json!(1), "$.value is no ReceiptData"),
        ("more", json!(1), "$.more is not in the document"),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        assert_eq!(wrong(&bad, "Receipt"), [reason]);
    }
    assert_eq!(wrong(&json!({"headers": 1}), "Request"), ["$.headers is no list"]);
    let header = json!({"headers": [{"name": "n", "value": "?"}]});
    assert_eq!(wrong(&header, "Request"), ["$.headers[0].value is no base64: \"?\""]);
}

async fn get(floe: &Floe, path: &str) -> (u16, Value) {
    let answer = Client::new().get(floe.url(path)).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/json", "{path}");
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_v3_are_what_its_document_says() {
    let floe = Floe::start(&["--auto-create-topics-enable=false"]).await;
    create(&floe, "a", 2, &[("retention.ms", "1234567")]).await;
    create(&floe, "b", 1, &[]).await;
    let (_, list) = get(&floe, "/v3/clusters").await;
    let id = list["data"][0]["cluster_id"].as_str().unwrap().to_owned();
    for prefix in ["", "/kafka"] {
        let at = |path: &str| format!("{prefix}/v3/clusters{path}").replace("ID", &id);
        for (path, kind) in [
            ("", "ClusterList"),
            ("/ID", "Cluster"),
            ("/ID/topics", "TopicList"),
            ("/ID/topics/a", "Topic"),
        ] {
            let (status, answer) = get(&floe, &at(path)).await;
            assert_eq!(status, 200, "{path}");
            is(&answer, kind);
        }
        for path in ["/none", "/none/topics", "/ID/topics/none"] {
            let (status, answer) = get(&floe, &at(path)).await;
            assert_eq!(status, 404, "{path}");
            is(&answer, "Error");
        }
        // Good and bad ones, with every member that a request may have without a schema.
        let requests = [
            json!({"partition_id": 1, "headers": [{"name": "n", "value": "SGVhZGVyLTE="}, {"name": "m", "value": null}],
                "key": {"type": "BINARY", "data": "Zm9vYmFy"}, "value": {"type": "JSON", "data": {"a": [1, null]}},
                "timestamp": "2021-02-05T19:14:42Z"}),
            json!({"key": {"type": "STRING", "data": "k"}, "value": {"type": "STRING", "data": "v"}}),
            json!({"partition_id": null, "key": null, "value": null, "timestamp": null}),
            json!({}),
            json!({"value": {"schema_version": 1, "data": null}}),
            json!({"value": {"type": "AVRO", "subject": "s", "schema": "\"string\"", "data": "v"}}),
            json!({"value": {"type": "BINARY", "data": "?"}}),
            json!({"partition_id": 7, "value": {"type": "JSON", "data": 1}}),
        ];
        requests.iter().for_each(|request| is(request, "Request"));
        let body: String = requests.iter().map(Value::to_string).collect();
        let sent = post(&floe, &at("/ID/topics/a/records"), &[PLAIN], body).await;
        assert_eq!(
            (sent.status().as_u16(), sent.headers()["content-type"] == PLAIN.1),
            (200, true)
        );
        let told = sent.text().await.unwrap();
        let told: Vec<Value> =
            serde_json::Deserializer::from_str(&told).into_iter().map(Result::unwrap).collect();
        assert_eq!(told.len(), requests.len());
        for (number, receipt) in told.iter().enumerate() {
            is(receipt, if number < 4 { "Receipt" } else { "Error" });
            assert_eq!(receipt["error_code"] == 200, number < 4, "{receipt}");
        }
        for (path, body) in [
            ("/ID/topics/none/records", "{}"),
            ("/ID/topics/a/records", " "),
            ("/none/topics/a/records", "{}"),
        ] {
            let sent = post(&floe, &at(path), &[PLAIN], body).await;
            assert!(sent.status().is_client_error(), "{path} {}", sent.status());
            is(&sent.json().await.unwrap(), "Error");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_our_own_document_are_requests_and_receipts() {
    let floe = Floe::start(&[]).await;
    let document = floe.get("/openapi.json").await;
    let media = |at: &Value| {
        let there = at["$ref"].as_str().unwrap().trim_start_matches('#');
        document.pointer(there).unwrap()["content"]["application/json"]["example"].clone()
    };
    for prefix in ["", "/kafka"] {
        let path = format!("{prefix}/v3/clusters/{{cluster}}/topics/{{topic}}/records");
        let operation = &document["paths"][&path]["post"];
        is(&media(&operation["requestBody"]), "Request");
        is(&media(&operation["responses"]["200"]), "Receipt");
        let batch = &document["paths"][&format!("{path}:batch")]["post"];
        let mut entry = media(&batch["requestBody"])["entries"][0].clone();
        assert!(entry.as_object_mut().unwrap().remove("id").is_some());
        is(&entry, "Request");
    }
}

/// Bytes that curl sends for the examples of the documentation of Redpanda's and Confluent's proxy.
fn curl(address: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len().to_string();
    let headers = [
        ("Host", address),
        ("User-Agent", "curl/8.5.0"),
        ("Accept", "*/*"),
        ("Content-Type", kind),
        ("Content-Length", &length),
    ];
    request("POST", "/topics/test_topic", &headers, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_of_the_proxies_with_curl_work_byte_by_byte() {
    const JSON: &str = "application/vnd.kafka.json.v2+json";
    const BINARY: &str = "application/vnd.kafka.binary.v2+json";
    const THREE: &str = r#"{
  "records":[
      {
          "value":"Redpanda",
          "partition":0
      },
      {
          "value":"HTTP proxy",
          "partition":1
      },
      {
          "value":"Test event",
          "partition":2
      }
  ]
}"#;
    let floe = Floe::start(&[]).await;
    create(&floe, "test_topic", 3, &[]).await;
    let address = floe.http_address();
    let mut connection = Http1::new(&address);
    let mut at = async |kind: &str, body: &str| {
        let answer = connection.exchange(&curl(&address, kind, body)).await.unwrap();
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/vnd.kafka.v2+json"));
        let told = answer.json();
        let offsets = told["offsets"].as_array().unwrap().clone();
        // Redpanda's clients look at these two, Confluent's at the null ones besides.
        for offset in &offsets {
            assert!(offset["partition"].is_i64() && offset["offset"].is_i64(), "{offset}");
            assert_eq!((&offset["error_code"], &offset["error"]), (&json!(null), &json!(null)));
        }
        offsets.iter().map(|it| it["partition"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(at(JSON, THREE).await, [0, 1, 2]);
    assert_eq!(at(JSON, r#"{"records":[{"value":{"foo":"bar"}}]}"#).await.len(), 1);
    assert_eq!(at(BINARY, r#"{"records":[{"value":"S2Fma2E="}]}"#).await.len(), 1);
    let keyed =
        r#"{"records":[{"key":"a2V5","value":"Y29uZmx1ZW50","partition":1},{"value":"a2Fma2E="}]}"#;
    assert_eq!(at(BINARY, keyed).await[0], 1);
    let found = consumed(&floe, "test_topic", 3);
    let mut values: Vec<_> = found.iter().filter_map(|it| text(it.value.as_ref())).collect();
    values.sort_unstable();
    let mut wanted = vec![
        "\"Redpanda\"",
        "\"HTTP proxy\"",
        "\"Test event\"",
        r#"{"foo":"bar"}"#,
        "Kafka",
        "confluent",
        "kafka",
    ];
    wanted.sort_unstable();
    assert_eq!(values, wanted);
    assert!(found.iter().any(|it| text(it.key.as_ref()) == Some("key")));
}
