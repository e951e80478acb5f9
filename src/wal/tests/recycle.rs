//! Freed files that are written again.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::runtime::files::DiskSpace;
use crate::runtime::files::power_loss::PowerLoss;
use crate::wal::spares;

/// Inodes of the files in the folder of the log, with their names. The log renames and removes
/// files meanwhile: one that is gone by the time it is looked at is left out.
fn inodes(dir: &Path) -> Vec<(u64, String)> {
    let entries = std::fs::read_dir(dir.join("wal")).unwrap().map(|entry| entry.unwrap());
    let inode = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) => Some((metadata.ino(), entry.file_name().into_string().unwrap())),
        Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    };
    entries.filter_map(inode).collect()
}

fn fill(bench: &Bench, files: usize) -> Vec<Ack> {
    let mut acks = Vec::new();
    let wanted = bench.wal.list().len() + files;
    while bench.wal.list().len() < wanted {
        acks.push(bench.append(vec![batch(1, &[b'x'; 900])]));
    }
    acks
}

/// Frees all files but the newest two.
fn free(bench: &Bench) {
    let files = bench.wal.list();
    for file in &files[..files.len() - 2] {
        assert!(bench.wal.release(file.first).unwrap());
    }
}

#[test]
fn freed_files_are_written_again_and_read_like_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let mut reused = 0;
    for _ in 0..6 {
        fill(&bench, 5);
        free(&bench);
        let spare: BTreeSet<u64> = inodes(dir.path())
            .into_iter()
            .filter(|(_, name)| spares::NAMES.contains(&name.as_str()) || name == "next.tmp")
            .map(|(inode, _)| inode)
            .collect();
        fill(&bench, 4);
        let named = inodes(dir.path()).into_iter().filter(|(_, name)| !name.ends_with(".tmp"));
        reused += named.filter(|(inode, _)| spare.contains(inode)).count();
    }
    assert!(reused >= 6, "{reused} files were written again");
    let files = bench.wal.list();
    let start = Start { lsn: files[0].first, ..Start::default() };
    let frames: Vec<WrittenFrame> = bench.told.lock().durable.clone();
    let kept = frames.into_iter().filter(|frame| frame.lsn >= files[0].first);
    let kept: Vec<WrittenFrame> = kept.collect();
    let read: Vec<_> =
        runs(&kept).iter().flat_map(|run| bench.wal.read_run(run).unwrap()).collect();
    assert_eq!(read.len(), kept.len());
    bench.close();
    assert!(!inodes(dir.path()).is_empty());
    let again = Bench::open_with(Arc::new(Disk), dir.path(), start, small()).unwrap();
    assert_eq!(again.recovered.damage, []);
    let offsets = |frames: &[WrittenFrame]| -> Vec<i64> {
        frames.iter().map(|frame| frame.draft.base_offset).collect()
    };
    assert_eq!(offsets(&again.frames), offsets(&kept));
    until("no spare of the process before", || {
        !inodes(dir.path()).iter().any(|(_, name)| spares::NAMES.contains(&name.as_str()))
    });
    again.close();
}

#[test]
fn a_torn_tail_over_older_frames_of_a_recycled_file_brings_none_of_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    for _ in 0..4 {
        fill(&bench, 5);
        free(&bench);
    }
    let last = fill(&bench, 1).last().unwrap().end;
    let first = bench.wal.list()[0].first;
    bench.close();
    let start = Start { lsn: first, ..Start::default() };
    let again = Bench::open_with(Arc::new(Disk), dir.path(), start, small()).unwrap();
    let ends: Vec<Lsn> = again.frames.iter().map(WrittenFrame::end).collect();
    assert_eq!((ends.last(), &again.recovered.damage[..]), (Some(&last), &[][..]));
    again.close();
}

#[test]
fn without_room_on_the_disk_spares_are_given_back_and_none_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PowerLoss::new(dir.path()).unwrap();
    let space = |free_bytes| Some(DiskSpace { free_bytes, total_bytes: 1 << 30 });
    fs.set_space(space(1000));
    let options = WalOptions { free_floor_bytes: Some(500), ..quick() };
    let data = dir.path().join("data");
    let bench = Bench::open_with(Arc::new(fs.clone()), &data, Start::default(), options).unwrap();
    fill(&bench, 6);
    free(&bench);
    let spares = || {
        let names = inodes(&data).into_iter().map(|(_, name)| name);
        names.filter(|name| spares::NAMES.contains(&name.as_str())).count()
    };
    assert!(spares() > 3, "as many as were begun, but those that are in use again");
    fs.set_space(space(100));
    until("no spare", || spares() == 0);
    bench.close();
}
