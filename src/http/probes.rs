//! `/healthz`, `/readyz` (`/status/ready`), `/version`, `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::problem::Problem;
use crate::runtime::metrics as names;

/// 200 while the process turns.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 while events are taken; 503 while shutting down, before that for `shutdown.delay`, and without
/// room. A catalog that is out
/// of reach does not count: events are taken and kept.
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    match api.unready() {
        None => "ready\n".into_response(),
        Some(problem) => problem.into_response(),
    }
}

/// What answers here, and in which version.
pub(super) async fn version() -> Json<Value> {
    Json(json!({ "name": "floe", "version": env!("CARGO_PKG_VERSION") }))
}

/// Prometheus text. It names topics and tables, so it is not for everybody.
pub(super) async fn metrics(State(api): State<Api>, caller: Caller) -> Response {
    if let Err(problem) = caller.check(Operation::Describe, Resource::Cluster) {
        return problem.into_response();
    }
    let Some(render) = &api.metrics else {
        return Problem::new("not_found", "metrics are not collected").into_response();
    };
    let in_flight = api.engine.memory().used_bytes();
    ::metrics::gauge!(names::HTTP_IN_FLIGHT_BYTES).set(in_flight as f64);
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (StatusCode::OK, kind, render()).into_response()
}
