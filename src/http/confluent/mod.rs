//! Confluent's REST proxy, produce side: v2 (`/topics/{topic}`, also Redpanda's proxy) and v3
//! (`/v3/clusters/{cluster}/topics/{topic}/records`, also under `/kafka`), with what their clients
//! ask before they produce. Source: Confluent REST Proxy API reference.
//!
//! Owns: forms of records, receipts and errors. Does not own: the append (`ingest`).
//!
//! What differs: a request is read whole, up to `http.body.max.bytes`, before it is answered; v2 takes
//! plain JSON; `?strict=true` makes a request all or nothing and its status tell of failures. There are
//! no schemas and no consumers.

mod append;
mod data;
mod failure;
mod metadata;
mod record;
mod v2;
mod v3;

use axum::Router;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};

use crate::http::Api;
use crate::http::problem::Problem;

use failure::{Failure, Refused};

/// All routes.
pub(super) fn routes() -> Router<Api> {
    let v2 = Router::new()
        .route("/topics", get(metadata::topic_names))
        .route("/topics/{topic}", get(metadata::topic).post(v2::produce))
        .route("/topics/{topic}/partitions/{partition}", post(v2::produce_to_partition))
        .route("/brokers", get(metadata::brokers))
        .route("/consumers/{*rest}", any(consumers))
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(v2::typed));
    v2.merge(v3()).nest("/kafka", v3())
}

/// True for paths whose clients read errors in the proxy's form.
pub(super) fn is_route(path: &str) -> bool {
    let path = path.strip_prefix("/kafka").unwrap_or(path);
    let first = path.trim_start_matches('/').split('/').next();
    matches!(first, Some("topics" | "brokers" | "consumers" | "v3"))
}

/// A refusal in the proxy's form.
pub(super) fn refusal(problem: Problem) -> Response {
    Refused::from(problem).into_response()
}

fn v3() -> Router<Api> {
    Router::new()
        .route("/v3/clusters", get(metadata::clusters))
        .route("/v3/clusters/{cluster}", get(metadata::cluster))
        .route("/v3/clusters/{cluster}/topics", get(metadata::cluster_topics))
        .route("/v3/clusters/{cluster}/topics/{topic}", get(metadata::cluster_topic))
        .route("/v3/clusters/{cluster}/topics/{topic}/records", post(v3::records))
        .route("/v3/clusters/{cluster}/topics/{topic}/records:batch", post(v3::batch))
        .method_not_allowed_fallback(method_not_allowed)
}

async fn method_not_allowed() -> Refused {
    Failure::new(405, "see /openapi.json for what is allowed here").into()
}

async fn consumers() -> Refused {
    let message = "there are no consumers over HTTP: read with a Kafka client (kafka.listen)";
    Failure::new(501, message).into()
}
