//! Kafka requests that are none, or that ask for more than anyone needs.

use std::time::Instant;

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DescribeConfigsRequest, MetadataRequest,
};
use protocol_tests::Floe;
use protocol_tests::wire::{Wire, frame, name};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::{Besieged, PATIENCE};

/// Sends bytes on a connection of their own, then an honest request. The server must answer or close;
/// what came.
async fn hurl(floe: &Floe, bytes: &[u8]) -> Vec<u8> {
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    // A reset while we write is an answer too.
    let _ = wire.send_raw(bytes).await;
    let _ = wire.send_raw(&frame(3, &ApiVersionsRequest::default(), 7)).await;
    let _ = wire.finish().await;
    wire.until_closed(PATIENCE).await.expect("the connection is closed")
}

fn sized(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// A header of any API and version, and what follows it.
fn request(key: i16, version: i16, flexible: bool, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(key);
    bytes.put_i16(version);
    bytes.put_i32(1);
    bytes.put_i16(-1);
    if flexible {
        bytes.put_u8(0);
    }
    bytes.extend_from_slice(body);
    sized(&bytes)
}

/// Measured are 38 MiB, 31 of them of an idle server: a body that is refused costs no more than its
/// bytes.
const GARBAGE_MIB: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_and_costs_nothing() {
    let mut siege = Besieged::start(&["--topics-max", "50"], GARBAGE_MIB).await;
    let floe = &siege.floe;
    for size in [-1, i32::MIN, i32::MAX, (100 << 20) + 1, -100] {
        let answer = hurl(floe, &[&size.to_be_bytes()[..], &[0; 64]].concat()).await;
        assert!(answer.is_empty(), "size {size}: {answer:?}");
    }
    for text in ["GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "SSH-2.0-x\r\n"] {
        hurl(floe, text.as_bytes()).await;
    }
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = vec![0; random.random_range(1..4_000)];
        random.fill_bytes(&mut bytes);
        let framed = seed % 2 == 0;
        hurl(floe, &if framed { sized(&bytes) } else { bytes }).await;
    }
    siege.phase("frames of a wrong size, other protocols, 300 seeds of noise");
    let mut random = StdRng::seed_from_u64(1);
    let mut noise = [0; 400];
    for key in -2..95_i16 {
        for version in -1..16_i16 {
            random.fill_bytes(&mut noise);
            let length = random.random_range(0..noise.len());
            let flexible = random.random();
            hurl(&siege.floe, &request(key, version, flexible, &noise[..length])).await;
        }
    }
    siege.phase("noise behind a header of 97 keys and 17 versions");
    for key in 0..62_i16 {
        // Lengths and counts of 2 GiB, in both ways to write them.
        for (flexible, byte) in [(false, 0x7f), (true, 0xff), (true, 0x0f)] {
            for version in [0, 4, 7, 9, 12] {
                hurl(&siege.floe, &request(key, version, flexible, &[byte; 300])).await;
            }
        }
    }
    siege.phase("lengths and counts of 2 GiB");
    siege.end().await;
}

/// Measured are 85 MiB: 100,000 names are 2 MB, decoded and answered each takes a few hundred bytes.
const MANY_NAMES_MIB: u64 = 220;
const NAMES: usize = 100_000;
const TOPICS_MAX: usize = 50;

fn names(what: &str) -> impl Iterator<Item = String> {
    (0..NAMES).map(move |i| format!("{what}-{i}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_topics_asked_for_are_answered_within_the_limits() {
    let max = TOPICS_MAX.to_string();
    let mut siege = Besieged::start(&["--topics-max", &max], MANY_NAMES_MIB).await;
    let mut wire = Wire::connect(&siege.floe.bootstrap()).await;
    for auto in [false, true] {
        let began = Instant::now();
        let topics = names("asked")
            .map(|topic| MetadataRequestTopic::default().with_name(Some(name(&topic))));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            .with_allow_auto_topic_creation(auto);
        let answer = wire.call(9, &request).await;
        assert_eq!(answer.topics.len(), NAMES);
        let made = answer.topics.iter().filter(|topic| topic.error_code == 0).count();
        assert_eq!(made, if auto { TOPICS_MAX - 1 } else { 0 });
        let seconds = began.elapsed().as_secs_f64();
        siege.phase(&format!("Metadata of 100,000 names, creating: {auto} ({seconds:.1} s)"));
    }
    let listed = siege.floe.get("/api/v1/topics").await;
    assert_eq!(listed["topics"].as_array().unwrap().len(), TOPICS_MAX);
    for validate_only in [true, false] {
        let began = Instant::now();
        let topics = names("made").map(|topic| {
            CreatableTopic::default()
                .with_name(name(&topic))
                .with_num_partitions(1)
                .with_replication_factor(1)
        });
        let request = CreateTopicsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(30_000)
            .with_validate_only(validate_only);
        let answer = wire.call(5, &request).await;
        assert!(answer.topics.iter().all(|topic| topic.error_code == 44), "policy violation");
        assert_eq!(answer.topics.len(), NAMES);
        let seconds = began.elapsed().as_secs_f64();
        siege
            .phase(&format!("CreateTopics of 100,000, checking: {validate_only} ({seconds:.1} s)"));
    }
    let lines = siege.floe.log().lines().count();
    assert!(lines < 1_000, "{lines} lines logged");
    siege.end().await;
}

/// Measured are 75 MiB. All options of one topic are some KB, and only the first 1,000 topics of an
/// answer tell theirs.
const AMPLIFIED_MIB: u64 = 220;
const CHECKED: usize = 30_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_request_is_not_multiplied_without_bound() {
    let mut siege = Besieged::start(&[], AMPLIFIED_MIB).await;
    let mut wire = Wire::connect(&siege.floe.bootstrap()).await;
    let began = Instant::now();
    let topics = names("checked").take(CHECKED).map(|topic| {
        CreatableTopic::default()
            .with_name(name(&topic))
            .with_num_partitions(1)
            .with_replication_factor(1)
    });
    let request = CreateTopicsRequest::default()
        .with_topics(topics.collect())
        .with_timeout_ms(30_000)
        .with_validate_only(true);
    let answer = wire.call(5, &request).await;
    assert_eq!(answer.topics.len(), CHECKED);
    assert!(answer.topics.iter().all(|topic| topic.error_code == 0));
    let told =
        answer.topics.iter().filter(|one| one.configs.as_ref().is_some_and(|c| !c.is_empty()));
    assert_eq!(told.count(), 1_000);
    let seconds = began.elapsed().as_secs_f64();
    siege.phase(&format!("CreateTopics that only checks {CHECKED} names ({seconds:.1} s)"));
    let resource = |topic: String| {
        DescribeConfigsResource::default().with_resource_type(2).with_resource_name(topic.into())
    };
    let resources = names("healthy").map(resource).chain([resource("healthy".to_owned())]);
    let request = DescribeConfigsRequest::default()
        .with_resources(resources.take(NAMES / 2).collect())
        .with_include_documentation(true);
    let answer = wire.call(4, &request).await;
    assert_eq!(answer.results.len(), NAMES / 2);
    siege.phase("DescribeConfigs of 50,000 names");
    siege.end().await;
}
