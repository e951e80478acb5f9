//! Tables come, go and change their names (rules 6.3, 6.4).
//!
//! Owns: making and finding the table and the dead-letter table of a topic, the renames before
//! it. A table of others (`table.mode = contract`) is found, never made, renamed or taken over; the
//! table of a sink is made under the name that its user chose, and waited for where that is taken.
//! Does not own: what is written to them.

use std::collections::HashMap;

use iceberg::NamespaceIdent;
use iceberg::TableIdent;
use iceberg::spec::Schema;
use uuid::Uuid;

use crate::table;
use crate::table::catalog;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::NewTable;
use crate::table::commit::Role;
use crate::table::commit::marker;
use crate::tier::context::Context;
use crate::tier::context::Halt;
use crate::tier::feed::Feed;
use crate::tier::ledger::Entry;
use crate::tier::ledger::Rename;
use crate::tier::ledger::StopState;
use crate::tier::ledger::TableRef;
use crate::tier::ledger::put_entry;
use crate::tier::naming;
use crate::tier::rows::dlq;
use crate::tier::rows::json;
use crate::tier::rows::mapped;
use crate::tier::rows::raw;
use crate::topic::Topic;
use crate::topic::options::TableMode;

/// Table properties that say whose a table is, so that one made just before a crash is found.
const OWNER: &str = marker::TOPIC_ID;
const OWNER_SINK: &str = marker::SINK_ID;
const OWNER_NAME: &str = "floe.topic-name";
const OWNER_GENERATION: &str = "floe.generation";
const OWNER_ROLE: &str = marker::ROLE;

/// How often a name is chosen again because somebody else took it meanwhile.
const NAME_TRIES: u32 = 8;

/// Tables of a namespace that are looked at to find one by its UUID.
const SEARCH_MAX: usize = 10_000;

/// Finds the feed's table or makes it, as whoever writes it.
///
/// # Errors
/// [`Halt`]: `TABLE_DROPPED` and `REPLACED` where the user took it away (rules 4.4); later, where its
/// sink has no right to it.
pub(super) async fn ensure_table(
    context: &Context,
    topic: &Feed,
    entry: &mut Entry,
) -> Result<LoadedTable, Halt> {
    if let Some(table) = entry.table.clone() {
        return match find(context, &table).await? {
            Found::There(loaded) => Ok(loaded),
            Found::Moved(loaded) => {
                entry.table = Some(TableRef::new(&loaded.ident, table.uuid));
                context.ledger.write(put_entry(entry)).await?;
                Ok(loaded)
            }
            Found::Replaced(uuid) => Err(Halt::Stop(
                StopState::Replaced,
                format!("{} is another table now ({uuid})", table.display()),
            )),
            Found::Gone => {
                Err(Halt::Stop(StopState::TableDropped, format!("{} was dropped", table.display())))
            }
        };
    }
    let namespace = namespace_of(topic)?;
    if topic.options.table_mode == TableMode::Contract {
        let ident = TableIdent::new(namespace, wanted_name(topic));
        check_right(topic, &ident)?;
        return adopt(context, entry, &ident).await;
    }
    context.catalog.ensure_namespace(&namespace).await?;
    // Names that differ only in case must not both look free, nor one that is being freed.
    let _one_at_a_time = context.naming.lock().await;
    let wanted = TableIdent::new(namespace, free_for(context, topic));
    check_right(topic, &wanted)?;
    if topic.sink().is_none() {
        plan_renames(context, entry, &wanted).await?;
        settle_renames(context, entry).await?;
    }
    let loaded = make(context, entry, &wanted, schema_of(topic), Role::Main).await?;
    entry.table = Some(TableRef::new(&loaded.ident, loaded.metadata.uuid()));
    context.ledger.write(put_entry(entry)).await?;
    Ok(loaded)
}

/// Checks the right of a sink to the table that it is about to take or make, under the name that it
/// wants. Later that is settled: as grants in databases do, the right goes with the table when somebody
/// who may renames it, and with one that a resume makes beside the old one.
fn check_right(topic: &Feed, table: &TableIdent) -> Result<(), Halt> {
    let Some(service) = topic.service() else { return Ok(()) };
    service.check(&table.namespace().join("."), table.name()).map_err(Halt::Later)
}

/// Takes note of a table that others made.
async fn adopt(
    context: &Context,
    entry: &mut Entry,
    ident: &TableIdent,
) -> Result<LoadedTable, Halt> {
    let loaded = match context.catalog.load(ident).await {
        Ok(loaded) => loaded,
        Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_)) => {
            return Err(Halt::Later(format!("table {ident} is not there yet; it is waited for")));
        }
        Err(error) => return Err(error.into()),
    };
    entry.table = Some(TableRef::new(&loaded.ident, loaded.metadata.uuid()));
    context.ledger.write(put_entry(entry)).await?;
    Ok(loaded)
}

