//! Which catalog keeps the tables: the embedded one, or one that others run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use super::{Components, Error};
use crate::config::Config;
use crate::http;
use crate::runtime::Tasks;
use crate::store::Store;
use crate::table;
use crate::table::catalog::rest;
use crate::table::catalog::{
    self, Catalog, EmbeddedCatalog, Reach, RestCatalog, Watched, embedded,
};
use crate::table::storage;

/// Longest wait for one answer of a catalog of others.
const CALL_MAX: Duration = Duration::from_secs(30);

/// The catalog that tiering commits to, and what `/iceberg` answers.
pub(super) struct Chosen {
    pub(super) catalog: Arc<dyn Catalog>,
    /// Whether it answers tiering and the routes.
    pub(super) reach: Reach,
    pub(super) routes: Router,
}

impl Chosen {
    fn new(catalog: Arc<dyn Catalog>, routes: Router, components: &Components) -> Self {
        let watched = Watched::new(catalog, components.clock.clone());
        Self { reach: watched.reach(), catalog: Arc::new(watched), routes }
    }
}

/// Builds the catalog that `config` names.
///
/// # Errors
/// [`Error`] names the option that is in the way.
pub(super) fn choose(
    config: &Config,
    components: &Components,
    store: &Store,
    tasks: &Tasks,
) -> Result<Chosen, Error> {
    match &config.catalog_uri {
        Some(uri) => remote(uri, config, components),
        None => own(config, components, store, tasks),
    }
}

fn own(
    config: &Config,
    components: &Components,
    store: &Store,
    tasks: &Tasks,
) -> Result<Chosen, Error> {
    let warehouse = match &config.warehouse {
        Some(uri) => uri.clone(),
        None => {
            let dir = std::path::absolute(config.data_dir.join("warehouse"))
                .map_err(|error| Error::new("warehouse", error))?;
            format!("file://{}", dir.display())
        }
    };
    let file_io = storage::file_io(Arc::clone(&components.files), &warehouse, &properties(config))
        .map_err(|error| Error::new("warehouse", error))?;
    let options = embedded::Options {
        warehouse,
        file_io,
        file_system: Arc::clone(&components.files),
        table_defaults: table::default_properties().into_iter().collect(),
        clock: components.clock.clone(),
        tasks: tasks.clone(),
        fail_points: components.fail_points.clone(),
    };
    let embedded = EmbeddedCatalog::new(Arc::new(store.clone()), options)
        .map_err(|error| Error::new("catalog", error))?;
    let client_properties = config.catalog_client.clone();
    let options = http::iceberg::Options { client_properties, ..http::iceberg::Options::default() };
    let routes = http::iceberg::router(embedded.clone(), options);
    Ok(Chosen::new(Arc::new(embedded), routes, components))
}

fn remote(uri: &str, config: &Config, components: &Components) -> Result<Chosen, Error> {
    let failed = |error: catalog::Error| Error::new("catalog.uri", error);
    // Such a catalog decides where tables lie; the options say how to reach it.
    let root = if config.storage.is_empty() { "/" } else { "s3://any" };
    let file_io = storage::file_io(Arc::clone(&components.files), root, &properties(config))
        .map_err(|error| Error::new("storage", error))?;
    let options = rest::Options {
        uri: uri.to_owned(),
        warehouse: config.warehouse.clone(),
        token: config.catalog_token.clone(),
        prefix: config.catalog_prefix.clone(),
        call_max: CALL_MAX,
        table_defaults: table::default_properties().into_iter().collect(),
        file_io,
    };
    let catalog = RestCatalog::new(options).map_err(failed)?;
    Ok(Chosen::new(Arc::new(catalog), http::iceberg::elsewhere(uri), components))
}

fn properties(config: &Config) -> HashMap<String, String> {
    config.storage.clone().into_iter().collect()
}
