//! What recovery makes of bytes that are not as they were written.

use super::*;
use crate::wal::directory::name_of;

fn path_of(dir: &Path, first: Lsn) -> std::path::PathBuf {
    dir.join("wal").join(name_of(first))
}

fn change(dir: &Path, lsn: Lsn, f: impl FnOnce(&mut [u8])) {
    let path = path_of(dir, Lsn(0));
    let mut bytes = std::fs::read(&path).unwrap();
    f(&mut bytes[usize::try_from(lsn.0).unwrap()..]);
    std::fs::write(&path, bytes).unwrap();
}

fn recover_from(dir: &Path, start: Start) -> (Recovered, Vec<WrittenFrame>) {
    let (_, recovered, frames) = open_and_recover(Arc::new(Disk), dir, start).unwrap();
    (recovered, frames)
}

/// A log with one-frame groups "0", "1", ... and the positions of the frames.
fn written(dir: &Path, count: usize) -> Vec<WrittenFrame> {
    let bench = Bench::open(dir);
    for number in 0..count {
        bench.append(vec![batch(1, number.to_string().as_bytes())]);
    }
    let frames = bench.told.lock().durable.clone();
    bench.close();
    frames
}

#[test]
fn a_flipped_byte_below_the_durable_end_is_named_and_what_follows_is_kept() {
    // In the body: the header survives, so the records are named. In the header: searched for.
    for (at, named) in [(96 + 20, true), (20, false)] {
        let dir = tempfile::tempdir().unwrap();
        let frames = written(dir.path(), 5);
        change(dir.path(), frames[2].lsn, |bytes| bytes[at] ^= 0x10);
        let (recovered, found) = recover_from(dir.path(), Start::default());
        assert_eq!(texts(&found), ["0", "1", "3", "4"]);
        let [damage] = &recovered.damage[..] else { panic!("{recovered:?}") };
        assert_eq!((damage.from, damage.to), (frames[2].lsn, frames[3].lsn));
        assert_eq!(damage.records.is_some_and(|(_, range)| range.base == 4), named);
        assert_eq!(recovered.lost, None);
        // Again, and from behind it.
        let start = Start { lsn: frames[3].lsn, ..Start::default() };
        let (recovered, found) = recover_from(dir.path(), start);
        assert_eq!(texts(&found), ["3", "4"]);
        assert_eq!(recovered.damage, []);
    }
}

#[test]
fn a_torn_tail_past_the_durable_end_is_cut_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    bench.append(vec![batch(1, b"a")]);
    // Held before the sync: written, never acknowledged, as after a crash.
    bench.fail_points.set("wal.before_sync", || Err("crash".into()));
    assert!(bench.send(vec![batch(1, b"b")]).recv().is_err());
    let end = bench.wal.durable_lsn();
    bench.close();
    change(dir.path(), end, |bytes| bytes[96 + 61] ^= 1);
    let again = Bench::open(dir.path());
    assert_eq!(texts(&again.frames), ["a"]);
    assert_eq!((again.recovered.damage.len(), again.recovered.end), (0, end));
    again.append(vec![batch(1, b"c")]);
    again.close();
    let (recovered, found) = recover_from(dir.path(), Start::default());
    assert_eq!(texts(&found), ["a", "c"]);
    assert_eq!(recovered.damage, []);
}

#[test]
fn a_whole_unacknowledged_frame_is_adopted_and_a_chain_whole_or_not_at_all() {
    for torn in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::open(dir.path());
        bench.append(vec![batch(1, b"a")]);
        bench.fail_points.set("wal.before_sync", || Err("crash".into()));
        let chain = vec![batch(1, b"x"), batch(2, b"y"), batch(3, b"z")];
        assert!(bench.send(chain).recv().is_err());
        let end = bench.wal.durable_lsn();
        bench.close();
        if torn {
            change(dir.path(), Lsn(end.0 + 2 * 160), |bytes| bytes[5] ^= 1);
        }
        let (recovered, found) = recover_from(dir.path(), Start::default());
        let expected: &[&str] = if torn { &["a"] } else { &["a", "x", "y", "z"] };
        assert_eq!(texts(&found), expected);
        assert_eq!(recovered.damage, []);
        assert!(recovered.durable <= end);
    }
}

#[test]
fn ghosts_of_an_older_run_never_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    bench.append(vec![batch(1, b"a")]);
    bench.fail_points.set("wal.before_sync", || Err("crash".into()));
    let many: Vec<_> = (0..5).map(|n| bench.send(vec![batch(1, &[b'0' + n; 3])])).collect();
    assert!(many.iter().all(|answer| answer.recv().is_err()));
    let end = bench.wal.durable_lsn();
    bench.close();
    // The first frame is torn; whole frames of the same run follow it.
    let path = path_of(dir.path(), Lsn(0));
    let before = std::fs::read(&path).unwrap();
    change(dir.path(), end, |bytes| bytes[96 + 61] ^= 1);
    let again = Bench::open(dir.path());
    let run = again.recovered.run;
    assert_eq!(texts(&again.frames), ["a"]);
    // The start mark takes 96 bytes; this frame ends where the second old one may begin.
    again.append(vec![state(&[7; 64])]);
    again.close();
    let (recovered, found) = recover_from(dir.path(), Start::default());
    assert_eq!(found.len(), 2);
    assert!(recovered.run > run);
    // Even where every byte of the old frames is put back behind the new end.
    let end = usize::try_from(recovered.end.0).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[end..].copy_from_slice(&before[end..]);
    std::fs::write(&path, bytes).unwrap();
    let (_, found) = recover_from(dir.path(), Start::default());
    assert_eq!(found.len(), 2);
}

