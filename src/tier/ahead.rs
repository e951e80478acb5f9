//! Columns are inferred from all partitions of a commit together: the first record of one
//! partition must not settle the type of a column that the next partition's would widen (rules
//! 5.3).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::log::Log;
use crate::log::StoredBatch;
use crate::runtime::background::at_low_priority;
use crate::schema::evolve::NewColumn;
use crate::tier::encode;
use crate::tier::encode::Job;
use crate::tier::round::Piece;

/// Partitions that are looked at.
const PARTITIONS_MAX: usize = 64;

/// What is read of each, in bytes.
const READ_BYTES: usize = 64 << 10;

/// What is read of all, in bytes.
const READ_BYTES_ALL: usize = 4 << 20;

/// The columns that `batches` of `job` and the first records of `others` wish for; empty where
/// that cannot be told.
pub(super) async fn columns(
    log: &Log,
    job: &Job,
    batches: &Arc<Vec<StoredBatch>>,
    others: &VecDeque<Piece>,
) -> Vec<NewColumn> {
    let mut groups = vec![(job.clone(), Arc::clone(batches))];
    let mut bytes = 0;
    for piece in others.iter().take(PARTITIONS_MAX) {
        if bytes >= READ_BYTES_ALL {
            break;
        }
        // What cannot be read now is met again when its turn comes.
        let Ok(slice) = log.read(piece.id, piece.from, READ_BYTES).await else { continue };
        bytes += slice.batches.iter().map(|batch| batch.bytes.len()).sum::<usize>();
        let job =
            Job { partition: piece.partition, from: piece.from, until: piece.until, ..job.clone() };
        groups.push((job, Arc::new(slice.batches)));
    }
    tokio::task::spawn_blocking(move || at_low_priority(|| encode::propose(&groups)))
        .await
        .unwrap_or_default()
}