/// Finds the dead-letter table or makes it, again where its user dropped it (rules 4.3).
///
/// # Errors
/// [`Halt`].
pub(super) async fn ensure_dead_letters(
    context: &Context,
    entry: &mut Entry,
    main: &TableIdent,
) -> Result<LoadedTable, Halt> {
    if let Some(table) = entry.dlq.clone() {
        match find(context, &table).await? {
            Found::There(loaded) => return Ok(loaded),
            Found::Moved(loaded) => {
                entry.dlq = Some(TableRef::new(&loaded.ident, table.uuid));
                context.ledger.write(put_entry(entry)).await?;
                return Ok(loaded);
            }
            Found::Replaced(_) | Found::Gone => {}
        }
    }
    let _one_at_a_time = context.naming.lock().await;
    let name = naming::dlq_name(main.name());
    let wanted = TableIdent::new(main.namespace().clone(), name);
    let loaded = make(context, entry, &wanted, dlq::schema(), Role::DeadLetters).await?;
    entry.dlq = Some(TableRef::new(&loaded.ident, loaded.metadata.uuid()));
    context.ledger.write(put_entry(entry)).await?;
    Ok(loaded)
}

/// The columns that the feed's table has whatever is sent to it.
///
/// # Errors
/// Iceberg's, which neither the fixed shapes nor a checked mapping meet.
pub(super) fn schema_of(topic: &Feed) -> Result<Schema, iceberg::Error> {
    match (topic.sink(), topic.options.table_mode) {
        (Some(sink), _) => mapped::schema(&sink.mapping),
        (None, TableMode::Raw) => raw::schema(),
        (None, _) => json::schema(),
    }
}

/// The name that the topic's table asks for. A deleted topic leaves the name to the topic that
/// was made again (rules 6.3).
fn free_for(context: &Context, topic: &Feed) -> String {
    let name = wanted_name(topic);
    if topic.sink().is_some() {
        return name;
    }
    match context.topics.get(topic.name.as_str()) {
        Some(live) if live.id != topic.id => naming::former_name(&name, topic.id),
        _ => name,
    }
}

fn wanted_name(topic: &Topic) -> String {
    if topic.options.table_mode == TableMode::Contract
        && let Some(name) = &topic.options.table_name
    {
        return name.clone();
    }
    naming::table_name(topic.options.table_name.as_deref().unwrap_or(topic.name.as_str()))
}

/// `namespace.name` that the topic's table will have if it is free.
pub(super) fn planned_name(topic: &Topic) -> String {
    format!("{}.{}", topic.options.table_namespace, wanted_name(topic))
}

fn namespace_of(topic: &Topic) -> Result<NamespaceIdent, Halt> {
    let levels = topic.options.table_namespace.split('.').map(str::to_owned).collect();
    NamespaceIdent::from_vec(levels)
        .map_err(|error| Halt::Stop(StopState::ConfigError, format!("table.namespace: {error}")))
}

/// Where a known table is.
enum Found {
    There(LoadedTable),
    /// Under another name of its namespace.
    Moved(LoadedTable),
    Replaced(Uuid),
    Gone,
}

