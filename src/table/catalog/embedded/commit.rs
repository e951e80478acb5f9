//! Loading a table, and moving the pointers of tables: all of a commit or nothing.

use std::sync::Arc;
use std::time::Duration;

use iceberg::io::FileIO;
use iceberg::{TableIdent, TableRequirement};

use super::apply::{self, Applied};
use super::metadata::{self, MetadataFile, Previous};
use super::records::{self, TableRecord};
use super::{Inner, names};
use crate::store::{Change, Space};
use crate::table::catalog::{Error, LoadedTable, TableChange};

/// How long a metadata file that fell out of the log stays.
const EXPIRED_LINGER: Duration = Duration::from_secs(5);

/// One table's part of a commit, checked and ready to be written.
pub(super) struct Step {
    pub(super) ident: TableIdent,
    pub(super) key: Vec<u8>,
    /// The pointer that moves; none makes a table.
    pub(super) record: Option<TableRecord>,
    /// What the table is now.
    pub(super) current: Option<LoadedTable>,
    pub(super) applied: Applied,
}

impl Inner {
    /// The current state of a table.
    pub(super) async fn load(&self, ident: &TableIdent) -> Result<LoadedTable, Error> {
        let key = names::table_key(ident)?;
        let mut tried: Option<(String, Error)> = None;
        loop {
            let record =
                self.table_record(&key)?.ok_or_else(|| Error::NoSuchTable(ident.clone()))?;
            let metadata_location = record.metadata_location;
            // The file may be deleted between the look at the pointer and the read, if commits
            // go on meanwhile: then the pointer has moved.
            if let Some((location, error)) = tried
                && location == metadata_location
            {
                return Err(error);
            }
            if let Some(metadata) = self.cache.get(&metadata_location) {
                return Ok(LoadedTable { ident: ident.clone(), metadata, metadata_location });
            }
            match metadata::read(&self.options.file_io, &metadata_location).await {
                Ok((metadata, json_len)) => {
                    self.cache.put(&metadata_location, &metadata, json_len);
                    return Ok(LoadedTable { ident: ident.clone(), metadata, metadata_location });
                }
                Err(error) => tried = Some((metadata_location, error)),
            }
        }
    }

