//! One trait over catalogs: load, create, commit(requirements, updates). Implementations:
//! [`embedded`] (pointers are state of the store), [`rest`] (a catalog that others run).

pub mod embedded;
pub mod rest;
mod watched;

use async_trait::async_trait;
use iceberg::TableIdent;
use iceberg::io::FileIO;
use iceberg::spec::{Schema, SortOrder, TableMetadataRef, UnboundPartitionSpec};
use iceberg::{NamespaceIdent, TableRequirement, TableUpdate};

use crate::store::Change;

pub use embedded::EmbeddedCatalog;
pub use rest::RestCatalog;
pub use watched::{Reach, Seen, Watched};

/// A table as the catalog knows it at one moment.
#[derive(Debug, Clone)]
pub struct LoadedTable {
    /// Its name.
    pub ident: TableIdent,
    /// Its metadata.
    pub metadata: TableMetadataRef,
    /// Where that metadata lies (absolute URI).
    pub metadata_location: String,
}

/// A wish for a new table.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// Name.
    pub ident: TableIdent,
    /// Schema; field ids are assigned anew by the catalog.
    pub schema: Schema,
    /// Partition spec; none is unpartitioned.
    pub spec: Option<UnboundPartitionSpec>,
    /// Sort order; none is unsorted.
    pub sort_order: Option<SortOrder>,
    /// Location; none is below the warehouse.
    pub location: Option<String>,
    /// Table properties (`format-version` among them).
    pub properties: std::collections::HashMap<String, String>,
}

/// One table's part of a commit.
#[derive(Debug, Clone)]
pub struct TableChange {
    /// Name of the table.
    pub ident: TableIdent,
    /// What must hold.
    pub requirements: Vec<TableRequirement>,
    /// What changes.
    pub updates: Vec<TableUpdate>,
}

/// Why a catalog did not do it; callers act by variant (rules 4.5).
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A requirement failed or the pointer moved: reload and evaluate. Nothing was changed.
    #[error("conflict: {0}")]
    Conflict(String),
    /// It may have happened: reload and look.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// No such table.
    #[error("table {0} does not exist")]
    NoSuchTable(TableIdent),
    /// No such namespace.
    #[error("namespace {0} does not exist")]
    NoSuchNamespace(String),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// The namespace still holds tables or namespaces.
    #[error("namespace {0} is not empty")]
    NotEmpty(String),
    /// The request can never succeed (bad update, location outside the warehouse, ...).
    #[error("{0}")]
    Invalid(String),
    /// Storage failed before anything was changed; try again later.
    #[error("storage: {0}")]
    Storage(String),
    /// The catalog does not answer us now (rate limit, token): nothing was changed, try again
    /// later.
    #[error("not now: {0}")]
    Unavailable(String),
}

/// What the commit loop needs of a catalog.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// The current state of a table.
    async fn load(&self, ident: &TableIdent) -> Result<LoadedTable, Error>;
    /// Makes the namespace if it is not there.
    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), Error>;
    /// Makes a table; its `data/` and `metadata/` folders exist afterwards.
    async fn create(&self, new: NewTable) -> Result<LoadedTable, Error>;
    /// Commits all `changes` or none. `with` are writes of ours that become durable in the same
    /// frame where [`Catalog::commits_with_state`], and are ignored elsewhere (the caller then
    /// writes them after the commit).
    async fn commit(
        &self,
        changes: Vec<TableChange>,
        with: Change,
    ) -> Result<Vec<LoadedTable>, Error>;
    /// True where one frame carries table pointers and our own state (rules 1.2).
    fn commits_with_state(&self) -> bool;
    /// Renames a table within the catalog.
    async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), Error>;
    /// Names of the tables of a namespace; empty if there is no such namespace.
    async fn list(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, Error>;
    /// Reads and writes the files of tables.
    fn file_io(&self) -> &FileIO;
}
