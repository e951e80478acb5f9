//! What a commit or a create makes of a table's metadata. Pure.

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{
    FormatVersion, Schema, Snapshot, SortOrder, TableMetadata, TableMetadataBuilder,
    UnboundPartitionSpec,
};
use iceberg::{ErrorKind, TableCreation, TableRequirement, TableUpdate};
use serde_json::json;
use uuid::Uuid;

use super::metadata::{self, MetadataFile, Previous};
use super::promotion;
use super::warehouse::Warehouse;
use crate::table::catalog::{Error, NewTable};

const FORMAT_VERSION: &str = "format-version";
const MAIN_BRANCH: &str = "main";
/// Ids of partition fields start at 1000 (Iceberg spec, "Partition Evolution").
const LAST_PARTITION_ID_NONE: i32 = 999;

/// A change of one table, ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    /// The new metadata file; none if nothing changes.
    pub(crate) file: Option<MetadataFile>,
    /// Metadata files that fell out of the table's log and may be deleted afterwards.
    pub(crate) expired: Vec<String>,
}

/// Checks `requirements` against the current metadata and applies `updates`.
///
/// # Errors
/// [`Error::Conflict`] for a failed requirement or a snapshot that another one overtook,
/// [`Error::Invalid`] for what can never be applied.
pub(crate) fn update(
    warehouse: &Warehouse,
    current: Previous<'_>,
    requirements: &[TableRequirement],
    updates: Vec<TableUpdate>,
) -> Result<Applied, Error> {
    let (base, location) = (current.metadata, current.location);
    for requirement in requirements {
        requirement.check(Some(base)).map_err(of_iceberg)?;
    }
    // A replaced table (`main` is removed first) starts over: its old files keep their schema.
    let replaces = updates.iter().any(
        |update| matches!(update, TableUpdate::RemoveSnapshotRef { ref_name } if ref_name == MAIN_BRANCH),
    );
    let mut builder = base.clone().into_builder(Some(location.to_owned()));
    for update in updates {
        check(base, &update, replaces)?;
        builder = apply(warehouse, builder, update)?;
    }
    let built = builder.build().map_err(of_iceberg)?;
    if built.changes.is_empty() {
        return Ok(Applied { file: None, expired: Vec::new() });
    }
    check_schemas(&built.metadata)?;
    let file = MetadataFile::new(&built.metadata, Some(current)).map_err(Error::Invalid)?;
    let log = built.expired_metadata_logs;
    let delete = built
        .metadata
        .properties()
        .get("write.metadata.delete-after-commit.enabled")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let expired = if delete {
        log.into_iter().map(|entry| entry.metadata_file).collect()
    } else {
        Vec::new()
    };
    Ok(Applied { file: Some(file), expired })
}

fn check(base: &TableMetadata, update: &TableUpdate, replaces: bool) -> Result<(), Error> {
    match update {
        TableUpdate::AssignUuid { uuid } if *uuid != base.uuid() => Err(Error::Invalid(format!(
            "assign-uuid: the table has UUID {}, which cannot be changed to {uuid}",
            base.uuid()
        ))),
        TableUpdate::AddSchema { schema } if !replaces => {
            promotion::check_evolution(base, schema).map_err(Error::Invalid)
        }
        TableUpdate::SetCurrentSchema { schema_id } if !replaces => {
            let schema = base.schema_by_id(*schema_id);
            schema
                .map_or(Ok(()), |schema| promotion::check_evolution(base, schema))
                .map_err(Error::Invalid)
        }
        TableUpdate::AddSnapshot { snapshot } => check_snapshot(base, snapshot),
        _ => Ok(()),
    }
}

/// Two writers of different branches pass each other's requirements but not the table's counters:
/// the second must build its snapshot again, so it is told of a conflict.
fn check_snapshot(base: &TableMetadata, snapshot: &Snapshot) -> Result<(), Error> {
    let version = base.format_version();
    let behind = version >= FormatVersion::V2
        && snapshot.parent_snapshot_id().is_some()
        && snapshot.sequence_number() <= base.last_sequence_number();
    if behind {
        return Err(Error::Conflict(format!(
            "snapshot {} has sequence number {}, the table is at {} already",
            snapshot.snapshot_id(),
            snapshot.sequence_number(),
            base.last_sequence_number()
        )));
    }
    match snapshot.row_range() {
        Some((first_row_id, _))
            if version >= FormatVersion::V3 && first_row_id < base.next_row_id() =>
        {
            Err(Error::Conflict(format!(
                "snapshot {} starts at row id {first_row_id}, the table is at {} already",
                snapshot.snapshot_id(),
                base.next_row_id()
            )))
        }
        _ => Ok(()),
    }
}

fn apply(
    warehouse: &Warehouse,
    builder: TableMetadataBuilder,
    update: TableUpdate,
) -> Result<TableMetadataBuilder, Error> {
    let (builder, update) = match update {
        TableUpdate::SetLocation { location } => {
            (builder, TableUpdate::SetLocation { location: warehouse.check(&location)? })
        }
        TableUpdate::SetProperties { mut updates } => {
            let version = take_format_version(&mut updates)?;
            metadata::is_gzip(&updates).map_err(Error::Invalid)?;
            let builder = match version {
                Some(version) => builder.upgrade_format_version(version).map_err(of_iceberg)?,
                None => builder,
            };
            (builder, TableUpdate::SetProperties { updates })
        }
        other => (builder, other),
    };
    update.apply(builder).map_err(of_iceberg)
}

