//! Metadata snapshots: all state but the offset index, from one consistent view, in one file
//! (rules 1.3).
//!
//! ```text
//! snapshots/snapshot-<20 digits lsn>.floe, integers little-endian
//!  0  magic "FLOESNAP"
//!  8  version u32 = 1 | run u32
//! 16  log_id u64 | lsn u64
//! 32  chunk *: length u32 > 0 | payload of a state frame (puts only)
//!     end:     length u32 = 0 | CRC-32C u32 of every byte before it
//! ```
//!
//! Owns: these files. Does not own: when one is due (`reclaim`), what is done with it
//! (`recover`).

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::runtime::files::{File, FileSystem, SyncPoint, read_exact_at};
use crate::store::db::View;
use crate::store::{Change, Error, Op, Space, codec, keys};
use crate::types::Lsn;

const MAGIC: &[u8; 8] = b"FLOESNAP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
/// A chunk is closed when its ops pass this many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Snapshots that are kept.
pub(crate) const KEPT: usize = 2;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) run: u32,
    pub(crate) log_id: u64,
    pub(crate) lsn: Lsn,
}

/// Why a snapshot is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Damaged(String),
    #[error("it belongs to another log")]
    OtherLog,
}

/// Writes a snapshot of `view` and returns its header; the file and its name are durable then.
pub(crate) fn write(
    fs: &dyn FileSystem,
    dir: &Path,
    view: &View,
    log_id: u64,
    run: u32,
) -> Result<Header, Error> {
    let lsn = match view.get(Space::Meta, keys::META_WAL_APPLIED)? {
        Some(value) => Lsn(keys::decode_u64(&value)?),
        None => Lsn(0),
    };
    let header = Header { run, log_id, lsn };
    let path = path_of(dir, lsn);
    let temporary = path.with_extension("tmp");
    let failed = |error: io::Error| Error::Failed(format!("snapshot {}: {error}", path.display()));
    if fs.exists(&temporary) {
        fs.remove_file(&temporary).map_err(failed)?;
    }
    let mut out = Writer::create(fs, &temporary, header).map_err(failed)?;
    write_spaces(&mut out, view, failed)?;
    out.finish().map_err(failed)?;
    fs.rename(&temporary, &path).map_err(failed)?;
    fs.sync_dir(dir, SyncPoint::SnapshotDir).map_err(failed)?;
    Ok(header)
}

fn write_spaces(
    out: &mut Writer,
    view: &View,
    failed: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    let mut chunk = Change::new();
    let mut bytes = 0;
    for space in Space::ALL.into_iter().filter(|space| *space != Space::Index) {
        for pair in view.iter(space) {
            let (key, value) = pair?;
            let internal = [keys::META_WAL_APPLIED, keys::META_LOG_ID].contains(&&*key);
            if space == Space::Meta && internal {
                continue;
            }
            bytes += key.len() + value.len();
            chunk.ops.push(Op { space, key: key.to_vec(), value: Some(value.to_vec()) });
            if bytes >= CHUNK_BYTES {
                out.chunk(&std::mem::take(&mut chunk)).map_err(&failed)?;
                bytes = 0;
            }
        }
    }
    if !chunk.ops.is_empty() {
        out.chunk(&chunk).map_err(&failed)?;
    }
    Ok(())
}

/// Snapshots in `dir`, newest first, whatever their state.
pub(crate) fn list(fs: &dyn FileSystem, dir: &Path) -> io::Result<Vec<(Lsn, PathBuf)>> {
    let mut found: Vec<_> =
        fs.list(dir)?.into_iter().filter_map(|path| Some((lsn_of(&path)?, path))).collect();
    found.sort_by_key(|(lsn, _)| std::cmp::Reverse(*lsn));
    Ok(found)
}

/// Headers of the good snapshots in `dir`, newest first; a damaged one is named and skipped.
pub(crate) fn good(fs: &dyn FileSystem, dir: &Path, log_id: u64) -> Result<Vec<Header>, Error> {
    let failed = |error: io::Error| Error::Failed(format!("{}: {error}", dir.display()));
    let mut good = Vec::new();
    for (lsn, path) in list(fs, dir).map_err(failed)? {
        match read(fs, &path, log_id, |_| Ok(())) {
            Ok(header) if header.lsn == lsn => good.push(header),
            Ok(_) => tracing::warn!(path = %path.display(), "skipped a snapshot with a wrong name"),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "skipped a metadata snapshot");
            }
        }
    }
    Ok(good)
}

