//! Event streams over HTTP: the ingest route of IOMETE's, the same for every form of JSON under
//! `/api/v1/streams`, and their management there.
//! Source: IOMETE's documentation of Event Streams.
//!
//! Owns: the route's checks in their order, what a body must be, its answers. Does not own: the
//! append (`ingest`), which value a column takes (`schema`), what streams there are (`stream`).
//!
//! A request names a table that is there. Its events are checked by the table's schema as it is
//! known here, and go to a topic of the stream and the table, which tiering writes to that table
//! (`table.mode = contract`). Both ends decode by the same code.

mod answer;
mod array;
mod channel;
mod fit;
mod head;
mod ingest;
pub(super) mod manage;
mod name;
mod open;
pub(super) mod put;
mod said;
mod tables;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;

use crate::http::Api;
use crate::http::problem::Problem;
use crate::runtime::metrics;
use crate::schema::json::contract::Ignored;
use crate::stream::Streams;
use crate::table::catalog::Catalog;

use answer::Refused;
use tables::Tables;

pub(super) use open::open_topic;

/// The route, also served with a slash at its end.
const INGEST: &str = "/data-plane/{namespace}/event-stream/{stream}/ingest";
/// Methods of the route.
const METHODS: HeaderValue = HeaderValue::from_static("POST, PUT, PATCH, OPTIONS");

/// What the routes of streams need; cheap to clone.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(super) streams: Streams,
    tables: Tables,
    /// Fields that no column took, by stream; in memory only.
    ignored: Arc<Mutex<HashMap<String, Ignored>>>,
}

impl Doors {
    pub(super) fn new(streams: Streams, catalog: Arc<dyn Catalog>) -> Self {
        Self { streams, tables: Tables::new(catalog), ignored: Arc::default() }
    }

    /// Counts fields that no column took.
    fn ignore(&self, stream: &str, ignored: Ignored) {
        if ignored != Ignored::default() {
            let (name, times) = (stream.to_owned(), ignored.total());
            ::metrics::counter!(metrics::STREAM_IGNORED, "stream" => name).increment(times);
            self.ignored.lock().entry(stream.to_owned()).or_default().merge(ignored);
        }
    }
}

/// What makes and changes streams.
pub(super) fn managed() -> Router<Api> {
    Router::new()
        .route("/api/v1/streams", get(manage::list).post(manage::create))
        .route(
            "/api/v1/streams/{stream}",
            get(manage::describe).put(put::put).patch(manage::alter).delete(manage::delete),
        )
        .route("/api/v1/streams/{stream}/channels/{channel}", get(channel::channel))
        .route("/api/v1/streams/{stream}/terminate", post(manage::terminate))
        .route("/api/v1/streams/{stream}/start", post(manage::start))
}

/// The ingest routes.
pub(super) fn routes() -> Router<Api> {
    let route = || {
        post(ingest::ingest)
            .put(ingest::ingest)
            .patch(ingest::ingest)
            .options(async || (StatusCode::NO_CONTENT, [(header::ALLOW, METHODS)]))
            .fallback(method_not_allowed)
    };
    let events = post(ingest::events).put(ingest::events).patch(ingest::events);
    let of_table = post(ingest::events_of_table);
    let of_table = of_table.put(ingest::events_of_table).patch(ingest::events_of_table);
    Router::new()
        .route(INGEST, route())
        .route(&format!("{INGEST}/"), route())
        .route("/api/v1/streams/{stream}/events", events)
        .route("/api/v1/tables/{table}/events", of_table)
}

async fn method_not_allowed(headers: HeaderMap) -> Response {
    let problem = Problem::new("method_not_allowed", "events are sent with POST");
    let mut response = refusal(problem, &headers);
    response.headers_mut().insert(header::ALLOW, METHODS);
    response
}

/// `namespace.table` of a table's full name.
///
/// # Errors
/// `invalid_table_name`.
pub(super) fn table_of(name: &str) -> Result<String, Problem> {
    name::TableName::parse(name).map(|table| table.short())
}

/// True for the path of the route, whatever names it has.
pub(super) fn is_route(path: &str) -> bool {
    names(path).is_some()
}

/// Namespace and stream of a path of the route, as they stand there.
fn names(path: &str) -> Option<(&str, &str)> {
    let parts: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    match parts[..] {
        ["", "data-plane", namespace, "event-stream", stream, "ingest"] => {
            Some((namespace, stream))
        }
        _ => None,
    }
}

/// A refusal in the route's form.
pub(super) fn refusal(problem: Problem, headers: &HeaderMap) -> Response {
    Refused::from(problem).told(headers).into_response()
}

/// What comes before the question who sends the request: the route is closed to everybody.
pub(super) fn closed(api: &Api, path: &str) -> Option<Problem> {
    let problem = if is_route(path) { api.not_ready() } else { None };
    problem.map(Problem::closing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_told_from_others() {
        let path = "/data-plane/prod/event-stream/shop/ingest";
        assert_eq!(names(path), Some(("prod", "shop")));
        assert_eq!(names(&format!("{path}/")), Some(("prod", "shop")));
        for other in
            ["/data-plane/prod/event-stream/shop", "/data-plane/a/b/event-stream/shop/ingest", "/"]
        {
            assert_eq!(names(other), None, "{other}");
        }
    }
}
