//! THE GUARD (rules 4.1, 4.2): may this ledger entry be committed to this table now? Pure.
//!
//! It walks from the head of `main` to parents. The newest marker of our topic and generation
//! decides, by commit id. The table property counts only where the walk ends at a snapshot that
//! the metadata no longer has, and the property's own snapshot is not one that was rolled back.

use iceberg::spec::{MAIN_BRANCH, TableMetadata};
use uuid::Uuid;

use crate::table::commit::marker;
use crate::table::commit::marker::{Ends, Marker, Seen, Source};
use crate::table::commit::newest;
use crate::table::commit::newest::Accepted;

/// What our ledger knows of a table.
#[derive(Debug, Clone, Copy)]
pub struct LedgerView<'a> {
    /// The writer.
    pub source: Source,
    /// The table that we wrote to so far.
    pub table_uuid: Uuid,
    /// Our last commit of this generation that is recorded as committed.
    pub last: Option<Uuid>,
    /// Ends after it.
    pub ends: &'a Ends,
    /// All attempts of the outstanding entry; empty if there is none.
    pub attempts: &'a [Uuid],
    /// What the resume that began this generation found; none for the first generation and for a
    /// table that began with this one.
    pub accepted: Option<Accepted>,
}

/// What the guard found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The table is where the ledger says: commit.
    Go,
    /// An attempt of the outstanding entry is in the table.
    Done {
        /// Which attempt.
        commit_id: Uuid,
        /// The snapshot that carries it; none if it has expired since.
        snapshot_id: Option<i64>,
    },
    /// The table holds a commit that the ledger does not know: a restored backup or a second
    /// copy of this data directory.
    LogBehind(String),
    /// The table lost commits that the ledger knows.
    RolledBack(String),
    /// Another table has the name.
    Replaced(Uuid),
    /// Table and ledger name the same commit and differ in what it held, or the table no longer
    /// says what it holds.
    LedgerGap(String),
}

/// Where the walk over parents ended without a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WalkEnd {
    Root,
    /// The oldest snapshot that is still there has a parent that is not.
    Expired {
        /// Its sequence number.
        oldest: i64,
    },
}

enum Walk {
    Found { marker: Marker, snapshot_id: i64 },
    Newer(u32),
    Unreadable(String),
    End(WalkEnd),
}

/// Decides by the newest marker (rules 4.1, 4.2).
pub fn evaluate(metadata: &TableMetadata, view: LedgerView<'_>) -> Verdict {
    if metadata.uuid() != view.table_uuid {
        return Verdict::Replaced(metadata.uuid());
    }
    if let Some(generation) = marker::newer_property(metadata.properties(), view.source) {
        return newer(generation, view.source);
    }
    let property = match marker::read_property(metadata.properties(), view.source) {
        Ok(property) => property,
        Err(text) => return Verdict::LedgerGap(text),
    };
    let verdict = match walk(metadata, view.source) {
        Walk::Newer(generation) => newer(generation, view.source),
        Walk::Unreadable(text) => Verdict::LedgerGap(text),
        Walk::Found { marker, snapshot_id } => found(&marker, snapshot_id, property, view),
        Walk::End(WalkEnd::Expired { oldest }) => expired(metadata, oldest, property, view),
        Walk::End(WalkEnd::Root) => {
            if view.last.is_some() || property.is_some() {
                Verdict::RolledBack("no snapshot of the table carries our last commit".to_owned())
            } else {
                Verdict::Go
            }
        }
    };
    match (verdict, view.accepted) {
        // Nothing of this generation is anywhere: then the branch must be where it was.
        (Verdict::Go, Some(accepted)) if view.last.is_none() => {
            newest::since_resume(metadata, accepted, view)
        }
        (verdict, _) => verdict,
    }
}

/// Whether the rows of the outstanding entry are in a dead-letter table already. That table has
/// no range of its own (rules 4.3), so it is never a reason to stop; `letters` counts a rollback.
pub fn evaluate_dead_letters(metadata: &TableMetadata, view: LedgerView<'_>) -> Verdict {
    let attempt = |marker: &Marker| view.attempts.contains(&marker.commit_id);
    let done =
        |marker: Marker, snapshot_id| Verdict::Done { commit_id: marker.commit_id, snapshot_id };
    match walk(metadata, view.source) {
        Walk::Found { marker, snapshot_id } if attempt(&marker) => done(marker, Some(snapshot_id)),
        Walk::End(WalkEnd::Expired { .. }) => {
            match marker::read_property(metadata.properties(), view.source) {
                Ok(Some(marker)) if attempt(&marker) => done(marker, None),
                _ => Verdict::Go,
            }
        }
        _ => Verdict::Go,
    }
}

