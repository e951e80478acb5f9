//! `/v1/namespaces/{namespace}/tables` and the commits.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use iceberg::TableIdent;
use iceberg::spec::TableMetadataRef;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::Failure;
use super::page::Paging;
use super::parse::{self, CreateTable, Register, Rename};
use super::{Server, access};
use crate::auth::Operation;
use crate::http::auth::Caller;
use crate::store::Change;
use crate::table::catalog::{Catalog, LoadedTable};

type Segment = Result<Path<String>, PathRejection>;
type Segments = Result<Path<(String, String)>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;

pub(super) async fn list(
    State(server): State<Server>,
    caller: Caller,
    namespace: Segment,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    let Query(paging) = paging?;
    access::check_sees(&caller, &namespace)?;
    let mut all = server.catalog.tables(&namespace).await?;
    all.retain(|table| access::sees_table(&caller, table));
    let (page, next) = paging.cut(all, |table: &TableIdent| table.name().to_owned())?;
    let mut answer = json!({ "identifiers": page });
    if let Some(next) = next {
        answer["next-page-token"] = next.into();
    }
    Ok(Json(answer))
}

pub(super) async fn create(
    State(server): State<Server>,
    caller: Caller,
    namespace: Segment,
    body: Body,
) -> Result<Response, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    let request: CreateTable = parse::body(body).await?;
    let staged = request.stage_create.unwrap_or(false);
    let new = request.new_table(namespace);
    access::table(&caller, Operation::Create, &new.ident)?;
    if staged {
        let metadata = server.catalog.stage(new).await?;
        return described(&server, metadata, None, Snapshots::All).await;
    }
    let LoadedTable { metadata, metadata_location, .. } = server.catalog.create(new).await?;
    described(&server, metadata, Some(metadata_location), Snapshots::All).await
}

pub(super) async fn register(
    State(server): State<Server>,
    caller: Caller,
    namespace: Segment,
    body: Body,
) -> Result<Response, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    let request: Register = parse::body(body).await?;
    let ident = TableIdent::new(namespace, request.name);
    let overwrite = request.overwrite.unwrap_or(false);
    access::table(&caller, Operation::Create, &ident)?;
    if overwrite {
        access::table(&caller, Operation::Alter, &ident)?;
    }
    let table = server.catalog.register(ident, request.metadata_location, overwrite).await?;
    described(&server, table.metadata, Some(table.metadata_location), Snapshots::All).await
}

/// Which snapshots a client wants to see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Snapshots {
    #[default]
    All,
    /// Only those that a branch or a tag points at.
    Refs,
}

#[derive(Debug, Deserialize)]
pub(super) struct LoadQuery {
    snapshots: Option<Snapshots>,
}

pub(super) async fn load(
    State(server): State<Server>,
    caller: Caller,
    path: Segments,
    query: Result<Query<LoadQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let ident = parse::table(&path?.0)?;
    access::load(&caller, &ident)?;
    let snapshots = query?.0.snapshots.unwrap_or_default();
    let table = server.catalog.load(&ident).await?;
    let tag = etag(&table.metadata_location, snapshots);
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let metadata_location = Some(table.metadata_location);
    let mut answer = described(&server, table.metadata, metadata_location, snapshots).await?;
    if let Ok(tag) = tag.parse() {
        answer.headers_mut().insert(ETAG, tag);
    }
    Ok(answer)
}

/// Metadata files never change and have names of their own.
fn etag(metadata_location: &str, snapshots: Snapshots) -> String {
    let name = metadata_location.rsplit('/').next().unwrap_or_default();
    let name: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).collect();
    format!("\"{name}/{}\"", if snapshots == Snapshots::All { "all" } else { "refs" })
}

