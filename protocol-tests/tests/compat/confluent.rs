//! Confluent's REST proxy, v2 and v3: raw requests in, a Kafka consumer reads what they stored.

use protocol_tests::Floe;
use protocol_tests::clients::{create, producer};
use rdkafka::producer::Producer;
use reqwest::Client;
use serde_json::{Value, json};

use super::{consumed, header, post, text, told};

const JSON: (&str, &str) = ("content-type", "application/vnd.kafka.json.v2+json");
const BINARY: (&str, &str) = ("content-type", "application/vnd.kafka.binary.v2+json");
const PLAIN: (&str, &str) = ("content-type", "application/json");

async fn cluster(floe: &Floe) -> String {
    let clusters = floe.get("/v3/clusters").await;
    clusters["data"][0]["cluster_id"].as_str().unwrap().to_owned()
}

/// Receipts one after another.
fn receipts(text: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(text).into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_records_are_stored_as_they_were_sent() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 3, &[]).await;
    let body = r#"{"records": [{"key": "k", "value": {"b" : 1.10, "a":[ ]}, "partition": 1},
        {"value": "text", "partition": 1}, {"value": null, "key": null, "partition": 2}]}"#;
    let sent = post(&floe, "/topics/t", &[JSON], body).await;
    assert_eq!(sent.headers()["content-type"], "application/vnd.kafka.v2+json");
    let at = |partition: i32, offset: i32| json!({"partition": partition, "offset": offset, "error_code": null, "error": null});
    let wanted = json!({"offsets": [at(1, 0), at(1, 1), at(2, 0)], "key_schema_id": null, "value_schema_id": null});
    assert_eq!(told(sent).await, (200, wanted));
    // Base64, to the partition of the path, and without an embedded format.
    let envelope = r#"{"records": [{"key": "a2V5", "value": "AAH/"}]}"#;
    let (status, answer) =
        told(post(&floe, "/topics/t/partitions/0", &[BINARY], envelope).await).await;
    assert_eq!((status, &answer["offsets"][0]), (200, &at(0, 0)));
    let bare = ("content-type", "application/vnd.kafka.v2+json");
    told(post(&floe, "/topics/t/partitions/0", &[bare], envelope).await).await;
    // Plain JSON in, plain JSON out where it is asked for.
    let plain = [PLAIN, ("accept", "application/json")];
    let sent = post(&floe, "/topics/t/partitions/0", &plain, r#"{"records":[{"value":1}]}"#).await;
    assert_eq!(sent.headers()["content-type"], "application/json");
    let found = consumed(&floe, "t", 3);
    let parts: Vec<_> =
        found.iter().map(|r| (r.partition, r.key.clone(), r.value.clone())).collect();
    let bytes = |text: &[u8]| Some(text.to_vec());
    let wanted = [
        (0, bytes(b"key"), bytes(&[0, 1, 255])),
        (0, bytes(b"key"), bytes(&[0, 1, 255])),
        (0, None, bytes(b"1")),
        (1, bytes(b"\"k\""), bytes(b"{\"b\" : 1.10, \"a\":[ ]}")),
        (1, None, bytes(b"\"text\"")),
        (2, None, None),
    ];
    assert_eq!(parts, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_refuses_record_by_record_and_strict_refuses_all() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 1, &[("max.message.bytes", "2000")]).await;
    let large = "x".repeat(3_000);
    let body = json!({"records": [{"value": 1}, {"value": large}, {"value": 2, "partition": 7},
        {"value": 3, "unknown": 1}, {"value": 4}]})
    .to_string();
    let (status, answer) = told(post(&floe, "/topics/t", &[JSON], body.clone()).await).await;
    let part = |name: &str| -> Vec<Value> {
        answer["offsets"].as_array().unwrap().iter().map(|offset| offset[name].clone()).collect()
    };
    assert_eq!(status, 200);
    assert_eq!(
        part("error_code"),
        [json!(null), json!(413), json!(40402), json!(42206), json!(null)]
    );
    assert_eq!(part("offset"), [json!(0), json!(null), json!(null), json!(null), json!(1)]);
    // Strict: the status tells, and a retry stores nothing twice.
    for (path, headers) in [
        ("/topics/t?strict=true", &[JSON][..]),
        ("/topics/t", &[JSON, ("prefer", "return=minimal, handling=strict")]),
    ] {
        let (status, answer) = told(post(&floe, path, headers, body.clone()).await).await;
        assert_eq!(status, 422, "{answer}");
        let offsets = answer["offsets"].as_array().unwrap();
        assert!(offsets.iter().all(|offset| offset["error_code"].is_number()), "{answer}");
    }
    let one = json!({"records": [{"value": 5}, {"value": large}]}).to_string();
    let (status, answer) = told(post(&floe, "/topics/t?strict=true", &[JSON], one).await).await;
    assert_eq!((status, &answer["offsets"][1]["error_code"]), (413, &json!(413)));
    // Every record refused: 200 all the same.
    let (status, _) =
        told(post(&floe, "/topics/t", &[BINARY], r#"{"records":[{"value":1}]}"#).await).await;
    assert_eq!(status, 200);
    let found = consumed(&floe, "t", 1);
    let values: Vec<_> = found.iter().map(|record| text(record.value.as_ref())).collect();
    assert_eq!(values, [Some("1"), Some("4")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_refused_whole_say_so_in_the_proxys_form() {
    let floe = Floe::start(&["--auto-create-topics-enable", "false"]).await;
    create(&floe, "t", 1, &[]).await;
    let good = r#"{"records":[{"value":1}]}"#;
    let avro = ("content-type", "application/vnd.kafka.avro.v2+json");
    let id = cluster(&floe).await;
    let (other, this) =
        ("/v3/clusters/other/topics/t/records".to_owned(), format!("/v3/clusters/{id}/topics/"));
    for (path, kind, body, status, code) in [
        ("/topics/none", JSON, good, 404, 40401),
        ("/topics/t/partitions/1", JSON, good, 404, 40402),
        ("/topics/t/partitions/x", JSON, good, 404, 40402),
        ("/topics/t", avro, good, 415, 415),
        ("/topics/t", JSON, "{", 400, 40002),
        ("/topics/t", JSON, "[]", 400, 40002),
        ("/topics/t", JSON, r#"{"records":[]}"#, 422, 422),
        ("/topics/t?strict=perhaps", JSON, good, 400, 40002),
        ("/brokers", JSON, good, 405, 405),
        ("/consumers/group", JSON, "{}", 501, 501),
        ("/consumers/group/instances/i/records", JSON, "{}", 501, 501),
        (&other, PLAIN, "{}", 404, 404),
        (&format!("{this}none/records"), PLAIN, "{}", 404, 40401),
        (&format!("{this}t/records"), PLAIN, " ", 400, 400),
        (&format!("{this}t/records:batch"), PLAIN, r#"{"entries":[]}"#, 422, 42208),
    ] {
        let (found, answer) = told(post(&floe, path, &[kind], body).await).await;
        assert_eq!((found, &answer["error_code"]), (status, &json!(code)), "{path} {body}");
        assert!(answer["message"].is_string());
    }
    let limit = 17 << 20;
    let (status, answer) = told(post(&floe, "/topics/t", &[JSON], " ".repeat(limit)).await).await;
    assert_eq!((status, &answer["error_code"]), (413, &json!(413)));
    let described = floe.get("/api/v1/topics/t").await;
    assert_eq!(described["partitions"][0]["high_watermark"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_ask_first_is_answered() {
    let floe = Floe::start(&[]).await;
    create(&floe, "a", 2, &[("retention.ms", "1234567")]).await;
    create(&floe, "b", 1, &[]).await;
    assert_eq!(floe.get("/topics").await, json!(["a", "b"]));
    let topic = floe.get("/topics/a").await;
    assert_eq!(
        (&topic["name"], &topic["configs"]["retention.ms"]),
        (&json!("a"), &json!("1234567"))
    );
    assert_eq!(topic["partitions"][1]["partition"], 1);
    let brokers = floe.get("/brokers").await;
    assert_eq!(brokers["brokers"][0], topic["partitions"][0]["leader"]);
    // The cluster is the one that Kafka's clients see.
    let client = producer(&floe, &[]);
    let wait = std::time::Duration::from_secs(30);
    let id = tokio::task::block_in_place(|| client.client().fetch_cluster_id(wait)).unwrap();
    assert_eq!(cluster(&floe).await, id);
    for prefix in ["", "/kafka"] {
        let list = floe.get(&format!("{prefix}/v3/clusters")).await;
        assert_eq!(list["kind"], "KafkaClusterList");
        let own = list["data"][0]["metadata"]["self"].as_str().unwrap();
        assert_eq!(floe.get(own).await, list["data"][0]);
        let topics = floe.get(list["data"][0]["topics"]["related"].as_str().unwrap()).await;
        assert_eq!(topics["data"].as_array().unwrap().len(), 2);
        let first = &topics["data"][0];
        assert_eq!((&first["topic_name"], &first["partitions_count"]), (&json!("a"), &json!(2)));
        let own = first["metadata"]["self"].as_str().unwrap();
        assert!(own.starts_with(&format!("{prefix}/v3/")));
        assert_eq!(floe.get(own).await, *first);
    }
    for path in ["/topics/none", "/v3/clusters/none", &format!("/v3/clusters/{id}/topics/none")] {
        assert_eq!(Client::new().get(floe.url(path)).send().await.unwrap().status(), 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v3_records_have_receipts_in_their_order() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 2, &[]).await;
    let id = cluster(&floe).await;
    let body = r#"{"partition_id": 1, "headers": [{"name": "trace", "value": "YWJj"}],
        "key": {"type": "STRING", "data": "k"}, "value": {"type": "JSON", "data": {"z" : 1.50, "a":1}},
        "timestamp": "2024-01-01T00:00:00Z"}
        {"partition_id": 1, "value": {"type": "BINARY", "data": "AP8="}}{"partition_id": 1, "value": {"type": "BINARY", "data": 1}}
        {"partition_id": 1, "value": {"type": "AVRO", "data": 1, "schema_id": 1}} {"partition_id": 9}
        {"partition_id": 1, "value": {"type": "STRING", "data": "last"}}"#;
    for (prefix, base) in [("", 0), ("/kafka", 3)] {
        let path = format!("{prefix}/v3/clusters/{id}/topics/t/records");
        let sent = post(&floe, &path, &[PLAIN], body).await;
        assert_eq!(
            (sent.status().as_u16(), &sent.headers()["content-type"].to_str().unwrap()),
            (200, &"application/json")
        );
        let found = receipts(&sent.text().await.unwrap());
        let codes: Vec<_> =
            found.iter().map(|receipt| receipt["error_code"].as_u64().unwrap()).collect();
        assert_eq!(codes, [200, 200, 400, 42205, 40402, 200]);
        let first = json!({"error_code": 200, "cluster_id": id, "topic_name": "t", "partition_id": 1,
            "offset": base, "timestamp": "2024-01-01T00:00:00.000Z", "key": {"type": "STRING", "size": 1},
            "value": {"type": "JSON", "size": 19}});
        assert_eq!(found[0], first);
        assert_eq!((&found[5]["offset"], found[5].get("key")), (&json!(base + 2), None));
        assert_eq!(found[2]["message"], "data=1 is not a base64 string.");
    }
    // All or nothing, and the status tells.
    let path = format!("/v3/clusters/{id}/topics/t/records?strict=true");
    let sent = post(&floe, &path, &[PLAIN], body).await;
    assert_eq!(sent.status(), 400);
    assert_eq!(receipts(&sent.text().await.unwrap()).len(), 6);
    // What follows a syntax error is not read.
    let path = format!("/v3/clusters/{id}/topics/t/records");
    let cut = r#"{"partition_id": 0, "value": {"type": "JSON", "data": 1}} {"value": oops} {}"#;
    let found = receipts(&post(&floe, &path, &[PLAIN], cut).await.text().await.unwrap());
    let codes: Vec<_> =
        found.iter().map(|receipt| receipt["error_code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [200, 400]);
    let found = consumed(&floe, "t", 2);
    assert_eq!(found.len(), 7);
    let first = &found[1];
    assert_eq!((text(first.key.as_ref()), header(first, "trace")), (Some("k"), Some("abc")));
    assert_eq!(text(first.value.as_ref()), Some(r#"{"z" : 1.50, "a":1}"#));
    assert_eq!(found[2].value.as_deref(), Some(&[0, 255][..]));
    assert_eq!(text(found[3].value.as_ref()), Some("last"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v3_batch_answers_by_id() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 1, &[]).await;
    let path = format!("/v3/clusters/{}/topics/t/records:batch", cluster(&floe).await);
    let body = r#"{"entries": [{"id": "a", "value": {"type": "JSON", "data": {"n": 1}}}, {"id": "b", "value": 1},
        {"id": "c", "value": {"type": "STRING", "data": "x"}}]}"#;
    let (status, answer) = told(post(&floe, &path, &[PLAIN], body).await).await;
    assert_eq!(status, 207);
    let ids = |part: &str| -> Vec<Value> {
        answer[part].as_array().unwrap().iter().map(|entry| entry["id"].clone()).collect()
    };
    assert_eq!(
        (ids("successes"), ids("failures")),
        (vec![json!("a"), json!("c")], vec![json!("b")])
    );
    assert_eq!(answer["successes"][1]["offset"], 1);
    assert_eq!(answer["failures"][0]["error_code"], 400);
    let strict = format!("{path}?strict=true");
    let (status, answer) = told(post(&floe, &strict, &[PLAIN], body).await).await;
    assert_eq!((status, answer["failures"].as_array().unwrap().len()), (400, 3));
    let entries = |count: usize| {
        let entry = |n: usize| json!({"id": n.to_string(), "value": {"type": "JSON", "data": n}});
        json!({"entries": (0..count).map(entry).collect::<Vec<_>>()}).to_string()
    };
    let (status, answer) = told(post(&floe, &path, &[PLAIN], entries(10_000)).await).await;
    assert_eq!((status, answer["successes"].as_array().unwrap().len()), (207, 10_000));
    let (status, answer) = told(post(&floe, &path, &[PLAIN], entries(10_001)).await).await;
    assert_eq!((status, &answer["error_code"]), (422, &json!(42208)));
    assert_eq!(consumed(&floe, "t", 1).len(), 10_002);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_has_its_receipts_again() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 4, &[]).await;
    let key = ("idempotency-key", "one");
    let body = r#"{"records": [{"value": 1}, {"key": "a", "value": 2}, {"value": 3, "partition": 9}, {"key": "b", "value": 4}]}"#;
    let sent = async || post(&floe, "/topics/t", &[JSON, key], body).await;
    let (status, first) = told(sent().await).await;
    assert_eq!((status, &first["offsets"][2]["error_code"]), (200, &json!(40402)));
    let again = sent().await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let (_, again) = told(again).await;
    for at in [0, 1, 3] {
        assert_eq!(again["offsets"][at], first["offsets"][at]);
    }
    assert_eq!(again["offsets"][2]["error_code"], 422);
    // The same body to another partition is another request.
    let other = post(&floe, "/topics/t/partitions/1", &[JSON, key], body).await;
    assert_eq!(told(other).await.0, 422);
    assert_eq!(consumed(&floe, "t", 4).len(), 3);
}
