//! Changes of a table's schema and partition spec: guarded commits of their own, before the
//! rows that need them are written (rules 4.7).

use std::collections::HashMap;
use std::time::Duration;

use iceberg::TableRequirement;
use iceberg::TableUpdate;
use iceberg::spec::Schema;
use iceberg::spec::TableMetadata;
use iceberg::spec::UnboundPartitionSpec;
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::runtime::metrics;
use crate::schema;
use crate::schema::evolve::NewColumn;
use crate::schema::partition_spec::BindError;
use crate::schema::partition_spec::SpecText;
use crate::store::Change;
use crate::table::catalog;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::TableChange;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::ledger::StopState;
use crate::tier::restore;

/// After a table's owner refused columns of ours they are asked for again when its schema changes,
/// or after this.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// Names of new columns in a log line; the count says how many there are.
const NAMES_LOGGED_MAX: usize = 20;

/// Tables whose owners refused columns of ours; one entry a table.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Uuid, Refused>>);

#[derive(Debug)]
struct Refused {
    /// The schema that the table had, and keeps.
    schema_id: i32,
    at: Instant,
    /// What its owner, or its catalog, said.
    reason: String,
}

impl Refusals {
    /// True if there is reason to ask: it was not refused for this schema of late.
    fn may_ask(&self, table: Uuid, schema_id: i32, now: Instant) -> bool {
        let refusals = self.0.lock();
        let known = refusals.get(&table).filter(|refused| refused.schema_id == schema_id);
        known.is_none_or(|refused| now - refused.at >= ASK_AGAIN)
    }

    /// Takes note of a refusal; true if it is the first one for this schema.
    fn note(&self, table: Uuid, schema_id: i32, now: Instant, reason: String) -> bool {
        let refused = Refused { schema_id, at: now, reason };
        let before = self.0.lock().insert(table, refused);
        before.is_none_or(|before| before.schema_id != schema_id)
    }

    /// The table has all columns of ours.
    fn forget(&self, table: Uuid) {
        self.0.lock().remove(&table);
    }

    /// Why the table lacks columns of ours, if it does.
    pub(super) fn reason(&self, table: Uuid) -> Option<String> {
        self.0.lock().get(&table).map(|refused| refused.reason.clone())
    }
}

/// Adds `columns` to the table and gives it as it is afterwards. After a conflict or an unknown
/// answer it only reloads: the caller decodes again by what the table has then, which also takes
/// up columns that somebody else added.
///
/// # Errors
/// [`Halt`].
pub(super) async fn add_columns(
    context: &Context,
    base: &LoadedTable,
    columns: &[NewColumn],
) -> Result<LoadedTable, Halt> {
    let metadata = &base.metadata;
    let wanted =
        schema::evolve::apply(metadata.current_schema(), metadata.last_column_id(), columns);
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(schema::Error::NewColumn { name, reason }) => {
            tracing::debug!(table = %base.ident, column = name, reason, "reloading the schema");
            return Ok(context.catalog.load(&base.ident).await?);
        }
        Err(error) => return Err(Halt::Stop(StopState::ConfigError, error.to_string())),
    };
    let loaded = commit_or_reload(context, base, schema_change(base, wanted)).await?;
    let table = base.ident.to_string();
    ::metrics::counter!(metrics::TABLE_SCHEMA_CHANGES, "table" => table)
        .increment(columns.len() as u64);
    let names: Vec<&str> =
        columns.iter().take(NAMES_LOGGED_MAX).map(|column| column.name.as_str()).collect();
    let (count, names) = (columns.len(), names.join(", "));
    tracing::info!(table = %base.ident, columns = count, names, "table has new columns");
    Ok(loaded)
}

/// The table's schema with the columns of `ours` that it lacks; none if it has them all.
fn with_columns(
    base: &LoadedTable,
    ours: Result<Schema, iceberg::Error>,
) -> Result<Option<Schema>, Halt> {
    let metadata = &base.metadata;
    let stop = |error: iceberg::Error| Halt::Stop(StopState::ConfigError, error.to_string());
    let ours = ours.map_err(stop)?;
    restore::restore(metadata.current_schema(), metadata.last_column_id(), &ours).map_err(stop)
}

/// Gives the table back the columns of `ours` that it lacks.
///
/// # Errors
/// [`Halt`]; columns of the user that clash with ours stop the table.
pub(super) async fn restore_columns(
    context: &Context,
    base: LoadedTable,
    ours: Result<Schema, iceberg::Error>,
) -> Result<LoadedTable, Halt> {
    let Some(schema) = with_columns(&base, ours)? else {
        return Ok(base);
    };
    tracing::warn!(table = %base.ident, "columns that Floe writes were not there and are made");
    commit_or_reload(context, &base, schema_change(&base, schema)).await
}

