//! Bodies of the Iceberg REST protocol, as far as tiering needs them.

use std::collections::HashMap;

use iceberg::spec::{Schema, SortOrder, TableMetadata, UnboundPartitionSpec};
use iceberg::{NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};

use crate::table::catalog::{LoadedTable, NewTable, TableChange};

/// Between the levels of a namespace in a path.
pub(super) const SEPARATOR: &str = "\u{1f}";

/// A namespace as one path element.
pub(super) fn namespace(namespace: &NamespaceIdent) -> String {
    let levels: &Vec<String> = namespace.as_ref();
    levels.join(SEPARATOR)
}

#[derive(Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) defaults: HashMap<String, String>,
    #[serde(default)]
    pub(super) overrides: HashMap<String, String>,
}

/// The answer to load, create and commit.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Table {
    #[serde(default)]
    metadata_location: Option<String>,
    metadata: TableMetadata,
}

impl Table {
    pub(super) fn loaded(self, ident: TableIdent) -> LoadedTable {
        LoadedTable {
            ident,
            metadata: self.metadata.into(),
            metadata_location: self.metadata_location.unwrap_or_default(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct CreateNamespace<'a> {
    pub(super) namespace: &'a [String],
    pub(super) properties: HashMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CreateTable<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a str>,
    schema: &'a Schema,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_spec: Option<&'a UnboundPartitionSpec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_order: Option<&'a SortOrder>,
    stage_create: bool,
    properties: &'a HashMap<String, String>,
}

impl<'a> CreateTable<'a> {
    pub(super) fn new(new: &'a NewTable, properties: &'a HashMap<String, String>) -> Self {
        Self {
            name: new.ident.name(),
            location: new.location.as_deref(),
            schema: &new.schema,
            partition_spec: new.spec.as_ref(),
            write_order: new.sort_order.as_ref(),
            stage_create: false,
            properties,
        }
    }
}

#[derive(Serialize)]
struct Identifier<'a> {
    namespace: &'a [String],
    name: &'a str,
}

impl<'a> From<&'a TableIdent> for Identifier<'a> {
    fn from(ident: &'a TableIdent) -> Self {
        let levels: &Vec<String> = ident.namespace().as_ref();
        Self { namespace: levels, name: ident.name() }
    }
}

#[derive(Serialize)]
pub(super) struct CommitTable<'a> {
    identifier: Identifier<'a>,
    requirements: &'a [TableRequirement],
    updates: &'a [TableUpdate],
}

impl<'a> From<&'a TableChange> for CommitTable<'a> {
    fn from(change: &'a TableChange) -> Self {
        Self {
            identifier: Identifier::from(&change.ident),
            requirements: &change.requirements,
            updates: &change.updates,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CommitTransaction<'a> {
    pub(super) table_changes: Vec<CommitTable<'a>>,
}

#[derive(Serialize)]
pub(super) struct Rename<'a> {
    source: Identifier<'a>,
    destination: Identifier<'a>,
}

impl<'a> Rename<'a> {
    pub(super) fn new(from: &'a TableIdent, to: &'a TableIdent) -> Self {
        Self { source: from.into(), destination: to.into() }
    }
}

/// One page of a list of tables.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Tables {
    pub(super) identifiers: Vec<TableName>,
    #[serde(default)]
    pub(super) next_page_token: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct TableName {
    pub(super) name: String,
}
