//! Where the files of tables lie: durable local files, S3.
//!
//! Owns: the choice by URI scheme, and the promise that a local file which was closed is whole,
//! durable and never overwritten. Does not own: which files a table refers to.
//!
//! Local files are written under a temporary name in their folder, synced, given their name by a
//! hard link (which never overwrites), and their folder is synced. S3 puts whole objects; there
//! no put is conditional, so names must be unique (all of ours carry a UUID).

mod folders;
mod local;
mod path;

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::io::{FileIO, FileIOBuilder};
use iceberg_storage_opendal::OpenDalStorageFactory;

pub use local::{LocalStorage, LocalStorageFactory};
pub use path::{Scheme, check_location, scheme};

use crate::runtime::files::FileSystem;
use crate::table::Error;

/// File access for a warehouse at `warehouse`, an absolute URI or path. `properties` are those of
/// Iceberg's `FileIO` (`s3.endpoint`, `s3.access-key-id`, `s3.secret-access-key`, `s3.region`,
/// `s3.path-style-access`, ...); local files need none. Opens nothing.
///
/// # Errors
/// [`Error::Invalid`] if the scheme is not supported.
pub fn file_io(
    files: Arc<dyn FileSystem>,
    warehouse: &str,
    properties: &HashMap<String, String>,
) -> Result<FileIO, Error> {
    match scheme(warehouse) {
        Some(Scheme::Local) => {
            let factory = Arc::new(LocalStorageFactory::new(files));
            Ok(FileIOBuilder::new(factory).with_props(properties).build())
        }
        Some(Scheme::S3) => {
            let factory = OpenDalStorageFactory::S3 { customized_credential_load: None };
            Ok(FileIOBuilder::new(Arc::new(factory)).with_props(properties).build())
        }
        None => Err(Error::Invalid(format!(
            "location {warehouse:?} must be an absolute path or start with file:/, s3:// or s3a://"
        ))),
    }
}

/// Makes the `data/` and `metadata/` folders of a table at `location`, durably, so that clients
/// which do not make folders themselves can write to it (rules 8.3). Does nothing for object
/// stores, which have no folders.
///
/// # Errors
/// [`Error::Storage`] of the file system, [`Error::Invalid`] for an unknown scheme.
pub async fn make_table_folders(files: Arc<dyn FileSystem>, location: &str) -> Result<(), Error> {
    match scheme(location) {
        Some(Scheme::Local) => {}
        Some(Scheme::S3) => return Ok(()),
        None => {
            return Err(Error::Invalid(format!("location {location:?} has no known scheme")));
        }
    }
    let storage = LocalStorage::new(files);
    for folder in ["data", "metadata"] {
        let location = format!("{}/{folder}", location.trim_end_matches('/'));
        storage.make_folder(&location).await.map_err(Error::from_iceberg)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
