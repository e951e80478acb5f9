//! A catalog that others run, spoken to by the Iceberg REST protocol.
//!
//! Owns: requests, their paths, and what each answer means for a commit (rules 4.5). Does not
//! own: the commit loop, tokens that must be renewed, credentials for storage.
//!
//! Nothing is sent twice here: a request whose answer got lost is the caller's to look into.

mod answer;
mod client;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iceberg::io::FileIO;
use iceberg::{NamespaceIdent, TableIdent};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::store::Change;
use crate::table::catalog::{Catalog, Error, LoadedTable, NewTable, TableChange};
use client::{Client, Request};

/// Tables of one page of a list.
const PAGE_SIZE: u32 = 1_000;

/// Pages of one list at most.
const PAGES_MAX: u32 = 1_000;

/// What a REST catalog is reached by.
#[derive(Clone)]
pub struct Options {
    /// Its address, with or without the trailing `/v1`.
    pub uri: String,
    /// The warehouse that it is asked for, if it has several.
    pub warehouse: Option<String>,
    /// A bearer token.
    pub token: Option<String>,
    /// Path element after `/v1`; none takes what the catalog's configuration says.
    pub prefix: Option<String>,
    /// Longest wait for an answer.
    pub call_max: Duration,
    /// Properties that a new table gets unless its creator names them.
    pub table_defaults: BTreeMap<String, String>,
    /// Reads and writes the files of tables.
    pub file_io: FileIO,
}

/// A REST catalog; cheap to clone. It is asked for its configuration before the first request,
/// so it may be down when this program starts.
#[derive(Clone)]
pub struct RestCatalog {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    options: Options,
    prefix: OnceCell<Vec<String>>,
}

impl RestCatalog {
    /// A catalog at `options.uri`; asks nothing yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the address or the token cannot be used in a request.
    pub fn new(options: Options) -> Result<Self, Error> {
        let client = Client::new(&options.uri, options.token.as_deref(), options.call_max)?;
        Ok(Self { inner: Arc::new(Inner { client, options, prefix: OnceCell::new() }) })
    }

    /// Path elements before those of a resource: `v1` and the catalog's prefix.
    async fn base(&self) -> Result<&[String], Error> {
        let inner = &*self.inner;
        let prefix = inner.prefix.get_or_try_init(|| async {
            let request = Request::get(&["v1", "config"])
                .query("warehouse", inner.options.warehouse.as_deref());
            let answer = inner.client.send(request).await?;
            let config: wire::Config = answer.json()?;
            let theirs = config.overrides.get("prefix").or_else(|| config.defaults.get("prefix"));
            let prefix = inner.options.prefix.as_ref().or(theirs);
            let mut elements = vec!["v1".to_owned()];
            elements
                .extend(prefix.into_iter().flat_map(|prefix| prefix.split('/')).map(str::to_owned));
            Ok::<_, Error>(elements)
        });
        Ok(prefix.await?)
    }

    async fn request(&self, method: reqwest::Method, path: &[&str]) -> Result<Request, Error> {
        let base = self.base().await?.iter().map(String::as_str);
        Ok(Request::new(method, base.chain(path.iter().copied())))
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        let request = self.request(reqwest::Method::GET, path).await?;
        self.inner.client.send(request).await?.json()
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &(impl serde::Serialize + Sync),
    ) -> Result<T, Error> {
        let request = self.request(reqwest::Method::POST, path).await?.body(body)?;
        self.inner.client.send(request).await?.json()
    }

    /// Sends a change whose answer has no body.
    async fn tell(
        &self,
        path: &[&str],
        body: &(impl serde::Serialize + Sync),
    ) -> Result<(), Error> {
        let request = self.request(reqwest::Method::POST, path).await?.body(body)?;
        self.inner.client.send(request).await.map(drop)
    }

