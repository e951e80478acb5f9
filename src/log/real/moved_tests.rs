//! Slow topics beside fast ones: their records move, so that files are given back, and nobody
//! sees a difference (rules 2.7 and 3.5).

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use super::tests::{Running, damage, start};
use crate::log::moving::Watch;
use crate::log::testing::{batch, produced};
use crate::log::{LogOptions, ReadError};
use crate::runtime::Clock;
use crate::store::{Change, Space};
use crate::topic::OptionEdit;
use crate::types::{OffsetRange, PartitionId};

const HOUR_MS: i64 = 3_600_000;
const HOURS: i64 = 8;

/// What a reader sees of a partition.
type Seen = Vec<(i64, i64, Bytes)>;

async fn seen(broker: &Running, id: PartitionId) -> Seen {
    let slice = broker.log.read(id, 0, usize::MAX).await.unwrap();
    assert_eq!(slice.gap, None);
    let batches = slice.batches.into_iter();
    batches.map(|batch| (batch.base_offset, batch.append_ms, batch.bytes)).collect()
}

/// Eight hours in which a slow topic gets a batch an hour (every other one of an idempotent
/// producer) and a fast one, which is kept for a minute, more than a file.
async fn eight_hours(broker: &Running, clock: &Clock) -> (PartitionId, PartitionId) {
    let (slow, fast) = (broker.topic("slow").await, broker.topic("fast").await);
    let set = OptionEdit::Set("retention.ms".to_owned(), "60000".to_owned());
    broker.topics.edit("fast", vec![set], false).await.unwrap();
    for hour in 0..HOURS {
        let slow_batch = match i32::try_from(hour).unwrap() {
            even if even % 2 == 0 => batch(&[hour * 10, hour * 10 + 5]),
            odd => produced(7, 0, odd - 1, 2),
        };
        broker.append(slow, slow_batch).await.unwrap();
        for _ in 0..4 {
            broker.append(fast, crate::log::tests::noise(300_000)).await.unwrap();
        }
        clock.advance(HOUR_MS);
    }
    for id in [slow, fast] {
        let partition = broker.log.partition(id).unwrap();
        partition.set_tiered_offset(partition.high_watermark());
    }
    (slow, fast)
}

/// Retention, snapshots a minute apart, freed files.
async fn chores(broker: &Running, clock: &Clock) {
    let mut expired_ms = clock.now_ms();
    for _ in 0..3 {
        clock.advance(61_000);
        broker.store.commit(Change::new().put(Space::Token, *b"k", *b"v")).await.unwrap();
        broker.log.run_chores(&mut expired_ms).await.unwrap();
    }
}

/// Two looks, so far apart that a file without changes is due; the bytes that were moved.
async fn moves(broker: &Running, clock: &Clock, watch: &mut Watch) -> u64 {
    assert_eq!(broker.log.move_records(watch).await.unwrap(), 0, "nothing is due yet");
    clock.advance(LogOptions::default().move_delay_ms);
    broker.log.move_records(watch).await.unwrap()
}

fn wal_bytes(broker: &Running) -> u64 {
    broker.wal.list().iter().map(|file| file.end.0 - file.first.0).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_topic_does_not_hold_the_files_of_a_fast_one() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let broker = start(dir.path(), &clock).await;
    let (slow, fast) = eight_hours(&broker, &clock).await;
    let before = seen(&broker, slow).await;
    let size_bytes = broker.log.partition(slow).unwrap().size_bytes();
    chores(&broker, &clock).await;
    let pinned = wal_bytes(&broker);
    assert!(broker.wal.list().len() >= 8 && pinned > 8_000_000, "{:?}", broker.wal.list());
    let mut watch = Watch::default();
    let moved = moves(&broker, &clock, &mut watch).await;
    assert!((1..2_000).contains(&moved), "{moved}");
    chores(&broker, &clock).await;
    assert!(broker.wal.list().len() <= 6, "{:?}", broker.wal.list());
    assert!(wal_bytes(&broker) < pinned / 2);

    let check = async |broker: &Running| {
        assert_eq!(seen(broker, slow).await, before);
        let partition = broker.log.partition(slow).unwrap();
        assert_eq!((partition.log_start_offset(), partition.high_watermark()), (0, 2 * HOURS));
        assert_eq!(partition.size_bytes(), size_bytes);
        for (base_offset, append_ms, _) in &before {
            assert_eq!(partition.append_ms_at(*base_offset), Some(*append_ms));
        }
        // Hour 2 began at offset 4 with the timestamps 20 and 25.
        assert_eq!(broker.log.offset_for_timestamp(slow, 21).await.unwrap(), Some((5, 25)));
        assert_eq!(broker.append(slow, produced(7, 0, 6, 2)).await.unwrap(), (14, true));
        assert_eq!(broker.append(slow, produced(7, 0, 0, 2)).await.unwrap(), (2, true));
        assert!(broker.append(slow, produced(7, 0, 9, 2)).await.is_err());
        let fast = broker.log.partition(fast).unwrap();
        assert_eq!(fast.log_start_offset(), fast.high_watermark());
    };
    check(&broker).await;
    broker.stop().await;
    let broker = start(dir.path(), &clock).await;
    check(&broker).await;
    broker.stop().await;
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let broker = start(dir.path(), &clock).await;
    check(&broker).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_frame_stays_where_it_is_and_is_named_by_reads() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let broker = start(dir.path(), &clock).await;
    let (slow, _) = eight_hours(&broker, &clock).await;
    let before = seen(&broker, slow).await;
    chores(&broker, &clock).await;
    damage(&dir.path().join("wal"), &before[1].2);
    let mut watch = Watch::default();
    assert!(moves(&broker, &clock, &mut watch).await > 0);
    assert_eq!(moves(&broker, &clock, &mut watch).await, 0, "it is not tried again");
    chores(&broker, &clock).await;
    assert!(broker.wal.list().len() <= 7, "{:?}", broker.wal.list());
    let error = broker.log.read(slow, 2, 1).await.unwrap_err();
    assert_eq!(error, ReadError::Corrupt(OffsetRange { base: 2, end: 4 }));
    let first = broker.log.read(slow, 0, usize::MAX).await.unwrap();
    assert_eq!(first.batches.len(), 1);
    let rest = broker.log.read(slow, 4, usize::MAX).await.unwrap();
    assert_eq!(rest.batches.len(), before.len() - 2);
    broker.stop().await;
}

