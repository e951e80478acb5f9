//! A catalog in memory for tests: real requirements and updates, scripted answers, and the
//! things that other writers do to a table.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::spec::MAIN_BRANCH;
use iceberg::spec::Operation;
use iceberg::spec::Snapshot;
use iceberg::spec::SnapshotReference;
use iceberg::spec::SnapshotRetention;
use iceberg::spec::Summary;
use iceberg::spec::TableMetadata;
use iceberg::spec::TableMetadataBuilder;
use iceberg::{NamespaceIdent, TableCreation, TableIdent, TableUpdate};

use crate::store::Change;
use crate::table::catalog::Catalog;
use crate::table::catalog::Error;
use crate::table::catalog::LoadedTable;
use crate::table::catalog::NewTable;
use crate::table::catalog::TableChange;

/// What the next commit answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is tried and answered truly.
    Honest,
    /// Nothing is done and the answer is a conflict.
    Conflict,
    /// It is done, the reply is lost.
    LostReply,
    /// It is lost, and so is the reply.
    LostRequest,
    /// It is done, and delivered a second time: the answer is a conflict with itself.
    DoubleDelivery,
    /// Refused for good.
    Invalid,
    /// Another writer appends first.
    ForeignFirst,
    /// The reply is lost, and the request comes in just before the next one is tried, or when
    /// the test says so.
    Late,
}

pub(crate) struct FakeCatalog {
    tables: Mutex<HashMap<TableIdent, Arc<TableMetadata>>>,
    script: Mutex<VecDeque<Answer>>,
    late: Mutex<Vec<(Vec<TableChange>, Change)>>,
    /// `with` of every commit that was done.
    pub(crate) applied: Mutex<Vec<Change>>,
    with_state: bool,
    file_io: FileIO,
}

impl FakeCatalog {
    pub(crate) fn new(with_state: bool) -> Self {
        Self {
            tables: Mutex::default(),
            script: Mutex::default(),
            late: Mutex::default(),
            applied: Mutex::default(),
            with_state,
            file_io: FileIO::new_with_memory(),
        }
    }

    pub(crate) fn script(&self, answers: &[Answer]) {
        self.script.lock().unwrap().extend(answers);
    }

    /// Answers are honest from now on.
    pub(crate) fn forget_script(&self) {
        self.script.lock().unwrap().clear();
    }

    /// Delivers what came late. Nobody hears of it.
    pub(crate) fn deliver_late(&self) {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (changes, with) in late {
            drop(self.apply_all(&changes, &with));
        }
    }

    pub(crate) fn metadata(&self, ident: &TableIdent) -> Arc<TableMetadata> {
        Arc::clone(&self.tables.lock().unwrap()[ident])
    }

    pub(crate) fn drop_table(&self, ident: &TableIdent) {
        self.tables.lock().unwrap().remove(ident);
    }

    /// Changes a table as another writer would.
    pub(crate) fn alter(&self, ident: &TableIdent, updates: Vec<TableUpdate>) {
        let mut tables = self.tables.lock().unwrap();
        let metadata = apply(&tables[ident], updates).unwrap();
        tables.insert(ident.clone(), Arc::new(metadata));
    }

    pub(crate) fn foreign_append(&self, ident: &TableIdent) {
        let updates = append(&self.metadata(ident), HashMap::new(), fresh_id()).1;
        self.alter(ident, updates);
    }

    pub(crate) fn roll_back(&self, ident: &TableIdent, snapshot_id: i64) {
        self.alter(ident, vec![set_main(snapshot_id)]);
    }

    /// Removes all snapshots but the head.
    pub(crate) fn expire(&self, ident: &TableIdent) {
        let metadata = self.metadata(ident);
        let head = metadata.current_snapshot_id();
        let snapshot_ids = metadata
            .snapshots()
            .map(|snapshot| snapshot.snapshot_id())
            .filter(|id| Some(*id) != head)
            .collect();
        self.alter(ident, vec![TableUpdate::RemoveSnapshots { snapshot_ids }]);
    }

    fn apply_all(&self, changes: &[TableChange], with: &Change) -> Result<Vec<LoadedTable>, Error> {
        let mut tables = self.tables.lock().unwrap();
        let mut next = Vec::new();
        for change in changes {
            let metadata = tables
                .get(&change.ident)
                .ok_or_else(|| Error::NoSuchTable(change.ident.clone()))?;
            for requirement in &change.requirements {
                requirement
                    .check(Some(metadata))
                    .map_err(|error| Error::Conflict(error.to_string()))?;
            }
            let metadata = apply(metadata, change.updates.clone())
                .map_err(|error| Error::Invalid(error.to_string()))?;
            next.push((change.ident.clone(), Arc::new(metadata)));
        }
        for (ident, metadata) in &next {
            tables.insert(ident.clone(), Arc::clone(metadata));
        }
        self.applied.lock().unwrap().push(with.clone());
        Ok(next.into_iter().map(|(ident, metadata)| loaded(ident, metadata)).collect())
    }
}