async fn find(context: &Context, table: &TableRef) -> Result<Found, Halt> {
    let ident = table.ident()?;
    let other = match context.catalog.load(&ident).await {
        Ok(loaded) if loaded.metadata.uuid() == table.uuid => return Ok(Found::There(loaded)),
        Ok(loaded) => Some(loaded.metadata.uuid()),
        Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_)) => None,
        Err(error) => return Err(error.into()),
    };
    for candidate in context.catalog.list(ident.namespace()).await?.into_iter().take(SEARCH_MAX) {
        match context.catalog.load(&candidate).await {
            Ok(loaded) if loaded.metadata.uuid() == table.uuid => {
                return Ok(Found::Moved(loaded));
            }
            Ok(_) | Err(catalog::Error::NoSuchTable(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(other.map_or(Found::Gone, Found::Replaced))
}

/// Makes a table under `wanted` or the nearest free name. A table that an earlier try of the
/// same entry made is taken over.
async fn make(
    context: &Context,
    entry: &Entry,
    wanted: &TableIdent,
    schema: Result<Schema, iceberg::Error>,
    role: Role,
) -> Result<LoadedTable, Halt> {
    let schema = schema.map_err(|error| Halt::Later(error.to_string()))?;
    let mut last = String::new();
    for _ in 0..NAME_TRIES {
        let names: Vec<String> = context
            .catalog
            .list(wanted.namespace())
            .await?
            .iter()
            .map(|ident| ident.name().to_owned())
            .collect();
        if let Some(ours) = made_before(context, entry, wanted, &names, role).await? {
            return Ok(ours);
        }
        // A resume may have left a table of the sink under the name.
        let is_chosen = entry.sink.is_some() && entry.generation == 1 && role == Role::Main;
        if is_chosen && naming::is_taken(wanted.name(), &names) {
            return Err(Halt::Later(format!(
                "table {wanted} is there already and is not this sink's: rename or drop it, or \
                 make a sink with another table"
            )));
        }
        let id = entry.sink.map_or(entry.topic_id.0, |sink| sink.0);
        let name = naming::free_name(wanted.name(), id, &names);
        let new = NewTable {
            ident: TableIdent::new(wanted.namespace().clone(), name),
            schema: schema.clone(),
            spec: None,
            sort_order: None,
            location: None,
            properties: properties(entry, role),
        };
        match context.catalog.create(new).await {
            Ok(loaded) => return Ok(loaded),
            Err(catalog::Error::Exists(_) | catalog::Error::Unknown(_)) => {
                last = "its name was taken or the answer got lost".to_owned();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Halt::Later(format!("table {wanted} cannot be made: {last}")))
}

async fn made_before(
    context: &Context,
    entry: &Entry,
    wanted: &TableIdent,
    names: &[String],
    role: Role,
) -> Result<Option<LoadedTable>, Halt> {
    let ours = properties(entry, role);
    let candidates = names.iter().filter(|name| {
        let prefix = name.get(..wanted.name().len());
        prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(wanted.name()))
    });
    for name in candidates.take(SEARCH_MAX) {
        let ident = TableIdent::new(wanted.namespace().clone(), name.clone());
        let Ok(loaded) = context.catalog.load(&ident).await else {
            continue;
        };
        let found = loaded.metadata.properties();
        let keys = [OWNER, OWNER_SINK, OWNER_GENERATION, OWNER_ROLE];
        if keys.iter().all(|key| found.get(*key) == ours.get(*key)) {
            return Ok(Some(loaded));
        }
    }
    Ok(None)
}

fn properties(entry: &Entry, role: Role) -> HashMap<String, String> {
    let mut properties = table::default_properties();
    let role = match role {
        Role::Main => "table",
        Role::DeadLetters => marker::DEAD_LETTERS,
    };
    let own = [
        (OWNER, entry.topic_id.to_string()),
        (OWNER_NAME, entry.topic_name.clone()),
        (OWNER_GENERATION, entry.generation.to_string()),
        (OWNER_ROLE, role.to_owned()),
    ];
    properties.extend(own.map(|(key, value)| (key.to_owned(), value)));
    if let Some(sink) = entry.sink {
        properties.insert(OWNER_SINK.to_owned(), sink.to_string());
    }
    properties
}

/// Finds tables of a deleted topic of the same name under the names we want, and decides their
/// renames.
async fn plan_renames(
    context: &Context,
    entry: &mut Entry,
    wanted: &TableIdent,
) -> Result<(), Halt> {
    if !entry.renames.is_empty() {
        return Ok(());
    }
    let mut renames = Vec::new();
    for old in context.ledger.all()? {
        if old.topic_id == entry.topic_id || old.topic_name != entry.topic_name {
            continue;
        }
        let owner = old.topic_id.to_string();
        for (table, is_dlq) in [(&old.table, false), (&old.dlq, true)] {
            let Some(table) = table else { continue };
            let ident = table.ident()?;
            let name = if is_dlq { naming::dlq_name(wanted.name()) } else { wanted.name().into() };
            let same =
                ident.namespace() == wanted.namespace() && ident.name().eq_ignore_ascii_case(&name);
            if !same || !is_made_by(context, &ident, table.uuid, &owner).await? {
                continue;
            }
            let former = naming::former_name(wanted.name(), old.topic_id);
            let to = if is_dlq { naming::dlq_name(&former) } else { former };
            renames.push(Rename { table: table.clone(), to });
        }
    }
    if !renames.is_empty() {
        entry.renames = renames;
        context.ledger.write(put_entry(entry)).await?;
    }
    Ok(())
}

/// Does the decided renames; one that a catalog refuses is given up: the new table then gets a
/// suffix.
async fn settle_renames(context: &Context, entry: &mut Entry) -> Result<(), Halt> {
    if entry.renames.is_empty() {
        return Ok(());
    }
    for rename in &entry.renames {
        let from = rename.table.ident()?;
        let to = TableIdent::new(from.namespace().clone(), rename.to.clone());
        if holds(context, &to, rename.table.uuid).await?
            || !holds(context, &from, rename.table.uuid).await?
        {
            continue;
        }
        match context.catalog.rename(&from, &to).await {
            Ok(()) => tracing::info!(%from, %to, "table of a deleted topic has a new name"),
            Err(
                catalog::Error::Unknown(reason)
                | catalog::Error::Storage(reason)
                | catalog::Error::Unavailable(reason),
            ) => {
                return Err(Halt::Later(reason));
            }
            Err(error) => tracing::warn!(%from, %to, %error, "table cannot be renamed"),
        }
    }
    entry.renames.clear();
    context.ledger.write(put_entry(entry)).await?;
    Ok(())
}

/// True if the table of that name and UUID was made for the topic `owner`, and not by others.
async fn is_made_by(
    context: &Context,
    ident: &TableIdent,
    uuid: Uuid,
    owner: &str,
) -> Result<bool, Halt> {
    match context.catalog.load(ident).await {
        Ok(loaded) => {
            let found = loaded.metadata.properties().get(OWNER);
            Ok(loaded.metadata.uuid() == uuid && found.is_some_and(|found| found == owner))
        }
        Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn holds(context: &Context, ident: &TableIdent, uuid: Uuid) -> Result<bool, Halt> {
    match context.catalog.load(ident).await {
        Ok(loaded) => Ok(loaded.metadata.uuid() == uuid),
        Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
