//! The file layer: everything that must survive a power loss is written through it, so that
//! tests can take the power away (rules 3.7).
//!
//! Owns: the traits, the real implementation, durable whole-file writes. Does not own: what is
//! in the files. All calls block; call them from threads of their own or `spawn_blocking`.

mod disk;
pub mod power_loss;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use disk::Disk;

/// Names one kind of sync call, so that a test can take out exactly that one (rules 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncPoint {
    /// `fdatasync` of a group of frames.
    WalGroup,
    /// `fsync` of a new write-ahead log file with its zeros.
    WalFile,
    /// `fsync` of the folder of the write-ahead log.
    WalDir,
    /// `fsync` of the file that holds the run number.
    RunFile,
    /// `fsync` of the folder after the run file was replaced.
    RunDir,
    /// `fsync` of `FORMAT`.
    FormatFile,
    /// `fsync` of the folder after `FORMAT` was written.
    FormatDir,
    /// `fsync` of a metadata snapshot.
    SnapshotFile,
    /// `fsync` of the folder after a metadata snapshot was renamed.
    SnapshotDir,
    /// `fsync` of a Parquet, manifest, manifest list or metadata file.
    TableFile,
    /// `fsync` of the folder after such a file was renamed into place.
    TableDir,
    /// `fsync` of the parent of a newly made folder of a table.
    TableParentDir,
}

impl SyncPoint {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::WalGroup,
        Self::WalFile,
        Self::WalDir,
        Self::RunFile,
        Self::RunDir,
        Self::FormatFile,
        Self::FormatDir,
        Self::SnapshotFile,
        Self::SnapshotDir,
        Self::TableFile,
        Self::TableDir,
        Self::TableParentDir,
    ];
}

/// Most zeros that one write takes, bytes.
const ZEROS_BYTES: usize = 1 << 20;

/// Aligned as direct writes want it (`open(2)`, `O_DIRECT`), whatever the size of the disk's blocks.
#[repr(align(4096))]
struct Zeros([u8; ZEROS_BYTES]);

static ZEROS: Zeros = Zeros([0; ZEROS_BYTES]);

/// Room on the disk that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Size of the whole file system.
    pub total_bytes: u64,
}

/// A file system that may lose power.
pub trait FileSystem: Send + Sync + Debug {
    /// Creates `path` for reading and writing; fails if it exists.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Makes a folder and its parents; syncs nothing.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Replaces `to` by `from` atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives `from` the second name `to`; fails with `AlreadyExists` if `to` exists. With
    /// [`FileSystem::remove_file`] this is a rename that never overwrites.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, path: &Path, point: SyncPoint) -> io::Result<()>;
    /// Names of the entries of a folder, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// True if something is there.
    fn exists(&self, path: &Path) -> bool;
    /// Room on the disk below `path`.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;
}

/// An open file of a [`FileSystem`]. Positions and lengths are in bytes.
pub trait File: Send + Sync + Debug {
    /// Reads at most `buffer.len()` bytes at `position`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Appends the `length` bytes at `position` to `out`; fails with `UnexpectedEof` where the file
    /// ends too early, and `out` then holds any part of them. A file that can does not zero the
    /// room first.
    fn append_exact_at(&self, out: &mut Vec<u8>, length: usize, position: u64) -> io::Result<()> {
        let begin = out.len();
        let mut filled = begin;
        out.resize(begin + length, 0);
        while filled < out.len() {
            match self.read_at(&mut out[filled..], position + (filled - begin) as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(())
    }
    /// Writes all of `buffers` at `position`.
    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], position: u64) -> io::Result<()>;
    /// Writes `length` zeros at `position`, beside the page cache where the file can: nobody reads
    /// them. No other call may be under way on the file.
    fn write_zeros_at(&self, length: u64, position: u64) -> io::Result<()> {
        let end = position + length;
        let mut at = position;
        while at < end {
            let now = usize::try_from(end - at).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
            self.write_all_at(&mut [IoSlice::new(&ZEROS.0[..now])], at)?;
            at += now as u64;
        }
        Ok(())
    }
    /// `fdatasync`.
    fn sync_data(&self, point: SyncPoint) -> io::Result<()>;
    /// `fsync`.
    fn sync_all(&self, point: SyncPoint) -> io::Result<()>;
    /// Cuts or grows the file (growing leaves a hole that reads as zeros).
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Current length.
    fn length(&self) -> io::Result<u64>;
}

/// Fills `buffer` from `position`, or fails with `UnexpectedEof`.
///
/// # Errors
/// The file's error, or `UnexpectedEof` where it ends too early.
pub fn read_exact_at(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], position + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// Reads a whole file.
///
/// # Errors
/// The file system's error.
pub fn read_all(fs: &dyn FileSystem, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path)?;
    let length = usize::try_from(file.length()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces `path` by `bytes` so that after a power loss either the old or the new content is
/// there, whole: temporary name, sync, rename, sync of the folder.
///
/// # Errors
/// The file system's error; the old content then stays.
pub fn replace_durably(
    fs: &dyn FileSystem,
    path: &Path,
    bytes: &[u8],
    file_point: SyncPoint,
    dir_point: SyncPoint,
) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".tmp");
    let temporary = parent.join(name);
    if fs.exists(&temporary) {
        fs.remove_file(&temporary)?;
    }
    let file = fs.create_new(&temporary)?;
    file.write_all_at(&mut [IoSlice::new(bytes)], 0)?;
    file.sync_all(file_point)?;
    fs.rename(&temporary, path)?;
    fs.sync_dir(parent, dir_point)
}
