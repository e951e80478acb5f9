//! Requests as data: names in paths, bodies, requirements and updates by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use iceberg::spec::{Schema, SortOrder, UnboundPartitionSpec};
use iceberg::{NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Failure;
use crate::table::catalog::{NewTable, TableChange};

/// Most requirements or updates of one table in one commit.
const CHANGES_MAX: usize = 100_000;
/// Most tables of one transaction.
const TABLES_MAX: usize = 1000;

const REQUIREMENTS: &[&str] = &[
    "assert-create",
    "assert-table-uuid",
    "assert-ref-snapshot-id",
    "assert-last-assigned-field-id",
    "assert-current-schema-id",
    "assert-last-assigned-partition-id",
    "assert-default-spec-id",
    "assert-default-sort-order-id",
];

const UPDATES: &[&str] = &[
    "assign-uuid",
    "upgrade-format-version",
    "add-schema",
    "set-current-schema",
    "add-spec",
    "set-default-spec",
    "add-sort-order",
    "set-default-sort-order",
    "add-snapshot",
    "set-snapshot-ref",
    "remove-snapshots",
    "remove-snapshot-ref",
    "set-location",
    "set-properties",
    "remove-properties",
    "remove-partition-specs",
    "set-statistics",
    "remove-statistics",
    "set-partition-statistics",
    "remove-partition-statistics",
    "remove-schemas",
    "add-encryption-key",
    "remove-encryption-key",
];

/// A namespace as a path segment names it: levels separated by 0x1F.
pub(crate) fn namespace(text: &str) -> Result<NamespaceIdent, Failure> {
    NamespaceIdent::from_strs(text.split('\u{1F}'))
        .map_err(|error| Failure::bad_request(error.message()))
}

/// A namespace as the query parameter `parent` names it. Iceberg's own clients encode it before
/// they put it in the query, which encodes it again.
pub(crate) fn parent(text: &str) -> Result<NamespaceIdent, Failure> {
    let form = format!("p={}", text.replace('+', "%2B").replace('&', "%26"));
    let decoded: Result<Vec<(String, String)>, _> = serde_urlencoded::from_str(&form);
    match decoded.as_deref() {
        Ok([(_, parent)]) => namespace(parent),
        _ => Err(Failure::bad_request(format!("parent {text:?} is malformed"))),
    }
}

/// A table in a path.
pub(super) fn table((space, name): &(String, String)) -> Result<TableIdent, Failure> {
    Ok(TableIdent::new(namespace(space)?, name.clone()))
}

/// Parses a body away from the threads that serve connections.
pub(super) async fn body<T: DeserializeOwned + Send + 'static>(
    body: Result<Bytes, BytesRejection>,
) -> Result<T, Failure> {
    away(body, |bytes| json(bytes)).await
}

/// A table as bodies name it.
#[derive(Debug, Deserialize)]
pub(crate) struct Identifier {
    namespace: Vec<String>,
    name: String,
}

impl Identifier {
    /// The name.
    pub(crate) fn ident(self) -> Result<TableIdent, Failure> {
        let namespace = NamespaceIdent::from_vec(self.namespace);
        let namespace = namespace.map_err(|error| Failure::bad_request(error.message()))?;
        Ok(TableIdent::new(namespace, self.name))
    }
}

/// `CreateNamespaceRequest`.
#[derive(Debug, Deserialize)]
pub(crate) struct CreateNamespace {
    pub(crate) namespace: Vec<String>,
    pub(super) properties: Option<BTreeMap<String, String>>,
}

/// `UpdateNamespacePropertiesRequest`.
#[derive(Debug, Deserialize)]
pub(crate) struct UpdateNamespace {
    pub(crate) removals: Option<BTreeSet<String>>,
    pub(crate) updates: Option<BTreeMap<String, String>>,
}

/// `CreateTableRequest`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CreateTable {
    name: String,
    location: Option<String>,
    schema: Schema,
    partition_spec: Option<UnboundPartitionSpec>,
    write_order: Option<SortOrder>,
    pub(super) stage_create: Option<bool>,
    properties: Option<HashMap<String, String>>,
}

