//! Dead letters that a person took away by moving the branch of their table back. That table has no
//! range of its own (rules 4.3), and its user may drop it: so nothing stops, but it is counted. Pure.

use std::collections::HashSet;

use iceberg::spec::{SnapshotRef, TableMetadata};
use uuid::Uuid;

use super::marker;
use super::marker::{Seen, Writer};
use super::newest::{branch, is_append, is_of, newest_property};

/// Commits of ours that are not on the branch of a dead-letter table any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenAway {
    /// The newest of them: the same rollback always names the same one.
    pub newest: Uuid,
    /// Their rows, as far as the table still has their snapshots.
    pub rows: u64,
}

/// What a rollback took out of a dead-letter table. `attempts` are those of the outstanding
/// commit: their rows are written again and are not lost.
pub fn taken_away(
    metadata: &TableMetadata,
    writer: Writer,
    attempts: &[Uuid],
) -> Option<TakenAway> {
    // The property is not rolled back with the branch.
    let newest = newest_property(metadata, writer)?.commit_id;
    let mut seen = HashSet::new();
    let mut oldest = i64::MAX;
    let (mut at_root, mut shows_ours) = (true, false);
    for snapshot in branch(metadata) {
        if is_of(snapshot, newest) {
            return None;
        }
        let summary = &snapshot.summary().additional_properties;
        shows_ours |= marker::read_any(summary, writer) != Seen::Nothing;
        at_root = snapshot.parent_snapshot_id().is_none();
        oldest = snapshot.sequence_number();
        seen.insert(snapshot.snapshot_id());
    }
    let own = metadata.snapshots().find(|one| is_append(one) && is_of(one, newest));
    // Below an older commit of ours, or below the root, it cannot lie; below what has expired it
    // may, unless it came later.
    let came_later = own.is_some_and(|own| own.sequence_number() > oldest);
    if !at_root && !shows_ours && !came_later {
        return None;
    }
    let Some(own) = own else {
        return (!attempts.contains(&newest)).then_some(TakenAway { newest, rows: 0 });
    };
    let parent = |one: &&SnapshotRef| metadata.snapshot_by_id(one.parent_snapshot_id()?);
    let lost = std::iter::successors(Some(own), parent)
        .take(metadata.snapshots().len())
        .take_while(|one| !seen.contains(&one.snapshot_id()))
        .filter(|one| is_append(one))
        .filter_map(|one| rows_of(one, writer))
        .filter(|(commit_id, _)| !attempts.contains(commit_id));
    lost.reduce(|(newest, rows), (_, more)| (newest, rows + more))
        .map(|(newest, rows)| TakenAway { newest, rows })
}

/// Commit id and dead letters of a snapshot of the topic.
fn rows_of(snapshot: &SnapshotRef, writer: Writer) -> Option<(Uuid, u64)> {
    let summary = &snapshot.summary().additional_properties;
    let Seen::Ours(marker) = marker::read_any(summary, writer) else { return None };
    let rows = summary.get(marker::DLQ_ROWS).and_then(|text| text.parse().ok());
    Some((marker.commit_id, rows.unwrap_or(0)))
}
