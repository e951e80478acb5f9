//! The store over a log in memory: commits, the index, restarts, damage, reclaim.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::testing::{FILE_BYTES, Frames, Rig, records};
use super::*;
use crate::types::{OffsetRange, PartitionId};
use crate::wal::Apply;

mod recovery;

const P: PartitionId = PartitionId(1);

fn create(partition: u32) -> Change {
    keys::create_partition(Change::new(), PartitionId(partition))
}

fn lose_state(_: &mut Frames, dir: &Path) {
    std::fs::remove_dir_all(dir.join("state")).unwrap();
}

fn nothing(_: &mut Frames, _: &Path) {}

type Contents = (Vec<(Space, KeyValue)>, Vec<(PartitionId, OffsetRange)>);

/// All that must be the same after a rebuild: every space but the index, and what it covers.
fn contents(rig: &Rig) -> Contents {
    let store = rig.store();
    let mut pairs = Vec::new();
    for space in Space::ALL.into_iter().filter(|space| *space != Space::Index) {
        for pair in store.scan(space, b"").unwrap() {
            pairs.push((space, pair));
        }
    }
    let mut covered: Vec<(PartitionId, OffsetRange)> = Vec::new();
    for (key, value) in store.scan(Space::Index, b"").unwrap() {
        let mut run = keys::decode_run(&key, &value).unwrap();
        // A replay joins frames of several groups, so a run may begin below the log start.
        let log_start = store.partition(run.partition).unwrap().unwrap().log_start;
        run.base_offset = run.base_offset.max(log_start);
        match covered.last_mut() {
            Some((id, range)) if *id == run.partition && range.end == run.base_offset => {
                range.end = run.end_offset;
            }
            _ => {
                let range = OffsetRange { base: run.base_offset, end: run.end_offset };
                covered.push((run.partition, range));
            }
        }
    }
    (pairs, covered)
}

#[tokio::test]
async fn a_commit_shows_at_once_and_survives_a_restart() {
    let rig = Rig::new();
    let store = rig.store();
    let lsn = store.commit(Change::new().put(Space::Ledger, "a", "1")).await.unwrap();
    assert_eq!(store.applied(), lsn);
    store
        .commit(Change::new().put(Space::Ledger, "a", "2").delete(Space::Group, "g"))
        .await
        .unwrap();
    assert_eq!(store.get(Space::Ledger, b"a").unwrap().unwrap(), b"2");
    drop(store);
    let rig = rig.restart(nothing);
    assert!(!rig.opened.rebuilt);
    assert_eq!(rig.store().get(Space::Ledger, b"a").unwrap().unwrap(), b"2");
    assert_eq!(rig.store().scan(Space::Ledger, b"").unwrap().len(), 1);
}

#[tokio::test]
async fn a_change_too_large_writes_nothing() {
    let rig = Rig::new();
    let before = rig.log.frames().end;
    let large = Change::new().put(Space::Table, "t", vec![0u8; codec::CHANGE_BYTES_MAX]);
    assert!(matches!(rig.store().commit(large).await, Err(Error::TooLarge { .. })));
    let key = Change::new().put(Space::Table, vec![1u8; 70_000], "x");
    assert!(matches!(rig.store().commit(key).await, Err(Error::TooLarge { .. })));
    assert_eq!(rig.log.frames().end, before);
    assert_eq!(rig.store().commit(Change::new()).await.unwrap(), rig.store().applied());
}

#[tokio::test]
async fn neighbouring_batches_of_a_group_make_one_run() {
    let rig = Rig::new();
    let store = rig.store();
    store.commit(create(1)).await.unwrap();
    rig.produce(1, 0, &[3, 4]);
    rig.produce(1, 7, &[5]);
    let runs = store.index_scan(P, 0, 10).unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!((runs[0].base_offset, runs[0].end_offset, runs[0].max_timestamp), (0, 7, 503));
    assert_eq!((runs[1].base_offset, runs[1].end_offset), (7, 12));
    assert_eq!(store.index_floor(P, 6).unwrap(), Some(runs[0]));
    assert_eq!(store.index_floor(P, 7).unwrap(), Some(runs[1]));
    assert_eq!(store.index_floor(P, 99).unwrap(), Some(runs[1]));
    assert_eq!(store.index_floor(P, -1).unwrap(), None);
    assert_eq!(store.index_scan(P, 6, 1).unwrap(), runs[..1]);
    assert_eq!(store.index_scan(P, 8, 10).unwrap(), runs[1..]);
    assert_eq!(store.index_scan(P, 12, 10).unwrap(), []);
    assert_eq!(store.index_scan(PartitionId(2), 0, 10).unwrap(), []);
    let state = store.partition(P).unwrap().unwrap();
    assert_eq!((state.log_start, state.next_offset), (0, 12));
}

