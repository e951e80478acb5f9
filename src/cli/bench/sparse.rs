//! A long log on a small disk: files that are sealed lose the values in them while the log grows.
//!
//! What stays is what there is of a log of that length: every file with its name and length, every
//! frame header, the whole index and state. What goes, the values, is read by consumers and tables
//! alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::wal::frame::{FrameHeader, HEADER_LEN};

/// The newest files are left alone: one is written, one may be about to be sealed or cut.
const NEWEST: usize = 3;

/// Bytes at the start of a frame that stay: its header and that of its batch.
const HEAD: usize = HEADER_LEN + 61;

/// A log whose values go.
pub(super) struct Sparse {
    dir: PathBuf,
    log_id: u64,
    done: BTreeSet<PathBuf>,
}

/// What a log takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) files: u64,
    /// Lengths of the files.
    pub(super) bytes: u64,
    /// Bytes of the blocks that they have.
    pub(super) on_disk: u64,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Sparse {
    /// The log of a server's data directory.
    pub(super) fn of(data_dir: &Path) -> Result<Self, String> {
        let format = std::fs::read(data_dir.join("FORMAT")).map_err(text)?;
        let format: Value = serde_json::from_slice(&format).map_err(text)?;
        let log_id = format["log_id"].as_str().unwrap_or_default();
        let log_id = u64::from_str_radix(log_id, 16).map_err(text)?;
        Ok(Self { dir: data_dir.join("wal"), log_id, done: BTreeSet::new() })
    }

    /// Files of the log in order of position.
    fn files(&self) -> Result<BTreeSet<PathBuf>, String> {
        let mut files = BTreeSet::new();
        for entry in std::fs::read_dir(&self.dir).map_err(text)? {
            let path = entry.map_err(text)?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                files.insert(path);
            }
        }
        Ok(files)
    }

    /// Gives back the values in files that were sealed since the last call. Blocks.
    pub(super) fn punch(&mut self) -> Result<(), String> {
        let files = self.files()?;
        let sealed = files.len().saturating_sub(NEWEST);
        for path in files.into_iter().take(sealed) {
            if !self.done.contains(&path) {
                punch_file(&path, self.log_id)?;
                self.done.insert(path);
            }
        }
        Ok(())
    }

    /// What the log takes now.
    pub(super) fn size(&self) -> Result<Size, String> {
        let mut size = Size::default();
        for path in self.files()? {
            let found = std::fs::metadata(path).map_err(text)?;
            size.files += 1;
            size.bytes += found.len();
            size.on_disk += found.blocks() * 512;
        }
        Ok(size)
    }
}

/// Puts a file in the place of a sealed one that has the heads of its frames, and holes between them.
/// (To make the holes in place takes a file system that discards blocks at once some milliseconds each.)
fn punch_file(path: &Path, log_id: u64) -> Result<(), String> {
    let failed = |what: String| format!("{}: {what}", path.display());
    let file = File::open(path).map_err(text)?;
    let length = file.metadata().map_err(text)?.len();
    let sparse_path = path.with_extension("sparse");
    let sparse = File::create(&sparse_path).map_err(text)?;
    sparse.set_len(length).map_err(text)?;
    let (mut head, mut at) = ([0; HEAD], 0);
    while at + HEAD as u64 <= length {
        file.read_exact_at(&mut head, at).map_err(text)?;
        let header = head.first_chunk().map(|header| FrameHeader::decode(header, log_id));
        let Some(Ok(header)) = header else { return Err(failed(format!("no frame at {at}"))) };
        let kept = HEAD.min(header.disk_len() as usize);
        sparse.write_all_at(&head[..kept], at).map_err(text)?;
        at += u64::from(header.disk_len());
    }
    // The last frame of a file is a seal, which has no body.
    let mut rest = vec![0; usize::try_from(length.saturating_sub(at)).unwrap_or_default()];
    file.read_exact_at(&mut rest, at).map_err(text)?;
    sparse.write_all_at(&rest, at).map_err(text)?;
    std::fs::rename(&sparse_path, path).map_err(text)
}

/// Puts every file below `dir` out of the page cache, as after a start of the machine. Blocks.
pub(super) fn forget(dir: &Path) -> Result<(), String> {
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).map_err(text)? {
            let path = entry.map_err(text)?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let file = File::open(&path).map_err(text)?;
                // Only what is on the disk can go.
                file.sync_all().map_err(text)?;
                uncache(&file)?;
            }
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn uncache(file: &File) -> Result<(), String> {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).map_err(text)
}

#[cfg(not(target_os = "linux"))]
fn uncache(_file: &File) -> Result<(), String> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::types::{Lsn, PartitionId};
    use crate::wal::FrameKind;

    fn header(lsn: u64, body_len: u32) -> FrameHeader {
        FrameHeader {
            body_len,
            body_crc: 1,
            lsn: Lsn(lsn),
            log_id: 7,
            run: 1,
            partition: PartitionId(0),
            durable: Lsn(0),
            append_ms: 0,
            base_offset: 0,
            producer_id: -1,
            record_count: 1,
            base_sequence: -1,
            producer_epoch: -1,
            kind: FrameKind::Records,
            more: false,
            moved: false,
            ext_len: 0,
        }
    }

    #[test]
    fn sealed_files_keep_length_and_headers_and_lose_their_values() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("wal")).unwrap();
        std::fs::write(dir.path().join("FORMAT"), r#"{"version":1,"log_id":"7"}"#).unwrap();
        for file in 0..=NEWEST as u64 {
            let mut bytes = Vec::new();
            for _ in 0..3 {
                let start = bytes.len();
                let header = header(start as u64, 100_000);
                bytes.extend(header.encode());
                bytes.resize(start + header.disk_len() as usize, 0xab);
            }
            std::fs::write(dir.path().join(format!("wal/wal-{file:020}.log")), bytes).unwrap();
        }
        let mut sparse = Sparse::of(dir.path()).unwrap();
        let before = sparse.size().unwrap();
        sparse.punch().unwrap();
        sparse.punch().unwrap();
        let after = sparse.size().unwrap();
        assert_eq!((after.files, after.bytes), (before.files, before.bytes));
        let saved = before.on_disk - after.on_disk;
        assert!((270_000..300_000).contains(&saved), "one file of four: {saved}");
        let first = std::fs::read(dir.path().join(format!("wal/wal-{:020}.log", 0))).unwrap();
        let second = header(0, 100_000).disk_len() as usize;
        let kept: &[u8; HEADER_LEN] = first[second..].first_chunk().unwrap();
        assert_eq!(FrameHeader::decode(kept, 7).unwrap().lsn, Lsn(second as u64));
        assert!(first[second + 50_000..].iter().take(1_000).all(|byte| *byte == 0));
        forget(dir.path()).unwrap();
        std::fs::write(dir.path().join(format!("wal/wal-{:020}.log", 9)), [1; 200]).unwrap();
        std::fs::write(dir.path().join(format!("wal/wal-{:020}.log", 0)), [1; 200]).unwrap();
        assert!(Sparse::of(dir.path()).unwrap().punch().unwrap_err().contains("no frame at 0"));
    }
}