fn loaded(ident: TableIdent, metadata: Arc<TableMetadata>) -> LoadedTable {
    LoadedTable { ident, metadata, metadata_location: "memory:///metadata.json".to_owned() }
}

fn apply(
    metadata: &TableMetadata,
    updates: Vec<TableUpdate>,
) -> Result<TableMetadata, iceberg::Error> {
    let location = Some("memory:///old.json".to_owned());
    let mut builder = TableMetadataBuilder::new_from_metadata(metadata.clone(), location);
    for update in updates {
        builder = update.apply(builder)?;
    }
    Ok(builder.build()?.metadata)
}

fn fresh_id() -> i64 {
    i64::from_be_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().unwrap()) & i64::MAX
}

fn set_main(snapshot_id: i64) -> TableUpdate {
    let retention = SnapshotRetention::branch(None, None, None);
    let reference = SnapshotReference::new(snapshot_id, retention);
    TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference }
}

/// An append without files on top of `metadata`.
pub(crate) fn append(
    metadata: &TableMetadata,
    summary: HashMap<String, String>,
    snapshot_id: i64,
) -> (i64, Vec<TableUpdate>) {
    let parent = metadata.snapshot_for_ref(MAIN_BRANCH).map(|snapshot| snapshot.snapshot_id());
    let summary = Summary { operation: Operation::Append, additional_properties: summary };
    let snapshot = Snapshot::builder()
        .with_snapshot_id(snapshot_id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(metadata.next_sequence_number())
        .with_timestamp_ms(metadata.last_updated_ms())
        .with_manifest_list("memory:///list.avro")
        .with_schema_id(metadata.current_schema_id())
        .with_summary(summary)
        .build();
    (snapshot_id, vec![TableUpdate::AddSnapshot { snapshot }, set_main(snapshot_id)])
}

#[async_trait]
impl Catalog for FakeCatalog {
    async fn load(&self, ident: &TableIdent) -> Result<LoadedTable, Error> {
        let tables = self.tables.lock().unwrap();
        let metadata = tables.get(ident).ok_or_else(|| Error::NoSuchTable(ident.clone()))?;
        Ok(loaded(ident.clone(), Arc::clone(metadata)))
    }

    async fn ensure_namespace(&self, _namespace: &NamespaceIdent) -> Result<(), Error> {
        Ok(())
    }

    async fn create(&self, new: NewTable) -> Result<LoadedTable, Error> {
        let mut tables = self.tables.lock().unwrap();
        if tables.contains_key(&new.ident) {
            return Err(Error::Exists(new.ident.to_string()));
        }
        let location = format!("memory:///{}-{}", new.ident.name(), fresh_id());
        let creation = TableCreation::builder()
            .name(new.ident.name().to_owned())
            .location(location)
            .schema(new.schema)
            .properties(new.properties);
        let creation = match new.spec {
            Some(spec) => creation.partition_spec(spec).build(),
            None => creation.build(),
        };
        let metadata = TableMetadataBuilder::from_table_creation(creation)
            .and_then(TableMetadataBuilder::build)
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let metadata = Arc::new(metadata.metadata);
        tables.insert(new.ident.clone(), Arc::clone(&metadata));
        Ok(loaded(new.ident, metadata))
    }

    async fn commit(
        &self,
        changes: Vec<TableChange>,
        with: Change,
    ) -> Result<Vec<LoadedTable>, Error> {
        let answer = self.script.lock().unwrap().pop_front().unwrap_or(Answer::Honest);
        self.deliver_late();
        match answer {
            Answer::Honest => self.apply_all(&changes, &with),
            Answer::Conflict => Err(Error::Conflict("scripted".to_owned())),
            Answer::LostReply => {
                self.apply_all(&changes, &with)?;
                Err(Error::Unknown("reply lost".to_owned()))
            }
            Answer::LostRequest => Err(Error::Unknown("request lost".to_owned())),
            Answer::DoubleDelivery => {
                self.apply_all(&changes, &with)?;
                self.apply_all(&changes, &with)
            }
            Answer::Late => {
                self.late.lock().unwrap().push((changes, with));
                Err(Error::Unknown("request comes late".to_owned()))
            }
            Answer::Invalid => Err(Error::Invalid("scripted".to_owned())),
            Answer::ForeignFirst => {
                self.foreign_append(&changes[changes.len() - 1].ident);
                self.apply_all(&changes, &with)
            }
        }
    }

    fn commits_with_state(&self) -> bool {
        self.with_state
    }

    async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), Error> {
        let mut tables = self.tables.lock().unwrap();
        if tables.contains_key(to) {
            return Err(Error::Exists(to.to_string()));
        }
        let metadata = tables.remove(from).ok_or_else(|| Error::NoSuchTable(from.clone()))?;
        tables.insert(to.clone(), metadata);
        Ok(())
    }

    async fn list(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, Error> {
        let tables = self.tables.lock().unwrap();
        Ok(tables.keys().filter(|ident| ident.namespace() == namespace).cloned().collect())
    }

    fn file_io(&self) -> &FileIO {
        &self.file_io
    }
}
