//! Copies of old frames change the index and nothing else (rules 2.7): against each other change,
//! over restarts with and without fjall, and with the old file gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;

use super::testing::{Frames, Rig, records};
use super::*;
use crate::types::{Offset, PartitionId};
use crate::wal::{FrameDraft, Run, WalFile, WrittenFrame};

const P: PartitionId = PartitionId(1);

fn create(partition: u32) -> Change {
    keys::create_partition(Change::new(), PartitionId(partition))
}

fn lose_state(_: &mut Frames, dir: &Path) {
    std::fs::remove_dir_all(dir.join("state")).unwrap();
}

fn runs_of(rig: &Rig, id: PartitionId) -> Vec<Run> {
    rig.store().index_scan(id, 0, usize::MAX).unwrap()
}

/// The frames that `run` points at, as the log would read them.
fn frames_of(frames: &Frames, run: &Run) -> Vec<WrittenFrame> {
    let mut found = Vec::new();
    let (mut lsn, mut offset) = (run.lsn, run.base_offset);
    while lsn < run.end() {
        let at = frames.frames.partition_point(|frame| frame.lsn < lsn);
        let frame = frames.frames.get(at).filter(|frame| frame.lsn == lsn);
        let frame = frame.unwrap_or_else(|| panic!("{run:?} points at nothing"));
        assert_eq!((frame.draft.partition, frame.draft.base_offset), (run.partition, offset));
        (lsn, offset) = (frame.end(), frame.end_offset());
        found.push(frame.clone());
    }
    assert_eq!((lsn, offset), (run.end(), run.end_offset), "{run:?}");
    found
}

/// The copy of a run, as one request.
fn copy(rig: &Rig, run: &Run) -> Vec<FrameDraft> {
    copy_from(&rig.log.frames(), run)
}

fn copy_from(frames: &Frames, run: &Run) -> Vec<FrameDraft> {
    let frames = frames_of(frames, run);
    let copy = |frame: WrittenFrame| FrameDraft { moved_ms: Some(frame.append_ms), ..frame.draft };
    frames.into_iter().map(copy).collect()
}

fn relocate(rig: &Rig, run: &Run) {
    rig.log.append_now(copy(rig, run)).unwrap();
}

/// Everything but where records lie: state, and offsets with their append times and bytes.
fn contents(rig: &Rig) -> String {
    let store = rig.store();
    let mut text = String::new();
    for space in Space::ALL.into_iter().filter(|space| *space != Space::Index) {
        let mut pairs = store.scan(space, b"").unwrap();
        pairs.retain(|(key, _)| key != keys::META_WAL_APPLIED);
        text += &format!("{space:?} {pairs:?}\n");
    }
    let frames = rig.log.frames();
    for (key, value) in store.scan(Space::Index, b"").unwrap() {
        let run = keys::decode_run(&key, &value).unwrap();
        let log_start = store.partition(run.partition).unwrap().unwrap().log_start;
        for frame in frames_of(&frames, &run) {
            // How frames are joined differs, and so how much of a trimmed run is left.
            if frame.end_offset() > log_start {
                let draft = FrameDraft { moved_ms: None, ..frame.draft };
                text += &format!("{} {draft:?}\n", frame.append_ms);
            }
        }
    }
    text
}

/// Which frames with offsets from the log start on the index points at.
fn places(rig: &Rig) -> BTreeMap<(PartitionId, Offset), u64> {
    let (store, frames) = (rig.store(), rig.log.frames());
    let mut places = BTreeMap::new();
    for (key, value) in store.scan(Space::Index, b"").unwrap() {
        let run = keys::decode_run(&key, &value).unwrap();
        let log_start = store.partition(run.partition).unwrap().unwrap().log_start;
        for frame in frames_of(&frames, &run) {
            if frame.end_offset() > log_start {
                places.insert((frame.draft.partition, frame.draft.base_offset), frame.lsn.0);
            }
        }
    }
    places
}

fn live(rig: &Rig) -> Vec<u64> {
    rig.store().live_bytes(&rig.log.frames().files())
}

/// Frees what may be freed, as the chores do; how many files.
fn free(rig: &Rig) -> Vec<WalFile> {
    rig.clock.advance(60_000);
    let mut files = rig.log.frames().files();
    files.pop();
    rig.store().reclaimable(&files).unwrap()
}

fn lose(files: &[WalFile]) -> impl FnOnce(&mut Frames, &Path) {
    move |frames, _| files.iter().for_each(|file| frames.lose_file(file.first))
}

