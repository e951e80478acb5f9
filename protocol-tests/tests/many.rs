//! Many topics and partitions: made, written, read, restarted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use protocol_tests::clients::{admin, create, producer, read_from_start};
use protocol_tests::{Floe, WAIT_MAX};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::producer::FutureRecord;

/// One record to each partition of each topic; the offsets that they got.
async fn one_each(floe: &Floe, topics: &[String], partitions: i32) -> BTreeSet<i64> {
    let producer = producer(floe, &[("linger.ms", "20")]);
    let mut pending = Vec::new();
    for topic in topics {
        for partition in 0..partitions {
            let record = FutureRecord::<(), _>::to(topic).partition(partition).payload("{\"a\":1}");
            pending.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
        }
    }
    let mut offsets = BTreeSet::new();
    for delivery in pending {
        offsets.insert(delivery.await.unwrap().unwrap().offset);
    }
    offsets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_partitions_are_written_read_and_there_after_a_kill() {
    let mut floe = Floe::start(&[]).await;
    let many: Vec<String> = (0..10).map(|i| format!("many_{i}")).collect();
    for topic in &many {
        create(&floe, topic, 100, &[]).await;
    }
    let wide = ["wide".to_owned()];
    create(&floe, &wide[0], 1_000, &[]).await;
    for round in 0..2 {
        assert_eq!(one_each(&floe, &many, 100).await, BTreeSet::from([round]));
        assert_eq!(one_each(&floe, &wide, 1_000).await, BTreeSet::from([round]));
        let partitions = admin(&floe.bootstrap())
            .inner()
            .fetch_metadata(None, WAIT_MAX)
            .unwrap()
            .topics()
            .iter()
            .map(|topic| topic.partitions().len())
            .sum::<usize>();
        assert_eq!(partitions, 2_000);
        floe.kill();
        floe.restart().await;
    }
    let stored = read_from_start(&floe, "wide", 1_000, 2_000);
    let places: BTreeSet<_> = stored.iter().map(|one| (one.partition, one.offset)).collect();
    assert_eq!(places.len(), 2_000);
    assert_eq!(floe.flush("wide").await["rows"], 2_000);
    assert_eq!(floe.flush("many_9").await["rows"], 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_made_one_by_one_or_at_once_take_records_at_once() {
    let floe = Floe::start(&[]).await;
    let producer = producer(&floe, &[("topic.metadata.refresh.fast.interval.ms", "10")]);
    let client = admin(&floe.bootstrap());
    for i in 0..100 {
        let topic = format!("single-{i}");
        let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
        let made = client.create_topics(&[new], &AdminOptions::new()).await.unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        let record = FutureRecord::<(), _>::to(&topic).partition(0).payload("{}");
        producer.send(record, WAIT_MAX).await.map_err(|(error, _)| error).unwrap();
    }
    let names: Vec<String> = (0..100).map(|i| format!("batch-{i}")).collect();
    let batch: Vec<_> =
        names.iter().map(|name| NewTopic::new(name, 2, TopicReplication::Fixed(1))).collect();
    let made = client.create_topics(&batch, &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    assert_eq!(one_each(&floe, &names, 2).await, BTreeSet::from([0]));
    let topics = floe.get("/api/v1/topics").await;
    assert_eq!(topics["topics"].as_array().unwrap().len(), 200);
}

/// Prints the seconds since `since`, what the server has used of processors since it started, and
/// its memory.
fn told(what: &str, since: Instant, floe: &Floe) {
    let of_process = |file: &str| {
        std::fs::read_to_string(format!("/proc/{}/{file}", floe.pid())).unwrap_or_default()
    };
    let status = of_process("status");
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("?");
    // Fields 14 and 15, in hundredths of a second; the first two have spaces in them.
    let stat = of_process("stat");
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    let (seconds, cpu) = (since.elapsed().as_secs_f64(), ticks as f64 / 100.0);
    println!("{what}: {seconds:.2} s, processors so far {cpu:.2} s, memory {}", rss.trim());
}

/// `cargo test -p protocol-tests --test many -- --ignored --nocapture figures`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, asserts nothing of them"]
async fn figures_of_ten_thousand_partitions() {
    for (topics, partitions) in [(1, 10_000), (100, 100), (1_000, 4)] {
        println!("{topics} topics with {partitions} partitions");
        let mut floe = Floe::start(&["--table-target-lag", "1h"]).await;
        let names: Vec<String> = (0..topics).map(|i| format!("t{i}")).collect();
        let began = Instant::now();
        let client = admin(&floe.bootstrap());
        for name in &names {
            let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
            let made = client.create_topics(&[new], &AdminOptions::new()).await.unwrap();
            assert!(made.iter().all(Result::is_ok), "{made:?}");
        }
        told("create one by one", began, &floe);
        for round in ["first", "second"] {
            let began = Instant::now();
            one_each(&floe, &names, partitions).await;
            told(&format!("produce to all, {round}"), began, &floe);
        }
        let began = Instant::now();
        let metadata = admin(&floe.bootstrap());
        let metadata = metadata.inner().fetch_metadata(None, WAIT_MAX).unwrap();
        assert_eq!(metadata.topics().len(), names.len());
        told("metadata of all", began, &floe);
        let began = Instant::now();
        read_from_start(&floe, &names[0], partitions, 2 * partitions as usize);
        told("fetch one topic", began, &floe);
        for what in ["first", "second"] {
            one_each(&floe, &names[..1], partitions).await;
            let began = Instant::now();
            floe.flush(&names[0]).await;
            told(&format!("table commit, {what}"), began, &floe);
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let began = Instant::now();
        floe.kill();
        floe.restart().await;
        told("kill and restart until ready", began, &floe);
    }
}
