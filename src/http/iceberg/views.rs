//! The catalog has no views; some engines look for them all the same.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Server;
use super::error::Failure;
use super::parse;

pub(super) async fn list(
    State(server): State<Server>,
    namespace: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Failure> {
    server.catalog.namespace(&parse::namespace(&namespace?.0)?)?;
    Ok(Json(json!({ "identifiers": [] })))
}

pub(super) async fn create() -> Failure {
    Failure::unsupported("this catalog has no views")
}

pub(super) async fn load(
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Value>, Failure> {
    let view = parse::table(&path?.0)?;
    Err(Failure::no_such_view(&view.to_string()))
}
