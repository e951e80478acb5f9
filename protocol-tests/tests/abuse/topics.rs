//! What a topic costs that nobody writes to.

use std::time::Instant;

use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use protocol_tests::Floe;
use protocol_tests::memory::resident_bytes;
use protocol_tests::wire::{Wire, name};

/// Topics of one request.
const AT_ONCE: usize = 1_000;

/// Makes `count` topics of one partition.
async fn make(floe: &Floe, mode: &str, count: usize) {
    let mut wire = Wire::connect(&floe.bootstrap()).await;
    for first in (0..count).step_by(AT_ONCE) {
        let option = CreatableTopicConfig::default()
            .with_name("table.mode".into())
            .with_value(Some(mode.to_owned().into()));
        let topics = (first..count.min(first + AT_ONCE)).map(|i| {
            CreatableTopic::default()
                .with_name(name(&format!("topic-{mode}-{i}")))
                .with_num_partitions(1)
                .with_replication_factor(1)
                .with_configs(vec![option.clone()])
        });
        let request =
            CreateTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(30_000);
        let answer = wire.call(5, &request).await;
        assert!(answer.topics.iter().all(|topic| topic.error_code == 0));
    }
}

/// Resident bytes per topic of `count` that are new.
async fn bytes_per_topic(mode: &str, count: usize) -> u64 {
    let floe = Floe::start(&["--topics-max", "100000"]).await;
    // What the first topics and a first scrape cost once.
    make(&floe, "raw", 100).await;
    floe.metrics().await;
    let before = resident_bytes(&floe);
    let began = Instant::now();
    make(&floe, mode, count).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let bytes = resident_bytes(&floe).saturating_sub(before) / count as u64;
    let seconds = began.elapsed().as_secs_f64();
    let scraped = floe.metrics().await.len() / count;
    println!(
        "{count} topics, table.mode={mode}: {bytes} bytes of memory each, {scraped} bytes of \
         metrics, made in {seconds:.1} s"
    );
    bytes
}

/// Measured are 15,000 bytes of 2,000 topics, 8,500 of 20,000; 40,000 as long as an idle table kept
/// the state of a working one.
const TOPIC_BYTES: u64 = 28_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_topic_takes_little_memory() {
    let bytes = bytes_per_topic("auto", 2_000).await;
    assert!(bytes <= TOPIC_BYTES, "{bytes} bytes a topic");
}

/// `cargo test -p protocol-tests --test abuse -- --ignored --nocapture figures`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn figures_of_memory_per_topic() {
    for mode in ["off", "auto"] {
        bytes_per_topic(mode, 20_000).await;
    }
}
