//! Tables come, go and move: create, stage, register, rename, drop, list.

use std::sync::Arc;

use iceberg::io::FileIO;
use iceberg::spec::{TableMetadata, TableMetadataRef};
use iceberg::{NamespaceIdent, TableIdent, TableUpdate};
use uuid::Uuid;

use super::apply::{self, Applied};
use super::commit::{Step, blocking};
use super::metadata::{self, MetadataFile};
use super::records::{self, TableRecord};
use super::warehouse::local_path;
use super::{EmbeddedCatalog, Inner, names};
use crate::runtime::files::SyncPoint;
use crate::store::{Change, Space};
use crate::table::catalog::{Error, LoadedTable, NewTable};

impl EmbeddedCatalog {
    /// The tables directly in a namespace, sorted.
    ///
    /// # Errors
    /// [`Error::NoSuchNamespace`].
    pub async fn tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, Error> {
        self.inner.namespace_record(namespace)?;
        let found = self.inner.scan(Space::Table, names::tables_prefix(namespace)?).await?;
        Ok(found.iter().filter_map(|(key, _)| names::parse_table(key)).collect())
    }

    /// True if there is such a table.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that no table can have.
    pub fn exists(&self, ident: &TableIdent) -> Result<bool, Error> {
        Ok(self.inner.table_record(&names::table_key(ident)?)?.is_some())
    }

    /// What [`Catalog::create`](crate::table::catalog::Catalog::create) would make, without
    /// making it; a commit with `assert-create` does. The folders exist afterwards.
    ///
    /// # Errors
    /// As for create.
    pub async fn stage(&self, new: NewTable) -> Result<TableMetadataRef, Error> {
        let metadata = self.inner.new_metadata(new).await?;
        self.inner.make_folders(&metadata).await?;
        Ok(Arc::new(metadata))
    }

    /// Takes in the table whose metadata file lies at `metadata_location`. With `overwrite` it
    /// replaces a table of this name, whose files stay.
    ///
    /// # Errors
    /// [`Error::Exists`] if the name or the table's UUID is taken, [`Error::Invalid`] if the
    /// file or the table lies outside the warehouse, [`Error::NoSuchNamespace`].
    pub async fn register(
        &self,
        ident: TableIdent,
        metadata_location: String,
        overwrite: bool,
    ) -> Result<LoadedTable, Error> {
        let register = |inner: Arc<Inner>| async move {
            inner.register(ident, &metadata_location, overwrite).await
        };
        self.detached(register).await
    }

    /// Forgets a table. With `purge` its files are deleted in the background: those its metadata
    /// reaches and the warehouse holds.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`].
    pub async fn drop_table(&self, ident: TableIdent, purge: bool) -> Result<(), Error> {
        self.detached(|inner| async move { inner.drop_table(&ident, purge).await }).await
    }
}

impl Inner {
    pub(super) async fn create(self: &Arc<Self>, new: NewTable) -> Result<LoadedTable, Error> {
        let ident = new.ident.clone();
        let key = names::table_key(&ident)?;
        let _table = self.tables.lock(vec![key.clone()]).await;
        let metadata = self.new_metadata(new).await?;
        let step = self.creation(ident.clone(), key, metadata).await?;
        let loaded = self.finish(vec![step], Change::new()).await?;
        loaded.into_iter().next().ok_or(Error::NoSuchTable(ident))
    }

    /// The part of a commit that makes a table out of `updates`.
    pub(super) async fn prepare_create(
        self: &Arc<Self>,
        ident: TableIdent,
        key: Vec<u8>,
        updates: Vec<TableUpdate>,
    ) -> Result<Step, Error> {
        let named = updates.iter().any(|update| matches!(update, TableUpdate::SetLocation { .. }));
        // A location of the client's own replaces this one.
        let location =
            if named { self.plain_location(&ident)? } else { self.free_location(&ident).await? };
        let inner = Arc::clone(self);
        let metadata = blocking(move || {
            let defaults = &inner.options.table_defaults;
            apply::create_from_updates(&inner.warehouse, location, defaults, updates)
        });
        let metadata = metadata.await?;
        self.creation(ident, key, metadata).await
    }

