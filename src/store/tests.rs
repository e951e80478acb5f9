//! The store over a log in memory: commits, the index, restarts, damage, reclaim.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::testing::{FILE_BYTES, Frames, Rig, records};
use super::*;
use crate::types::{OffsetRange, PartitionId};
use crate::wal::Apply;

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

#[tokio::test]
async fn snapshot_and_log_rebuild_a_lost_state() {
    let rig = Rig::new();
    let store = rig.store();
    store.commit(create(1).and(create(2)).put(Space::Topic, "t", "v1")).await.unwrap();
    for base in 0..40 {
        rig.produce(1, base * 10, &[4, 6]);
    }
    store.commit(keys::put_log_start(Change::new(), P, 95)).await.unwrap();
    store.write_snapshot().unwrap();
    let snapshot = store.applied();
    store
        .commit(Change::new().put(Space::Topic, "t", "v2").put(Space::Token, "k", "x"))
        .await
        .unwrap();
    rig.produce(2, 0, &[1]);
    store.commit(keys::put_log_start(Change::new(), P, 200)).await.unwrap();
    let before = contents(&rig);
    drop(store);
    let rig = rig.restart(lose_state);
    assert!(rig.opened.rebuilt);
    assert_eq!(rig.opened.start, Lsn(0));
    assert_eq!(rig.opened.known_durable, snapshot);
    assert_eq!(contents(&rig), before);
    assert!(rig.opened.gaps.ops.is_empty(), "{:?}", rig.opened.gaps);
    // The second start uses what the first one rebuilt.
    let rig = rig.restart(nothing);
    assert!(!rig.opened.rebuilt);
    assert_eq!(contents(&rig), before);
}

#[tokio::test]
async fn a_partition_deleted_before_the_snapshot_stays_gone() {
    let rig = Rig::new();
    rig.store().commit(create(1)).await.unwrap();
    rig.produce(1, 0, &[5]);
    let gone = Change::new().delete(Space::Partition, keys::log_start(P));
    rig.store().commit(gone).await.unwrap();
    rig.store().write_snapshot().unwrap();
    let rig = rig.restart(lose_state);
    assert_eq!(rig.store().scan(Space::Index, b"").unwrap(), []);
    assert!(rig.opened.partitions.is_empty());
}

#[tokio::test]
async fn a_damaged_snapshot_gives_way_to_the_older_one() {
    let rig = Rig::new();
    let mut newest = Lsn(0);
    for value in ["1", "2"] {
        rig.store().commit(Change::new().put(Space::Token, "t", value)).await.unwrap();
        rig.store().write_snapshot().unwrap();
        newest = rig.store().applied();
    }
    let before = contents(&rig);
    let rig = rig.restart(|frames, dir| {
        lose_state(frames, dir);
        let path = snapshot::path_of(&dir.join("snapshots"), newest);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() - 10;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    });
    assert!(rig.opened.known_durable < newest);
    assert_eq!(contents(&rig), before, "the log gives back what the snapshot lacks");
}

#[tokio::test]
async fn two_snapshots_are_kept() {
    let rig = Rig::new();
    for i in 0..4u8 {
        rig.store().commit(Change::new().put(Space::Token, "t", vec![i])).await.unwrap();
        rig.store().write_snapshot().unwrap();
    }
    let found = std::fs::read_dir(rig.dir.path().join("snapshots")).unwrap().count();
    assert_eq!(found, 2);
}

#[tokio::test]
async fn a_snapshot_holds_many_chunks() {
    let rig = Rig::new();
    for i in 0..5u8 {
        let change = Change::new().put(Space::Table, vec![i], vec![i; 900_000]);
        rig.store().commit(change).await.unwrap();
    }
    rig.store().write_snapshot().unwrap();
    let before = contents(&rig);
    assert_eq!(contents(&rig.restart(lose_state)), before);
}

