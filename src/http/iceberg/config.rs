//! What a client asks first.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Server, access};
use crate::http::auth::Caller;

/// Every route, as clients compare them. Views are not among them, so clients do not ask.
const ENDPOINTS: &[&str] = &[
    "GET /v1/{prefix}/namespaces",
    "POST /v1/{prefix}/namespaces",
    "GET /v1/{prefix}/namespaces/{namespace}",
    "HEAD /v1/{prefix}/namespaces/{namespace}",
    "DELETE /v1/{prefix}/namespaces/{namespace}",
    "POST /v1/{prefix}/namespaces/{namespace}/properties",
    "GET /v1/{prefix}/namespaces/{namespace}/tables",
    "POST /v1/{prefix}/namespaces/{namespace}/tables",
    "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
    "POST /v1/{prefix}/namespaces/{namespace}/register",
    "POST /v1/{prefix}/tables/rename",
    "POST /v1/{prefix}/transactions/commit",
];

/// `GET /v1/config`. There is one warehouse, so whichever the client names is it. How to reach its
/// files is told to those who may read or write some table.
pub(super) async fn load(State(server): State<Server>, caller: Caller) -> Json<Value> {
    let properties = &server.options.client_properties;
    let defaults = if access::may_reach_files(&caller) { json!(properties) } else { json!({}) };
    Json(json!({
        "defaults": defaults,
        "overrides": {},
        "endpoints": ENDPOINTS,
    }))
}
