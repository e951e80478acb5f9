//! What is rebuilt of a state that is lost, damaged or behind, and what snapshots are kept for that.

use super::*;

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
