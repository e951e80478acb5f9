//! What is known of tables, so that events are checked without asking the catalog each time.
//!
//! A table is looked at again when it was not for [`FRESH`]; one request looks while others go on
//! with what is known. A catalog that does not answer changes nothing of what is known.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use iceberg::spec::TableMetadata;
use iceberg::{NamespaceIdent, TableIdent};
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::schema::columns::Plan;
use crate::table::catalog::{self, Catalog, LoadedTable};
use crate::table::commit::marker::{self, DEAD_LETTERS, Writer};
use crate::tier::rows::contract;
use crate::types::{SinkUid, TopicId};

/// How long a schema counts.
const FRESH: Duration = Duration::from_secs(2);
/// How long a table that is not there is not asked for again.
const MISSING: Duration = Duration::from_secs(10);
/// After a catalog did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for its answer.
const LOAD_MAX: Duration = Duration::from_secs(5);
/// Tables that are known at once.
const TABLES_MAX: usize = 10_000;

/// Why a table cannot be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unusable {
    /// The catalog has none of that name.
    Missing,
    /// The catalog does not answer, and nothing is known of the table.
    Unreachable(String),
    /// It has a type that cannot be written, or is no table for events.
    Unsupported(String),
}

/// What was found.
type Found = Result<Arc<Plan>, Unusable>;

#[derive(Default)]
struct Slot {
    known: Mutex<Known>,
    /// Held by who asks the catalog.
    asking: tokio::sync::Mutex<()>,
}

/// Who made a table, as the table says; it may write to another by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) writer: Writer,
    /// The table's own.
    pub(super) uuid: Uuid,
    /// It holds what the topic's own table does not take.
    has_dead_letters: bool,
}

impl Owner {
    fn of(metadata: &TableMetadata) -> Option<Self> {
        let found = metadata.properties();
        let topic_id = TopicId(Uuid::parse_str(found.get(marker::TOPIC_ID)?).ok()?);
        let sink = found.get(marker::SINK_ID).and_then(|text| Uuid::parse_str(text).ok());
        let writer = Writer { topic_id, sink: sink.map(SinkUid) };
        let has_dead_letters = found.get(marker::ROLE).is_some_and(|role| role == DEAD_LETTERS);
        Some(Self { writer, uuid: metadata.uuid(), has_dead_letters })
    }
}

#[derive(Default)]
struct Known {
    found: Option<Found>,
    /// Table and schema of what was found.
    schema: Option<(Uuid, i32)>,
    owner: Option<Owner>,
    until: Option<Instant>,
}

/// All tables that requests named; cheap to clone.
#[derive(Clone)]
pub(super) struct Tables {
    catalog: Arc<dyn Catalog>,
    slots: Arc<Mutex<HashMap<String, Arc<Slot>>>>,
}

