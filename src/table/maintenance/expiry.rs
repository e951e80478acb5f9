//! Which snapshots a table no longer needs.

use std::collections::{HashMap, HashSet};

use iceberg::spec::{
    MAIN_BRANCH, Snapshot, SnapshotReference, SnapshotRetention, TableMetadata, TableProperties,
};
use iceberg::{TableRequirement, TableUpdate};
use serde::Deserialize;

use crate::table::Error;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How many snapshots stay. Table properties `history.expire.min-snapshots-to-keep` and
/// `history.expire.max-snapshot-age-ms`, and the retention of a branch, win over it.
#[derive(Debug, Clone, Copy)]
pub struct ExpiryPolicy {
    /// The newest this many of each branch stay, whatever their age; at least 1.
    pub keep_min: usize,
    /// Beyond `keep_min`, snapshots older than this go.
    pub age_max_ms: i64,
    /// Of each branch at most this many stay, whatever their age. Once there are more a tenth goes, as
    /// each expiry reads all manifest lists.
    pub keep_max: usize,
    /// Nothing is done before this many can go, for the same reason.
    pub batch_min: usize,
    /// At most this many go at once, the oldest first.
    pub batch_max: usize,
}

impl Default for ExpiryPolicy {
    fn default() -> Self {
        Self {
            keep_min: 10,
            age_max_ms: 5 * DAY_MS,
            keep_max: 1000,
            batch_min: 20,
            batch_max: 1000,
        }
    }
}

/// Snapshots to remove, and how to commit it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpiryPlan {
    /// Ids of the snapshots that go, oldest first.
    pub expired: Vec<i64>,
    /// The table's UUID and the snapshot of every reference.
    pub requirements: Vec<TableRequirement>,
    /// Removes the snapshots and their statistics.
    pub updates: Vec<TableUpdate>,
}

/// The branches and tags of a table (the crate keeps them to itself).
///
/// # Errors
/// [`Error::Invalid`] if the metadata does not serialise.
pub fn references(metadata: &TableMetadata) -> Result<HashMap<String, SnapshotReference>, Error> {
    #[derive(Deserialize)]
    struct References {
        #[serde(default)]
        refs: HashMap<String, SnapshotReference>,
    }
    let invalid = |e: serde_json::Error| Error::Invalid(format!("table metadata: {e}"));
    let text = serde_json::to_vec(metadata).map_err(invalid)?;
    let references: References = serde_json::from_slice(&text).map_err(invalid)?;
    Ok(references.refs)
}

/// Plans an expiry at `now_ms`; none if there is too little to do, or `gc.enabled` is false.
///
/// Stays: what a tag names; of each branch the newest `keep_min`, and of the rest those that are
/// young enough while there are not more than `keep_max`; snapshots that no reference reaches
/// while they are young; and the newest snapshot of main that `is_marker` knows, for it proves
/// what the table holds. References are never removed.
///
/// Serialises the metadata once to find the references: call it every few commits, not on each.
///
/// # Errors
/// [`Error::Invalid`] if the metadata or its properties make no sense.
pub fn plan_expiry(
    metadata: &TableMetadata,
    policy: &ExpiryPolicy,
    now_ms: i64,
    is_marker: impl Fn(&Snapshot) -> bool,
) -> Result<Option<ExpiryPlan>, Error> {
    let policy = with_properties(policy, metadata)?;
    let Some(policy) = policy else {
        return Ok(None);
    };
    if metadata.snapshots().len() < policy.batch_min.saturating_add(1) {
        return Ok(None);
    }
    let policy = with_room(policy, metadata.snapshots().len());
    let references = references(metadata)?;
    let mut kept: HashSet<i64> = HashSet::new();
    let mut reached: HashSet<i64> = HashSet::new();
    for reference in references.values() {
        keep_of_reference(metadata, reference, &policy, now_ms, &mut kept, &mut reached);
    }
    let main = references.get(MAIN_BRANCH).map(|reference| reference.snapshot_id);
    kept.extend(newest_marker(metadata, main, is_marker));

    let mut expired: Vec<&Snapshot> = metadata
        .snapshots()
        .map(AsRef::as_ref)
        .filter(|snapshot| {
            let id = snapshot.snapshot_id();
            let young = !is_old(snapshot, policy.age_max_ms, now_ms);
            !kept.contains(&id) && (reached.contains(&id) || !young)
        })
        .collect();
    if expired.len() < policy.batch_min.max(1) {
        return Ok(None);
    }
    expired.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.timestamp_ms()));
    expired.truncate(policy.batch_max);
    let expired: Vec<i64> = expired.into_iter().map(Snapshot::snapshot_id).collect();
    Ok(Some(ExpiryPlan {
        requirements: requirements(metadata, &references),
        updates: updates(metadata, &expired),
        expired,
    }))
}

/// The newest marker of main; behind a gap that an earlier expiry left in the line of parents, the
/// newest one there is.
fn newest_marker(
    metadata: &TableMetadata,
    main: Option<i64>,
    is_marker: impl Fn(&Snapshot) -> bool,
) -> Option<i64> {
    let of_main = ancestors(metadata, main).find(|snapshot| is_marker(snapshot));
    let newest = || {
        let markers = metadata.snapshots().map(AsRef::as_ref).filter(|s| is_marker(s));
        markers.max_by_key(|snapshot| snapshot.sequence_number())
    };
    of_main.or_else(newest).map(Snapshot::snapshot_id)
}