    /// Commits all `changes` and the writes of `with`, or nothing.
    pub(super) async fn commit(
        self: &Arc<Self>,
        changes: Vec<TableChange>,
        with: Change,
    ) -> Result<Vec<LoadedTable>, Error> {
        let keys: Vec<_> = changes
            .iter()
            .map(|change| names::table_key(&change.ident))
            .collect::<Result<_, _>>()?;
        let mut distinct = keys.clone();
        distinct.sort_unstable();
        if let Some(twice) = distinct.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = names::parse_table(&twice[0]).map(|t| t.to_string()).unwrap_or_default();
            return Err(Error::Invalid(format!("a commit names table {name} twice")));
        }
        let _tables = self.tables.lock(distinct).await;
        let mut steps = Vec::with_capacity(changes.len());
        for (change, key) in changes.into_iter().zip(keys) {
            steps.push(self.prepare(change, key).await?);
        }
        self.finish(steps, with).await
    }

    async fn prepare(self: &Arc<Self>, change: TableChange, key: Vec<u8>) -> Result<Step, Error> {
        let TableChange { ident, requirements, updates } = change;
        let Some(record) = self.table_record(&key)? else {
            if !requirements.contains(&TableRequirement::NotExist) {
                return Err(Error::NoSuchTable(ident));
            }
            return self.prepare_create(ident, key, updates).await;
        };
        if requirements.contains(&TableRequirement::NotExist) {
            return Err(Error::Exists(format!("table {ident}")));
        }
        let current = self.load(&ident).await?;
        let inner = Arc::clone(self);
        let base = current.clone();
        let packed = self.cache.packed(&base.metadata_location);
        let applied = blocking(move || {
            let current = Previous {
                metadata: &base.metadata,
                location: &base.metadata_location,
                packed: packed.as_deref(),
            };
            apply::update(&inner.warehouse, current, &requirements, updates)
        });
        let applied = applied.await?;
        Ok(Step { ident, key, record: Some(record), current: Some(current), applied })
    }

    /// Writes the metadata files of `steps`, then moves all pointers in one change of the store.
    /// The locks of the tables are held.
    pub(super) async fn finish(
        self: &Arc<Self>,
        steps: Vec<Step>,
        with: Change,
    ) -> Result<Vec<LoadedTable>, Error> {
        let files: Vec<_> = steps.iter().filter_map(|step| step.applied.file.clone()).collect();
        let written = self.write_files(&files).await;
        let moved = match written {
            Ok(()) => self.move_pointers(&steps, with).await,
            Err(error) => Err(error),
        };
        if let Err(error) = moved {
            if !matches!(error, Error::Unknown(_)) {
                // The losing files are in nobody's history.
                for file in &files {
                    delete_quietly(&self.options.file_io, &file.location).await;
                }
            }
            return Err(error);
        }
        let mut expired = Vec::new();
        let mut loaded = Vec::with_capacity(steps.len());
        for step in steps {
            let Step { ident, current, applied, .. } = step;
            loaded.push(match (applied.file, current) {
                (Some(file), current) => {
                    self.cache.put_file(&file);
                    if let Some(current) = current {
                        self.cache.remove(&current.metadata_location);
                    }
                    let MetadataFile { metadata, location: metadata_location, .. } = file;
                    LoadedTable { ident, metadata, metadata_location }
                }
                (None, Some(current)) => current,
                (None, None) => return Err(Error::NoSuchTable(ident)),
            });
            expired.extend(applied.expired);
        }
        self.delete_expired(expired);
        Ok(loaded)
    }

    async fn write_files(&self, files: &[MetadataFile]) -> Result<(), Error> {
        self.hit("catalog.before_metadata")?;
        for file in files {
            file.write(&self.options.file_io).await?;
        }
        self.hit("catalog.after_metadata")
    }

    async fn move_pointers(self: &Arc<Self>, steps: &[Step], with: Change) -> Result<(), Error> {
        let creates = steps.iter().any(|step| step.record.is_none());
        // Names come and go under this lock, so what is checked here holds until the write.
        let _names = if creates { Some(self.names.lock().await) } else { None };
        let mut change = Change::new();
        for step in steps {
            let Some(file) = &step.applied.file else {
                continue;
            };
            let record = if let Some(record) = &step.record {
                TableRecord {
                    metadata_location: file.location.clone(),
                    previous: Some(record.metadata_location.clone()),
                    location: file.metadata.location().to_owned(),
                    ..record.clone()
                }
            } else {
                self.namespace_record(step.ident.namespace())?;
                self.check_uuid_is_new(file.metadata.uuid(), None).await?;
                TableRecord {
                    metadata_location: file.location.clone(),
                    previous: None,
                    uuid: file.metadata.uuid(),
                    location: file.metadata.location().to_owned(),
                    created: self.options.clock.now_ms(),
                }
            };
            change = change.put(Space::Table, step.key.clone(), records::encode(record)?);
        }
        let change = change.and(with);
        if change.ops.is_empty() { Ok(()) } else { self.write(change).await }
    }

    /// Deletes metadata files that fell out of the log, in the background: nobody waits for them.
    /// Somebody may be about to read one, and PyIceberg deletes them too and complains about
    /// those that are gone, so they stay for a while.
    fn delete_expired(self: &Arc<Self>, expired: Vec<String>) {
        let expired: Vec<_> =
            expired.into_iter().filter(|location| self.warehouse.holds(location)).collect();
        if expired.is_empty() {
            return;
        }
        let file_io = self.options.file_io.clone();
        let stop = self.options.tasks.stop_token();
        self.options.tasks.spawn_contained("metadata clean-up", async move {
            let _ = tokio::time::timeout(EXPIRED_LINGER, stop.cancelled()).await;
            for location in expired {
                delete_quietly(&file_io, &location).await;
            }
        });
    }
}

/// Deletes a file that no table needs; a failure only leaves it there.
pub(super) async fn delete_quietly(file_io: &FileIO, location: &str) {
    if let Err(error) = file_io.delete(location).await {
        tracing::warn!(location, %error, "cannot delete an unused file");
    }
}

/// Runs `work` where it may take long. A panic in it (metadata that breaks the `iceberg` crate)
/// comes before anything is changed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            Err(Error::Invalid("the change cannot be applied to the table's metadata".to_owned()))
        }
        Err(error) => Err(Error::Storage(error.to_string())),
    }
}
