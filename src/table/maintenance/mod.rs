//! What goes away: old snapshots, and the files that only they reach.
//!
//! Owns: the choice of snapshots (pure), the search for files that nothing else reaches, deletion
//! with bounded concurrency. Does not own: the commit, nor when it is time. Order matters and is
//! the caller's: plan, list files, commit, and only then delete.

mod expiry;
mod unreachable;

use futures::StreamExt;
use iceberg::io::FileIO;

pub use expiry::{ExpiryPlan, ExpiryPolicy, plan_expiry, references};
pub use unreachable::unreachable_files;

/// Deletions in flight at once.
const DELETES_MAX: usize = 8;

/// What became of files to delete.
#[derive(Debug, Default)]
pub struct DeleteReport {
    /// Files that are gone now, those that were gone before included.
    pub deleted: usize,
    /// Files that are still there, with the reason.
    pub failed: Vec<(String, String)>,
}

/// Deletes `paths`. A file that is not there counts as deleted; one that cannot be deleted is
/// reported and skipped, for a stray file is no reason to fail what has been committed.
pub async fn delete_files(file_io: &FileIO, paths: &[String]) -> DeleteReport {
    let mut report = DeleteReport::default();
    // Owned items: borrowed ones would make the future of no use to `spawn`.
    let mut results = futures::stream::iter(paths.to_vec())
        .map(|path| {
            let file_io = file_io.clone();
            async move {
                let result = file_io.delete(&path).await;
                (path, result)
            }
        })
        .buffer_unordered(DELETES_MAX);
    while let Some((path, result)) = results.next().await {
        match result {
            Ok(()) => report.deleted += 1,
            Err(error) => report.failed.push((path, error.to_string())),
        }
    }
    if let Some((path, reason)) = report.failed.first() {
        let failed = report.failed.len();
        tracing::warn!(failed, path, reason, "files of a table could not be deleted");
    }
    report
}

#[cfg(test)]
mod tests;