#[test]
fn a_stale_frame_at_its_own_position_is_refused_for_its_run() {
    let dir = tempfile::tempdir().unwrap();
    let frames = written(dir.path(), 4);
    let old = std::fs::read(path_of(dir.path(), Lsn(0))).unwrap();
    // The same log again from frame 2 on, in a newer run.
    change(dir.path(), frames[2].lsn, |bytes| bytes.fill(0));
    let start = Start { known_durable: Lsn(0), ..Start::default() };
    let bench = Bench::open_with(Arc::new(Disk), dir.path(), start, small()).unwrap();
    let end = bench.recovered.end;
    bench.close();
    change(dir.path(), Lsn(end.0 + 96), |bytes| {
        let from = usize::try_from(end.0).unwrap() + 96;
        bytes.copy_from_slice(&old[from..]);
    });
    let (_, found) = recover_from(dir.path(), Start::default());
    assert_eq!(texts(&found), ["0", "1"]);
}

#[test]
fn a_log_that_ends_below_its_durable_end_goes_on_at_or_above_it() {
    let dir = tempfile::tempdir().unwrap();
    let frames = written(dir.path(), 4);
    for (known, in_file) in [(2_000u64, true), (1 << 20, false)] {
        let start = Start { known_durable: Lsn(known), ..Start::default() };
        let bench = Bench::open_with(Arc::new(Disk), dir.path(), start, small()).unwrap();
        assert!(texts(&bench.frames).starts_with(&["0", "1", "2", "3"].map(String::from)));
        let (from, to) = bench.recovered.lost.unwrap();
        assert!(from >= frames[3].lsn && to.0 >= known, "{from} {to}");
        assert!(bench.recovered.end.0 >= known);
        assert_eq!(bench.recovered.continue_in.is_some(), in_file);
        bench.append(vec![batch(1, b"after")]);
        bench.close();
    }
    let (recovered, found) = recover_from(dir.path(), Start::default());
    assert_eq!(texts(&found), ["0", "1", "2", "3", "after", "after"]);
    assert_eq!(recovered.lost, None);
    assert_eq!(recovered.damage.len(), 2 + 1, "{:?}", recovered.damage);
}

#[test]
fn a_loss_below_the_start_is_named_too() {
    let dir = tempfile::tempdir().unwrap();
    let frames = written(dir.path(), 4);
    change(dir.path(), frames[2].lsn, |bytes| bytes.fill(0));
    let start = Start { lsn: Lsn(frames[3].lsn.0 + 160), ..Start::default() };
    let (recovered, found) = recover_from(dir.path(), start);
    assert_eq!(recovered.lost, Some((frames[2].lsn, start.lsn)));
    assert_eq!((found.len(), recovered.end), (0, start.lsn));
}

#[test]
fn an_absent_file_is_damage_and_later_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    for number in 0..60 {
        bench.append(vec![batch(1, format!("{number:0900}").as_bytes())]);
    }
    let files = bench.wal.list();
    assert!(files.len() > 3);
    bench.close();
    std::fs::remove_file(path_of(dir.path(), files[1].first)).unwrap();
    let (recovered, found) = recover_from(dir.path(), Start::default());
    let [damage] = &recovered.damage[..] else { panic!("{:?}", recovered.damage) };
    assert_eq!((damage.from, damage.to), (files[1].first, files[2].first));
    assert!(found.len() > 30 && found.len() < 60);
    // All of the end is gone.
    for file in &files[2..] {
        std::fs::remove_file(path_of(dir.path(), file.first)).unwrap();
    }
    let end = files.last().unwrap().first;
    let start = Start { known_durable: end, ..Start::default() };
    let (recovered, _) = recover_from(dir.path(), start);
    assert_eq!(recovered.lost, Some((files[0].end, end)));
    assert_eq!(recovered.end, end);
}

#[test]
fn a_frame_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let frames = written(dir.path(), 2);
    change(dir.path(), frames[1].lsn, |bytes| {
        bytes[82] = 77;
        let crc = crate::wal::frame::crc32c(&[&bytes[8..96]]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    });
    let error = open_and_recover(Arc::new(Disk), dir.path(), Start::default()).unwrap_err();
    assert!(error.to_string().contains("unknown frame kind 77"), "{error}");
}

#[test]
fn runs_rise_with_the_snapshots_and_the_frames_even_without_their_file() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 1);
    let (recovered, _) = recover_from(dir.path(), Start { run_hint: 40, ..Start::default() });
    assert_eq!(recovered.run, 41);
    std::fs::remove_file(dir.path().join("RUN")).unwrap();
    let (recovered, _) = recover_from(dir.path(), Start::default());
    assert_eq!(recovered.run, 2);
}

#[test]
fn a_visitor_that_gives_up_stops_recovery() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 2);
    let options = DirectoryOptions { allow_network: true };
    let directory = Directory::open(Arc::new(Disk), dir.path(), &options).unwrap();
    let error = recover(&directory, Start::default(), &mut |_| Err("no".into())).unwrap_err();
    assert!(matches!(error, Error::Visit(_)));
}
