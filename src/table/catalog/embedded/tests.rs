//! The embedded catalog on a state in memory and a warehouse in a temporary folder.

use std::path::Path;

use iceberg::spec::{NestedField, PrimitiveType, Schema, TableMetadata, Type};
use tempfile::TempDir;

use super::*;
use crate::runtime::files::Disk;

/// A catalog, its state and its folder.
pub(crate) struct Fixture {
    pub(crate) catalog: EmbeddedCatalog,
    pub(crate) state: Arc<MemoryState>,
    pub(crate) fail_points: FailPoints,
    pub(crate) tasks: Tasks,
    pub(crate) folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let warehouse = folder.path().to_owned();
        Self::on(folder, &warehouse, Arc::new(Disk))
    }

    pub(crate) fn on(folder: TempDir, warehouse: &Path, file_system: Arc<dyn FileSystem>) -> Self {
        let state = Arc::new(MemoryState::default());
        let fail_points = FailPoints::none();
        let tasks = Tasks::for_tests();
        let options = Options {
            warehouse: format!("file://{}", warehouse.display()),
            file_io: FileIO::new_with_fs(),
            file_system,
            table_defaults: crate::table::default_properties().into_iter().collect(),
            clock: Clock::manual(1_000),
            tasks: tasks.clone(),
            fail_points: fail_points.clone(),
        };
        let catalog = EmbeddedCatalog::new(Arc::<MemoryState>::clone(&state), options).unwrap();
        Self { catalog, state, fail_points, tasks, folder }
    }
}

/// Metadata of an empty table with a column `id long` and a column `text string`.
pub(crate) fn sample_metadata(location: &str, properties: &[(&str, &str)]) -> TableMetadata {
    let new = sample_table("t", &[]);
    let metadata = apply::create(&new, location.to_owned(), &BTreeMap::new()).unwrap();
    let all = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    metadata.into_builder(None).set_properties(all).unwrap().build().unwrap().metadata
}

/// A wish for the table `db.<name>`.
pub(crate) fn sample_table(name: &str, properties: &[(&str, &str)]) -> NewTable {
    let schema = Schema::builder()
        .with_fields([
            NestedField::required(7, "id", Type::Primitive(PrimitiveType::Long)).into(),
            NestedField::optional(9, "text", Type::Primitive(PrimitiveType::String)).into(),
        ])
        .build()
        .unwrap();
    NewTable {
        ident: TableIdent::from_strs(["db", name]).unwrap(),
        schema,
        spec: None,
        sort_order: None,
        location: None,
        properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

mod commits;
mod lifecycle;
