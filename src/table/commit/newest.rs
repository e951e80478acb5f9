//! What a table itself says of a topic's rows, for a resume to go on from, and whether its branch
//! is still where that resume found it (rules 4.2, 4.4). Pure.

use iceberg::spec::{MAIN_BRANCH, Operation, SnapshotRef, TableMetadata};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::guard::{LedgerView, Verdict};
use super::marker;
use super::marker::{Ends, Marker, Seen, Writer};

/// The branch as a resume found it. Until the new generation has a commit of its own, this is
/// what the guard compares the table with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its head; none where it had no snapshot.
    pub snapshot_id: Option<i64>,
    /// The newest of our commits on it, of whatever generation; none where the table told of none.
    pub commit_id: Option<Uuid>,
}

/// What a table says of a topic's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Where it was looked at.
    pub accepted: Accepted,
    /// Ends by partition; none where no commit of the topic is known.
    pub ends: Option<Ends>,
    /// The whole branch is there to be seen: without ends it holds nothing of ours.
    pub at_root: bool,
}

/// The newest marker of the branch, of whatever generation, else the property of the newest
/// generation less what is known to be rolled back.
pub fn newest(metadata: &TableMetadata, writer: Writer) -> Newest {
    let snapshot_id = metadata.snapshot_for_ref(MAIN_BRANCH).map(|head| head.snapshot_id());
    let mut found = Newest {
        accepted: Accepted { snapshot_id, commit_id: None },
        ends: None,
        at_root: snapshot_id.is_none(),
    };
    let mut oldest = i64::MAX;
    for snapshot in branch(metadata) {
        let summary = &snapshot.summary().additional_properties;
        if let Seen::Ours(marker) = marker::read_any(summary, writer) {
            found.accepted.commit_id = Some(marker.commit_id);
            found.ends = Some(marker.ends);
            return found;
        }
        found.at_root = snapshot.parent_snapshot_id().is_none();
        oldest = snapshot.sequence_number();
    }
    // What the property says was rolled back if the branch is known to its root.
    if !found.at_root
        && let Some(property) = newest_property(metadata, writer)
    {
        less_lost(metadata, oldest, writer, property, &mut found);
    }
    found
}

/// What came after the oldest snapshot of the branch and is not on it was rolled back: the
/// property is not.
fn less_lost(
    metadata: &TableMetadata,
    oldest: i64,
    writer: Writer,
    property: Marker,
    found: &mut Newest,
) {
    let mut ends = property.ends;
    found.accepted.commit_id = Some(property.commit_id);
    for lost in newer_than(metadata, oldest) {
        if is_of(lost, property.commit_id) {
            found.accepted.commit_id = None;
        }
        let summary = &lost.summary().additional_properties;
        for (partition, start) in marker::starts_of(summary, writer) {
            ends.entry(partition).and_modify(|end| *end = start.min(*end));
        }
    }
    found.ends = Some(ends);
}

/// Whether the branch is still where the resume found it, for a ledger whose generation has no
/// commit, neither in the ledger nor on the branch.
pub(super) fn since_resume(
    metadata: &TableMetadata,
    accepted: Accepted,
    view: LedgerView<'_>,
) -> Verdict {
    let writer = view.source.writer;
    let mut at_root = true;
    for snapshot in branch(metadata) {
        if Some(snapshot.snapshot_id()) == accepted.snapshot_id {
            return Verdict::Go;
        }
        match marker::read_any(&snapshot.summary().additional_properties, writer) {
            Seen::Ours(marker) if Some(marker.commit_id) == accepted.commit_id => {
                return Verdict::Go;
            }
            Seen::Ours(marker) => return moved(&marker, view.ends),
            Seen::Unreadable(text) => return Verdict::LedgerGap(text),
            Seen::Nothing | Seen::Newer(_) => {}
        }
        at_root = snapshot.parent_snapshot_id().is_none();
    }
    if at_root {
        return match accepted.commit_id {
            None => Verdict::Go,
            Some(id) => Verdict::RolledBack(format!(
                "the branch was moved again after the resume: commit {id} is not on it any more"
            )),
        };
    }
    let property = newest_property(metadata, writer).map(|marker| marker.commit_id);
    if property == accepted.commit_id {
        return Verdict::Go;
    }
    Verdict::LedgerGap(
        "the snapshots that the resume saw have expired before the first commit after it, and a \
         property of the table names a commit that was not on the branch then"
            .to_owned(),
    )
}

/// Another commit of ours than the resume saw is the newest of the branch.
fn moved(marker: &Marker, ends: &Ends) -> Verdict {
    let id = marker.commit_id;
    let is_beyond = |(partition, end): (&i32, &i64)| ends.get(partition).unwrap_or(&0) < end;
    if marker.ends.iter().any(is_beyond) {
        return Verdict::LedgerGap(format!(
            "the branch was moved after the resume: with commit {id} it holds rows again that \
             would be written a second time"
        ));
    }
    Verdict::RolledBack(format!(
        "the branch was moved again after the resume: the newest of our commits is now {id}"
    ))
}

/// Snapshots of the branch, newest first, as far as the metadata has them. Bounded by their
/// number: forged metadata may hold a cycle of parents.
pub(super) fn branch(metadata: &TableMetadata) -> impl Iterator<Item = &SnapshotRef> {
    let head = metadata.snapshot_for_ref(MAIN_BRANCH);
    let parent = |snapshot: &&SnapshotRef| metadata.snapshot_by_id(snapshot.parent_snapshot_id()?);
    std::iter::successors(head, parent).take(metadata.snapshots().len())
}

/// The property of the newest generation of the topic, if it can be read.
pub(super) fn newest_property(metadata: &TableMetadata, writer: Writer) -> Option<Marker> {
    let prefix = writer.property_prefix();
    let (_, value) = metadata
        .properties()
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.parse::<u32>().ok()?, value)))
        .max_by_key(|(generation, _)| *generation)?;
    serde_json::from_str(value).ok()
}

/// True if `snapshot` was made by the attempt `commit_id`.
pub(super) fn is_of(snapshot: &SnapshotRef, commit_id: Uuid) -> bool {
    snapshot.summary().additional_properties.get(marker::COMMIT_ID) == Some(&commit_id.to_string())
}

/// The appends that were made after the snapshot with this sequence number (others only carry a
/// marker forward). Those of a table of format version 1 cannot be told.
pub(super) fn newer_than(
    metadata: &TableMetadata,
    sequence_number: i64,
) -> impl Iterator<Item = &SnapshotRef> {
    metadata
        .snapshots()
        .filter(move |snapshot| snapshot.sequence_number() > sequence_number && is_append(snapshot))
}

/// True if `snapshot` brought rows.
pub(super) fn is_append(snapshot: &SnapshotRef) -> bool {
    snapshot.summary().operation == Operation::Append
}
