//! The rule which file is worth moving, and readers while records move.

use super::*;
use crate::log::ReadError;
use crate::log::ports::Frames;
use crate::log::read::Reader;
use crate::log::testing::{P, Rig};

const DELAY_MS: i64 = 100;

/// Files of 1,000 bytes with these live bytes, and two newer ones that are left alone.
fn files(live_bytes: &[u64]) -> Vec<FileUse> {
    let all = live_bytes.iter().chain(&[1, 1]);
    let file = |(number, live_bytes): (u64, &u64)| FileUse {
        file: WalFile { first: Lsn(number * 1_000), end: Lsn(number * 1_000 + 1_000) },
        live_bytes: *live_bytes,
    };
    (0..).zip(all).map(file).collect()
}

fn next(watch: &mut Watch, live_bytes: &[u64], now_ms: i64) -> Option<u64> {
    watch.next(&files(live_bytes), now_ms, DELAY_MS).map(|file| file.file.first.0 / 1_000)
}

/// What is moved once everything has been as it is for long enough.
fn settled(live_bytes: &[u64]) -> Option<u64> {
    let mut watch = Watch::default();
    assert_eq!(next(&mut watch, live_bytes, 0), None);
    next(&mut watch, live_bytes, DELAY_MS)
}

#[test]
fn only_files_that_are_less_than_half_live_are_moved() {
    assert_eq!(settled(&[1_000, 500, 499]), Some(2));
    assert_eq!(settled(&[1_000, 500, 500]), None);
    assert_eq!(settled(&[0, 0]), None, "they are freed as they are");
    assert_eq!(settled(&[]), None, "the newest two are left alone");
}

#[test]
fn the_least_live_share_goes_first_and_of_equals_the_oldest() {
    assert_eq!(settled(&[300, 20, 100]), Some(1));
    assert_eq!(settled(&[300, 20, 20]), Some(1));
    let mut files = files(&[100, 100]);
    files[1].file.end = Lsn(1_900);
    let mut watch = Watch::default();
    watch.next(&files, 0, DELAY_MS);
    let first = watch.next(&files, DELAY_MS, DELAY_MS).unwrap().file.first;
    assert_eq!(first, Lsn(0), "one of 900 bytes has the greater share");
}

#[test]
fn a_file_that_still_loses_records_waits() {
    let mut watch = Watch::default();
    for (now_ms, live_bytes) in [(0, 400), (60, 340), (120, 290), (180, 250)] {
        assert_eq!(next(&mut watch, &[live_bytes], now_ms), None);
    }
    assert_eq!(next(&mut watch, &[240], 279), None);
    assert_eq!(next(&mut watch, &[230], 280), Some(0), "little is lost");
}

#[test]
fn the_wait_begins_when_a_file_gets_sparse() {
    let mut watch = Watch::default();
    assert_eq!(next(&mut watch, &[500], 0), None);
    assert_eq!(next(&mut watch, &[499], 1_000), None);
    assert_eq!(next(&mut watch, &[499], 1_099), None);
    assert_eq!(next(&mut watch, &[499], 1_100), Some(0));
}

#[test]
fn a_file_that_was_moved_is_not_moved_again_whatever_is_left_in_it() {
    let mut watch = Watch::default();
    next(&mut watch, &[100, 200], 0);
    let first = watch.next(&files(&[100, 200]), DELAY_MS, DELAY_MS).unwrap();
    watch.done(first.file);
    assert_eq!(next(&mut watch, &[50, 200], DELAY_MS), Some(1));
    assert_eq!(next(&mut watch, &[1, 0], 10 * DELAY_MS), None);
    assert_eq!(next(&mut watch, &[], 11 * DELAY_MS), None);
    assert!(watch.seen.is_empty(), "a freed file is forgotten");
}

#[test]
fn a_clock_that_steps_back_only_delays() {
    let mut watch = Watch::default();
    assert_eq!(next(&mut watch, &[100], 1_000), None);
    assert_eq!(next(&mut watch, &[100], 500), None);
    assert_eq!(next(&mut watch, &[100], 600), Some(0));
}

#[tokio::test]
async fn readers_find_records_whose_file_is_gone_where_the_index_says() {
    let rig = Rig::new();
    rig.append(P, &[10, 20]).await.unwrap();
    rig.append(P, &[30]).await.unwrap();
    rig.append(P, &[40]).await.unwrap();
    let before = rig.log.read(P, 0, usize::MAX).await.unwrap();
    let partition = rig.log.partition(P).unwrap();
    let (size_bytes, stale) = (partition.size_bytes(), partition.recent_at(2).unwrap());
    rig.clock.advance(1_000);
    rig.frames.relocate(P, 0);
    rig.frames.relocate(P, 2);
    assert_eq!(partition.recent_at(1), None, "what is in memory forgets the old place");
    assert_eq!(partition.recent_at(2), None);
    assert!(partition.recent_at(3).is_some());
    assert_eq!((partition.high_watermark(), partition.size_bytes()), (4, size_bytes));
    let after = rig.log.read(P, 0, usize::MAX).await.unwrap();
    let plain = |slice: &crate::log::ReadSlice| -> Vec<_> {
        slice.batches.iter().map(|b| (b.base_offset, b.append_ms, b.bytes.clone())).collect()
    };
    assert_eq!(plain(&after), plain(&before));
    assert_eq!(rig.log.offset_for_timestamp(P, 25).await.unwrap(), Some((2, 30)));
    assert_eq!(partition.append_ms_at(2), Some(1_000_000));
    // A reader that looked before, and reads after the file is gone.
    let reader = Reader {
        partition: &partition,
        state: rig.state.as_ref(),
        frames: rig.frames.as_ref() as &dyn Frames,
        directory: rig.directory.as_ref(),
    };
    let frames = reader.frames_of(&stale, 2).unwrap();
    assert_eq!((frames.len(), frames[0].draft.base_offset, frames[0].append_ms), (1, 2, 1_000_000));
    // One that was trimmed too is out of range, not corrupt.
    rig.log.raise_log_start(P, 3).await.unwrap();
    assert_eq!(
        reader.frames_of(&stale, 2).unwrap_err(),
        ReadError::OutOfRange { start: 3, end: 4 }
    );
}