#[tokio::test]
async fn producers_keep_their_last_batches_across_groups() {
    let rig = Rig::new();
    let store = rig.store();
    store.commit(create(1)).await.unwrap();
    for i in 0..7 {
        let mut draft = records(1, i * 2, 2);
        (draft.producer_id, draft.producer_epoch) = (9, 1);
        draft.base_sequence = i32::try_from(i * 2).unwrap();
        rig.log.append_now(vec![draft]).unwrap();
    }
    let producers = store.producers(P).unwrap();
    assert_eq!(producers.len(), 1);
    let (id, entry) = &producers[0];
    assert_eq!((*id, entry.epoch, entry.batches.len()), (9, 1, 5));
    assert_eq!(entry.batches[4].base_offset, 12);
    assert_eq!(entry.batches[4].last_sequence, 13);
    let before = contents(&rig);
    drop(store);
    assert_eq!(contents(&rig.restart(lose_state)), before);
}

#[tokio::test]
async fn records_of_a_partition_that_does_not_exist_are_ignored() {
    let rig = Rig::new();
    rig.produce(5, 0, &[3]);
    assert_eq!(rig.store().index_scan(PartitionId(5), 0, 9).unwrap(), []);
    assert_eq!(rig.store().partition(PartitionId(5)).unwrap(), None);
    let files = rig.log.frames().files();
    assert_eq!(rig.store().files_without_live_runs(&files), files);
}

#[tokio::test]
async fn frames_applied_twice_change_nothing() {
    let rig = Rig::new();
    rig.store().commit(create(1)).await.unwrap();
    rig.produce(1, 0, &[3]);
    let before = contents(&rig);
    let live = rig.store().live_bytes(&rig.log.frames().files());
    let frames = rig.log.frames();
    let mut applier = Applier::new(Arc::clone(&rig.opened.store.shared));
    applier.apply(&frames.frames, Lsn(frames.end)).unwrap();
    assert_eq!(contents(&rig), before);
    assert_eq!(rig.store().live_bytes(&frames.files()), live);
}

#[tokio::test]
async fn the_index_and_gaps_follow_a_raised_log_start() {
    let rig = Rig::new();
    let store = rig.store();
    let lost = Gap { range: OffsetRange { base: 1, end: 4 }, reason: "x".to_owned() };
    store.commit(keys::put_gap(create(1), P, &lost)).await.unwrap();
    for base in [4, 10, 20] {
        rig.produce(1, base, &[if base == 4 { 6 } else { 10 }]);
    }
    store.commit(keys::put_log_start(Change::new(), P, 3)).await.unwrap();
    assert_eq!(store.gaps(P).unwrap(), [lost]);
    store.commit(keys::put_log_start(Change::new(), P, 15)).await.unwrap();
    let bases = |store: &Store| -> Vec<i64> {
        store.index_scan(P, 0, 9).unwrap().iter().map(|run| run.base_offset).collect()
    };
    assert_eq!(bases(&store), [10, 20], "the run that holds 15 stays");
    assert_eq!(store.gaps(P).unwrap(), []);
    store.commit(keys::put_log_start(Change::new(), P, 30)).await.unwrap();
    assert!(bases(&store).is_empty());
    let files = rig.log.frames().files();
    assert_eq!(store.files_without_live_runs(&files), files);
    assert_eq!(store.live_bytes(&files), [0]);
}

