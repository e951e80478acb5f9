//! Options of topics and of the broker over the wire: what is refused with which code, what takes
//! effect, what outlives a kill.

use kafka_protocol::messages::alter_configs_request::{self, AlterConfigsRequest};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    self, IncrementalAlterConfigsRequest,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use protocol_tests::clients::{create, producer, read_all, send};
use protocol_tests::wire::Wire;
use protocol_tests::{Floe, WAIT_MAX, eventually};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::FutureRecord;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

type Edit<'a> = (i8, &'a str, Option<&'a str>);

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// An IncrementalAlterConfigs request over several resources; their error codes.
async fn edit(
    wire: &mut Wire,
    resources: &[(i8, &str, &[Edit<'_>])],
    validate_only: bool,
) -> Vec<i16> {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let resources = resources
        .iter()
        .map(|(kind, name, edits)| {
            let configs = edits.iter().map(|(operation, key, value)| {
                AlterableConfig::default()
                    .with_name(text(key))
                    .with_config_operation(*operation)
                    .with_value(value.map(text))
            });
            AlterConfigsResource::default()
                .with_resource_type(*kind)
                .with_resource_name(text(name))
                .with_configs(configs.collect())
        })
        .collect();
    let request = IncrementalAlterConfigsRequest::default()
        .with_resources(resources)
        .with_validate_only(validate_only);
    let response = wire.call(1, &request).await;
    for one in &response.responses {
        assert_eq!(one.error_code == 0, one.error_message.is_none(), "{one:?}");
    }
    response.responses.iter().map(|one| one.error_code).collect()
}

/// An AlterConfigs request for one resource; its error code.
async fn replace(
    wire: &mut Wire,
    kind: i8,
    name: &str,
    configs: &[(&str, Option<&str>)],
    validate_only: bool,
) -> i16 {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let configs = configs
        .iter()
        .map(|(key, value)| {
            AlterableConfig::default().with_name(text(key)).with_value(value.map(text))
        })
        .collect();
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs);
    let request = AlterConfigsRequest::default()
        .with_resources(vec![resource])
        .with_validate_only(validate_only);
    wire.call(2, &request).await.responses[0].error_code
}

async fn describe(
    wire: &mut Wire,
    kind: i8,
    name: &str,
    keys: Option<&[&str]>,
) -> (i16, Vec<DescribeConfigsResourceResult>) {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let response: DescribeConfigsResponse = wire.call(4, &request).await;
    let result = response.results.into_iter().next().expect("one resource, one result");
    (result.error_code, result.configs)
}

/// Value and source of an option of a topic; 1 is the topic itself, 5 the default.
async fn value(wire: &mut Wire, topic: &str, key: &str) -> (String, i8) {
    let (code, configs) = describe(wire, TOPIC, topic, Some(&[key])).await;
    assert_eq!((code, configs.len()), (0, 1), "{key}");
    (configs[0].value.as_ref().expect("it is not sensitive").to_string(), configs[0].config_source)
}

fn is(value: &str, source: i8) -> (String, i8) {
    (value.to_owned(), source)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_options_are_edited_with_the_codes_of_kafkas_broker() {
    let mut floe = Floe::start(&[]).await;
    create(&floe, "t", 1, &[]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let wire = &mut wire;
    let refused: &[(i8, &str, &[Edit<'_>], i16)] = &[
        (TOPIC, "t", &[(SET, "retention.m", Some("1"))], 40),
        (TOPIC, "t", &[(SET, "max.message.bytes", Some("many"))], 40),
        (TOPIC, "t", &[(SET, "table.mode", Some("csv"))], 40),
        (TOPIC, "t", &[(SET, "table.snapshot.min.count", Some("5000"))], 40),
        (TOPIC, "t", &[(SET, "retention.ms", None)], 42),
        (TOPIC, "t", &[(APPEND, "retention.ms", Some("1"))], 40),
        (TOPIC, "t", &[(SUBTRACT, "retention.ms", Some("1"))], 40),
        (TOPIC, "t", &[(APPEND, "cleanup.policy", Some("squash"))], 40),
        (TOPIC, "t", &[(9, "retention.ms", Some("1"))], 42),
        (TOPIC, "t", &[(SET, "retention.ms", Some("1")), (DELETE, "retention.ms", None)], 42),
        (TOPIC, "t", &[(SET, "table.mode", Some("raw")), (DELETE, "floe.table.mode", None)], 40),
        (TOPIC, "t", &[(SET, "retention.ms", Some("5")), (SET, "no.such", Some("1"))], 40),
        (TOPIC, "missing", &[(SET, "retention.ms", Some("1"))], 3),
        (BROKER, "1", &[(SET, "num.partitions", Some("1"))], 42),
        (BROKER, "", &[(SET, "num.partitions", Some("1"))], 42),
        (BROKER, "7", &[(SET, "num.partitions", Some("1"))], 42),
        (8, "1", &[(SET, "kafka.server", Some("INFO"))], 42),
        (0, "t", &[(SET, "retention.ms", Some("1"))], 42),
    ];
    for (kind, name, edits, code) in refused {
        assert_eq!(edit(wire, &[(*kind, *name, *edits)], false).await, [*code], "{edits:?}");
    }
    let once: &[Edit<'_>] = &[(SET, "retention.ms", Some("7"))];
    assert_eq!(edit(wire, &[(TOPIC, "t", once), (TOPIC, "t", once)], false).await, [42, 42]);
    assert_eq!(edit(wire, &[(TOPIC, "t", once), (BROKER, "t", once)], true).await, [0, 42]);
    assert_eq!(value(wire, "t", "retention.ms").await, is("604800000", 5), "nothing was changed");

    for (operation, given, wanted) in [
        (APPEND, Some("compact"), is("delete,compact", 1)),
        (APPEND, Some("compact"), is("delete,compact", 1)),
        (SUBTRACT, Some("delete"), is("compact", 1)),
        (SUBTRACT, Some("delete"), is("compact", 1)),
        (SET, Some("compact,delete"), is("compact,delete", 1)),
        (DELETE, None, is("delete", 5)),
        (DELETE, None, is("delete", 5)),
    ] {
        let edits: &[Edit<'_>] = &[(operation, "cleanup.policy", given)];
        assert_eq!(edit(wire, &[(TOPIC, "t", edits)], false).await, [0]);
        assert_eq!(value(wire, "t", "cleanup.policy").await, wanted, "{operation} {given:?}");
    }

    let edits: &[Edit<'_>] = &[
        (SET, "retention.ms", Some("3600000")),
        (SET, "floe.table.target.lag.ms", Some("5s")),
        (SET, "segment.bytes", Some("1000000")),
    ];
    assert_eq!(edit(wire, &[(TOPIC, "t", edits)], false).await, [0]);
    floe.kill();
    floe.restart().await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    assert_eq!(value(&mut wire, "t", "retention.ms").await, is("3600000", 1));
    assert_eq!(value(&mut wire, "t", "table.target.lag.ms").await, is("5s", 1));
    assert_eq!(value(&mut wire, "t", "segment.bytes").await, is("1000000", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_options_are_replaced_at_once_or_only_checked() {
    let mut floe = Floe::start(&[]).await;
    create(&floe, "t", 1, &[("retention.ms", "1000"), ("table.mode", "raw")]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let wire = &mut wire;
    let size = ("max.message.bytes", Some("5000"));
    for (kind, name, configs, code) in [
        (TOPIC, "t", &[size, ("retention.ms", None)][..], 42),
        (TOPIC, "t", &[size, size], 42),
        (TOPIC, "t", &[size, ("retention.mss", Some("1"))], 40),
        (TOPIC, "t", &[size, ("retention.ms", Some("-2"))], 40),
        (TOPIC, "t", &[("table.mode", Some("off")), ("floe.table.mode", Some("off"))], 40),
        (TOPIC, "missing", &[size], 3),
        (BROKER, "1", &[size], 42),
    ] {
        assert_eq!(replace(wire, kind, name, configs, false).await, code, "{configs:?}");
    }
    assert_eq!(replace(wire, TOPIC, "t", &[size], true).await, 0);
    assert_eq!(value(wire, "t", "max.message.bytes").await, is("1048588", 5));
    assert_eq!(replace(wire, TOPIC, "t", &[size], false).await, 0);
    floe.kill();
    floe.restart().await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    assert_eq!(value(&mut wire, "t", "max.message.bytes").await, is("5000", 1));
    assert_eq!(value(&mut wire, "t", "retention.ms").await, is("604800000", 5));
    assert_eq!(value(&mut wire, "t", "table.mode").await, is("auto", 5));
    assert_eq!(replace(&mut wire, TOPIC, "t", &[], false).await, 0);
    assert_eq!(value(&mut wire, "t", "max.message.bytes").await, is("1048588", 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptions_say_source_type_and_what_may_be_changed() {
    let floe = Floe::start(&["--retention-ms", "5000"]).await;
    create(&floe, "t", 1, &[("retention.ms", "7000")]).await;
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let wire = &mut wire;
    for (kind, name, code) in
        [(TOPIC, "missing", 3), (TOPIC, "a b", 17), (BROKER, "9", 42), (99, "x", 42)]
    {
        assert_eq!(describe(wire, kind, name, None).await.0, code, "{kind} {name}");
    }
    let (code, topic) = describe(wire, TOPIC, "t", None).await;
    assert_eq!(code, 0);
    assert!(topic.len() > 50);
    assert!(topic.iter().all(|one| !one.read_only && !one.is_sensitive));
    assert!(topic.iter().all(|one| one.documentation.is_some() && one.config_type > 0));
    let retention = topic.iter().find(|one| one.name.as_str() == "retention.ms").unwrap();
    let synonyms: Vec<_> = retention
        .synonyms
        .iter()
        .map(|one| (one.value.as_ref().unwrap().as_str(), one.source))
        .collect();
    assert_eq!(synonyms, [("7000", 1), ("5000", 4), ("604800000", 5)]);
    let (code, some) = describe(wire, TOPIC, "t", Some(&["retention.ms", "no.such"])).await;
    assert_eq!((code, some.len()), (0, 1));
    for name in ["1", ""] {
        let (code, broker) = describe(wire, BROKER, name, None).await;
        assert_eq!(code, 0);
        assert!(broker.iter().all(|one| one.read_only && !one.is_sensitive));
        let retention = broker.iter().find(|one| one.name.as_str() == "log.retention.ms").unwrap();
        assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5000"), 4));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_option_takes_effect_at_once() {
    let floe = Floe::start(&["--retention-check-interval", "100ms"]).await;
    let slow = [("table.target.lag.ms", "1h"), ("table.commit.min.interval.ms", "0")];
    create(&floe, "lag", 1, &slow).await;
    create(&floe, "t", 1, &[("table.mode", "off")]).await;
    let producer = producer(&floe, &[]);
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    let wire = &mut wire;

    // The first row is committed by the leading edge, the second waits for the lag.
    send(&producer, "lag", 0, "{\"a\":1}").await;
    let rows = async || floe.get("/api/v1/tables/streams.lag").await["rows"].as_u64();
    eventually("the first row", async || (rows().await == Some(1)).then_some(())).await;
    send(&producer, "lag", 0, "{\"a\":2}").await;

    let size = |bytes| [(SET, "max.message.bytes", Some(bytes))];
    assert_eq!(edit(wire, &[(TOPIC, "t", &size("2000"))], false).await, [0]);
    let large = "x".repeat(5_000);
    let record = FutureRecord::<(), _>::to("t").partition(0).payload(&large);
    let refused = producer.send(record, WAIT_MAX).await.unwrap_err().0;
    let too_large = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
    assert_eq!(refused, too_large);
    let event = format!("{{\"large\":\"{large}\"}}");
    let post = async |body: String| {
        let url = floe.url("/api/v1/topics/t/events");
        let response = reqwest::Client::new().post(url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap())
    };
    let (status, problem) = post(event.clone()).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("too_large")), "{problem}");
    assert_eq!(problem["errors"][0]["code"], "too_large");
    assert_eq!(edit(wire, &[(TOPIC, "t", &size("9000"))], false).await, [0]);
    assert_eq!(send(&producer, "t", 0, &large).await, 0);
    assert_eq!(post(event).await.0, 200);

    let short: &[Edit<'_>] = &[(SET, "retention.ms", Some("1"))];
    assert_eq!(edit(wire, &[(TOPIC, "t", short)], false).await, [0]);
    eventually("retention", async || {
        let topic = floe.get("/api/v1/topics/t").await;
        (topic["partitions"][0]["log_start_offset"] == 2).then_some(())
    })
    .await;

    // What retention took before the table began is a gap, and so is what was appended while it
    // was off; what comes after it are rows.
    assert_eq!(replace(wire, TOPIC, "t", &[("table.mode", Some("auto"))], false).await, 0);
    eventually("the table is on", async || {
        let status = floe.get("/api/v1/tables/streams.t").await;
        (status["state"] == "WAITING" && status["mode"] == "auto").then_some(())
    })
    .await;
    send(&producer, "t", 0, "{\"a\":1}").await;
    let status = floe.flush("t").await;
    assert_eq!(
        (status["rows"].as_u64(), status["partitions"][0]["end_offset"].as_i64()),
        (Some(1), Some(3))
    );
    let off: &[Edit<'_>] = &[(SET, "table.mode", Some("off"))];
    assert_eq!(edit(wire, &[(TOPIC, "t", off)], false).await, [0]);
    eventually("the table is off", async || {
        (floe.get("/api/v1/tables/streams.t").await["state"] == "OFF").then_some(())
    })
    .await;
    send(&producer, "t", 0, "{\"a\":2}").await;
    let on: &[Edit<'_>] = &[(DELETE, "table.mode", None)];
    assert_eq!(edit(wire, &[(TOPIC, "t", on)], false).await, [0]);
    eventually("the gap", async || {
        let gaps = floe.get("/api/v1/tables/streams.t").await["gaps"].take();
        gaps.as_array().unwrap().iter().any(|gap| gap["reason"] == "off").then_some(())
    })
    .await;
    send(&producer, "t", 0, "{\"a\":3}").await;
    let status = floe.flush("t").await;
    assert_eq!((status["rows"].as_u64(), status["gap_offsets"].as_u64()), (Some(2), Some(3)));

    assert_eq!(rows().await, Some(1), "the lag is still an hour");
    let quick: &[Edit<'_>] = &[(SET, "table.target.lag.ms", Some("1s"))];
    assert_eq!(edit(wire, &[(TOPIC, "lag", quick)], false).await, [0]);
    eventually("the second row", async || (rows().await == Some(2)).then_some(())).await;
}

/// POSTs one event; the answer's `ack`.
async fn post_event(floe: &Floe, query: &str) -> String {
    let url = floe.url(&format!("/api/v1/topics/t/events{query}"));
    let sent = reqwest::Client::new().post(url).body(r#"{"i":1}"#).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let answer: serde_json::Value = sent.json().await.unwrap();
    answer["ack"].as_str().unwrap().to_owned()
}

/// `(durable end, high watermark)` over all partitions.
async fn ends(floe: &Floe) -> (u64, u64) {
    let topic = floe.get("/api/v1/topics/t").await;
    let sum = |key: &str| {
        let partitions = topic["partitions"].as_array().unwrap();
        partitions.iter().map(|partition| partition[key].as_u64().unwrap()).sum()
    };
    (sum("durable_end"), sum("high_watermark"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_flush_lets_answers_run_ahead_and_says_so_and_no_table_follows() {
    let mut floe = Floe::start(&["--log-flush", "os", "--table-target-lag", "1h"]).await;
    floe.printed("a power loss can take answered records").await;
    // The first event makes the topic, whose frame is synced; after that nobody asks for a sync.
    assert_eq!(post_event(&floe, "?ack=durable").await, "durable");
    assert_eq!(ends(&floe).await, (1, 1));
    let producer = producer(&floe, &[("acks", "all")]);
    for _ in 0..10 {
        send(&producer, "t", 0, r#"{"i":2}"#).await;
    }
    assert_eq!(post_event(&floe, "").await, "written");
    // The first table commit (leading edge) may have asked meanwhile; none is made after it.
    let (durable, high) = ends(&floe).await;
    assert!(durable <= high && high == 12, "{durable} {high}");
    assert!(floe.metrics().await.contains("floe_wal_unsynced_bytes"));
    let table = floe.flush("t").await;
    assert_eq!(table["state"], "RUNNING", "{table}");
    assert_eq!(ends(&floe).await, (12, 12));
    // The end of the process alone takes nothing.
    for _ in 0..10 {
        send(&producer, "t", 0, r#"{"i":3}"#).await;
    }
    floe.kill();
    floe.restart_with(&[]).await;
    assert_eq!(ends(&floe).await, (22, 22));
    assert_eq!(post_event(&floe, "").await, "durable");
    assert_eq!(read_all(&floe, "t", 4).len(), 23);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_switched_on_again_misses_nothing() {
    const ROUNDS: usize = 10;
    let floe = Floe::start(&["--num-partitions", "1", "--table-target-lag", "1s"]).await;
    let wire = &mut Wire::connect(&floe.bootstrap()).await;
    let post = async |number: usize| {
        let url = floe.url("/api/v1/topics/t/events");
        let sent = reqwest::Client::new().post(url).body(format!("{{\"i\":{number}}}"));
        assert_eq!(sent.send().await.unwrap().status(), 200);
    };
    for round in 0..ROUNDS {
        post(2 * round).await;
        for mode in ["off", "auto"] {
            let change: &[Edit<'_>] = &[(SET, "table.mode", Some(mode))];
            assert_eq!(edit(wire, &[(TOPIC, "t", change)], false).await, [0]);
        }
        post(2 * round + 1).await;
        eventually("a flush", async || {
            let flush = floe.url("/api/v1/tables/streams.t/flush");
            let done = reqwest::Client::new().post(flush).send().await.unwrap();
            (done.status() == 200).then_some(())
        })
        .await;
    }
    let url = floe.url("/iceberg");
    let rows = protocol_tests::table::longs(&url, "streams", "t", "i").await;
    assert_eq!(rows, (0..2 * ROUNDS as i64).collect::<Vec<_>>());
}
