//! What a topic's rows look like in its table as it is now.

use std::sync::Arc;

use iceberg::spec::Schema;
use iceberg::spec::TableMetadata;
use uuid::Uuid;

use crate::schema::columns;
use crate::schema::columns::Plan;
use crate::table::catalog::LoadedTable;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::encode::Target;
use crate::tier::encode::Values;
use crate::tier::evolve;
use crate::tier::feed::Feed;
use crate::tier::ledger::StopState;
use crate::tier::lifecycle;
use crate::tier::rows::contract;
use crate::tier::rows::contract::Contract;
use crate::tier::rows::key::Key;
use crate::tier::rows::mapped::Mapped;
use crate::tier::rows::system;
use crate::topic::Topic;
use crate::topic::options::TableMode;
use crate::topic::options::TypeConflict;

/// The table with the columns that we write and the partition spec of the topic.
///
/// # Errors
/// [`Halt`]: columns or a spec that cannot work stop the table.
pub(super) async fn aligned(
    context: &Context,
    topic: &Feed,
    table: LoadedTable,
) -> Result<LoadedTable, Halt> {
    if topic.options.table_mode == TableMode::Contract {
        // Nothing else of it is ours to change.
        return evolve::ask_for_columns(context, table, contract::schema()).await;
    }
    // A column of the key that comes back would be another one, null in all rows so far.
    key_of(topic, &table.metadata)?;
    let table = evolve::restore_columns(context, table, lifecycle::schema_of(topic)).await?;
    evolve::align_spec(context, table, &topic.options.table_partition_spec).await
}

/// How rows of a topic are built for the table as it is now. `write_id` names the commit.
///
/// # Errors
/// [`Halt`]: columns or a spec that cannot work stop the table.
pub(super) fn shapes(
    topic: &Feed,
    table: &LoadedTable,
    write_id: Uuid,
    evolve: bool,
) -> Result<(Target, Values), Halt> {
    let metadata = &table.metadata;
    let schema = Arc::clone(metadata.current_schema());
    let target = Target::new(Arc::clone(&schema), Arc::clone(metadata.default_partition_spec()))?;
    if let Some(sink) = topic.sink() {
        let (mapping, key) = (Arc::clone(&sink.mapping), key_of(topic, metadata)?.map(Arc::new));
        let mapped = Mapped { mapping, topic_id: topic.id, key };
        return Ok((target, Values::Mapped(Arc::new(mapped))));
    }
    let mode = match topic.options.table_mode {
        TableMode::Raw => return Ok((target, Values::Raw)),
        TableMode::Contract => {
            let contract = contract_of(topic, &schema, write_id)?;
            return Ok((target, Values::Contract(Arc::new(contract))));
        }
        TableMode::Json => columns::Mode::Json,
        TableMode::Auto | TableMode::Off => columns::Mode::Auto,
    };
    let conflict = match topic.options.table_type_conflict {
        TypeConflict::Suffix => columns::Conflict::Sibling,
        TypeConflict::Rest => columns::Conflict::Rest,
        TypeConflict::Dlq => columns::Conflict::Dlq,
    };
    let options = columns::Options {
        mode,
        conflict,
        max_columns: topic.options.table_max_columns as usize,
        evolve,
        system: vec![system::NAME.to_owned()],
        ..columns::Options::default()
    };
    let plan = Plan::new(&schema, options)
        .map_err(|error| Halt::Stop(StopState::ConfigError, error.to_string()))?;
    Ok((target, Values::Json(Arc::new(plan))))
}

/// The primary key of the feed's table; none where every record has a row.
fn key_of(topic: &Feed, metadata: &TableMetadata) -> Result<Option<Key>, Halt> {
    let Some(sink) = topic.sink() else { return Ok(None) };
    let names = sink.mapping.primary_key().map(|column| column.name.as_str());
    Key::new(names, metadata).map_err(|error| Halt::Stop(StopState::ConfigError, error.to_string()))
}

fn contract_of(topic: &Topic, schema: &Schema, write_id: Uuid) -> Result<Contract, Halt> {
    let options = topic.options.table_contract;
    let plan = contract::plan(schema)
        .map_err(|error| Halt::Stop(StopState::ConfigError, error.to_string()))?;
    Ok(Contract {
        plan: Arc::new(plan),
        rules: contract::rules(options),
        topic_id: topic.id,
        write_id: (!options.write_id_of_request).then_some(write_id),
    })
}