/// A slow partition 1 with two runs in the first file, filled up by partition 2.
async fn slow_and_fast() -> Rig {
    let rig = Rig::new();
    rig.store().commit(create(1).and(create(2))).await.unwrap();
    let mut produced = records(1, 0, 2);
    (produced.producer_id, produced.producer_epoch, produced.base_sequence) = (7, 1, 0);
    rig.log.append_now(vec![produced, records(1, 2, 3)]).unwrap();
    rig.clock.advance(5_000);
    rig.produce(1, 5, &[1]);
    for base in 0..2_000 {
        rig.produce(2, base, &[1]);
    }
    rig
}

#[tokio::test]
async fn a_copy_takes_the_place_of_its_run_and_changes_nothing_else() {
    let rig = slow_and_fast().await;
    let (before, old) = (contents(&rig), runs_of(&rig, P));
    let was_live = live(&rig);
    rig.clock.advance(1_000_000);
    old.iter().for_each(|run| relocate(&rig, run));
    let new = runs_of(&rig, P);
    assert_eq!(contents(&rig), before);
    assert_eq!(new.len(), 2);
    for (old, new) in old.iter().zip(&new) {
        assert!(new.lsn > old.lsn);
        assert_eq!(*new, Run { lsn: new.lsn, ..*old });
    }
    let moved: u64 = old.iter().map(|run| u64::from(run.disk_len)).sum();
    assert_eq!(live(&rig)[0], was_live[0] - moved);
    assert_eq!(live(&rig).iter().sum::<u64>(), was_live.iter().sum::<u64>());
    let rig = rig.restart(|_, _| {});
    assert_eq!((contents(&rig), runs_of(&rig, P)), (before, new));
}

#[tokio::test]
async fn a_rebuild_from_nothing_finds_the_copies_with_and_without_the_old_file() {
    let rig = slow_and_fast().await;
    let before = contents(&rig);
    runs_of(&rig, P).iter().for_each(|run| relocate(&rig, run));
    let (runs, at, was_live) = (runs_of(&rig, P), places(&rig), live(&rig));
    let rig = rig.restart(lose_state);
    assert!(rig.opened.rebuilt);
    assert_eq!(contents(&rig), before);
    assert_eq!((runs_of(&rig, P), places(&rig), live(&rig)), (runs.clone(), at, was_live));
    // Now the fast records go, and with them the file that the slow ones were in.
    rig.store().commit(keys::put_log_start(Change::new(), PartitionId(2), 1_500)).await.unwrap();
    let (before, at) = (contents(&rig), places(&rig));
    assert_eq!(free(&rig), [], "one snapshot is not enough");
    rig.store().commit(Change::new().put(Space::Token, "t", "1")).await.unwrap();
    let freed = free(&rig);
    assert_eq!(freed[0].first, Lsn(0));
    let rig = rig.restart(lose(&freed));
    assert!(!rig.opened.rebuilt && rig.opened.gaps.ops.is_empty());
    assert_eq!(places(&rig), at);
    let rig = rig.restart(lose_state);
    assert!(rig.opened.rebuilt && rig.opened.gaps.ops.is_empty());
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("Token"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(plain(&contents(&rig)), plain(&before));
    assert_eq!((runs_of(&rig, P), places(&rig)), (runs, at));
}

#[tokio::test]
async fn what_was_trimmed_or_deleted_meanwhile_does_not_come_back() {
    let rig = slow_and_fast().await;
    let old = runs_of(&rig, P);
    let copies: Vec<_> = old.iter().map(|run| copy(&rig, run)).collect();
    rig.store().commit(keys::put_log_start(Change::new(), P, 5)).await.unwrap();
    let (before, was_live) = (contents(&rig), live(&rig));
    rig.log.append_now(copies[0].clone()).unwrap();
    assert_eq!((contents(&rig), live(&rig)), (before.clone(), was_live));
    let rig = rig.restart(lose_state);
    assert_eq!(contents(&rig), before);

    let gone = Change::new().delete(Space::Partition, keys::log_start(P));
    rig.store().commit(gone).await.unwrap();
    let (before, was_live) = (contents(&rig), live(&rig));
    copies.into_iter().for_each(|copy| drop(rig.log.append_now(copy).unwrap()));
    assert_eq!((contents(&rig), live(&rig), runs_of(&rig, P)), (before.clone(), was_live, vec![]));
    let rig = rig.restart(lose_state);
    assert_eq!((contents(&rig), runs_of(&rig, P)), (before, vec![]));
}

#[tokio::test]
async fn a_copy_and_what_removes_it_may_come_in_one_batch() {
    let rig = slow_and_fast().await;
    let old = runs_of(&rig, P);
    let mut group = copy(&rig, &old[0]);
    let mut trim = records(1, 0, 0);
    trim.kind = crate::wal::FrameKind::State;
    trim.payload = codec::encode(&keys::put_log_start(Change::new(), P, 5)).into();
    group.push(trim);
    group.extend(copy(&rig, &old[1]));
    rig.log.append_now(group).unwrap();
    let runs = runs_of(&rig, P);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0], Run { lsn: runs[0].lsn, ..old[1] });
    let total: u64 = live(&rig).iter().sum();
    let fast = runs_of(&rig, PartitionId(2));
    let left = runs.iter().chain(&fast).map(|run| u64::from(run.disk_len));
    assert_eq!(total, left.sum::<u64>());
}

