//! Record batches that are bombs: stored as they came, and no table stands still for one.

use kafka_protocol::messages::ListOffsetsRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use protocol_tests::bombs;
use protocol_tests::clients::create;
use protocol_tests::wire::{Wire, name};

use crate::Besieged;

/// Measured are 460 MiB. A body takes 128 MiB at most; four are open at once (two whose keys are
/// looked at, two for a look-up by time), and one for a table, whose rows are there three times: as
/// they came, as columns, and as a file.
const BOMBS_MIB: u64 = 900;

/// Records of a batch of a few KB: more than are taken at once.
const MANY: i32 = 300_000;

const GIB: usize = 1 << 30;
const HALF_CAP: usize = 60 << 20;

/// Bombs of every codec: past the cap, below the cap behind an honest record, and one that is a
/// single value.
fn arsenal() -> Vec<(String, bytes::Bytes)> {
    let honest = bombs::record(b"{\"a\":1}");
    let mut all = Vec::new();
    for (codec, number) in bombs::CODECS {
        // As much as fits into 8 MB.
        let most = if *codec == "snappy" { 128 << 20 } else { GIB };
        all.push((format!("{codec} past the cap"), bombs::batch(*number, &honest, most)));
        all.push((format!("{codec} below it"), bombs::batch(*number, &honest, HALF_CAP)));
        all.push((format!("{codec} without a record"), bombs::batch(*number, &[], HALF_CAP)));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_never_inflated_without_bound_and_stop_no_table() {
    let mut siege = Besieged::start(&["--table-target-lag", "1h"], BOMBS_MIB).await;
    let mut wire = Wire::connect(&siege.floe.bootstrap()).await;
    let arsenal = arsenal();
    let value = format!("{{\"text\":\"{}\"}}", "x".repeat(30 << 20));
    let single = bombs::batch(4, &bombs::record(value.as_bytes()), 0);
    for mode in ["raw", "json", "auto"] {
        let options = [("table.mode", mode), ("max.message.bytes", "10000000")];
        create(&siege.floe, mode, 1, &options).await;
        let mut stored = 0_u64;
        for (what, bomb) in &arsenal {
            let answer = wire.produce_batch(mode, 0, bomb.clone()).await;
            assert!(matches!(answer.error_code, 0 | 87), "{what}: {}", answer.error_code);
            stored += u64::from(answer.error_code == 0);
        }
        for _ in 0..12 {
            // One after another: a reader that keeps what it opened has them all.
            let answer = wire.produce_batch(mode, 0, arsenal[10].1.clone()).await;
            assert_eq!(answer.error_code, 0);
            stored += 1;
        }
        assert_eq!(wire.produce_batch(mode, 0, single.clone()).await.error_code, 0);
        assert_eq!(wire.produce(mode, 0, &["{\"a\":2}"]).await.error_code, 0);
        stored += 2;
        if mode == "raw" {
            let many = bombs::many_records(MANY);
            assert_eq!(wire.produce_batch(mode, 0, many).await.error_code, 0);
            stored += MANY.unsigned_abs() as u64;
        }
        siege.phase(&format!("27 bombs stored for {mode}"));
        let status = siege.floe.flush(mode).await;
        let count = |key: &str| status[key].as_u64().unwrap();
        let (rows, letters, gaps) = (count("rows"), count("dlq_rows"), count("gap_offsets"));
        println!("  rows {rows}, dead letters {letters}, gaps {gaps}");
        assert_eq!(rows + letters + gaps, stored, "{status:#}");
        assert_eq!(status["state"], "RUNNING");
        siege.phase(&format!("table of {mode} committed"));
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_very_many_headers_is_neither_shown_nor_tiered_with_all_of_them() {
    const HEADERS: usize = 20 << 20;
    let mut siege = Besieged::start(&["--table-target-lag", "1h"], BOMBS_MIB).await;
    create(&siege.floe, "heads", 1, &[]).await;
    let mut wire = Wire::connect(&siege.floe.bootstrap()).await;
    let bomb = bombs::many_headers(HEADERS);
    let kib = bomb.len() >> 10;
    assert_eq!(wire.produce_batch("heads", 0, bomb).await.error_code, 0);
    assert_eq!(wire.produce("heads", 0, &["{\"a\":2}"]).await.error_code, 0);
    siege.phase(&format!("{HEADERS} headers in {kib} KiB stored"));
    let answer = reqwest::get(siege.floe.url("/api/v1/topics/heads/records")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer: serde_json::Value = answer.json().await.unwrap();
    let first = &answer["records"][0];
    assert_eq!(first["headers"].as_array().unwrap().len(), 1_000);
    assert_eq!(first["headers_left_out"], HEADERS - 1_000);
    assert_eq!(answer["records"][1]["value"], "{\"a\":2}");
    siege.phase("shown");
    let status = siege.floe.flush("heads").await;
    assert_eq!((&status["rows"], &status["dlq_rows"]), (&1.into(), &1.into()), "{status:#}");
    siege.phase("table committed");
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_that_must_be_opened_at_once_are_opened_in_turn() {
    let mut siege = Besieged::start(&[], BOMBS_MIB).await;
    let address = siege.floe.bootstrap();
    let options = [("cleanup.policy", "compact"), ("table.mode", "off")];
    create(&siege.floe, "compacted", 1, &options).await;
    create(&siege.floe, "looked-up", 1, &[("table.mode", "off")]).await;
    let bomb = bombs::batch(4, &bombs::record(b"{}"), 120 << 20);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let (address, bomb) = (address.clone(), bomb.clone());
        tasks.spawn(async move {
            let mut wire = Wire::connect(&address).await;
            let answer = wire.produce_batch("compacted", 0, bomb).await;
            assert_eq!(answer.error_code, 87, "a record without key");
        });
    }
    tasks.join_all().await;
    siege.phase("24 bombs at once for a compacted topic");
    let mut wire = Wire::connect(&address).await;
    assert_eq!(wire.produce_batch("looked-up", 0, bomb).await.error_code, 0);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let address = address.clone();
        tasks.spawn(async move {
            let mut wire = Wire::connect(&address).await;
            let partition = ListOffsetsPartition::default().with_timestamp(500);
            let topic = ListOffsetsTopic::default()
                .with_name(name("looked-up"))
                .with_partitions(vec![partition]);
            let request = ListOffsetsRequest::default().with_topics(vec![topic]);
            let answer = wire.call(7, &request).await;
            assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        });
    }
    tasks.join_all().await;
    siege.phase("24 look-ups by time in a bomb at once");
    siege.end().await;
}