fn check_schemas(metadata: &TableMetadata) -> Result<(), Error> {
    promotion::check_types(metadata.format_version(), metadata.current_schema())
        .map_err(Error::Invalid)
}

/// The metadata of a table that `new` describes, at `location`; `defaults` are properties that it
/// gets unless it names them. Field ids are assigned anew, from 1 (Iceberg spec, "Schemas").
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn create(
    new: &NewTable,
    location: String,
    defaults: &BTreeMap<String, String>,
) -> Result<TableMetadata, Error> {
    let mut properties: HashMap<String, String> =
        defaults.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    properties.extend(new.properties.clone());
    let version = take_format_version(&mut properties)?.unwrap_or(FormatVersion::V2);
    promotion::check_types(version, &new.schema).map_err(Error::Invalid)?;
    metadata::is_gzip(&properties).map_err(Error::Invalid)?;
    let creation = TableCreation::builder()
        .name(new.ident.name().to_owned())
        .location(location)
        .schema(new.schema.clone())
        .partition_spec_opt(new.spec.clone())
        .sort_order_opt(new.sort_order.clone())
        .properties(properties)
        .format_version(version)
        .build();
    let builder = TableMetadataBuilder::from_table_creation(creation).map_err(of_iceberg)?;
    Ok(builder.build().map_err(of_iceberg)?.metadata)
}

/// The metadata of a table that a commit with `assert-create` makes: the updates are all there
/// is. Ids stay as the client says, for its files may use them already.
///
/// # Errors
/// [`Error::Invalid`].
pub(crate) fn create_from_updates(
    warehouse: &Warehouse,
    default_location: String,
    defaults: &BTreeMap<String, String>,
    updates: Vec<TableUpdate>,
) -> Result<TableMetadata, Error> {
    let base = empty_table(default_location, defaults, &updates)?;
    let mut builder = TableMetadataBuilder::new_from_metadata(base, None);
    for update in updates {
        builder = apply(warehouse, builder, update)?;
    }
    let metadata = builder.build().map_err(of_iceberg)?.metadata;
    check_schemas(&metadata)?;
    Ok(metadata)
}

/// A table with the first schema and the first partition spec of `updates`, which then are
/// recognised as the ones that are there: the `iceberg` crate cannot start from nothing without
/// assigning new ids.
fn empty_table(
    location: String,
    defaults: &BTreeMap<String, String>,
    updates: &[TableUpdate],
) -> Result<TableMetadata, Error> {
    let mut version = FormatVersion::V2;
    let mut schema: Option<&Schema> = None;
    let mut spec: Option<&UnboundPartitionSpec> = None;
    let mut uuid = Uuid::now_v7();
    for update in updates {
        match update {
            TableUpdate::UpgradeFormatVersion { format_version } => version = *format_version,
            TableUpdate::AddSchema { schema: first } if schema.is_none() => schema = Some(first),
            TableUpdate::AddSpec { spec: first } if spec.is_none() => spec = Some(first),
            TableUpdate::AssignUuid { uuid: given } => uuid = *given,
            _ => {}
        }
    }
    let schema = schema
        .ok_or_else(|| Error::Invalid("a commit that creates a table needs add-schema".into()))?;
    let bad = |error: String| Error::Invalid(format!("cannot create the table: {error}"));
    let spec = spec.cloned().unwrap_or_default().with_spec_id(0);
    let spec = spec.bind(schema.clone()).map_err(of_iceberg)?;
    let last_partition_id = spec.highest_field_id().unwrap_or(LAST_PARTITION_ID_NONE);
    let mut schema_json = serde_json::to_value(schema).map_err(|error| bad(error.to_string()))?;
    schema_json["schema-id"] = 0.into();
    let mut table = json!({
        "format-version": version as u8,
        "table-uuid": uuid,
        "location": location,
        "last-sequence-number": 0,
        "last-updated-ms": 0,
        "last-column-id": schema.highest_field_id(),
        "current-schema-id": 0,
        "schemas": [schema_json],
        "default-spec-id": 0,
        "partition-specs": [spec],
        "last-partition-id": last_partition_id.max(LAST_PARTITION_ID_NONE),
        "default-sort-order-id": 0,
        "sort-orders": [SortOrder::unsorted_order()],
        "properties": defaults,
    });
    if version >= FormatVersion::V3 {
        table["next-row-id"] = 0.into();
    }
    serde_json::from_value(table).map_err(|error| bad(error.to_string()))
}

/// Takes the property `format-version` out, which is never stored.
fn take_format_version(
    properties: &mut HashMap<String, String>,
) -> Result<Option<FormatVersion>, Error> {
    let Some(version) = properties.remove(FORMAT_VERSION) else {
        return Ok(None);
    };
    match version.as_str() {
        "1" => Ok(Some(FormatVersion::V1)),
        "2" => Ok(Some(FormatVersion::V2)),
        "3" => Ok(Some(FormatVersion::V3)),
        _ => Err(Error::Invalid(format!(
            "property {FORMAT_VERSION} is {version:?}; 1, 2 and 3 are allowed"
        ))),
    }
}

fn of_iceberg(error: iceberg::Error) -> Error {
    match error.kind() {
        ErrorKind::CatalogCommitConflicts => Error::Conflict(error.to_string()),
        _ => Error::Invalid(error.message().to_owned()),
    }
}