#[tokio::test]
async fn a_torn_chain_leaves_the_records_where_they_were() {
    let rig = slow_and_fast().await;
    let (before, old) = (contents(&rig), runs_of(&rig, P));
    let whole = copy(&rig, &old[0]);
    assert_eq!(whole.len(), 2);
    // Below the durable end each frame stands alone: one of the two may be damaged.
    for part in [&whole[..1], &whole[1..]] {
        rig.log.append_now(part.to_vec()).unwrap();
        assert_eq!(runs_of(&rig, P), old);
    }
    let rig = rig.restart(|_, _| {});
    assert_eq!((contents(&rig), runs_of(&rig, P)), (before.clone(), old));
    let rig = rig.restart(lose_state);
    assert_eq!(contents(&rig), before, "a rebuild may take the good frame of a copy");
}

#[tokio::test]
async fn an_old_copy_never_wins_over_a_newer_one() {
    let rig = slow_and_fast().await;
    let old = runs_of(&rig, P)[1];
    relocate(&rig, &old);
    relocate(&rig, &runs_of(&rig, P)[1]);
    let newest = places(&rig);
    let frames = rig.log.frames();
    let mut applier = Applier::new(Arc::clone(&rig.opened.store.shared));
    let copies: Vec<_> = frames.frames.iter().filter(|frame| frame.is_moved()).cloned().collect();
    rig.opened.store.shared.applied.store(0, Ordering::Release);
    for copy in copies.iter().rev() {
        crate::wal::Apply::apply(&mut applier, std::slice::from_ref(copy), Lsn(frames.end))
            .unwrap();
        rig.opened.store.shared.applied.store(0, Ordering::Release);
    }
    assert_eq!(places(&rig), newest);
}

