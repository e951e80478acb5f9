//! Stock librdkafka against the real binary: every codec, every acks, idempotence, large batches,
//! a hundred partitions, kill -9 under load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use protocol_tests::clients::{Stored, create, producer, read_all};
use protocol_tests::{Floe, WAIT_MAX};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;

fn assert_contiguous(stored: &[Stored]) {
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for record in stored {
        offsets.entry(record.partition).or_default().push(record.offset);
    }
    for (partition, mut found) in offsets {
        found.sort_unstable();
        let whole: Vec<i64> = (0..i64::try_from(found.len()).unwrap()).collect();
        assert_eq!(found, whole, "offsets of partition {partition}");
    }
}

/// Rows in the table and in its dead-letter table, as the server counts them.
fn rows(status: &serde_json::Value) -> (u64, u64) {
    (status["rows"].as_u64().unwrap(), status["dlq_rows"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_codec_and_every_acks_is_stored_once() {
    let floe = Floe::start(&[]).await;
    let mut sent = BTreeSet::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for acks in ["0", "1", "all"] {
            let settings = [("compression.type", codec), ("acks", acks), ("linger.ms", "10")];
            let producer = producer(&floe, &settings);
            let mut pending = Vec::new();
            for i in 0..100 {
                let key = format!("{codec} {acks} {i}");
                let value = format!("{{\"key\":\"{key}\",\"text\":\"{}\"}}", "floe ".repeat(40));
                let record = FutureRecord::to("codecs").key(&key).payload(&value);
                pending.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
                sent.insert(key.into_bytes());
            }
            for delivery in pending {
                delivery.await.unwrap().unwrap();
            }
        }
    }
    // acks=0 is not waited for by the client: the last batch may still be on its way.
    let deadline = Instant::now() + WAIT_MAX;
    let stored = loop {
        let stored = read_all(&floe, "codecs", 4);
        if stored.len() >= sent.len() || Instant::now() > deadline {
            break stored;
        }
    };
    assert_eq!(stored.len(), sent.len());
    assert_contiguous(&stored);
    let keys: BTreeSet<Vec<u8>> = stored.into_iter().filter_map(|record| record.key).collect();
    assert_eq!(keys, sent);
    assert_eq!(rows(&floe.flush("codecs").await), (sent.len() as u64, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_as_they_were_sent() {
    let floe = Floe::start(&[]).await;
    let producer = producer(&floe, &[("enable.idempotence", "true")]);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header { key: "a", value: Some("2") })
        .insert(Header::<&str> { key: "none", value: None });
    let big = vec![7_u8; 900_000];
    let record = FutureRecord::<[u8], [u8]>::to("bytes").key(&[0, 255]).payload(&big);
    producer.send(record.headers(headers).partition(0), WAIT_MAX).await.unwrap();
    let tombstone = FutureRecord::<[u8], [u8]>::to("bytes").key(b"gone").partition(0);
    producer.send(tombstone, WAIT_MAX).await.unwrap();
    let stored = read_all(&floe, "bytes", 4);
    assert_eq!(stored[0].value.as_deref(), Some(&big[..]));
    assert_eq!(stored[0].key.as_deref(), Some(&[0, 255][..]));
    let wanted = [
        ("a".to_owned(), Some(b"1".to_vec())),
        ("a".to_owned(), Some(b"2".to_vec())),
        ("none".to_owned(), None),
    ];
    assert_eq!(stored[0].headers, wanted);
    assert_eq!((stored[1].key.as_deref(), &stored[1].value), (Some(&b"gone"[..]), &None));
    assert_eq!(rows(&floe.flush("bytes").await), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_partitions_take_large_batches() {
    let floe = Floe::start(&[]).await;
    create(&floe, "wide", 100, &[]).await;
    let settings = [("enable.idempotence", "true"), ("batch.size", "1000000"), ("linger.ms", "20")];
    let producer = producer(&floe, &settings);
    let mut pending = Vec::new();
    for i in 0..20_000_u32 {
        let value = format!("{{\"i\":{i}}}");
        let partition = i32::try_from(i % 100).unwrap();
        let record = FutureRecord::<(), _>::to("wide").payload(&value).partition(partition);
        pending.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
    }
    for delivery in pending {
        delivery.await.unwrap().unwrap();
    }
    let stored = read_all(&floe, "wide", 100);
    assert_eq!(stored.len(), 20_000);
    assert_contiguous(&stored);
    assert_eq!(rows(&floe.flush("wide").await), (20_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_under_load_lose_and_double_nothing() {
    let mut floe = Floe::start(&["--table-target-lag", "1s"]).await;
    create(&floe, "kills", 3, &[]).await;
    let settings = [
        ("enable.idempotence", "true"),
        ("linger.ms", "5"),
        ("message.timeout.ms", "120000"),
        ("reconnect.backoff.max.ms", "200"),
    ];
    let producer = producer(&floe, &settings);
    #[allow(clippy::disallowed_methods, reason = "a test joins its own task")]
    let load = tokio::spawn(async move {
        let mut pending = Vec::new();
        for i in 0..30_000_u32 {
            let value = format!("{{\"i\":{i}}}");
            let record = FutureRecord::<(), _>::to("kills").payload(&value);
            pending.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
            if i % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        for delivery in pending {
            delivery.await.unwrap().unwrap();
        }
    });
    for turn in 0..10_u64 {
        tokio::time::sleep(Duration::from_millis(150 + turn * 97 % 500)).await;
        floe.kill();
        floe.restart().await;
    }
    load.await.unwrap();
    let stored = read_all(&floe, "kills", 3);
    assert_contiguous(&stored);
    let values: BTreeSet<Vec<u8>> =
        stored.iter().filter_map(|record| record.value.clone()).collect();
    assert_eq!(values.len(), 30_000, "every acknowledged record is there");
    assert_eq!(stored.len(), 30_000, "none is there twice");
    let status = floe.flush("kills").await;
    assert_eq!(status["state"], "RUNNING", "{status:#}");
    let ends: i64 = status["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| partition["end_offset"].as_i64().unwrap())
        .sum();
    assert_eq!(ends, 30_000, "the table covers every offset");
}