#[tokio::test]
async fn one_batch_may_write_and_trim_and_create_and_delete() {
    let rig = Rig::new();
    rig.store().commit(create(1)).await.unwrap();
    let state = |change: Change| FrameDraft_ { change }.draft();
    rig.log
        .append_now(vec![
            records(1, 0, 10),
            state(keys::put_log_start(create(2), P, 10)),
            records(1, 10, 5),
            records(2, 0, 3),
            state(keys::put_log_start(Change::new(), P, 12)),
            records(1, 15, 5),
            state(Change::new().delete(Space::Partition, keys::log_start(PartitionId(2)))),
            records(2, 3, 3),
        ])
        .unwrap();
    let bases: Vec<i64> =
        rig.store().index_scan(P, 0, 9).unwrap().iter().map(|run| run.base_offset).collect();
    assert_eq!(bases, [10, 15]);
    assert_eq!(rig.store().partition(P).unwrap().unwrap().next_offset, 20);
    assert_eq!(
        rig.store().scan(Space::Partition, &keys::of_partition(PartitionId(2))).unwrap(),
        []
    );
    assert_eq!(rig.store().index_scan(PartitionId(2), 0, 9).unwrap(), []);
    let live: u64 = rig.store().live_bytes(&rig.log.frames().files()).iter().sum();
    assert_eq!(live, 2 * 1120);
    let before = contents(&rig);
    assert_eq!(contents(&rig.restart(lose_state)), before);
}

struct FrameDraft_ {
    change: Change,
}

impl FrameDraft_ {
    fn draft(self) -> crate::wal::FrameDraft {
        let mut draft = records(0, 0, 0);
        draft.kind = crate::wal::FrameKind::State;
        draft.payload = codec::encode(&self.change).into();
        draft
    }
}

#[tokio::test]
async fn a_deleted_partition_takes_everything_with_it() {
    let rig = Rig::new();
    rig.store().commit(create(1).and(create(2))).await.unwrap();
    for partition in [1, 2] {
        let mut draft = records(partition, 0, 5);
        (draft.producer_id, draft.producer_epoch, draft.base_sequence) = (3, 0, 0);
        rig.log.append_now(vec![draft]).unwrap();
    }
    let gone = Change::new().delete(Space::Partition, keys::log_start(P));
    rig.store().commit(gone).await.unwrap();
    for space in [Space::Index, Space::Partition, Space::Producer] {
        assert_eq!(rig.store().scan(space, &keys::of_partition(P)).unwrap(), []);
        assert_ne!(rig.store().scan(space, &keys::of_partition(PartitionId(2))).unwrap(), []);
    }
}

#[tokio::test]
async fn reserved_numbers_never_come_again() {
    let rig = Rig::new();
    assert_eq!(rig.store().reserve(Counter::Producer, 1_000).await.unwrap(), 0);
    assert_eq!(rig.store().reserve(Counter::Producer, 1_000).await.unwrap(), 1_000);
    assert_eq!(rig.store().reserve(Counter::Partition, 4).await.unwrap(), 0);
    let id = rig.store().cluster_id().await.unwrap();
    let rig = rig.restart(lose_state);
    assert_eq!(rig.store().reserve(Counter::Producer, 1).await.unwrap(), 2_000);
    assert_eq!(rig.store().cluster_id().await.unwrap(), id);
}

#[tokio::test]
async fn a_store_that_is_closed_says_so() {
    let rig = Rig::new();
    let store = rig.store();
    drop(rig.log.frames());
    let rig = rig.restart_closed();
    assert!(matches!(
        store.commit(Change::new().put(Space::Group, "g", "1")).await,
        Err(Error::Closed)
    ));
    drop(rig);
}

impl Rig {
    /// Stops the log under a store that is still held.
    fn restart_closed(self) -> tempfile::TempDir {
        let Self { dir, log, .. } = self;
        log.close();
        dir
    }
}

#[tokio::test]
async fn a_failing_apply_is_told_and_applies_nothing() {
    let rig = Rig::new();
    rig.fail_points.set("store.before_apply", || Err("no".to_owned()));
    let error = rig.log.append_now(vec![records(1, 0, 1)]).unwrap_err();
    assert!(error.to_string().contains("no"), "{error}");
    rig.fail_points.clear("store.before_apply");
}