    async fn commit_one(&self, change: TableChange) -> Result<LoadedTable, Error> {
        let namespace = wire::namespace(change.ident.namespace());
        let path = ["namespaces", &namespace, "tables", change.ident.name()];
        let table: wire::Table = self.post(&path, &wire::CommitTable::from(&change)).await?;
        Ok(table.loaded(change.ident))
    }
}

#[async_trait]
impl Catalog for RestCatalog {
    async fn load(&self, ident: &TableIdent) -> Result<LoadedTable, Error> {
        let namespace = wire::namespace(ident.namespace());
        let table: wire::Table =
            self.get(&["namespaces", &namespace, "tables", ident.name()]).await?;
        Ok(table.loaded(ident.clone()))
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), Error> {
        let levels: &Vec<String> = namespace.as_ref();
        for depth in 1..=levels.len() {
            let level = &levels[..depth];
            let name = level.join(wire::SEPARATOR);
            match self.get::<serde_json::Value>(&["namespaces", &name]).await {
                Ok(_) => continue,
                Err(Error::NoSuchNamespace(_) | Error::NoSuchTable(_)) => {}
                Err(error) => return Err(error),
            }
            let new = wire::CreateNamespace { namespace: level, properties: HashMap::new() };
            match self.post::<serde_json::Value>(&["namespaces"], &new).await {
                Ok(_) | Err(Error::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn create(&self, new: NewTable) -> Result<LoadedTable, Error> {
        let namespace = wire::namespace(new.ident.namespace());
        let mut properties: HashMap<String, String> =
            self.inner.options.table_defaults.clone().into_iter().collect();
        properties.extend(new.properties.clone());
        let body = wire::CreateTable::new(&new, &properties);
        let table: wire::Table = self.post(&["namespaces", &namespace, "tables"], &body).await?;
        Ok(table.loaded(new.ident))
    }

    async fn commit(
        &self,
        mut changes: Vec<TableChange>,
        _with: Change,
    ) -> Result<Vec<LoadedTable>, Error> {
        if changes.len() == 1 {
            return Ok(vec![self.commit_one(changes.remove(0)).await?]);
        }
        let table_changes: Vec<_> = changes.iter().map(wire::CommitTable::from).collect();
        let body = wire::CommitTransaction { table_changes };
        self.tell(&["transactions", "commit"], &body).await?;
        let mut loaded = Vec::with_capacity(changes.len());
        for change in &changes {
            // It is committed: a failure to look is not one to commit.
            let table = self.load(&change.ident).await;
            loaded.push(table.map_err(|error| Error::Unknown(error.to_string()))?);
        }
        Ok(loaded)
    }

    fn commits_with_state(&self) -> bool {
        false
    }

    async fn rename(&self, from: &TableIdent, to: &TableIdent) -> Result<(), Error> {
        self.tell(&["tables", "rename"], &wire::Rename::new(from, to)).await
    }

    async fn list(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>, Error> {
        let name = wire::namespace(namespace);
        let mut tables = Vec::new();
        let mut page_token = String::new();
        for _ in 0..PAGES_MAX {
            let request = self
                .request(reqwest::Method::GET, &["namespaces", &name, "tables"])
                .await?
                .query("pageToken", Some(&page_token))
                .query("pageSize", Some(&PAGE_SIZE.to_string()));
            let page: wire::Tables = match self.inner.client.send(request).await {
                Ok(answer) => answer.json()?,
                Err(Error::NoSuchNamespace(_) | Error::NoSuchTable(_)) => break,
                Err(error) => return Err(error),
            };
            let idents = page.identifiers.into_iter();
            tables.extend(idents.map(|one| TableIdent::new(namespace.clone(), one.name)));
            match page.next_page_token {
                Some(next) if !next.is_empty() && next != page_token => page_token = next,
                _ => break,
            }
        }
        Ok(tables)
    }

    fn file_io(&self) -> &FileIO {
        &self.inner.options.file_io
    }
}

#[cfg(test)]
mod tests;