impl CreateTable {
    /// The wish for a table in `namespace`.
    pub(crate) fn new_table(self, namespace: NamespaceIdent) -> NewTable {
        NewTable {
            ident: TableIdent::new(namespace, self.name),
            schema: self.schema,
            spec: self.partition_spec,
            sort_order: self.write_order,
            location: self.location.filter(|location| !location.is_empty()),
            properties: self.properties.unwrap_or_default(),
        }
    }
}

/// `RegisterTableRequest`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Register {
    pub(super) name: String,
    pub(super) metadata_location: String,
    pub(super) overwrite: Option<bool>,
}

/// `RenameTableRequest`.
#[derive(Debug, Deserialize)]
pub(crate) struct Rename {
    pub(crate) source: Identifier,
    pub(crate) destination: Identifier,
}

/// `CommitTableRequest`; the lists are read one by one, so that an unknown kind is named.
#[derive(Debug, Deserialize)]
struct Commit {
    identifier: Option<Identifier>,
    requirements: Option<Vec<Value>>,
    updates: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Transaction {
    table_changes: Vec<Commit>,
}

/// The commit of one table, whose name the path gives.
pub(super) async fn commit(
    body: Result<Bytes, BytesRejection>,
    ident: TableIdent,
) -> Result<TableChange, Failure> {
    away(body, move |bytes| change(bytes, ident)).await
}

/// The commit in `bytes` of the table `ident`.
pub(crate) fn change(bytes: &[u8], ident: TableIdent) -> Result<TableChange, Failure> {
    let commit: Commit = json(bytes)?;
    commit.change(Some(ident))
}

/// The commits of several tables.
pub(super) async fn transaction(
    body: Result<Bytes, BytesRejection>,
) -> Result<Vec<TableChange>, Failure> {
    away(body, changes).await
}

/// The commits in `bytes`, each with its table's name.
pub(crate) fn changes(bytes: &[u8]) -> Result<Vec<TableChange>, Failure> {
    let transaction: Transaction = json(bytes)?;
    if transaction.table_changes.len() > TABLES_MAX {
        return Err(Failure::bad_request(format!(
            "a transaction has {} tables, more than {TABLES_MAX}",
            transaction.table_changes.len()
        )));
    }
    transaction.table_changes.into_iter().map(|commit| commit.change(None)).collect()
}

async fn away<T: Send + 'static>(
    body: Result<Bytes, BytesRejection>,
    parse: impl FnOnce(&[u8]) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let bytes = body?;
    match tokio::task::spawn_blocking(move || parse(&bytes)).await {
        Ok(parsed) => parsed,
        Err(error) => Err(Failure::internal(&error)),
    }
}

/// A body of any kind.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::bad_request(format!("malformed request: {error}")))
}

impl Commit {
    fn change(self, path: Option<TableIdent>) -> Result<TableChange, Failure> {
        let ident = match (path, self.identifier) {
            (Some(path), _) => path,
            (None, Some(identifier)) => identifier.ident()?,
            (None, None) => return Err(Failure::bad_request("a table change has no identifier")),
        };
        let requirements = self.requirements.unwrap_or_default();
        let updates = self.updates.unwrap_or_default();
        let requirements: Vec<TableRequirement> =
            known("requirement", "type", REQUIREMENTS, requirements)?;
        let updates: Vec<TableUpdate> = known("update", "action", UPDATES, updates)?;
        Ok(TableChange { ident, requirements, updates })
    }
}

fn known<T: DeserializeOwned>(
    what: &str,
    tag: &str,
    names: &[&str],
    values: Vec<Value>,
) -> Result<Vec<T>, Failure> {
    if values.len() > CHANGES_MAX {
        return Err(Failure::bad_request(format!(
            "a commit has {} {what}s, more than {CHANGES_MAX}",
            values.len()
        )));
    }
    let parse = |value: Value| {
        let Some(name) = value.get(tag).and_then(Value::as_str) else {
            return Err(Failure::bad_request(format!("a {what} has no {tag}")));
        };
        if !names.contains(&name) {
            let shown: String = name.chars().take(64).collect();
            return Err(Failure::bad_request(format!("{what} {shown:?} is not supported")));
        }
        let name = name.to_owned();
        serde_json::from_value(value)
            .map_err(|error| Failure::bad_request(format!("{what} {name:?}: {error}")))
    };
    values.into_iter().map(parse).collect()
}
