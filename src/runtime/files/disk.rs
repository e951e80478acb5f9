//! The real disk.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(target_os = "linux")]
use rustix::fs::OFlags;

use super::{DiskSpace, File, FileSystem, SyncPoint};
#[cfg(target_os = "linux")]
use super::{ZEROS, ZEROS_BYTES};

/// Slices handed to one `pwritev`; Linux takes at most 1,024.
const SLICES_PER_WRITE_MAX: usize = 1024;

/// The machine's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

#[derive(Debug)]
struct DiskFile(fs::File);

#[cfg(target_os = "linux")]
impl DiskFile {
    /// Writes zeros, up to the next whole piece of them.
    fn write_zeros(&self, length: u64, position: u64) -> io::Result<u64> {
        let left = ZEROS_BYTES as u64 - position % ZEROS_BYTES as u64;
        let now = usize::try_from(length.min(left)).unwrap_or(ZEROS_BYTES);
        self.write_all_at(&mut [IoSlice::new(&ZEROS.0[..now])], position)?;
        Ok(now as u64)
    }
}

impl FileSystem for Disk {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path, _point: SyncPoint) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(DiskSpace {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    fn append_exact_at(&self, out: &mut Vec<u8>, length: usize, position: u64) -> io::Result<()> {
        let begin = out.len();
        let end = begin + length;
        out.reserve_exact(length);
        while out.len() < end {
            let at = position + (out.len() - begin) as u64;
            match rustix::io::pread(&self.0, rustix::buffer::spare_capacity(out), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // There may have been more room than was asked for.
        out.truncate(end);
        Ok(())
    }

    fn write_all_at(&self, buffers: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut rest = buffers;
        let mut position = position;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let now = rest.len().min(SLICES_PER_WRITE_MAX);
            match rustix::io::pwritev(&self.0, &rest[..now], position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    position += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn write_zeros_at(&self, length: u64, position: u64) -> io::Result<()> {
        let end = position + length;
        let mut at = position;
        while at < end {
            let flags = rustix::fs::fcntl_getfl(&self.0)?;
            // A file system that has no direct writes says so here or when one comes; what else is
            // wrong, the write through the page cache tells.
            let is_direct = rustix::fs::fcntl_setfl(&self.0, flags | OFlags::DIRECT).is_ok();
            let written = self.write_zeros(end - at, at);
            rustix::fs::fcntl_setfl(&self.0, flags)?;
            at += match written {
                Err(_) if is_direct => self.write_zeros(end - at, at)?,
                written => written?,
            };
        }
        Ok(())
    }

    fn sync_data(&self, _point: SyncPoint) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self, _point: SyncPoint) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_written_at_any_place_and_leave_the_rest_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = Disk.create_new(&folder.path().join("f")).unwrap();
        file.write_all_at(&mut [IoSlice::new(b"abc")], 0).unwrap();
        let whole = 3 << 20;
        file.write_zeros_at(whole - 3, 3).unwrap();
        file.write_zeros_at(5, whole).unwrap();
        file.write_all_at(&mut [IoSlice::new(b"def")], 7).unwrap();
        let mut out = Vec::new();
        file.append_exact_at(&mut out, (3 << 20) + 5, 0).unwrap();
        assert_eq!((file.length().unwrap(), &out[..10]), (whole + 5, &b"abc\0\0\0\0def"[..]));
        assert!(out[10..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn bytes_are_appended_up_to_the_end_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = Disk.create_new(&folder.path().join("f")).unwrap();
        file.write_all_at(&mut [IoSlice::new(b"0123456789")], 0).unwrap();
        // Room that is there already must not make it read more.
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(b"x");
        file.append_exact_at(&mut out, 4, 3).unwrap();
        assert_eq!(out, b"x3456");
        file.append_exact_at(&mut out, 0, 10).unwrap();
        let error = file.append_exact_at(&mut out, 3, 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