/// Removes all but the newest [`KEPT`] of `good`, and whatever else is older than those.
pub(crate) fn remove_older(fs: &dyn FileSystem, dir: &Path, oldest_kept: Lsn) -> io::Result<()> {
    for (lsn, path) in list(fs, dir)? {
        if lsn < oldest_kept {
            fs.remove_file(&path)?;
        }
    }
    Ok(())
}

/// Path of the snapshot at `lsn`.
pub(crate) fn path_of(dir: &Path, lsn: Lsn) -> PathBuf {
    dir.join(format!("snapshot-{:020}.floe", lsn.0))
}

fn lsn_of(path: &Path) -> Option<Lsn> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_prefix("snapshot-")?.strip_suffix(".floe")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Lsn)).flatten()
}

/// Reads a snapshot chunk by chunk. Only when it returns a header were the chunks good: read it
/// once with an idle `visit` before anything is done with them.
pub(crate) fn read(
    fs: &dyn FileSystem,
    path: &Path,
    log_id: u64,
    mut visit: impl FnMut(Change) -> Result<(), Error>,
) -> Result<Header, Unusable> {
    let mut input = Reader::open(fs, path)?;
    let header = input.header()?;
    if header.log_id != log_id {
        return Err(Unusable::OtherLog);
    }
    while let Some(payload) = input.chunk()? {
        let damaged = |error: &dyn std::fmt::Display| Unusable::Damaged(error.to_string());
        let change = codec::decode(&payload).map_err(|error| damaged(&error))?;
        visit(change).map_err(|error| damaged(&error))?;
    }
    Ok(header)
}

struct Writer {
    file: Arc<dyn File>,
    position: u64,
    crc: crc_fast::Digest,
}

impl Writer {
    fn create(fs: &dyn FileSystem, path: &Path, header: Header) -> io::Result<Self> {
        let file = fs.create_new(path)?;
        let mut out = Self { file, position: 0, crc: digest() };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&header.run.to_le_bytes());
        bytes.extend_from_slice(&header.log_id.to_le_bytes());
        bytes.extend_from_slice(&header.lsn.0.to_le_bytes());
        out.put(&bytes)?;
        Ok(out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.file.write_all_at(&mut [IoSlice::new(bytes)], self.position)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn chunk(&mut self, change: &Change) -> io::Result<()> {
        let payload = codec::encode(change);
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        self.put(&length.to_le_bytes())?;
        self.put(&payload)
    }

    fn finish(mut self) -> io::Result<()> {
        self.put(&0u32.to_le_bytes())?;
        let crc = crc_of(&self.crc);
        self.put(&crc.to_le_bytes())?;
        self.file.sync_all(SyncPoint::SnapshotFile)
    }
}

struct Reader {
    file: Arc<dyn File>,
    position: u64,
    length: u64,
    crc: crc_fast::Digest,
}

impl Reader {
    fn open(fs: &dyn FileSystem, path: &Path) -> io::Result<Self> {
        let file = fs.open(path)?;
        let length = file.length()?;
        Ok(Self { file, position: 0, length, crc: digest() })
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, Unusable> {
        if length as u64 > self.length - self.position {
            return Err(Unusable::Damaged(format!("it ends at {}", self.length)));
        }
        let mut bytes = vec![0; length];
        read_exact_at(&*self.file, &mut bytes, self.position)?;
        self.position += length as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Unusable> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(std::array::from_fn(|i| bytes[i])))
    }

    fn header(&mut self) -> Result<Header, Unusable> {
        let bytes = self.take(HEADER_BYTES)?;
        self.crc.update(&bytes);
        if &bytes[..8] != MAGIC {
            return Err(Unusable::Damaged("it has no magic".to_owned()));
        }
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        if half(8) != VERSION {
            return Err(Unusable::Damaged(format!("it has version {}", half(8))));
        }
        Ok(Header { run: half(12), log_id: word(16), lsn: Lsn(word(24)) })
    }

    /// The next chunk, or none after the last one if the CRC of everything holds.
    fn chunk(&mut self) -> Result<Option<Vec<u8>>, Unusable> {
        let length = self.u32()?;
        self.crc.update(&length.to_le_bytes());
        if length != 0 {
            let payload = self.take(length as usize)?;
            self.crc.update(&payload);
            return Ok(Some(payload));
        }
        let expected = crc_of(&self.crc);
        let stored = self.u32()?;
        if stored != expected {
            return Err(Unusable::Damaged(format!("its CRC is {stored:#x}, not {expected:#x}")));
        }
        if self.position != self.length {
            return Err(Unusable::Damaged("it has bytes after its end".to_owned()));
        }
        Ok(None)
    }
}

fn digest() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

fn crc_of(digest: &crc_fast::Digest) -> u32 {
    // A 32-bit CRC in a wider word.
    digest.finalize() as u32
}