    async fn creation(
        &self,
        ident: TableIdent,
        key: Vec<u8>,
        metadata: TableMetadata,
    ) -> Result<Step, Error> {
        self.make_folders(&metadata).await?;
        let file =
            blocking(move || MetadataFile::new(&metadata, None).map_err(Error::Invalid)).await?;
        let applied = Applied { file: Some(file), expired: Vec::new() };
        Ok(Step { ident, key, record: None, current: None, applied })
    }

    async fn new_metadata(self: &Arc<Self>, new: NewTable) -> Result<TableMetadata, Error> {
        let key = names::table_key(&new.ident)?;
        self.namespace_record(new.ident.namespace())?;
        if self.table_record(&key)?.is_some() {
            return Err(Error::Exists(format!("table {}", new.ident)));
        }
        let location = match &new.location {
            Some(location) => self.warehouse.check(location)?,
            None => self.free_location(&new.ident).await?,
        };
        let inner = Arc::clone(self);
        blocking(move || apply::create(&new, location, &inner.options.table_defaults)).await
    }

    fn plain_location(&self, ident: &TableIdent) -> Result<String, Error> {
        let namespace = self.namespace_record(ident.namespace())?;
        let base = namespace.properties.get("location").map(String::as_str);
        Ok(self.warehouse.default_location(ident, base).0)
    }

    /// The default location, or one beside it if another table has that or left files there.
    async fn free_location(self: &Arc<Self>, ident: &TableIdent) -> Result<String, Error> {
        let namespace = self.namespace_record(ident.namespace())?;
        let base = namespace.properties.get("location").map(String::as_str);
        let (location, exact) = self.warehouse.default_location(ident, base);
        let taken = !exact || self.is_taken(&location).await?;
        let suffix = Uuid::new_v4().simple().to_string();
        Ok(if taken { format!("{location}-{}", &suffix[..8]) } else { location })
    }

    async fn is_taken(self: &Arc<Self>, location: &str) -> Result<bool, Error> {
        for (_, value) in self.scan(Space::Table, Vec::new()).await? {
            let record: TableRecord = records::decode(&value)?;
            if record.location == location {
                return Ok(true);
            }
        }
        let Some(folder) = local_path(location) else {
            return Ok(false);
        };
        let fs = Arc::clone(&self.options.file_system);
        let has_files = move || {
            Ok(["data", "metadata"].iter().any(|part| {
                let part = folder.join(part);
                fs.exists(&part) && fs.list(&part).map_or(true, |names| !names.is_empty())
            }))
        };
        blocking(has_files).await
    }

    /// Engines do not make the folders of a local warehouse, so we do (rules 8.3).
    async fn make_folders(&self, metadata: &TableMetadata) -> Result<(), Error> {
        let Some(table) = local_path(metadata.location()) else {
            return Ok(());
        };
        let Some(warehouse) = local_path(self.warehouse.uri()) else {
            return Ok(());
        };
        let fs = Arc::clone(&self.options.file_system);
        let lock = Arc::clone(&self.folders);
        let make = move || {
            // Folders that another call has made and not yet synced are not durable.
            let _lock = lock.lock();
            let outer = warehouse.ancestors().find(|path| fs.exists(path));
            // The warehouse itself is an entry of its parent, perhaps not synced by its maker.
            let above = warehouse.parent().unwrap_or(&warehouse);
            let top = outer.filter(|outer| outer.components().count() < above.components().count());
            let top = top.unwrap_or(above).to_owned();
            fs.create_dir_all(&table.join("data"))?;
            fs.create_dir_all(&table.join("metadata"))?;
            for folder in table.ancestors().take_while(|folder| folder.starts_with(&top)) {
                fs.sync_dir(folder, SyncPoint::TableParentDir)?;
            }
            Ok::<(), std::io::Error>(())
        };
        let failed = |error: std::io::Error| {
            Error::Storage(format!("cannot make the folders of a table: {error}"))
        };
        blocking(move || make().map_err(failed)).await
    }