#[tokio::test]
async fn a_corrupt_journal_is_a_lost_state_not_an_error() {
    let rig = Rig::new();
    for i in 0..50u8 {
        rig.store().commit(Change::new().put(Space::Token, vec![i], vec![i; 500])).await.unwrap();
    }
    let before = contents(&rig);
    let rig = rig.restart(|_, dir| {
        // Garbage where a journal, the version marker and the folders of key spaces should be.
        for entry in std::fs::read_dir(dir.join("state")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::write(&path, b"garbage").unwrap();
            }
        }
    });
    assert!(rig.opened.rebuilt);
    assert_eq!(contents(&rig), before);
    assert!(rig.dir.path().join("state.lost").exists());
}

#[tokio::test]
async fn the_state_of_another_log_is_not_used() {
    let rig = Rig::new();
    rig.store().commit(Change::new().put(Space::Token, "t", "1")).await.unwrap();
    let mut options = rig.options();
    options.log_id = 78;
    let Rig { dir, log, opened, .. } = rig;
    log.close();
    drop((log, opened));
    let opening = Opening::open(options, &[]).unwrap();
    assert!(opening.rebuilding());
    let opened = opening.finish(Lsn(0), 1).unwrap();
    assert_eq!(opened.store.get(Space::Token, b"t").unwrap(), None);
    drop(dir);
}

#[tokio::test]
async fn a_rebuild_that_is_cut_short_begins_again() {
    let rig = Rig::new();
    rig.store().commit(Change::new().put(Space::Token, "t", "1")).await.unwrap();
    rig.store().commit(create(1)).await.unwrap();
    rig.produce(1, 0, &[5]);
    let before = contents(&rig);
    let options = rig.options();
    let rig = rig.restart(move |frames, dir| {
        lose_state(frames, dir);
        let mut opening = Opening::open(options, &frames.files()).unwrap();
        opening.replay(frames.frames[0].clone()).unwrap();
        drop(opening);
        assert!(dir.join("state").exists());
    });
    assert!(rig.opened.rebuilt);
    assert_eq!(contents(&rig), before);
}

#[tokio::test]
async fn a_state_in_use_is_an_error_and_is_left_alone() {
    let rig = Rig::new();
    rig.store().commit(Change::new().put(Space::Token, "t", "1")).await.unwrap();
    assert!(Opening::open(rig.options(), &rig.log.frames().files()).is_err());
    assert_eq!(rig.store().get(Space::Token, b"t").unwrap().unwrap(), b"1");
}

#[tokio::test]
async fn a_lost_file_becomes_a_gap_that_is_found_once() {
    let rig = Rig::new();
    rig.store().commit(create(1)).await.unwrap();
    for base in 0..2_500 {
        rig.produce(1, base, &[1]);
    }
    let second = rig.store().index_scan(P, 0, 9_999).unwrap();
    let lost: Vec<i64> = second
        .iter()
        .filter(|run| run.lsn.0 / FILE_BYTES == 1)
        .map(|run| run.base_offset)
        .collect();
    let expected = OffsetRange { base: lost[0], end: lost[lost.len() - 1] + 1 };
    let rig = rig.restart(|frames, _| frames.lose_file(Lsn(FILE_BYTES)));
    assert!(!rig.opened.rebuilt, "fjall is past that file");
    rig.store().commit(rig.opened.gaps.clone()).await.unwrap();
    let gaps = rig.store().gaps(P).unwrap();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].range, expected);
    assert_eq!(rig.store().index_scan(P, expected.base, 1).unwrap()[0].base_offset, expected.end);
    let state = rig.store().partition(P).unwrap().unwrap();
    assert_eq!(state.next_offset, 2_500, "no offset is used twice");
    for harm in [nothing, lose_state] {
        // From a copy of nothing: both kinds of start know the gap.
        let rig = Rig::copy_of(&rig).restart(harm);
        assert!(rig.opened.gaps.ops.is_empty(), "{:?}", rig.opened.gaps);
        assert_eq!(rig.store().gaps(P).unwrap().len(), 1);
    }
}

