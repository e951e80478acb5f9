//! `/v1/namespaces`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use iceberg::NamespaceIdent;
use serde_json::{Value, json};

use super::error::Failure;
use super::page::Paging;
use super::parse::{self, CreateNamespace, UpdateNamespace};
use super::{Server, access};
use crate::auth::Operation;
use crate::http::auth::Caller;

type Segment = Result<Path<String>, PathRejection>;

pub(super) async fn list(
    State(server): State<Server>,
    caller: Caller,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<Value>, Failure> {
    let Query(paging) = paging?;
    let parent = paging.parent.as_deref().filter(|parent| !parent.is_empty());
    let parent = parent.map(parse::parent).transpose()?;
    let mut all = server.catalog.namespaces(parent.as_ref()).await?;
    all.retain(|namespace| access::sees(&caller, namespace));
    let (page, next) = paging.cut(all, NamespaceIdent::to_url_string)?;
    let mut answer = json!({ "namespaces": page });
    if let Some(next) = next {
        answer["next-page-token"] = next.into();
    }
    Ok(Json(answer))
}

pub(super) async fn create(
    State(server): State<Server>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Failure> {
    let request: CreateNamespace = parse::body(body).await?;
    let namespace = NamespaceIdent::from_vec(request.namespace)
        .map_err(|error| Failure::bad_request(error.message()))?;
    access::whole(&caller, Operation::Create, &namespace)?;
    let properties = request.properties.unwrap_or_default();
    server.catalog.create_namespace(namespace.clone(), properties).await?;
    described(&server, &namespace)
}

pub(super) async fn load(
    State(server): State<Server>,
    caller: Caller,
    namespace: Segment,
) -> Result<Json<Value>, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    access::check_sees(&caller, &namespace)?;
    described(&server, &namespace)
}

fn described(server: &Server, namespace: &NamespaceIdent) -> Result<Json<Value>, Failure> {
    let properties: BTreeMap<String, String> = server.catalog.namespace(namespace)?;
    Ok(Json(json!({ "namespace": namespace, "properties": properties })))
}

pub(super) async fn exists(
    State(server): State<Server>,
    caller: Caller,
    namespace: Segment,
) -> Result<StatusCode, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    access::check_sees(&caller, &namespace)?;
    server.catalog.namespace(&namespace)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn drop(
    State(server): State<Server>,
    caller: Caller,
    namespace: Segment,
) -> Result<StatusCode, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    access::whole(&caller, Operation::Delete, &namespace)?;
    server.catalog.drop_namespace(namespace).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn update(
    State(server): State<Server>,
    caller: Caller,
    namespace: Segment,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    access::whole(&caller, Operation::Alter, &namespace)?;
    let request: UpdateNamespace = parse::body(body).await?;
    let removals = request.removals.unwrap_or_default();
    let updates = request.updates.unwrap_or_default();
    if let Some(both) = removals.iter().find(|key| updates.contains_key(*key)) {
        return Err(Failure::unprocessable(format!("property {both:?} is both set and removed")));
    }
    let done = server.catalog.update_namespace(namespace, removals, updates).await?;
    Ok(Json(json!({
        "removed": done.removed,
        "updated": done.updated,
        "missing": done.missing,
    })))
}