pub(super) async fn exists(
    State(server): State<Server>,
    caller: Caller,
    path: Segments,
) -> Result<StatusCode, Failure> {
    let ident = parse::table(&path?.0)?;
    access::table(&caller, Operation::Describe, &ident)?;
    if server.catalog.exists(&ident)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(crate::table::catalog::Error::NoSuchTable(ident).into())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DropQuery {
    purge_requested: Option<String>,
}

pub(super) async fn drop(
    State(server): State<Server>,
    caller: Caller,
    path: Segments,
    query: Result<Query<DropQuery>, QueryRejection>,
) -> Result<StatusCode, Failure> {
    let ident = parse::table(&path?.0)?;
    access::table(&caller, Operation::Delete, &ident)?;
    // PyIceberg sends `True` and `False`.
    let purge = match query?.0.purge_requested {
        None => false,
        Some(text) => text.to_ascii_lowercase().parse().map_err(|_| {
            Failure::bad_request(format!("purgeRequested is {text:?}; true and false are allowed"))
        })?,
    };
    server.catalog.drop_table(ident, purge).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rename(
    State(server): State<Server>,
    caller: Caller,
    body: Body,
) -> Result<StatusCode, Failure> {
    let request: Rename = parse::body(body).await?;
    let (from, to) = (request.source.ident()?, request.destination.ident()?);
    access::table(&caller, Operation::Alter, &from)?;
    access::table(&caller, Operation::Create, &to)?;
    server.catalog.rename(&from, &to).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn commit(
    State(server): State<Server>,
    caller: Caller,
    path: Segments,
    body: Body,
) -> Result<Response, Failure> {
    let ident = parse::table(&path?.0)?;
    let change = parse::commit(body, ident.clone()).await?;
    access::commit(&caller, &change)?;
    let committed = server.catalog.commit(vec![change], Change::new()).await?;
    let table = committed.into_iter().next();
    let table = table.ok_or(crate::table::catalog::Error::NoSuchTable(ident))?;
    described(&server, table.metadata, Some(table.metadata_location), Snapshots::All).await
}

pub(super) async fn commit_all(
    State(server): State<Server>,
    caller: Caller,
    body: Body,
) -> Result<StatusCode, Failure> {
    let changes = parse::transaction(body).await?;
    changes.iter().try_for_each(|change| access::commit(&caller, change))?;
    server.catalog.commit(changes, Change::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reports of scans and commits are taken and dropped.
pub(super) async fn metrics(
    caller: Caller,
    path: Segments,
    body: Body,
) -> Result<StatusCode, Failure> {
    access::load(&caller, &parse::table(&path?.0)?)?;
    body?;
    Ok(StatusCode::NO_CONTENT)
}

/// `LoadTableResult`, made away from the threads that serve connections: metadata may be large.
async fn described(
    server: &Server,
    metadata: TableMetadataRef,
    metadata_location: Option<String>,
    snapshots: Snapshots,
) -> Result<Response, Failure> {
    let options = server.options.clone();
    let make = move || {
        let mut metadata = serde_json::to_value(&*metadata)?;
        if snapshots == Snapshots::Refs {
            keep_referenced(&mut metadata);
        }
        let mut answer = Map::new();
        if let Some(location) = metadata_location {
            answer.insert("metadata-location".to_owned(), location.into());
        }
        answer.insert("metadata".to_owned(), metadata);
        answer.insert("config".to_owned(), json!(options.client_properties));
        serde_json::to_vec(&answer)
    };
    let made = tokio::task::spawn_blocking(make).await;
    let body = made
        .map_err(|error| Failure::internal(&error))?
        .map_err(|error| Failure::bad_request(format!("the table has no JSON form: {error}")))?;
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

fn keep_referenced(metadata: &mut Value) {
    let refs = metadata.get("refs").and_then(Value::as_object);
    let kept: Vec<Value> =
        refs.into_iter().flatten().filter_map(|(_, r)| r.get("snapshot-id").cloned()).collect();
    if let Some(snapshots) = metadata.get_mut("snapshots").and_then(Value::as_array_mut) {
        snapshots.retain(|s| s.get("snapshot-id").is_some_and(|id| kept.contains(id)));
    }
}