/// Asks for the columns of `ours` that a table of others lacks. Where its owner forbids that, rows
/// are written without them; that is logged once, shown as long as it is so, and not asked for with
/// each commit.
///
/// # Errors
/// [`Halt`].
pub(super) async fn ask_for_columns(
    context: &Context,
    base: LoadedTable,
    ours: Result<Schema, iceberg::Error>,
) -> Result<LoadedTable, Halt> {
    let (table, schema_id) = (base.metadata.uuid(), base.metadata.current_schema_id());
    let Some(schema) = with_columns(&base, ours)? else {
        context.refusals.forget(table);
        return Ok(base);
    };
    if !context.refusals.may_ask(table, schema_id, Instant::now()) {
        return Ok(base);
    }
    match commit_or_reload(context, &base, schema_change(&base, schema)).await {
        Err(Halt::Stop(_, reason)) => {
            if context.refusals.note(table, schema_id, Instant::now(), reason.clone()) {
                let table = &base.ident;
                tracing::info!(%table, reason, "the table does not get columns of ours");
            }
            Ok(base)
        }
        Ok(loaded) => {
            context.refusals.forget(table);
            Ok(loaded)
        }
        failed => failed,
    }
}

/// A guarded change of the current schema (rules 4.7).
fn schema_change(base: &LoadedTable, schema: Schema) -> TableChange {
    let metadata = &base.metadata;
    TableChange {
        ident: base.ident.clone(),
        requirements: vec![
            TableRequirement::UuidMatch { uuid: metadata.uuid() },
            TableRequirement::CurrentSchemaIdMatch {
                current_schema_id: metadata.current_schema_id(),
            },
            TableRequirement::LastAssignedFieldIdMatch {
                last_assigned_field_id: metadata.last_column_id(),
            },
        ],
        updates: vec![
            TableUpdate::AddSchema { schema },
            TableUpdate::SetCurrentSchema { schema_id: -1 },
        ],
    }
}

/// Makes the spec of the option the table's default, once its columns exist. An empty option
/// leaves the table as it is: its users may partition it.
///
/// # Errors
/// [`Halt`]; an option that cannot work stops the table.
pub(super) async fn align_spec(
    context: &Context,
    base: LoadedTable,
    text: &str,
) -> Result<LoadedTable, Halt> {
    let Some(spec) = wanted_spec(&base.metadata, text)? else {
        return Ok(base);
    };
    let metadata = &base.metadata;
    let change = TableChange {
        ident: base.ident.clone(),
        requirements: vec![
            TableRequirement::UuidMatch { uuid: metadata.uuid() },
            TableRequirement::DefaultSpecIdMatch {
                default_spec_id: metadata.default_partition_spec_id(),
            },
            TableRequirement::LastAssignedPartitionIdMatch {
                last_assigned_partition_id: metadata.last_partition_id(),
            },
        ],
        updates: vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }],
    };
    commit_or_reload(context, &base, change).await
}

/// The spec of the option where it differs from the table's; none while a column is missing.
fn wanted_spec(metadata: &TableMetadata, text: &str) -> Result<Option<UnboundPartitionSpec>, Halt> {
    let stop = |reason: String| Halt::Stop(StopState::ConfigError, reason);
    let parsed = SpecText::parse(text)
        .map_err(|error| stop(format!("table.partition.spec {text:?}: {error}")))?;
    if parsed.is_unpartitioned() {
        return Ok(None);
    }
    let spec = match parsed.bind(metadata.current_schema()) {
        Ok(spec) => spec,
        Err(BindError::Pending { .. }) => return Ok(None),
        Err(BindError::Invalid(reason)) => {
            return Err(stop(format!("table.partition.spec {text:?}: {reason}")));
        }
    };
    let current = metadata.default_partition_spec().fields();
    let same = current.len() == spec.fields().len()
        && current.iter().zip(spec.fields()).all(|(is, wanted)| {
            is.source_id == wanted.source_id && is.transform == wanted.transform
        });
    Ok((!same).then_some(spec))
}

async fn commit_or_reload(
    context: &Context,
    base: &LoadedTable,
    change: TableChange,
) -> Result<LoadedTable, Halt> {
    match context.catalog.commit(vec![change], Change::new()).await {
        Ok(mut loaded) if loaded.len() == 1 => Ok(loaded.remove(0)),
        Ok(_) | Err(catalog::Error::Conflict(_) | catalog::Error::Unknown(_)) => {
            Ok(context.catalog.load(&base.ident).await?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_is_told_once_and_asked_about_again_when_something_changed() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let (table, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let note = |table, schema_id, at| refusals.note(table, schema_id, at, "no".to_owned());
        assert!(refusals.may_ask(table, 0, now));
        assert!(note(table, 0, now), "it is new");
        let soon = now + ASK_AGAIN - Duration::from_secs(1);
        assert!(!refusals.may_ask(table, 0, soon), "each commit would ask in vain");
        assert!(refusals.may_ask(table, 1, soon) && refusals.may_ask(other, 0, soon));
        assert!(refusals.may_ask(table, 0, now + ASK_AGAIN));
        assert!(!note(table, 0, now + ASK_AGAIN), "it is known");
        assert!(!refusals.may_ask(table, 0, now + ASK_AGAIN));
        assert!(note(table, 1, now), "of another schema");
        let reasons = [table, other].map(|table| refusals.reason(table));
        assert_eq!(reasons, [Some("no".to_owned()), None]);
        refusals.forget(table);
        assert_eq!(refusals.reason(table), None);
        assert!(refusals.may_ask(table, 1, now));
    }
}