impl Rig {
    /// The same frames in a data directory of their own.
    fn copy_of(other: &Self) -> Self {
        let frames = other.log.frames();
        Rig::new().restart(move |own, dir| {
            lose_state(own, dir);
            *own = frames;
        })
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_keeps_offsets_unique() {
    let rig = Rig::new();
    rig.store().commit(create(1)).await.unwrap();
    rig.produce(1, 0, &[5]);
    let kept = rig.log.frames().end;
    rig.produce(1, 5, &[5]);
    let end = rig.log.frames().end;
    let rig = rig.restart_damaged(&[(Lsn(kept), Lsn(end))], |frames, _| {
        frames.frames.pop();
        frames.end = kept;
    });
    assert_eq!(rig.opened.known_durable, Lsn(end));
    rig.store().commit(rig.opened.gaps.clone()).await.unwrap();
    assert_eq!(rig.store().gaps(P).unwrap()[0].range, OffsetRange { base: 5, end: 10 });
    assert_eq!(rig.opened.partitions[0].next_offset, 10);
    assert!(rig.log.frames().end >= end, "appends go on past the durable end");
}

#[tokio::test]
async fn a_file_is_free_only_with_two_snapshots_past_it_and_a_sync() {
    let rig = Rig::new();
    let store = rig.store();
    store.commit(create(1)).await.unwrap();
    for base in 0..1_500 {
        rig.produce(1, base, &[1]);
    }
    let files = rig.log.frames().files();
    assert_eq!(store.reclaimable(&files).unwrap(), [], "its records are live");
    store.commit(keys::put_log_start(Change::new(), P, 1_200)).await.unwrap();
    assert_eq!(store.reclaimable(&files).unwrap(), [], "one snapshot is past it now");
    store.commit(Change::new().put(Space::Token, "t", "1")).await.unwrap();
    assert_eq!(store.reclaimable(&files).unwrap(), [], "at most one a minute");
    rig.clock.advance(60_000);
    let before = store.persisted();
    assert_eq!(store.reclaimable(&files).unwrap(), files[..1]);
    assert!(store.persisted() > before);
    let before = contents(&rig);
    drop(store);
    // Without the file both ways of starting lose nothing.
    let rig = rig.restart(|frames, _| frames.lose_file(Lsn(0)));
    assert!(!rig.opened.rebuilt && rig.opened.gaps.ops.is_empty());
    let rig = rig.restart(lose_state);
    assert!(rig.opened.rebuilt && rig.opened.gaps.ops.is_empty(), "{:?}", rig.opened.gaps);
    assert_eq!(contents(&rig), before);
}

#[tokio::test]
async fn a_failed_snapshot_frees_nothing() {
    let rig = Rig::new();
    rig.store().commit(create(1)).await.unwrap();
    for base in 0..1_000 {
        rig.produce(1, base, &[1]);
    }
    rig.store().commit(keys::put_log_start(Change::new(), P, 1_000)).await.unwrap();
    rig.fail_points.set("store.before_snapshot", || Err("disk".to_owned()));
    assert!(rig.store().reclaimable(&rig.log.frames().files()).is_err());
}

#[tokio::test]
async fn a_sync_is_due_by_time_and_tells_its_hook() {
    let rig = Rig::new();
    let store = rig.store();
    let told = Arc::new(AtomicU64::new(0));
    let hook = Arc::clone(&told);
    store.on_persisted(move |lsn| hook.store(lsn.0, Ordering::Relaxed));
    let lsn = store.commit(Change::new().put(Space::Token, "t", "1")).await.unwrap();
    store.tick().unwrap();
    assert_eq!((store.persisted(), told.load(Ordering::Relaxed)), (lsn, lsn.0));
    let later = store.commit(Change::new().put(Space::Token, "t", "2")).await.unwrap();
    store.tick().unwrap();
    assert_eq!(store.persisted(), lsn);
    rig.clock.advance(30_000);
    store.tick().unwrap();
    assert_eq!(store.persisted(), later);
}

#[tokio::test]
async fn closing_writes_a_snapshot_of_everything() {
    let rig = Rig::new();
    rig.store().commit(Change::new().put(Space::Token, "t", "1")).await.unwrap();
    rig.store().close().unwrap();
    let applied = rig.store().applied();
    assert_eq!(rig.store().persisted(), applied);
    let rig = rig.restart(|frames, dir| {
        lose_state(frames, dir);
        frames.frames.clear();
    });
    assert_eq!(rig.opened.known_durable, applied);
    assert_eq!(rig.store().get(Space::Token, b"t").unwrap().unwrap(), b"1");
}

#[tokio::test]
async fn a_large_trim_goes_in_steps() {
    let rig = Rig::new();
    let store = rig.store();
    store.commit(create(1)).await.unwrap();
    // Two batches of one partition with another between them do not join.
    store.commit(create(2)).await.unwrap();
    for base in 0..50 {
        let drafts = (0..100).flat_map(|i| {
            let offset = base * 100 + i;
            [records(1, offset, 1), records(2, offset, 1)]
        });
        rig.log.append_now(drafts.collect()).unwrap();
    }
    let step = store.trim_step(P, 4_990).unwrap();
    assert_eq!(step, 4_096);
    store.commit(keys::put_log_start(Change::new(), P, step)).await.unwrap();
    assert_eq!(store.trim_step(P, 4_990).unwrap(), 4_990);
    assert_eq!(store.index_scan(P, 0, 9_999).unwrap().len(), 5_000 - 4_096);
}

#[tokio::test]
async fn rotations_keep_everything_readable() {
    let rig = Rig::new();
    for i in 0..30u8 {
        let change = Change::new().put(Space::Table, vec![i], vec![i; 1 << 20]);
        rig.store().commit(change).await.unwrap();
    }
    for i in 0..30u8 {
        assert_eq!(rig.store().get(Space::Table, &[i]).unwrap().unwrap(), vec![i; 1 << 20]);
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn fjall_as_of_its_last_sync_is_told_the_rest() {
    let rig = Rig::new();
    let store = rig.store();
    store.commit(create(1).put(Space::Token, "t", "1")).await.unwrap();
    rig.produce(1, 0, &[5]);
    let (state, copy) = (rig.dir.path().join("state"), rig.dir.path().join("copy"));
    let target = copy.clone();
    store.on_persisted(move |_| copy_dir(&state, &target));
    store.persist().unwrap();
    store
        .commit(keys::put_log_start(Change::new().put(Space::Token, "t", "2"), P, 5))
        .await
        .unwrap();
    rig.produce(1, 5, &[5]);
    let before = contents(&rig);
    let synced = store.persisted();
    drop(store);
    let rig = rig.restart(|frames, dir| {
        lose_state(frames, dir);
        std::fs::rename(&copy, dir.join("state")).unwrap();
    });
    assert!(!rig.opened.rebuilt);
    assert_eq!(rig.opened.start, synced);
    assert_eq!(contents(&rig), before);
    assert!(rig.opened.gaps.ops.is_empty());
}

#[tokio::test]
async fn damage_found_while_opening_is_rebuilt_at_the_next_start() {
    let rig = Rig::new();
    rig.store().commit(create(1)).await.unwrap();
    rig.produce(1, 0, &[5]);
    let before = contents(&rig);
    let key = keys::index(P, 3);
    let bad = [(Space::Index, key.as_slice(), Some(&b"bad"[..]))];
    rig.opened.store.shared.db.write(&mut db::Rotation::new(), bad).unwrap();
    let options = rig.options();
    let rig = rig.restart(move |frames, _| {
        let opening = Opening::open(options, &frames.files()).unwrap();
        assert!(!opening.rebuilding());
        let error = opening.finish(Lsn(frames.end), 1).err().unwrap();
        assert!(error.to_string().contains("start again"), "{error}");
    });
    assert!(rig.opened.rebuilt);
    assert_eq!(contents(&rig), before);
}
