//! The whole log over fakes: append, read, timestamps, retention.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::testing::{OPTIONS, P, Q, Rig, batch, one, produced};
use super::*;
use crate::log::ports::{PartitionOptions, State};
use crate::record::{BatchHeader, BatchReader};

/// A batch with one value that does not compress.
pub(crate) fn noise(bytes: usize) -> Bytes {
    let mut value = vec![0_u8; bytes];
    rand::fill(value.as_mut_slice());
    let mut builder = crate::record::BatchBuilder::new();
    let record = crate::record::NewRecord { value: Some(&value), ..Default::default() };
    builder.push(&record).unwrap();
    builder.build(crate::record::Codec::None).unwrap()
}

async fn read_all(rig: &Rig, id: PartitionId, from: Offset) -> Vec<(Offset, Offset)> {
    let slice = rig.log.read(id, from, usize::MAX).await.unwrap();
    slice.batches.iter().map(|batch| (batch.base_offset, batch.end_offset)).collect()
}

#[tokio::test]
async fn appended_batches_are_read_back_with_their_offsets() {
    let rig = Rig::new();
    let first = rig.append(P, &[10, 20]).await.unwrap();
    assert_eq!((first.base_offset, first.last_offset, first.append_ms), (0, 1, 1_000_000));
    assert_eq!(rig.append(Q, &[1]).await.unwrap().base_offset, 0);
    assert_eq!(rig.append(P, &[30]).await.unwrap().base_offset, 2);
    let slice = rig.log.read(P, 0, usize::MAX).await.unwrap();
    assert_eq!((slice.high_watermark, slice.log_start_offset), (3, 0));
    let offsets: Vec<i64> = slice
        .batches
        .iter()
        .flat_map(|stored| {
            let mut reader = BatchReader::new();
            let records = reader.records(&stored.bytes).unwrap();
            records.map(|record| record.unwrap().offset).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(offsets, [0, 1, 2]);
    assert_eq!(slice.batches[0].origin, Origin::Kafka);
}

#[tokio::test]
async fn a_read_starts_with_the_batch_that_contains_the_offset() {
    let rig = Rig::new();
    for _ in 0..3 {
        rig.append(P, &[1, 2, 3]).await.unwrap();
    }
    assert_eq!(read_all(&rig, P, 4).await, [(3, 6), (6, 9)]);
    assert_eq!(read_all(&rig, P, 9).await, []);
}

#[tokio::test]
async fn a_read_keeps_to_its_bytes_but_gives_one_batch() {
    let rig = Rig::new();
    for _ in 0..3 {
        rig.append(P, &[1]).await.unwrap();
    }
    let size = batch(&[1]).len();
    for (bytes_max, expected) in
        [(0, 1), (1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (9 * size, 3)]
    {
        let slice = rig.log.read(P, 0, bytes_max).await.unwrap();
        assert_eq!((slice.batches.len(), slice.full), (expected, expected < 3), "{bytes_max}");
    }
}

#[tokio::test]
async fn of_a_long_run_no_part_is_read() {
    let rig = Rig::new();
    let bytes = noise(100_000);
    for _ in 0..3 {
        rig.append_batch(P, bytes.clone()).await.unwrap();
    }
    for (limit, expected) in [(1, 1), (bytes.len() + 99_999, 1), (3 * 110_000, 3)] {
        let slice = rig.log.read(P, 0, limit).await.unwrap();
        assert_eq!((slice.batches.len(), slice.full), (expected, expected < 3), "{limit}");
    }
}

#[tokio::test]
async fn offsets_outside_of_the_log_are_out_of_range() {
    let rig = Rig::with(&[(P, 5, 5)]);
    rig.append(P, &[1, 2]).await.unwrap();
    for from in [4, 8] {
        let error = rig.log.read(P, from, 1).await.unwrap_err();
        assert_eq!(error, ReadError::OutOfRange { start: 5, end: 7 });
    }
    let unknown = rig.log.read(PartitionId(99), 0, 1).await.unwrap_err();
    assert_eq!(unknown, ReadError::UnknownPartition);
}

#[tokio::test]
async fn nothing_is_visible_before_it_is_durable() {
    let rig = Rig::new();
    rig.frames.is_paused.store(true, Ordering::Relaxed);
    let pending = rig.log.append(one(P, batch(&[1]))).await.unwrap();
    let partition = rig.log.partition(P).unwrap();
    assert_eq!(partition.high_watermark(), 0);
    assert!(rig.log.read(P, 0, 1).await.unwrap().batches.is_empty());
    assert!(rig.log.queued_bytes() > 0);
    rig.frames.run();
    assert_eq!(pending.wait().await.unwrap()[0].base_offset, 0);
    assert_eq!(partition.high_watermark(), 1);
    assert_eq!(rig.log.queued_bytes(), 0);
}

#[tokio::test]
async fn what_is_not_applied_yet_is_read_from_memory_and_then_from_the_index() {
    let rig = Rig::new();
    rig.append(P, &[1]).await.unwrap();
    rig.frames.is_behind.store(true, Ordering::Relaxed);
    for _ in 0..100 {
        rig.append(P, &[1]).await.unwrap();
    }
    assert_eq!(read_all(&rig, P, 0).await.len(), 101);
    assert_eq!(read_all(&rig, P, 50).await.len(), 51);
    let partition = rig.log.partition(P).unwrap();
    assert!(rig.log.inner.shared.recent_runs() >= 100);
    rig.frames.apply();
    partition.prune(rig.log.inner.shared.state.applied());
    assert!(rig.log.inner.shared.recent_runs() <= 16);
    assert_eq!(read_all(&rig, P, 0).await.len(), 101);
    assert_eq!(partition.append_ms_at(0), Some(1_000_000));
    assert_eq!(partition.append_ms_at(101), None);
}

#[tokio::test]
async fn a_duplicate_in_flight_is_answered_when_the_original_is_durable() {
    let rig = Rig::new();
    rig.frames.is_paused.store(true, Ordering::Relaxed);
    let sent = produced(7, 0, 0, 3);
    let original = rig.log.append(one(P, sent.clone())).await.unwrap();
    let mut repeat = rig.log.append(one(P, sent)).await.unwrap();
    assert!(repeat.done.try_recv().is_err());
    rig.frames.run();
    let original = original.wait().await.unwrap()[0];
    let repeat = repeat.wait().await.unwrap()[0];
    assert!(!original.duplicate && repeat.duplicate);
    assert_eq!((repeat.base_offset, repeat.last_offset), (0, 2));
    assert_eq!(repeat.append_ms, original.append_ms);
    assert_eq!(rig.log.partition(P).unwrap().high_watermark(), 3);
}

#[tokio::test]
async fn refusals_of_the_sequencer_reach_the_sender() {
    let rig = Rig::new();
    rig.append_batch(P, produced(7, 1, 0, 1)).await.unwrap();
    let hole = rig.append_batch(P, produced(7, 1, 5, 1)).await.unwrap_err();
    assert_eq!(hole, AppendError::OutOfOrderSequence);
    let old = rig.append_batch(P, produced(7, 0, 1, 1)).await.unwrap_err();
    assert_eq!(old, AppendError::InvalidProducerEpoch);
    assert_eq!(rig.log.partition(P).unwrap().high_watermark(), 1);
}

#[tokio::test]
async fn a_chain_is_appended_to_all_partitions_or_none() {
    let rig = Rig::new();
    let chain = |ids: &[PartitionId], batch: &Bytes| Append {
        batches: ids
            .iter()
            .map(|id| AppendBatch { partition: *id, batch: batch.clone(), ext: Bytes::new() })
            .collect(),
        origin: Origin::Http,
        ..one(P, batch.clone())
    };
    let good = chain(&[P, Q, P], &batch(&[1, 2]));
    let appended = rig.log.append(good).await.unwrap().wait().await.unwrap();
    let offsets: Vec<i64> = appended.iter().map(|batch| batch.base_offset).collect();
    assert_eq!(offsets, [0, 0, 2]);
    let producer = chain(&[P, Q], &produced(7, 0, 0, 1));
    let error = rig.log.append(producer).await.unwrap().wait().await.unwrap_err();
    assert_eq!(error, AppendError::OutOfOrderSequence);
    let unknown = chain(&[P, PartitionId(99)], &batch(&[1]));
    let error = rig.log.append(unknown).await.err().unwrap();
    assert_eq!(error, AppendError::UnknownPartition);
    assert_eq!(rig.log.partition(P).unwrap().high_watermark(), 4);
    assert_eq!(rig.log.read(P, 0, 1).await.unwrap().batches[0].origin, Origin::Http);
}

#[tokio::test]
async fn admission_and_a_blocked_partition_refuse_before_offsets_are_given() {
    let rig = Rig::new();
    *rig.frames.full.lock() = Some("disk".to_owned());
    let full = rig.append(P, &[1]).await.unwrap_err();
    assert_eq!(full, AppendError::StorageFull("disk".to_owned()));
    *rig.frames.full.lock() = None;
    rig.log.set_blocked(P, Some("table".to_owned()));
    let blocked = rig.append(P, &[1]).await.unwrap_err();
    assert_eq!(blocked, AppendError::Blocked("table".to_owned()));
    rig.append(Q, &[1]).await.unwrap();
    rig.log.set_blocked(P, None);
    assert_eq!(rig.append(P, &[1]).await.unwrap().base_offset, 0);
}

#[tokio::test]
async fn an_unchecked_batch_gets_no_offsets() {
    let rig = Rig::new();
    let good = batch(&[1]);
    let two = [good.clone(), good.clone()].concat();
    for bad in [Bytes::new(), good.slice(..good.len() - 1), two.into()] {
        assert!(matches!(rig.append_batch(P, bad).await, Err(AppendError::StorageFull(_))));
    }
    assert_eq!(rig.append(P, &[1]).await.unwrap().base_offset, 0);
}

#[tokio::test]
async fn memory_of_queued_appends_is_bounded() {
    let rig = Rig::new();
    rig.frames.is_paused.store(true, Ordering::Relaxed);
    let big = noise(300_000);
    let mut pending = Vec::new();
    let mut queued = 0;
    while queued + big.len() <= 1 << 20 {
        pending.push(rig.log.append(one(P, big.clone())).await.unwrap());
        queued += big.len();
    }
    let waiting = rig.log.append(one(P, big.clone()));
    tokio::pin!(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    rig.frames.run();
    assert!(waiting.await.is_ok());
    for pending in pending {
        pending.wait().await.unwrap();
    }
}

#[tokio::test]
async fn log_append_time_is_stamped_and_answered() {
    let rig = Rig::new();
    rig.set_options(P, PartitionOptions { log_append_time: true, ..OPTIONS });
    let appended = rig.append(P, &[5, 6]).await.unwrap();
    assert_eq!(appended.append_ms, 1_000_000);
    let slice = rig.log.read(P, 0, 1).await.unwrap();
    let header = BatchHeader::parse(&slice.batches[0].bytes).unwrap();
    assert!(header.is_log_append_time());
    assert_eq!(header.max_timestamp, 1_000_000);
    assert_eq!(header.crc, crate::record::header::crc_of(&slice.batches[0].bytes));
    assert_eq!(rig.log.max_timestamp(P).await.unwrap(), Some((0, 1_000_000)));
}

#[tokio::test]
async fn a_partition_that_its_topic_just_got_takes_appends_at_once() {
    let rig = Rig::new();
    let fresh = PartitionId(40);
    assert_eq!(rig.append(fresh, &[1]).await.unwrap_err(), AppendError::UnknownPartition);
    rig.set_options(fresh, OPTIONS);
    assert_eq!(rig.append(fresh, &[1]).await.unwrap().base_offset, 0);
}

#[tokio::test]
async fn partitions_found_at_start_go_on_at_their_next_offset() {
    let rig = Rig::with(&[(P, 3, 8)]);
    let appended = rig.append(P, &[1]).await.unwrap();
    assert_eq!((appended.base_offset, appended.log_start_offset), (8, 3));
}

#[tokio::test]
async fn a_removed_partition_refuses_what_is_queued_and_wakes_waiters() {
    let rig = Rig::new();
    rig.append(P, &[1]).await.unwrap();
    let partition = rig.log.partition(P).unwrap();
    let waiter = partition.wait_above(100);
    tokio::pin!(waiter);
    assert!(futures::poll!(waiter.as_mut()).is_pending());
    rig.frames.is_paused.store(true, Ordering::Relaxed);
    let pending = rig.log.append(one(P, batch(&[1]))).await.unwrap();
    rig.directory.0.lock().remove(&P);
    rig.log.remove_partitions(&[P]);
    waiter.await;
    rig.frames.run();
    assert_eq!(pending.wait().await.unwrap_err(), AppendError::UnknownPartition);
    assert!(rig.log.partition(P).is_none());
    assert_eq!(rig.log.inner.shared.recent_runs(), 0);
}

#[tokio::test]
async fn a_draining_topic_is_read_but_takes_nothing() {
    let rig = Rig::new();
    rig.append(P, &[1]).await.unwrap();
    rig.set_options(P, PartitionOptions { draining: true, ..OPTIONS });
    assert_eq!(rig.append(P, &[1]).await.unwrap_err(), AppendError::UnknownPartition);
    assert_eq!(read_all(&rig, P, 0).await, [(0, 1)]);
}

#[tokio::test]
async fn waiters_wake_when_the_high_watermark_passes_their_offset() {
    let rig = Rig::new();
    let partition = rig.log.partition(P).unwrap();
    let waiter = partition.wait_above(1);
    tokio::pin!(waiter);
    assert!(futures::poll!(waiter.as_mut()).is_pending());
    rig.append(P, &[1]).await.unwrap();
    assert!(futures::poll!(waiter.as_mut()).is_pending());
    rig.append(P, &[1]).await.unwrap();
    waiter.await;
    partition.wait_above(0).await;
}

#[tokio::test]
async fn a_corrupt_frame_hides_no_good_one_and_is_named() {
    let rig = Rig::new();
    rig.frames.is_paused.store(true, Ordering::Relaxed);
    for _ in 0..4 {
        drop(rig.log.append(one(P, batch(&[1, 2]))).await.unwrap());
    }
    rig.frames.run();
    rig.frames.is_paused.store(false, Ordering::Relaxed);
    rig.append(P, &[1]).await.unwrap();
    rig.frames.corrupt(P, 4);
    assert_eq!(read_all(&rig, P, 0).await, [(0, 2), (2, 4)]);
    let error = rig.log.read(P, 5, 100).await.unwrap_err();
    assert_eq!(error, ReadError::Corrupt(OffsetRange { base: 5, end: 6 }));
    assert_eq!(read_all(&rig, P, 6).await, [(6, 8), (8, 9)]);
}

#[tokio::test]
async fn a_recorded_gap_is_told_and_an_unrecorded_one_is_corrupt() {
    let rig = Rig::with(&[(P, 0, 5)]);
    rig.append(P, &[1, 2]).await.unwrap();
    let error = rig.log.read(P, 1, 100).await.unwrap_err();
    assert_eq!(error, ReadError::Corrupt(OffsetRange { base: 1, end: 5 }));
    let lost = OffsetRange { base: 0, end: 5 };
    rig.state.gaps.lock().push((P, lost, "lost".to_owned()));
    let slice = rig.log.read(P, 1, 100).await.unwrap();
    assert_eq!(slice.gap, Some((OffsetRange { base: 1, end: 5 }, "lost".to_owned())));
    assert!(slice.batches.is_empty());
    assert_eq!(read_all(&rig, P, 5).await, [(5, 7)]);
}

#[tokio::test]
async fn a_gap_after_good_batches_comes_with_them() {
    let rig = Rig::new();
    for _ in 0..40 {
        rig.append(P, &[1]).await.unwrap();
    }
    let partition = rig.log.partition(P).unwrap();
    partition.prune(rig.log.inner.shared.state.applied());
    rig.state.runs.lock().remove(&(P, 3));
    let hole = OffsetRange { base: 3, end: 4 };
    assert_eq!(read_all(&rig, P, 0).await, [(0, 1), (1, 2), (2, 3)]);
    rig.state.gaps.lock().push((P, hole, "lost".to_owned()));
    let slice = rig.log.read(P, 2, usize::MAX).await.unwrap();
    assert_eq!(slice.batches.len(), 1);
    assert_eq!(slice.gap, Some((hole, "lost".to_owned())));
}

#[tokio::test]
async fn a_read_that_races_with_retention_is_out_of_range_not_corrupt() {
    let rig = Rig::new();
    for _ in 0..40 {
        rig.append(P, &[1]).await.unwrap();
    }
    // The store has moved on, memory has not heard yet.
    rig.log.inner.shared.state.put_log_start(P, 10).await.unwrap();
    let error = rig.log.read(P, 4, 1).await.unwrap_err();
    assert_eq!(error, ReadError::OutOfRange { start: 10, end: 40 });
}

#[tokio::test]
async fn timestamps_are_found_at_the_record() {
    let rig = Rig::new();
    rig.append(P, &[100, 300, 200]).await.unwrap();
    rig.append(P, &[50]).await.unwrap();
    rig.append(P, &[400, 400]).await.unwrap();
    for (wanted, expected) in [
        (0, Some((0, 100))),
        (101, Some((1, 300))),
        (300, Some((1, 300))),
        (301, Some((4, 400))),
        (401, None),
    ] {
        assert_eq!(rig.log.offset_for_timestamp(P, wanted).await.unwrap(), expected, "{wanted}");
    }
    assert_eq!(rig.log.max_timestamp(P).await.unwrap(), Some((4, 400)));
    assert_eq!(rig.log.max_timestamp(Q).await.unwrap(), None);
    rig.log.raise_log_start(P, 1).await.unwrap();
    assert_eq!(rig.log.offset_for_timestamp(P, 0).await.unwrap(), Some((1, 300)));
}

#[tokio::test]
async fn records_without_timestamps_have_no_greatest_one() {
    let rig = Rig::new();
    rig.append(P, &[-1, -1]).await.unwrap();
    assert_eq!(rig.log.max_timestamp(P).await.unwrap(), None);
    assert_eq!(rig.log.offset_for_timestamp(P, 0).await.unwrap(), None);
}

#[tokio::test]
async fn retention_waits_for_tiering_and_frees_whole_runs() {
    let rig = Rig::new();
    rig.set_options(P, PartitionOptions { retention_ms: Some(1_000), ..OPTIONS });
    for _ in 0..5 {
        rig.append(P, &[900_000, 900_000]).await.unwrap();
    }
    let partition = rig.log.partition(P).unwrap();
    let whole = partition.size_bytes();
    rig.log.retain_all().await.unwrap();
    assert_eq!(partition.log_start_offset(), 0);
    partition.set_tiered_offset(5);
    rig.log.retain_all().await.unwrap();
    assert_eq!(partition.log_start_offset(), 4);
    assert_eq!(rig.state.log_start(P).unwrap(), Some(4));
    assert_eq!(partition.size_bytes(), whole / 5 * 3);
    partition.set_tiered_offset(i64::MAX);
    rig.log.retain_all().await.unwrap();
    assert_eq!((partition.log_start_offset(), partition.size_bytes()), (10, 0));
    assert_eq!(rig.append(P, &[1]).await.unwrap().base_offset, 10);
    let error = rig.log.read(P, 3, 1).await.unwrap_err();
    assert_eq!(error, ReadError::OutOfRange { start: 10, end: 11 });
}

#[tokio::test]
async fn a_big_step_of_the_log_start_goes_in_small_ones() {
    let rig = Rig::new();
    rig.state.trim_max.store(3, Ordering::Relaxed);
    for _ in 0..10 {
        rig.append(P, &[1]).await.unwrap();
    }
    assert_eq!(rig.log.raise_log_start(P, 8).await.unwrap(), 8);
    let partition = rig.log.partition(P).unwrap();
    let left: u64 = rig.state.runs.lock().values().map(|run| u64::from(run.disk_len)).sum();
    assert_eq!(partition.size_bytes(), left);
    assert_eq!(rig.log.raise_log_start(P, 99).await.unwrap(), 10);
    assert_eq!(rig.log.raise_log_start(P, 2).await.unwrap(), 10);
}

#[tokio::test]
async fn bytes_are_counted_right_when_the_log_start_passes_runs_that_are_not_applied() {
    let rig = Rig::new();
    rig.append(P, &[1]).await.unwrap();
    rig.frames.is_behind.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        rig.append(P, &[1]).await.unwrap();
    }
    rig.log.raise_log_start(P, 4).await.unwrap();
    let partition = rig.log.partition(P).unwrap();
    assert_eq!((partition.log_start_offset(), partition.size_bytes()), (4, 0));
}

#[tokio::test]
async fn short_retention_seals_files_early() {
    let rig = Rig::new();
    assert_eq!(rig.log.retain_all().await.unwrap(), 3_600_000);
    rig.set_options(P, PartitionOptions { retention_ms: Some(600_000), ..OPTIONS });
    assert_eq!(rig.log.retain_all().await.unwrap(), 3_600_000);
    rig.append(P, &[1_000_000]).await.unwrap();
    assert_eq!(rig.log.retain_all().await.unwrap(), 300_000);
    rig.set_options(P, PartitionOptions { retention_ms: Some(10), ..OPTIONS });
    assert_eq!(rig.log.retain_all().await.unwrap(), 60_000);
}

#[tokio::test]
async fn chores_forget_deleted_partitions_and_stop_with_the_tasks() {
    let mut rig = Rig::new();
    let inner = std::sync::Arc::get_mut(&mut rig.log.inner).unwrap();
    inner.options.retention_interval = Duration::from_millis(10);
    let tasks = crate::runtime::Tasks::for_tests();
    rig.append(P, &[1]).await.unwrap();
    let partition = rig.log.partition(P).unwrap();
    rig.clock.advance(600_000);
    rig.log.spawn_chores(&tasks);
    rig.directory.0.lock().remove(&P);
    partition.wait_above(1_000).await;
    assert!(partition.is_removed());
    assert!(tasks.stop(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn silent_producers_are_expired_in_store_and_memory() {
    let rig = Rig::new();
    rig.append_batch(P, produced(7, 0, 0, 1)).await.unwrap();
    rig.clock.advance(86_400_001);
    let mut last_ms = 0;
    rig.log.run_chores(&mut last_ms).await.unwrap();
    assert_eq!(*rig.state.expired.lock(), [(P, 1_000_001)]);
    assert_eq!(last_ms, 87_400_001);
    rig.append_batch(P, produced(7, 0, 500, 1)).await.unwrap();
    rig.log.run_chores(&mut last_ms).await.unwrap();
    assert_eq!(rig.state.expired.lock().len(), 1);
}

#[tokio::test]
async fn producer_ids_are_never_handed_out_twice() {
    let rig = Rig::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2_500 {
        assert!(seen.insert(rig.log.next_producer_id().await.unwrap()));
    }
    // A new process starts at the next block.
    let next = rig.log.inner.shared.state.reserve_producer_ids(1_000).await.unwrap();
    assert_eq!(next, 3_000);
}
