//! Folders that are there after a power loss.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::runtime::files::{FileSystem, SyncPoint};

/// Remembered folders; more make it forget all, which costs one more sync per folder.
const KNOWN_MAX: usize = 4096;

/// Folders whose entry in their parent this process has synced.
#[derive(Debug, Default)]
pub(super) struct Folders {
    known: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    /// Makes `folder` and its parents and syncs the parents of all that were not there.
    ///
    /// The lock is held over the syncs: a second writer must not take a folder for durable that
    /// the first has made and not yet synced. Blocks.
    pub(super) fn ensure(&self, files: &dyn FileSystem, folder: &Path) -> io::Result<()> {
        let mut known = self.known.lock();
        if known.contains(folder) && files.exists(folder) {
            return Ok(());
        }
        // From `folder` upwards; `folder` itself is always synced once, since another process
        // (or a failed call) may have made it without.
        let mut unsynced = vec![folder];
        let mut at = folder;
        while !files.exists(at) {
            let Some(parent) = at.parent() else { break };
            if !files.exists(parent) {
                unsynced.push(parent);
            }
            at = parent;
        }
        files.create_dir_all(folder)?;
        for made in unsynced.iter().rev() {
            if let Some(parent) = made.parent() {
                files.sync_dir(parent, SyncPoint::TableParentDir)?;
            }
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(folder.to_owned());
        Ok(())
    }
}
