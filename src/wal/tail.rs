//! Writes in whole blocks. A file may be a recycled one that is not in memory: to write a part of
//! a block the kernel would first read the rest of it from the disk.
//!
//! Owns: the unfinished last block of the current file. Does not own: frames (see `group`).

use std::io::{self, IoSlice};

use crate::runtime::files::{File, read_exact_at};

/// Bytes of a page, and of a block of most file systems.
const BLOCK: usize = 4096;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What is written of the last block. The next write begins with it: the same bytes again, so
/// that a torn write cannot harm what was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
}

/// Bytes of the block before `at`.
fn begun(at: u64) -> usize {
    // Less than a block, so it fits.
    usize::try_from(at % BLOCK as u64).unwrap_or(0)
}

impl Tail {
    /// What `file` has of the block that `at`, an offset in it, is in.
    pub(crate) fn load(file: &dyn File, at: u64) -> io::Result<Self> {
        let begun = begun(at);
        let mut bytes = vec![0; begun];
        read_exact_at(file, &mut bytes, at - begun as u64)?;
        Ok(Self { bytes })
    }

    /// Writes `parts` one after another at the offset `at`, where the last write ended, and zeros
    /// up to the end of the block or of the file, `file_len`.
    pub(crate) fn write(
        &mut self,
        file: &dyn File,
        parts: &[&[u8]],
        at: u64,
        file_len: u64,
    ) -> io::Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let end = at + length as u64;
        let rest = (BLOCK - begun(end)) % BLOCK;
        let room = usize::try_from(file_len.saturating_sub(end)).unwrap_or(usize::MAX);
        let all = std::iter::once(self.bytes.as_slice())
            .chain(parts.iter().copied())
            .chain([&ZEROS[..rest.min(room)]]);
        let mut slices: Vec<_> = all.filter(|part| !part.is_empty()).map(IoSlice::new).collect();
        file.write_all_at(&mut slices, at - self.bytes.len() as u64)?;
        let mut kept = vec![0; begun(end)];
        let mut open = kept.len();
        for part in std::iter::once(self.bytes.as_slice()).chain(parts.iter().copied()).rev() {
            let taken = part.len().min(open);
            kept[open - taken..open].copy_from_slice(&part[part.len() - taken..]);
            open -= taken;
        }
        self.bytes = kept;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::files::{Disk, FileSystem};

    const FILE_LEN: usize = 3 * BLOCK + 100;

    fn stale_file(dir: &std::path::Path) -> Arc<dyn File> {
        let path = dir.join("file");
        std::fs::write(&path, vec![b'#'; FILE_LEN]).unwrap();
        Disk.open(&path).unwrap()
    }

    fn content(dir: &std::path::Path) -> Vec<u8> {
        std::fs::read(dir.join("file")).unwrap()
    }

    #[test]
    fn writes_follow_each_other_and_clear_the_rest_of_their_last_block() {
        let dir = tempfile::tempdir().unwrap();
        let file = stale_file(dir.path());
        let mut tail = Tail::default();
        let mut expected = vec![b'#'; FILE_LEN];
        let mut at = 0;
        for (number, length) in [1, 31, 4000, 64, 4096, 3000, 900, 200, 20].into_iter().enumerate()
        {
            if at + length > FILE_LEN {
                break;
            }
            let bytes = vec![u8::try_from(number).unwrap(); length];
            let (left, right) = bytes.split_at(length / 3);
            tail.write(&*file, &[left, &[], right], at as u64, FILE_LEN as u64).unwrap();
            expected[at..at + length].copy_from_slice(&bytes);
            at += length;
            let block_end = at.next_multiple_of(BLOCK).min(FILE_LEN);
            expected[at..block_end].fill(0);
            assert!(content(dir.path()) == expected, "after {number}");
            // A start in the middle of a block goes on the same way.
            tail = Tail::load(&*file, at as u64).unwrap();
        }
        assert!(at > 3 * BLOCK, "the last block of the file was reached");
    }

    #[test]
    fn a_write_starts_and_ends_at_a_block_where_the_file_allows() {
        #[derive(Debug)]
        struct Watched(std::sync::Mutex<Vec<(u64, usize)>>);
        impl File for Watched {
            fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
                Ok(0)
            }
            fn write_all_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
                self.0.lock().unwrap().push((at, parts.iter().map(|part| part.len()).sum()));
                Ok(())
            }
            fn sync_data(&self, _: crate::runtime::files::SyncPoint) -> io::Result<()> {
                Ok(())
            }
            fn sync_all(&self, _: crate::runtime::files::SyncPoint) -> io::Result<()> {
                Ok(())
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                Ok(())
            }
            fn length(&self) -> io::Result<u64> {
                Ok(FILE_LEN as u64)
            }
        }
        let file = Watched(std::sync::Mutex::default());
        let mut tail = Tail::default();
        for (at, length) in [(0, 100), (100, 4096), (4196, 3996), (8192, 4096), (12_288, 90)] {
            tail.write(&file, &[&vec![1; length]], at, FILE_LEN as u64).unwrap();
        }
        let seen = file.0.into_inner().unwrap();
        assert_eq!(seen, [(0, 4096), (0, 8192), (4096, 4096), (8192, 4096), (12_288, 100)]);
    }
}