/// Every record from the log start on is there with the bytes it was sent with.
async fn check_whole(broker: &Running, id: PartitionId, sent: &BTreeMap<i64, Bytes>) {
    let partition = broker.log.partition(id).unwrap();
    let mut cursor = partition.log_start_offset();
    while cursor < partition.high_watermark() {
        let slice = broker.log.read(id, cursor, 100_000).await.unwrap();
        assert_eq!(slice.gap, None);
        for batch in slice.batches {
            assert_eq!(batch.base_offset, cursor);
            // All but the base offset and the leader epoch are as they were sent.
            assert_eq!(batch.bytes[17..], sent[&cursor][17..]);
            cursor = batch.end_offset;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn moves_race_with_retention_and_deletion_and_readers_notice_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_000_000);
    let broker = start(dir.path(), &clock).await;
    let mut watch = Watch::default();
    let slow = broker.topic("slow").await;
    let mut sent = BTreeMap::new();
    for round in 0..6 {
        let (trimmed, doomed) =
            (broker.topic(&format!("trimmed{round}")).await, format!("doomed{round}"));
        let gone = broker.topic(&doomed).await;
        for _ in 0..40 {
            for id in [slow, trimmed, gone] {
                let (base, _) = broker.append(id, batch(&[5])).await.unwrap();
                sent.insert(base, batch(&[5]));
            }
            let (base, _) = broker.append(trimmed, crate::log::tests::noise(60_000)).await.unwrap();
            assert_eq!(base % 2, 1);
        }
        let high = broker.log.partition(trimmed).unwrap().high_watermark();
        broker.log.raise_log_start(trimmed, high - 10).await.unwrap();
        broker.log.move_records(&mut watch).await.unwrap();
        clock.advance(LogOptions::default().move_delay_ms);
        let reads = async {
            for _ in 0..20 {
                let slice = broker.log.read(slow, 0, usize::MAX).await.unwrap();
                assert_eq!(slice.gap, None);
                assert_eq!(slice.batches.last().unwrap().end_offset, slice.high_watermark);
            }
        };
        let removals = async {
            broker.log.raise_log_start(trimmed, high).await.unwrap();
            let topic = broker.topics.delete(&doomed).await.unwrap();
            broker.topics.drained(topic.id).await.unwrap();
            chores(&broker, &clock).await;
        };
        let (moved, (), ()) = tokio::join!(broker.log.move_records(&mut watch), reads, removals);
        moved.unwrap();
        chores(&broker, &clock).await;
        check_whole(&broker, slow, &sent).await;
        let partition = broker.log.partition(trimmed).unwrap();
        assert_eq!(partition.log_start_offset(), high);
        assert_eq!(broker.store.index_scan(trimmed, 0, 9).unwrap(), []);
    }
    let first = broker.wal.list()[0].first;
    assert!(first.0 > 1 << 20, "files were freed: {:?}", broker.wal.list());
    broker.stop().await;
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let broker = start(Path::new(dir.path()), &clock).await;
    check_whole(&broker, slow, &sent).await;
    broker.stop().await;
}