/// The policy under the table's properties; none if the table forbids to remove anything.
fn with_properties(
    policy: &ExpiryPolicy,
    metadata: &TableMetadata,
) -> Result<Option<ExpiryPolicy>, Error> {
    let properties = metadata.properties();
    if properties.get(TableProperties::PROPERTY_GC_ENABLED).is_some_and(|text| text == "false") {
        return Ok(None);
    }
    let number = |key: &str| -> Result<Option<i64>, Error> {
        let Some(text) = properties.get(key) else {
            return Ok(None);
        };
        let number = text.parse::<i64>().ok().filter(|number| *number >= 0);
        let invalid = || Error::Invalid(format!("table property {key} is {text:?}, not a number"));
        number.map(Some).ok_or_else(invalid)
    };
    let mut policy = *policy;
    if let Some(keep_min) = number(TableProperties::PROPERTY_MIN_SNAPSHOTS_TO_KEEP)? {
        policy.keep_min = usize::try_from(keep_min).unwrap_or(usize::MAX);
        // Who asks for more than our cap means it.
        policy.keep_max = policy.keep_max.max(policy.keep_min);
    }
    if let Some(age_max_ms) = number(TableProperties::PROPERTY_MAX_SNAPSHOT_AGE_MS)? {
        policy.age_max_ms = age_max_ms;
    }
    policy.keep_min = policy.keep_min.max(1);
    Ok(Some(policy))
}

/// The policy that makes room for commits to come, if a table has more snapshots than may stay.
pub(super) fn with_room(policy: ExpiryPolicy, snapshots: usize) -> ExpiryPolicy {
    let ExpiryPolicy { keep_min, keep_max, .. } = policy;
    if snapshots <= keep_max {
        return policy;
    }
    ExpiryPolicy { keep_max: (keep_max - keep_max / 10).max(keep_min), ..policy }
}

fn keep_of_reference(
    metadata: &TableMetadata,
    reference: &SnapshotReference,
    policy: &ExpiryPolicy,
    now_ms: i64,
    kept: &mut HashSet<i64>,
    reached: &mut HashSet<i64>,
) {
    kept.insert(reference.snapshot_id);
    reached.insert(reference.snapshot_id);
    let SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } =
        &reference.retention
    else {
        return;
    };
    let keep_min = min_snapshots_to_keep
        .map_or(policy.keep_min, |keep_min| usize::try_from(keep_min).unwrap_or(1).max(1));
    let age_max_ms = max_snapshot_age_ms.unwrap_or(policy.age_max_ms);
    for (place, snapshot) in ancestors(metadata, Some(reference.snapshot_id)).enumerate() {
        reached.insert(snapshot.snapshot_id());
        let young = !is_old(snapshot, age_max_ms, now_ms);
        if place < keep_min || (young && place < policy.keep_max) {
            kept.insert(snapshot.snapshot_id());
        }
    }
}

fn is_old(snapshot: &Snapshot, age_max_ms: i64, now_ms: i64) -> bool {
    snapshot.timestamp_ms() < now_ms.saturating_sub(age_max_ms)
}

/// From `tip` over the parents, as far as the metadata knows them.
pub(super) fn ancestors(
    metadata: &TableMetadata,
    tip: Option<i64>,
) -> impl Iterator<Item = &Snapshot> {
    let mut next = tip;
    // A ring of parents must not hang us.
    let mut steps_left = metadata.snapshots().len();
    std::iter::from_fn(move || {
        let snapshot = metadata.snapshot_by_id(next?)?;
        steps_left = steps_left.checked_sub(1)?;
        next = snapshot.parent_snapshot_id();
        Some(snapshot.as_ref())
    })
}

fn requirements(
    metadata: &TableMetadata,
    references: &HashMap<String, SnapshotReference>,
) -> Vec<TableRequirement> {
    let mut names: Vec<&String> = references.keys().collect();
    names.sort();
    let of_references = names.into_iter().map(|name| TableRequirement::RefSnapshotIdMatch {
        r#ref: name.clone(),
        snapshot_id: references.get(name).map(|reference| reference.snapshot_id),
    });
    std::iter::once(TableRequirement::UuidMatch { uuid: metadata.uuid() })
        .chain(of_references)
        .collect()
}

fn updates(metadata: &TableMetadata, expired: &[i64]) -> Vec<TableUpdate> {
    let mut updates = vec![TableUpdate::RemoveSnapshots { snapshot_ids: expired.to_vec() }];
    for id in expired {
        if metadata.statistics_for_snapshot(*id).is_some() {
            updates.push(TableUpdate::RemoveStatistics { snapshot_id: *id });
        }
        if metadata.partition_statistics_for_snapshot(*id).is_some() {
            updates.push(TableUpdate::RemovePartitionStatistics { snapshot_id: *id });
        }
    }
    updates
}
