//! Copies of frames: written as they were, whole or not at all (rules 2.7).

use super::*;
use crate::wal::frame::{FrameHeader, HEADER_LEN};

/// The frames of a run as they are to be copied.
fn copies(bench: &Bench, run: &Run) -> Vec<FrameDraft> {
    let frames = bench.wal.read_run(run).unwrap();
    let copy = |frame: WrittenFrame| FrameDraft { moved_ms: Some(frame.append_ms), ..frame.draft };
    frames.into_iter().map(copy).collect()
}

/// Two batches of one partition as one run, and then one of another, at 1,000 ms.
fn two_then_one(bench: &Bench) -> Vec<Run> {
    let mut http = batch(1, b"one");
    http.kind = FrameKind::HttpRecords;
    http.ext = ext::entry(ext::IDEMPOTENCY, b"key").unwrap().into();
    let mut produced = batch(1, b"two");
    (produced.producer_id, produced.producer_epoch, produced.base_sequence) = (7, 1, 3);
    bench.append(vec![http, produced]);
    bench.append(vec![batch(2, b"other")]);
    let runs = runs(&bench.told.lock().durable);
    assert_eq!(runs.len(), 2);
    runs
}

#[test]
fn a_copy_keeps_bytes_offsets_and_append_time() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let old = two_then_one(&bench)[0];
    let before = bench.wal.read_run(&old).unwrap();
    bench.clock.advance(50_000);
    let ack = bench.append(copies(&bench, &old));
    assert_eq!((ack.verdict, &ack.base_offsets[..]), (Verdict::Write, &[0, 2][..]));
    let next = bench.append(vec![batch(1, b"fresh")]);
    assert_eq!(next.base_offsets, [4], "a copy takes no offsets");
    let durable = bench.told.lock().durable.clone();
    assert_eq!(runs(&durable).len(), 3, "copies are no new runs");
    let moved = moved_runs(&durable)[0];
    assert_eq!(moved, Run { lsn: moved.lsn, ..old });
    assert!(moved.lsn > old.lsn);
    let after = bench.wal.read_run(&moved).unwrap();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.append_ms, 1_000);
        assert_eq!(after.draft.moved_ms, Some(1_000));
        assert_eq!(
            format!("{:?}", FrameDraft { moved_ms: None, ..after.draft.clone() }),
            format!("{:?}", before.draft)
        );
    }
    assert_eq!(bench.wal.key_at(moved.lsn), Some((PartitionId(1), 0)));
    assert_eq!(bench.wal.key_at(Lsn(moved.lsn.0 + 32)), None);
    // A copy of a copy is one as well.
    bench.clock.advance(50_000);
    bench.append(copies(&bench, &moved));
    let again = moved_runs(&bench.told.lock().durable)[1];
    assert_eq!(again, Run { lsn: again.lsn, ..old });
    bench.close();
    let bench = Bench::open(dir.path());
    assert_eq!(runs(&bench.frames).len(), 3);
    assert_eq!(moved_runs(&bench.frames), [moved, again]);
    bench.close();
}

#[test]
fn each_chain_of_copies_is_a_run_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    bench.append(vec![batch(1, b"a")]);
    bench.append(vec![state(b"between")]);
    bench.append(vec![batch(1, b"b"), batch(1, b"c")]);
    let old = runs(&bench.told.lock().durable);
    // Neighbours in the log and in offsets, perhaps in one group.
    let answers: Vec<_> = old.iter().map(|run| bench.send(copies(&bench, run))).collect();
    answers.iter().for_each(|answer| drop(answer.recv().unwrap()));
    let moved = moved_runs(&bench.told.lock().durable);
    let ranges = |runs: &[Run]| -> Vec<_> {
        runs.iter().map(|run| (run.base_offset, run.end_offset, run.disk_len)).collect()
    };
    assert!(moved[0].is_followed_by(&moved[1]));
    assert_eq!(ranges(&moved), ranges(&old));
    bench.close();
}

#[test]
fn copies_that_were_not_durable_are_adopted_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let old = two_then_one(&bench)[0];
    bench.fail_points.set("wal.before_sync", || Err("killed".into()));
    let _ = bench.send(copies(&bench, &old)).recv();
    bench.close();
    let path = dir.path().join("wal").join("wal-00000000000000000000.log");
    let whole = std::fs::read(&path).unwrap();
    let frame_at = |lsn: u64| {
        let bytes = whole[lsn as usize..][..HEADER_LEN].try_into().unwrap();
        FrameHeader::decode(bytes, id_of(dir.path())).unwrap()
    };
    // Mark, two, one, then the chain.
    let mut lsn = frame_at(0).end();
    for _ in 0..3 {
        lsn = frame_at(lsn.0).end();
    }
    let (first, second) = (frame_at(lsn.0), frame_at(frame_at(lsn.0).end().0));
    assert!(first.moved && first.more && second.moved && !second.more);
    let recovered = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let start = Start { known_durable: lsn, ..Start::default() };
        let (_, recovered, frames) = open_and_recover(Arc::new(Disk), dir.path(), start).unwrap();
        assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
        (frames.len(), moved_runs(&frames).len())
    };
    let mut torn = whole.clone();
    torn[second.lsn.0 as usize + HEADER_LEN] ^= 1;
    assert_eq!(recovered(&torn), (3, 0));
    assert_eq!(recovered(&whole), (5, 1));
}

fn id_of(dir: &Path) -> u64 {
    let text = std::fs::read_to_string(dir.join("FORMAT")).unwrap();
    let at = text.find("log_id\":\"").unwrap() + 9;
    u64::from_str_radix(&text[at..at + 16], 16).unwrap()
}

#[test]
fn copies_are_not_mixed_with_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let old = two_then_one(&bench)[0];
    let mut mixed = copies(&bench, &old);
    mixed.push(batch(1, b"new"));
    let mut no_records = state(b"x");
    no_records.moved_ms = Some(1);
    for frames in [mixed, vec![no_records]] {
        let done = Done::Logged(Box::new(|_| panic!("nothing is written")));
        let refused = bench.wal.append_blocking(Request { frames, done, permit: None });
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    bench.close();
}
