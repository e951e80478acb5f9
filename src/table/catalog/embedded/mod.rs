//! The embedded catalog: table pointers are state of the store, metadata files lie in the
//! warehouse.
//!
//! Owns: namespaces, table pointers, the metadata files of its tables and what may be committed
//! to them. Does not own: manifests and data files (it deletes them when a table is purged),
//! tiering's progress, HTTP.
//!
//! A commit is one change of the store, so several tables and the caller's own writes move
//! together (rules 1.2). Every change runs in a task of its own: a caller that goes away (a
//! closed connection) cannot let go of a lock while its change is still on the way.

pub(crate) mod apply;
mod commit;
mod locks;
pub(crate) mod metadata;
pub(crate) mod names;
mod namespaces;
mod packing;
mod promotion;
mod purge;
mod records;
mod state;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod warehouse;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::{NamespaceIdent, TableIdent};

pub use namespaces::NamespaceUpdate;
pub use state::Pairs;
pub use state::State;
#[cfg(test)]
pub(crate) use state::memory::MemoryState;

use crate::runtime::Clock;
use crate::runtime::FailPoints;
use crate::runtime::Tasks;
use crate::runtime::files::FileSystem;
use crate::store::{self, Change, Space};
use crate::table::catalog::{Catalog, Error, LoadedTable, NewTable, TableChange};
use locks::Locks;
use metadata::Cache;
use records::{NamespaceRecord, TableRecord};
use warehouse::Warehouse;

/// What the embedded catalog is built from.
#[derive(Clone)]
pub struct Options {
    /// Absolute URI of the folder that holds all tables, `file:///path` or `s3://bucket/path`.
    pub warehouse: String,
    /// Reads and durably writes the files of tables.
    pub file_io: FileIO,
    /// Makes the folders of tables of a local warehouse.
    pub file_system: Arc<dyn FileSystem>,
    /// Properties that a new table gets unless its creator names them.
    pub table_defaults: BTreeMap<String, String>,
    /// Says when a table was created.
    pub clock: Clock,
    /// Runs changes, clean-up and purges.
    pub tasks: Tasks,
    /// Hooks of tests.
    pub fail_points: FailPoints,
}

/// The embedded catalog; cheap to clone.
#[derive(Clone)]
pub struct EmbeddedCatalog {
    inner: Arc<Inner>,
}

struct Inner {
    state: Arc<dyn State>,
    warehouse: Warehouse,
    options: Options,
    cache: Cache,
    /// Held while a table's pointer is read, checked and moved.
    tables: Locks,
    /// Held while names come, go or move, so that no table appears in a namespace that is being
    /// dropped. Taken after the locks of tables.
    names: tokio::sync::Mutex<()>,
    /// Held while folders are made and synced.
    folders: Arc<parking_lot::Mutex<()>>,
}

impl EmbeddedCatalog {
    /// A catalog over `state`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the warehouse is no absolute URI.
    pub fn new(state: Arc<dyn State>, options: Options) -> Result<Self, Error> {
        let warehouse = Warehouse::new(&options.warehouse)?;
        let inner = Inner {
            state,
            warehouse,
            options,
            cache: Cache::default(),
            tables: Locks::default(),
            names: tokio::sync::Mutex::default(),
            folders: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The warehouse's URI, without a slash at the end.
    pub fn warehouse(&self) -> &str {
        self.inner.warehouse.uri()
    }

    /// Runs `work` to its end even if the caller goes away.
    async fn detached<T, F, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
        W: FnOnce(Arc<Inner>) -> F,
    {
        let (answer, result) = tokio::sync::oneshot::channel();
        let work = work(Arc::clone(&self.inner));
        self.inner.options.tasks.spawn_contained("catalog change", async move {
            // The caller may be gone: then nobody wants the answer.
            let _ = answer.send(work.await);
        });
        result.await.unwrap_or_else(|_| {
            Err(Error::Unknown("the change ended by a panic; see the log".to_owned()))
        })
    }
}

impl Inner {
    fn table_record(&self, key: &[u8]) -> Result<Option<TableRecord>, Error> {
        let value = self.state.get(Space::Table, key).map_err(unread)?;
        value.map(|bytes| records::decode(&bytes)).transpose()
    }

    fn namespace_record(&self, namespace: &NamespaceIdent) -> Result<NamespaceRecord, Error> {
        let key = names::namespace_key(namespace)?;
        let value = self.state.get(Space::Namespace, &key).map_err(unread)?;
        let bytes = value.ok_or_else(|| Error::NoSuchNamespace(namespace.to_string()))?;
        records::decode(&bytes)
    }

    async fn scan(self: &Arc<Self>, space: Space, prefix: Vec<u8>) -> Result<Pairs, Error> {
        let inner = Arc::clone(self);
        let scan = tokio::task::spawn_blocking(move || inner.state.scan(space, &prefix));
        scan.await.map_err(|error| Error::Storage(error.to_string()))?.map_err(unread)
    }

    async fn write(&self, change: Change) -> Result<(), Error> {
        self.state.commit(change).await.map_err(unwritten)
    }

    fn hit(&self, name: &'static str) -> Result<(), Error> {
        self.options.fail_points.hit(name).map_err(Error::Storage)
    }
}

fn unread(error: store::Error) -> Error {
    Error::Storage(error.to_string())
}

/// Only an error that says that nothing was written is a definite one (rules 4.5).
fn unwritten(error: store::Error) -> Error {
    match error {
        store::Error::Closed => Error::Storage(error.to_string()),
        store::Error::TooLarge { .. } => Error::Invalid(error.to_string()),
        store::Error::Failed(_) => Error::Unknown(error.to_string()),
    }
}

#[async_trait]
impl Catalog for EmbeddedCatalog {
    async fn load(&self, ident: &TableIdent) -> Result<LoadedTable, Error> {
        self.inner.load(ident).await
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), Error> {
        if self.inner.namespace_record(namespace).is_ok() {
            return Ok(());
        }
        match self.create_namespace(namespace.clone(), BTreeMap::new()).await {
            Ok(()) | Err(Error::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, new: NewTable) -> Result<LoadedTable, Error> {
        self.detached(|inner| async move { inner.create(new).await }).await
    }

    async fn commit(
        &self,
        changes: Vec<TableChange>,
        with: Change,
    ) -> Result<Vec<LoadedTable>, Error> {
        self.detached(|inner| async move { inner.commit(changes, with).await }).await
    }

    fn commits_with_state(&self) -> bool {
        true
    }

    async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), Error> {
        let (from, to) = (from.clone(), to.clone());
        self.detached(|inner| async move { inner.rename(&from, &to).await }).await
    }

    async fn list(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, Error> {
        match self.tables(namespace).await {
            Err(Error::NoSuchNamespace(_)) => Ok(Vec::new()),
            other => other,
        }
    }

    fn file_io(&self) -> &FileIO {
        &self.inner.options.file_io
    }
}