/// A folder as it was, in the place of what it is.
fn put_back(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            put_back(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_replay_over_an_older_fjall_takes_each_chain_as_a_whole() {
    let rig = Rig::new();
    rig.store().commit(create(1).and(create(2))).await.unwrap();
    rig.produce(1, 0, &[1, 1, 1]);
    let old = runs_of(&rig, P)[0];
    rig.store().persist().unwrap();
    let aside = tempfile::tempdir().unwrap();
    put_back(&rig.dir.path().join("state"), aside.path());
    // So many frames that a batch of the replay is full in the middle of the copy.
    rig.produce(2, 0, &[1; 1_023]);
    relocate(&rig, &old);
    rig.produce(2, 1_023, &[1]);
    let (before, was_live) = (contents(&rig), live(&rig));
    let moved = runs_of(&rig, P)[0];
    assert!(moved.lsn > old.lsn);
    let rig = rig.restart(|_, dir| {
        std::fs::remove_dir_all(dir.join("state")).unwrap();
        put_back(aside.path(), &dir.join("state"));
    });
    assert!(!rig.opened.rebuilt && rig.opened.gaps.ops.is_empty());
    assert_eq!((contents(&rig), runs_of(&rig, P)), (before, vec![moved]));
    assert_eq!(live(&rig), was_live);
}

/// What happens to a store.
#[derive(Debug, Clone)]
enum Step {
    /// Batches of one record each, as one group.
    Produce {
        partition: u32,
        batches: u32,
    },
    /// Copies runs out of the oldest files, as many as this, at most.
    Move {
        runs: usize,
    },
    /// The log start goes to this percentage of the records.
    Trim {
        partition: u32,
        percent: i64,
    },
    /// The partition goes and another takes its place.
    Delete {
        partition: u32,
    },
    /// Files that may be freed are.
    Free,
    Restart {
        lose_state: bool,
    },
    /// fjall as its last sync left it would be older; here the newest snapshot is.
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3u32, 1..400u32).prop_map(|(partition, batches)| Step::Produce { partition, batches }),
        4 => (1..200usize).prop_map(|runs| Step::Move { runs }),
        2 => (0..3u32, 0..=100i64).prop_map(|(partition, percent)| Step::Trim { partition, percent }),
        1 => (0..3u32).prop_map(|partition| Step::Delete { partition }),
        3 => Just(Step::Free),
        2 => any::<bool>().prop_map(|lose_state| Step::Restart { lose_state }),
        1 => Just(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..40)
}

/// What must be there: by partition its log start and the offsets after the last record.
#[derive(Default)]
struct Model {
    partitions: Vec<(u32, Offset, Offset)>,
    made: u32,
}

impl Model {
    fn check(&self, rig: &Rig) -> Result<(), TestCaseError> {
        let frames = rig.log.frames();
        let mut live_bytes = 0;
        for (id, log_start, next) in &self.partitions {
            let id = PartitionId(*id);
            let mut reached = *log_start;
            for run in rig.store().index_scan(id, *log_start, usize::MAX).unwrap() {
                live_bytes += u64::from(run.disk_len);
                prop_assert!(run.base_offset <= reached && reached < run.end_offset);
                frames_of(&frames, &run);
                reached = run.end_offset;
            }
            prop_assert_eq!(reached, *next);
            let state = rig.store().partition(id).unwrap().unwrap();
            prop_assert_eq!((state.log_start, state.next_offset), (*log_start, *next));
        }
        let entries = rig.store().scan(Space::Index, b"").unwrap();
        let known: BTreeSet<u32> = self.partitions.iter().map(|(id, ..)| *id).collect();
        for (key, _) in &entries {
            prop_assert!(known.contains(&keys::decode_numbered(key).unwrap().0.0));
        }
        prop_assert_eq!(live(rig).iter().sum::<u64>(), live_bytes);
        Ok(())
    }
}

async fn add(rig: &Rig, model: &mut Model) -> (u32, Offset, Offset) {
    model.made += 1;
    rig.store().commit(create(model.made)).await.unwrap();
    (model.made, 0, 0)
}

async fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut rig = Rig::new();
    let mut model = Model::default();
    for _ in 0..3 {
        let made = add(&rig, &mut model).await;
        model.partitions.push(made);
    }
    for step in steps {
        match step {
            Step::Produce { partition, batches } => {
                let (id, _, next) = &mut model.partitions[partition as usize];
                rig.produce(*id, *next, &vec![1; batches as usize]);
                *next += i64::from(batches);
                rig.clock.advance(1);
            }
            Step::Move { runs } => {
                let page = rig.store().live_starts(Lsn(0), Lsn(u64::MAX / 2), runs);
                let frames = rig.log.frames();
                for lsn in page.into_iter().take(runs) {
                    let at = frames.frames.partition_point(|frame| frame.lsn < lsn);
                    let draft = &frames.frames[at].draft;
                    let run = rig.store().index_at(draft.partition, draft.base_offset);
                    let run = run.unwrap().unwrap();
                    prop_assert_eq!(run.lsn, lsn);
                    rig.log.append_now(copy_from(&frames, &run)).unwrap();
                }
            }
            Step::Trim { partition, percent } => {
                let (id, log_start, next) = &mut model.partitions[partition as usize];
                *log_start = (*log_start).max(*next * percent / 100);
                let change = keys::put_log_start(Change::new(), PartitionId(*id), *log_start);
                rig.store().commit(change).await.unwrap();
            }
            Step::Delete { partition } => {
                let gone = keys::log_start(PartitionId(model.partitions[partition as usize].0));
                let change = Change::new().delete(Space::Partition, gone);
                rig.store().commit(change).await.unwrap();
                model.partitions[partition as usize] = add(&rig, &mut model).await;
            }
            Step::Free => {
                let freed = free(&rig);
                rig = rig.restart(lose(&freed));
                prop_assert!(rig.opened.gaps.ops.is_empty(), "{:?} {freed:?}", rig.opened.gaps);
            }
            Step::Restart { lose_state: lost } => {
                let before = contents(&rig);
                rig = if lost { rig.restart(lose_state) } else { rig.restart(|_, _| {}) };
                prop_assert_eq!(rig.opened.rebuilt, lost);
                prop_assert!(rig.opened.gaps.ops.is_empty(), "{:?}", rig.opened.gaps);
                prop_assert_eq!(contents(&rig), before);
            }
            Step::Snapshot => rig.store().write_snapshot().unwrap(),
        }
        model.check(&rig)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn moves_trims_deletions_frees_and_restarts_in_any_order_lose_and_revive_nothing(
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps))?;
    }
}
