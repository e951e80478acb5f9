//! Topics come, grow and go over the wire, and what is special about compacted ones.

use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use protocol_tests::clients::{create, producer, send};
use protocol_tests::wire::Wire;
use protocol_tests::{Floe, WAIT_MAX, eventually};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn name(value: &str) -> TopicName {
    TopicName(text(value))
}

fn wanted(topic: &str, partitions: i32, factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(factor)
}

/// The topic with an option.
fn with(topic: CreatableTopic, key: &str, value: Option<&str>) -> CreatableTopic {
    let config = CreatableTopicConfig::default().with_name(text(key)).with_value(value.map(text));
    topic.with_configs(vec![config])
}

/// The topic with partitions on these brokers.
fn assigned(topic: CreatableTopic, brokers: &[&[i32]]) -> CreatableTopic {
    let assignments = (0..).zip(brokers).map(|(index, brokers)| {
        CreatableReplicaAssignment::default()
            .with_partition_index(index)
            .with_broker_ids(brokers.iter().map(|id| BrokerId(*id)).collect())
    });
    topic.with_assignments(assignments.collect())
}

/// Partitions and id of a topic, if it is there.
async fn there(wire: &mut Wire, topic: &str) -> Option<(usize, uuid::Uuid)> {
    let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(false);
    let found = wire.call(12, &request).await.topics.remove(0);
    (found.error_code == 0).then_some((found.partitions.len(), found.topic_id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creation_is_checked_like_kafkas_and_checking_alone_makes_nothing() {
    let floe = Floe::start(&[]).await;
    create(&floe, "there", 3, &[]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    for (topic, code) in [
        (wanted("t", 2, 1), 0),
        (wanted("t", -1, -1), 0),
        (wanted("t", 2, 3), 0),
        (wanted("there", 2, 1), 36),
        (wanted("a b", 2, 1), 17),
        (wanted("..", 2, 1), 17),
        (wanted("t", 0, 1), 37),
        (wanted("t", -5, 1), 37),
        (wanted("t", i32::MAX, 1), 44),
        (wanted("t", 2, 0), 38),
        (wanted("t", 2, -2), 38),
        (with(wanted("t", 2, 1), "retention.m", Some("1")), 40),
        (with(wanted("t", 2, 1), "retention.ms", Some("soon")), 40),
        (with(wanted("t", 2, 1), "retention.ms", None), 40),
        (with(wanted("t", 2, 1), "table.partition.spec", Some("(day(")), 40),
        (with(wanted("t", 2, 1), "table.mode", Some("raw")), 0),
        (assigned(wanted("t", -1, -1), &[&[1], &[1]]), 0),
        (assigned(wanted("t", -1, -1), &[&[2]]), 39),
        (assigned(wanted("t", -1, -1), &[&[1, 2]]), 39),
        (assigned(wanted("t", 2, -1), &[&[1], &[1]]), 42),
    ] {
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic.clone()])
            .with_validate_only(true)
            .with_timeout_ms(1_000);
        let one = wire.call(7, &request).await.topics.remove(0);
        assert_eq!(one.error_code, code, "{topic:?}: {:?}", one.error_message);
        assert_eq!(one.topic_id, uuid::Uuid::nil(), "what was only checked has no id");
        assert_eq!(there(&mut wire, "t").await, None, "{topic:?}");
    }
    let request = CreateTopicsRequest::default().with_topics(vec![
        assigned(wanted("t", -1, -1), &[&[1], &[1]]),
        wanted("there", 1, 1),
        with(wanted("u", 1, 1), "table.mode", Some("raw")),
    ]);
    let made = wire.call(7, &request).await.topics;
    let codes: Vec<_> = made.iter().map(|one| (one.error_code, one.num_partitions)).collect();
    assert_eq!(codes, [(0, 2), (36, -1), (0, 1)]);
    assert_eq!(there(&mut wire, "t").await, Some((2, made[0].topic_id)));
    let mode = made[2].configs.iter().flatten().find(|one| one.name.as_str() == "table.mode");
    assert_eq!(mode.unwrap().value.as_deref(), Some("raw"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_can_only_grow() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 2, &[]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let on = |brokers: &[i32]| {
        let ids = brokers.iter().map(|id| BrokerId(*id)).collect();
        CreatePartitionsAssignment::default().with_broker_ids(ids)
    };
    for (topic, count, assignments, validate_only, code, after) in [
        ("t", 5, None, true, 0, 2),
        ("t", 1, None, false, 37, 2),
        ("t", 2, None, false, 37, 2),
        ("t", -1, None, false, 37, 2),
        ("t", i32::MAX, None, false, 44, 2),
        ("missing", 5, None, false, 3, 2),
        ("t", 4, Some(vec![on(&[1])]), false, 39, 2),
        ("t", 3, Some(vec![on(&[2])]), false, 39, 2),
        ("t", 3, Some(vec![on(&[1])]), false, 0, 3),
        ("t", 5, None, false, 0, 5),
    ] {
        let wish = CreatePartitionsTopic::default()
            .with_name(name(topic))
            .with_count(count)
            .with_assignments(assignments);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wish])
            .with_validate_only(validate_only)
            .with_timeout_ms(1_000);
        let one = wire.call(3, &request).await.results.remove(0);
        assert_eq!(one.error_code, code, "{topic} {count}: {:?}", one.error_message);
        assert_eq!(there(&mut wire, "t").await.unwrap().0, after, "{topic} {count}");
    }
    let producer = producer(&floe, &[]);
    assert_eq!(send(&producer, "t", 4, "{}").await, 0);
}

fn by_name(topic: &str) -> DeleteTopicState {
    DeleteTopicState::default().with_name(Some(name(topic)))
}

fn by_id(id: uuid::Uuid) -> DeleteTopicState {
    DeleteTopicState::default().with_name(None).with_topic_id(id)
}

async fn delete(wire: &mut Wire, topics: Vec<DeleteTopicState>) -> Vec<i16> {
    let request = DeleteTopicsRequest::default().with_topics(topics).with_timeout_ms(1_000);
    wire.call(6, &request).await.responses.iter().map(|one| one.error_code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_go_by_name_or_id_and_come_back_at_once() {
    let mut floe = Floe::start(&[]).await;
    create(&floe, "t", 1, &[]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let (_, id) = there(&mut wire, "t").await.unwrap();
    let stranger = uuid::Uuid::from_u128(7);
    let both = by_id(id).with_name(Some(name("t")));
    let wishes = vec![
        by_id(stranger),
        by_name("missing"),
        both,
        DeleteTopicState::default().with_name(None),
    ];
    assert_eq!(delete(&mut wire, wishes).await, [100, 3, 42, 42]);
    assert_eq!(delete(&mut wire, vec![by_name("t"), by_id(id)]).await, [42, 42]);
    assert!(there(&mut wire, "t").await.is_some(), "a topic that stands twice stays");

    let producer = producer(&floe, &[("enable.idempotence", "true")]);
    for turn in 0..10 {
        let (_, id) = there(&mut wire, "t").await.unwrap();
        let stored = send(&producer, "t", 0, &format!("{{\"turn\":{turn}}}")).await;
        assert_eq!(stored, 0, "every topic begins at 0");
        let wish = if turn % 2 == 0 { by_id(id) } else { by_name("t") };
        assert_eq!(delete(&mut wire, vec![wish]).await, [0]);
        assert_eq!(delete(&mut wire, vec![by_id(id)]).await, [100], "an id never comes back");
        create(&floe, "t", 1, &[]).await;
        assert_ne!(there(&mut wire, "t").await.unwrap().1, id);
    }
    send(&producer, "t", 0, "{\"turn\":10}").await;
    assert_eq!(floe.flush("t").await["rows"], 1);
    floe.kill();
    floe.restart().await;
    // Each deleted topic keeps its one row, in a table of its own.
    let deadline = std::time::Instant::now() + WAIT_MAX;
    loop {
        let names = floe.get("/iceberg/v1/namespaces/streams/tables").await;
        let names = names["identifiers"].as_array().unwrap().len();
        if names == 11 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{names} tables");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn post(floe: &Floe, path: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::new();
    let response = client.post(floe.url(path)).json(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_a_topic_that_is_gone_is_in_no_state() {
    let floe = Floe::start(&[]).await;
    let table = "table=\"streams.t\"";
    assert_eq!(post(&floe, "/api/v1/topics/t/events", &json!({"id": 1})).await.0, 200);
    floe.flush("t").await;
    assert_eq!(floe.metric("floe_table_state", table).await, 1.0);
    let gone = reqwest::Client::new().delete(floe.url("/api/v1/topics/t")).send().await.unwrap();
    assert!(gone.status().is_success(), "{}", gone.status());
    eventually("the end of its states", async || {
        (floe.metric("floe_table_state", table).await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_over_http_is_done_whole_or_not_at_all() {
    let floe = Floe::start(&[]).await;
    create(&floe, "t", 4, &[]).await;
    let patch = async |body: Value| {
        let client = reqwest::Client::new();
        let request = client.patch(floe.url("/api/v1/topics/t")).json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    let shrink = json!({"partitions": 2, "options": {"retention.ms": 5}});
    assert_eq!(patch(shrink).await, 400);
    let bad = json!({"partitions": 6, "options": {"retention.ms": "x"}});
    assert_eq!(patch(bad).await, 400);
    let topic = floe.get("/api/v1/topics/t").await;
    let options = topic["options"].as_array().unwrap();
    let retention = options.iter().find(|one| one["key"] == "retention.ms").unwrap();
    assert_eq!(
        (topic["partitions"].as_array().unwrap().len(), &retention["source"]),
        (4, &json!("default"))
    );
    assert_eq!(patch(json!({"partitions": 6, "options": {"retention.ms": 5}})).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_topics_keep_everything_need_keys_and_have_no_table_unless_asked() {
    let floe = Floe::start(&["--retention-check-interval", "100ms"]).await;
    let compact = ("cleanup.policy", "compact");
    create(&floe, "changes", 1, &[compact, ("retention.ms", "1")]).await;
    create(&floe, "both", 1, &[("cleanup.policy", "compact,delete"), ("retention.ms", "1")]).await;
    create(&floe, "asked", 1, &[compact, ("table.mode", "auto")]).await;
    create(&floe, "_internal", 1, &[]).await;
    floe.printed("there is no compaction yet").await;

    let producer = producer(&floe, &[]);
    let keyless = FutureRecord::<(), _>::to("changes").partition(0).payload("v");
    let refused = producer.send(keyless, WAIT_MAX).await.unwrap_err().0;
    assert_eq!(refused, KafkaError::MessageProduction(RDKafkaErrorCode::InvalidRecord));
    let (status, problem) = post(&floe, "/api/v1/topics/changes/events", &json!({"a": 1})).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (422, &json!("bad_key")), "{problem}");

    for topic in ["changes", "both", "asked"] {
        for value in ["{\"v\":1}", "{\"v\":2}"] {
            let keyed = FutureRecord::to(topic).partition(0).key("k").payload(value);
            producer.send(keyed, WAIT_MAX).await.map_err(|(error, _)| error).unwrap();
        }
        let path = format!("/api/v1/topics/{topic}/events?key=k");
        assert_eq!(post(&floe, &path, &json!({"v": 3})).await.0, 200);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for topic in ["changes", "both"] {
        let partition = &floe.get(&format!("/api/v1/topics/{topic}")).await["partitions"][0];
        let kept = (&partition["log_start_offset"], &partition["high_watermark"]);
        assert_eq!(kept, (&json!(0), &json!(3)), "{topic} keeps every record");
    }
    for (topic, state) in
        [("changes", "OFF"), ("both", "OFF"), ("_internal", "OFF"), ("asked", "RUNNING")]
    {
        if topic == "asked" {
            assert_eq!(floe.flush(topic).await["rows"], 3);
        }
        eventually(&format!("{topic} is {state}"), async || {
            let status = floe.get(&format!("/api/v1/tables/streams.{topic}")).await;
            (status["state"] == state).then_some(())
        })
        .await;
    }
}
