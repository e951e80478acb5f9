//! The routes of Keboola's dialect.

use axum::Router;
use axum::routing::{delete, get, post, put};

use super::{about, ingest, sinks, sources, task};
use crate::http::Api;
use crate::http::openapi;

/// The ingest route.
pub(in crate::http) fn routes() -> Router<Api> {
    Router::new().route("/stream/{project}/{source}/{secret}", post(ingest::receive))
}

/// What makes, changes and describes sources and sinks.
pub(in crate::http) fn managed() -> Router<Api> {
    Router::new()
        .route("/v1", get(about))
        .route("/v1/documentation/openapi.json", get(openapi::document))
        .route("/v1/documentation/openapi3.json", get(openapi::document))
        .route("/v1/documentation/openapi.yaml", get(openapi::yaml))
        .route("/v1/documentation/openapi3.yaml", get(openapi::yaml))
        .route("/v1/documentation", get(openapi::routes))
        .route("/v1/documentation/", get(openapi::routes))
        .route("/health-check", get(async || "OK\n"))
        .route("/v1/tasks/{*task}", get(task::describe))
        .route("/v1/branches/{branch}/sources/{source}/tasks/{*task}", get(task::of_source))
        .merge(of_sources())
        .merge(of_sinks())
}

fn of_sources() -> Router<Api> {
    Router::new()
        .route("/v1/branches/{branch}/aggregation/sources", get(sources::aggregate))
        .route("/v1/branches/{branch}/sources", get(sources::list).post(sources::create))
        .route("/v1/branches/{branch}/sources/deleted", get(sources::list_deleted))
        .route(
            "/v1/branches/{branch}/sources/{source}",
            get(sources::describe).patch(sources::update).delete(sources::delete),
        )
        .route(
            "/v1/branches/{branch}/sources/{source}/settings",
            get(sources::settings).patch(sources::set),
        )
        .route("/v1/branches/{branch}/sources/{source}/test", post(sources::test))
        .route("/v1/branches/{branch}/sources/{source}/statistics/clear", delete(sources::clear))
        .route("/v1/branches/{branch}/sources/{source}/disable", put(sources::disable))
        .route("/v1/branches/{branch}/sources/{source}/enable", put(sources::enable))
        .route("/v1/branches/{branch}/sources/{source}/undelete", put(sources::undelete))
        .route("/v1/branches/{branch}/sources/{source}/rotate-secret", post(sources::rotate))
        .route("/v1/branches/{branch}/sources/{source}/versions", get(sources::versions))
        .route("/v1/branches/{branch}/sources/{source}/versions/{version}", get(sources::version))
        .route(
            "/v1/branches/{branch}/sources/{source}/versions/{version}/rollback",
            put(sources::rollback),
        )
}

fn of_sinks() -> Router<Api> {
    Router::new()
        .route("/v1/branches/{branch}/sources/{source}/sinks", get(sinks::list).post(sinks::create))
        .route("/v1/branches/{branch}/sources/{source}/sinks/deleted", get(sinks::list_deleted))
        .route(
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}",
            get(sinks::describe).patch(sinks::update).delete(sinks::delete),
        )
        .route(
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}/settings",
            get(sinks::settings).patch(sinks::set),
        )
        .route(
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}/statistics/total",
            get(sinks::total),
        )
        .route(
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}/statistics/files",
            get(sinks::files),
        )
        .route(
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}/statistics/clear",
            delete(sinks::clear),
        )
        .route("/v1/branches/{branch}/sources/{source}/sinks/{sink}/disable", put(sinks::disable))
        .route("/v1/branches/{branch}/sources/{source}/sinks/{sink}/enable", put(sinks::enable))
        .route("/v1/branches/{branch}/sources/{source}/sinks/{sink}/undelete", put(sinks::undelete))
        .route("/v1/branches/{branch}/sources/{source}/sinks/{sink}/versions", get(sinks::versions))
        .route(
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}/versions/{version}",
            get(sinks::version),
        )
        .route(
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}/versions/{version}/rollback",
            put(sinks::rollback),
        )
}
