//! What a client asks first.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Server;

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

/// `GET /v1/config`. There is one warehouse, so whichever the client names is it.
pub(super) async fn load(State(server): State<Server>) -> Json<Value> {
    Json(json!({
        "defaults": server.options.client_properties,
        "overrides": {},
        "endpoints": ENDPOINTS,
    }))
}

/// `POST /v1/oauth/tokens`, with the error form of RFC 6749: the catalog hands out no tokens.
pub(super) async fn no_tokens() -> (StatusCode, Json<Value>) {
    let description = "this catalog issues no tokens: configure the client with a token, or with \
                       none where the server needs none";
    (
        StatusCode::BAD_REQUEST,
        Json(json!({ "error": "unsupported_grant_type", "error_description": description })),
    )
}
