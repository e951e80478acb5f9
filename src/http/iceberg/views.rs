//! The catalog has no views; some engines look for them all the same.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::error::Failure;
use super::parse;
use super::{Server, access};
use crate::http::auth::Caller;

pub(super) async fn list(
    State(server): State<Server>,
    caller: Caller,
    namespace: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Failure> {
    let namespace = parse::namespace(&namespace?.0)?;
    access::check_sees(&caller, &namespace)?;
    server.catalog.namespace(&namespace)?;
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