impl Tables {
    pub(super) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, slots: Arc::default() }
    }

    /// How values go to the columns of the table `namespace.table`.
    pub(super) async fn plan(&self, namespace: &str, table: &str) -> Found {
        let slot = self.slot(namespace, table);
        if let Some(found) = slot.fresh(Instant::now()) {
            return found;
        }
        let known = slot.known.lock().found.clone();
        let asking = match (slot.asking.try_lock(), known) {
            (Ok(asking), _) => asking,
            // Somebody asks already.
            (Err(_), Some(found @ Ok(_))) => return found,
            (Err(_), _) => slot.asking.lock().await,
        };
        if let Some(found) = slot.fresh(Instant::now()) {
            return found;
        }
        let ident = TableIdent::new(NamespaceIdent::new(namespace.to_owned()), table.to_owned());
        let loaded = tokio::time::timeout(LOAD_MAX, self.catalog.load(&ident)).await;
        let late = || catalog::Error::Unavailable("no answer in time".to_owned());
        let found = slot.learn(loaded.unwrap_or_else(|_| Err(late())), Instant::now());
        drop(asking);
        found
    }

    /// The topic or sink that made the table; none of a table of others.
    pub(super) async fn owner(
        &self,
        namespace: &str,
        table: &str,
    ) -> Result<Option<Owner>, Unusable> {
        match self.plan(namespace, table).await {
            // The topic knows what it takes.
            Ok(_) | Err(Unusable::Unsupported(_)) => {}
            Err(unusable) => return Err(unusable),
        }
        let owner = self.slot(namespace, table).known.lock().owner;
        if owner.is_some_and(|owner| owner.has_dead_letters) {
            let reason = "it is where records go that a table does not take";
            return Err(Unusable::Unsupported(reason.to_owned()));
        }
        Ok(owner)
    }

    fn slot(&self, namespace: &str, table: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        let key = format!("{namespace}.{table}");
        if slots.len() >= TABLES_MAX && !slots.contains_key(&key) {
            // All are found again when they are asked for.
            slots.clear();
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

impl Slot {
    fn fresh(&self, now: Instant) -> Option<Found> {
        let known = self.known.lock();
        known.found.clone().filter(|_| known.until.is_some_and(|until| now < until))
    }

    /// Takes note of what the catalog said.
    fn learn(&self, loaded: Result<LoadedTable, catalog::Error>, now: Instant) -> Found {
        let mut known = self.known.lock();
        let mut owner = known.owner;
        let (found, schema, holds) = match loaded {
            Ok(loaded) => {
                owner = Owner::of(&loaded.metadata);
                let schema = loaded.metadata.current_schema();
                let id = Some((loaded.metadata.uuid(), schema.schema_id()));
                match known.found.clone() {
                    Some(found @ Ok(_)) if known.schema == id => (found, id, FRESH),
                    _ => {
                        let plan = contract::plan(schema).map(Arc::new);
                        (plan.map_err(|error| Unusable::Unsupported(error.to_string())), id, FRESH)
                    }
                }
            }
            Err(catalog::Error::NoSuchTable(_) | catalog::Error::NoSuchNamespace(_)) => {
                (Err(Unusable::Missing), None, MISSING)
            }
            Err(error) => match known.found.clone() {
                Some(found @ (Ok(_) | Err(Unusable::Unsupported(_)))) => {
                    (found, known.schema, AGAIN)
                }
                _ => (Err(Unusable::Unreachable(error.to_string())), None, AGAIN),
            },
        };
        *known = Known { found: Some(found.clone()), schema, owner, until: Some(now + holds) };
        found
    }
}

#[cfg(test)]
mod tests {
    use iceberg::spec::FormatVersion;

    use super::*;
    use crate::table::testing::TestTable;

    #[tokio::test]
    async fn a_catalog_that_is_away_changes_nothing_of_what_is_known() {
        let ident = || TableIdent::new(NamespaceIdent::new("n".to_owned()), "t".to_owned());
        let away = || Err(catalog::Error::Unavailable("away".to_owned()));
        let metadata = Arc::clone(&TestTable::new(FormatVersion::V2).await.metadata);
        let there = || {
            Ok(LoadedTable {
                ident: ident(),
                metadata: Arc::clone(&metadata),
                metadata_location: String::new(),
            })
        };
        let (slot, mut now) = (Slot::default(), Instant::now());
        assert!(slot.fresh(now).is_none());
        assert!(matches!(slot.learn(away(), now), Err(Unusable::Unreachable(_))));
        assert!(slot.fresh(now).is_some() && slot.fresh(now + AGAIN).is_none());
        let first = slot.learn(there(), now).unwrap();
        assert!(Arc::ptr_eq(&slot.fresh(now).unwrap().unwrap(), &first));
        now += FRESH;
        assert!(slot.fresh(now).is_none());
        for loaded in [away(), there()] {
            let same = slot.learn(loaded, now).unwrap();
            assert!(Arc::ptr_eq(&same, &first), "its schema is the same");
        }
        let gone = slot.learn(Err(catalog::Error::NoSuchTable(ident())), now);
        assert!(matches!(gone, Err(Unusable::Missing)));
        assert!(slot.fresh(now + FRESH).is_some() && slot.fresh(now + MISSING).is_none());
        assert!(matches!(slot.learn(away(), now), Err(Unusable::Unreachable(_))));
    }
}
