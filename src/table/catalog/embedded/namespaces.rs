//! Namespaces: create, list, properties, drop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::NamespaceIdent;

use super::records::{self, NamespaceRecord};
use super::{EmbeddedCatalog, Inner, names};
use crate::store::{Change, Space};
use crate::table::catalog::Error;

/// What became of each key of a change of properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceUpdate {
    /// Keys that were removed.
    pub removed: Vec<String>,
    /// Keys that were set.
    pub updated: Vec<String>,
    /// Keys that were to be removed but were not there.
    pub missing: Vec<String>,
}

impl EmbeddedCatalog {
    /// Makes a namespace, and those above it that are not there yet.
    ///
    /// # Errors
    /// [`Error::Exists`]; [`Error::Invalid`] for a bad name or a property `location` outside the
    /// warehouse.
    pub async fn create_namespace(
        &self,
        namespace: NamespaceIdent,
        properties: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        self.detached(|inner| async move { inner.create_namespace(namespace, properties).await })
            .await
    }

    /// The namespaces directly below `parent` (none: the top level), sorted.
    ///
    /// # Errors
    /// [`Error::NoSuchNamespace`] if `parent` is not there.
    pub async fn namespaces(
        &self,
        parent: Option<&NamespaceIdent>,
    ) -> Result<Vec<NamespaceIdent>, Error> {
        if let Some(parent) = parent {
            self.inner.namespace_record(parent)?;
        }
        let found = self.inner.scan(Space::Namespace, names::children_prefix(parent)?).await?;
        let depth = parent.map_or(0, |parent| parent.len()) + 1;
        let all = found.iter().filter_map(|(key, _)| names::parse_namespace(key));
        Ok(all.filter(|namespace| namespace.len() == depth).collect())
    }

    /// The properties of a namespace.
    ///
    /// # Errors
    /// [`Error::NoSuchNamespace`].
    pub fn namespace(&self, namespace: &NamespaceIdent) -> Result<BTreeMap<String, String>, Error> {
        Ok(self.inner.namespace_record(namespace)?.properties)
    }

    /// Removes and sets properties of a namespace.
    ///
    /// # Errors
    /// [`Error::NoSuchNamespace`]; [`Error::Invalid`] for a `location` outside the warehouse.
    pub async fn update_namespace(
        &self,
        namespace: NamespaceIdent,
        removals: BTreeSet<String>,
        updates: BTreeMap<String, String>,
    ) -> Result<NamespaceUpdate, Error> {
        let update = |inner: Arc<Inner>| async move {
            inner.update_namespace(&namespace, removals, updates).await
        };
        self.detached(update).await
    }

    /// Drops a namespace.
    ///
    /// # Errors
    /// [`Error::NoSuchNamespace`]; [`Error::NotEmpty`] while tables or namespaces are in it.
    pub async fn drop_namespace(&self, namespace: NamespaceIdent) -> Result<(), Error> {
        self.detached(|inner| async move { inner.drop_namespace(&namespace).await }).await
    }
}

impl Inner {
    async fn create_namespace(
        &self,
        namespace: NamespaceIdent,
        mut properties: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        self.check_location(&mut properties)?;
        let key = names::namespace_key(&namespace)?;
        let _names = self.names.lock().await;
        if self.namespace_record(&namespace).is_ok() {
            return Err(Error::Exists(format!("namespace {namespace}")));
        }
        let created = self.options.clock.now_ms();
        let mut change = Change::new();
        let mut above = namespace.parent();
        while let Some(parent) = above {
            if matches!(self.namespace_record(&parent), Err(Error::NoSuchNamespace(_))) {
                let record = NamespaceRecord { properties: BTreeMap::new(), created };
                let parent_key = names::namespace_key(&parent)?;
                change = change.put(Space::Namespace, parent_key, records::encode(record)?);
            }
            above = parent.parent();
        }
        let record = NamespaceRecord { properties, created };
        self.write(change.put(Space::Namespace, key, records::encode(record)?)).await
    }

    async fn update_namespace(
        &self,
        namespace: &NamespaceIdent,
        removals: BTreeSet<String>,
        mut updates: BTreeMap<String, String>,
    ) -> Result<NamespaceUpdate, Error> {
        self.check_location(&mut updates)?;
        let _names = self.names.lock().await;
        let mut record = self.namespace_record(namespace)?;
        let mut done = NamespaceUpdate::default();
        for key in removals {
            match record.properties.remove(&key) {
                Some(_) => done.removed.push(key),
                None => done.missing.push(key),
            }
        }
        done.updated = updates.keys().cloned().collect();
        record.properties.extend(updates);
        let key = names::namespace_key(namespace)?;
        self.write(Change::new().put(Space::Namespace, key, records::encode(record)?)).await?;
        Ok(done)
    }

    async fn drop_namespace(self: &Arc<Self>, namespace: &NamespaceIdent) -> Result<(), Error> {
        let _names = self.names.lock().await;
        self.namespace_record(namespace)?;
        let children = names::children_prefix(Some(namespace))?;
        let tables = names::tables_prefix(namespace)?;
        if !self.scan(Space::Namespace, children).await?.is_empty()
            || !self.scan(Space::Table, tables).await?.is_empty()
        {
            return Err(Error::NotEmpty(namespace.to_string()));
        }
        let key = names::namespace_key(namespace)?;
        self.write(Change::new().delete(Space::Namespace, key)).await
    }

    /// A namespace's property `location` is where its tables go by default.
    fn check_location(&self, properties: &mut BTreeMap<String, String>) -> Result<(), Error> {
        if let Some(location) = properties.get_mut("location") {
            *location = self.warehouse.check(location)?;
        }
        Ok(())
    }
}