fn newer(generation: u32, source: Source) -> Verdict {
    Verdict::LogBehind(format!(
        "the table has commits of generation {generation}, the ledger is at {}",
        source.generation
    ))
}

fn found(
    marker: &Marker,
    snapshot_id: i64,
    property: Option<Marker>,
    view: LedgerView<'_>,
) -> Verdict {
    if view.attempts.contains(&marker.commit_id) {
        return Verdict::Done { commit_id: marker.commit_id, snapshot_id: Some(snapshot_id) };
    }
    if Some(marker.commit_id) == view.last {
        return same_ends(marker, view);
    }
    // The property is not rolled back with the branch: if it still names what we know, then the
    // branch was moved back to an older commit of ours.
    let known = property.is_some_and(|property| {
        Some(property.commit_id) == view.last || view.attempts.contains(&property.commit_id)
    });
    if known {
        return Verdict::RolledBack(format!(
            "the newest of our commits in the table is {}, an older one than the ledger's last",
            marker.commit_id
        ));
    }
    Verdict::LogBehind(format!("the ledger does not know commit {}", marker.commit_id))
}

fn expired(
    metadata: &TableMetadata,
    oldest: i64,
    property: Option<Marker>,
    view: LedgerView<'_>,
) -> Verdict {
    // The property is not rolled back with the branch. Its snapshot is not on the branch as far as
    // that can be seen; one that came after what can be seen is not below it either.
    let id = property.as_ref().map(|marker| marker.commit_id);
    if newest::newer_than(metadata, oldest).any(|one| id.is_some_and(|id| newest::is_of(one, id))) {
        return Verdict::RolledBack("the branch was moved back past our newest commit".to_owned());
    }
    match property {
        None if view.last.is_none() => Verdict::Go,
        None => Verdict::LedgerGap(format!(
            "our snapshots have expired and the property {} is gone",
            view.source.property()
        )),
        Some(marker) if view.attempts.contains(&marker.commit_id) => {
            Verdict::Done { commit_id: marker.commit_id, snapshot_id: None }
        }
        Some(marker) if Some(marker.commit_id) == view.last => same_ends(&marker, view),
        Some(marker) => {
            Verdict::LogBehind(format!("the ledger does not know commit {}", marker.commit_id))
        }
    }
}

/// Ends are asserted besides the commit id: they can differ only by a defect.
fn same_ends(marker: &Marker, view: LedgerView<'_>) -> Verdict {
    if marker.ends == *view.ends {
        return Verdict::Go;
    }
    Verdict::LedgerGap(format!(
        "commit {} ends at {:?} in the table and at {:?} in the ledger",
        marker.commit_id, marker.ends, view.ends
    ))
}

fn walk(metadata: &TableMetadata, source: Source) -> Walk {
    let Some(mut snapshot) = metadata.snapshot_for_ref(MAIN_BRANCH) else {
        return Walk::End(WalkEnd::Root);
    };
    // Bounded by the number of snapshots: forged metadata may hold a cycle of parents.
    for _ in 0..=metadata.snapshots().len() {
        match marker::read_summary(&snapshot.summary().additional_properties, source) {
            Seen::Nothing => {}
            Seen::Newer(generation) => return Walk::Newer(generation),
            Seen::Unreadable(text) => return Walk::Unreadable(text),
            Seen::Ours(marker) => {
                return Walk::Found { marker, snapshot_id: snapshot.snapshot_id() };
            }
        }
        let Some(parent_id) = snapshot.parent_snapshot_id() else {
            return Walk::End(WalkEnd::Root);
        };
        match metadata.snapshot_by_id(parent_id) {
            Some(parent) => snapshot = parent,
            None => {
                let oldest = snapshot.sequence_number();
                return Walk::End(WalkEnd::Expired { oldest });
            }
        }
    }
    Walk::Unreadable("the parents of the table's snapshots form a cycle".to_owned())
}
