//! The state store lost or old, the log torn or damaged.

use std::fs;
use std::os::unix::fs::FileExt;

use floe::broker::Broker;

use crate::harness::{
    append, components, config, copy_dir, flush, in_a_life, kill, read_log, read_table, start,
    stop, topic, values, wal_files,
};

/// Writes a few hundred records in two lives, flushed to the table in the first.
fn write(dir: &std::path::Path) {
    in_a_life(async {
        let broker = start(dir, &[]).await;
        let topic = topic(&broker, "t", 2).await;
        for turn in 0..20 {
            let values = values(turn * 10..turn * 10 + 10);
            append(&broker, &topic, turn % 2, &values).await.unwrap();
        }
        flush(&broker, "streams.t").await;
        stop(broker).await;
    });
}

async fn assert_whole(broker: &Broker, records: usize) {
    let topic = broker.topics().get("t").unwrap();
    let (stored, holes) = read_log(broker, &topic).await;
    assert_eq!((stored.len(), holes.len()), (records, 0));
    flush(broker, "streams.t").await;
    let mut rows: Vec<(i32, i64)> =
        read_table(broker.catalog(), "t").await.iter().map(|row| (row.0, row.1)).collect();
    rows.sort_unstable();
    let mut wanted: Vec<(i32, i64)> = stored.iter().map(|row| (row.0, row.1)).collect();
    wanted.sort_unstable();
    assert_eq!(rows, wanted, "each record once in the table");
}

#[test]
fn a_lost_state_folder_is_rebuilt_from_snapshot_and_log() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    fs::remove_dir_all(dir.path().join("data/state")).unwrap();
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        assert_whole(&broker, 200).await;
        let topic = broker.topics().get("t").unwrap();
        append(&broker, &topic, 0, &values(200..210)).await.unwrap();
        assert_whole(&broker, 210).await;
        stop(broker).await;
    });
}

#[test]
fn an_older_state_folder_catches_up_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let old = dir.path().join("old");
    copy_dir(&dir.path().join("data/state"), &old);
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        let topic = broker.topics().get("t").unwrap();
        for turn in 20..40 {
            let values = values(turn * 10..turn * 10 + 10);
            append(&broker, &topic, turn % 2, &values).await.unwrap();
        }
        flush(&broker, "streams.t").await;
        stop(broker).await;
    });
    fs::remove_dir_all(dir.path().join("data/state")).unwrap();
    copy_dir(&old, &dir.path().join("data/state"));
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        assert_whole(&broker, 400).await;
        stop(broker).await;
    });
}

#[test]
fn a_torn_tail_is_cut_and_the_rest_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    // Garbage after the last frame, as a torn group leaves it.
    let last = wal_files(dir.path()).pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let end = end.next_multiple_of(32);
    let file = fs::OpenOptions::new().write(true).open(&last).unwrap();
    let garbage = &bytes[..bytes.len().min(4096).min(bytes.len() - end)];
    file.write_all_at(garbage, end as u64).unwrap();
    drop(file);
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        assert_whole(&broker, 200).await;
        stop(broker).await;
    });
}

#[test]
fn a_flipped_byte_in_the_middle_is_named_and_passed_as_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    in_a_life(async {
        let (components, _) = components();
        let fail_points = components.fail_points.clone();
        let broker = Broker::start(&config(dir.path(), &[]), components).await.unwrap();
        // Nothing is in the table when the damage is found, however long the appends take.
        fail_points.set("catalog.before_metadata", || Err("not yet".to_owned()));
        let topic = topic(&broker, "t", 1).await;
        for turn in 0..20 {
            append(&broker, &topic, 0, &values(turn * 10..turn * 10 + 10)).await.unwrap();
        }
        kill(broker, &fail_points).await;
    });
    let first = wal_files(dir.path()).remove(0);
    let mut bytes = fs::read(&first).unwrap();
    let needle = b"{\"i\":105}";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 0x40;
    fs::write(&first, bytes).unwrap();
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        let topic = broker.topics().get("t").unwrap();
        let (stored, holes) = read_log(&broker, &topic).await;
        assert_eq!(holes, [(0, 100, 110)], "exactly the damaged batch");
        assert_eq!(stored.len(), 190, "what follows is kept");
        append(&broker, &topic, 0, &values(200..210)).await.unwrap();
        flush(&broker, "streams.t").await;
        let rows = read_table(broker.catalog(), "t").await;
        let status = broker.tiering().table("streams.t").unwrap();
        assert_eq!(status.state, "RUNNING", "{status:?}");
        let mut offsets: Vec<i64> = rows.iter().map(|(_, offset, _)| *offset).collect();
        offsets.sort_unstable();
        let wanted: Vec<i64> = (0..100).chain(110..210).collect();
        assert_eq!(offsets, wanted);
        assert!(status.gaps.iter().any(|gap| (gap.from, gap.to) == (100, 110)), "{status:?}");
        stop(broker).await;
    });
}

#[test]
fn a_second_broker_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    in_a_life(async {
        let broker = start(dir.path(), &[]).await;
        let config = config(dir.path(), &[]);
        let second = Broker::start(&config, components().0).await;
        let error = second.err().unwrap().to_string();
        assert!(error.contains("data"), "{error}");
        stop(broker).await;
    });
}