    /// # Errors
    /// [`Error::Exists`] if a table other than the one at `except` has this UUID.
    pub(super) async fn check_uuid_is_new(
        self: &Arc<Self>,
        uuid: Uuid,
        except: Option<&[u8]>,
    ) -> Result<(), Error> {
        for (key, value) in self.scan(Space::Table, Vec::new()).await? {
            let record: TableRecord = records::decode(&value)?;
            if record.uuid == uuid && except != Some(&key[..]) {
                let name = names::parse_table(&key).map(|t| t.to_string()).unwrap_or_default();
                return Err(Error::Exists(format!("table UUID {uuid} (as {name})")));
            }
        }
        Ok(())
    }

    async fn register(
        self: &Arc<Self>,
        ident: TableIdent,
        metadata_location: &str,
        overwrite: bool,
    ) -> Result<LoadedTable, Error> {
        let key = names::table_key(&ident)?;
        let metadata_location = self.warehouse.check(metadata_location)?;
        self.namespace_record(ident.namespace())?;
        let metadata = self.read_foreign(&metadata_location).await?;
        let location = self.warehouse.check(metadata.location())?;
        let _table = self.tables.lock(vec![key.clone()]).await;
        let _names = self.names.lock().await;
        self.namespace_record(ident.namespace())?;
        let replaced = self.table_record(&key)?;
        if replaced.is_some() && !overwrite {
            return Err(Error::Exists(format!("table {ident}")));
        }
        self.check_uuid_is_new(metadata.uuid(), replaced.as_ref().map(|_| &key[..])).await?;
        let record = TableRecord {
            metadata_location: metadata_location.clone(),
            previous: replaced.map(|record| record.metadata_location),
            uuid: metadata.uuid(),
            location,
            created: self.options.clock.now_ms(),
        };
        self.write(Change::new().put(Space::Table, key, records::encode(record)?)).await?;
        Ok(LoadedTable { ident, metadata, metadata_location })
    }

    async fn read_foreign(&self, location: &str) -> Result<TableMetadataRef, Error> {
        let file_io: &FileIO = &self.options.file_io;
        match file_io.exists(location).await {
            Ok(true) => {}
            Ok(false) => return Err(Error::Invalid(format!("there is no file {location}"))),
            Err(error) => return Err(metadata::storage("find", &error)),
        }
        // A file that is there but is no metadata will not become metadata.
        let read = metadata::read(file_io, location).await;
        let (metadata, _) = read.map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(metadata)
    }

    pub(super) async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), Error> {
        let (old, new) = (names::table_key(from)?, names::table_key(to)?);
        let _tables = self.tables.lock(vec![old.clone(), new.clone()]).await;
        let _names = self.names.lock().await;
        let record = self.table_record(&old)?.ok_or_else(|| Error::NoSuchTable(from.clone()))?;
        self.namespace_record(to.namespace())?;
        if self.table_record(&new)?.is_some() {
            return Err(Error::Exists(format!("table {to}")));
        }
        let change = Change::new().delete(Space::Table, old).put(
            Space::Table,
            new,
            records::encode(record)?,
        );
        self.write(change).await
    }

    async fn drop_table(self: &Arc<Self>, ident: &TableIdent, purge: bool) -> Result<(), Error> {
        let key = names::table_key(ident)?;
        let _table = self.tables.lock(vec![key.clone()]).await;
        let record = self.table_record(&key)?.ok_or_else(|| Error::NoSuchTable(ident.clone()))?;
        // A table whose metadata is lost can still be dropped; its files then stay.
        let loaded = if purge { self.load(ident).await.ok() } else { None };
        let _names = self.names.lock().await;
        self.write(Change::new().delete(Space::Table, key)).await?;
        self.cache.remove(&record.metadata_location);
        match loaded {
            Some(loaded) => self.purge_in_background(loaded),
            None if purge => {
                tracing::warn!(table = %ident, "metadata is unreadable, no file was purged");
            }
            None => {}
        }
        Ok(())
    }
}
