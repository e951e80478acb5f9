//! The Iceberg REST catalog over the embedded catalog, as in the Iceberg project's
//! `rest-catalog-open-api.yaml`. The server nests [`router`] under `/iceberg`.
//!
//! Owns: routes, parsing, the error model. Does not own: what may be committed
//! (`table::catalog::embedded`), who calls and where access tokens come from (the server puts both in
//! front).

mod access;
mod config;
mod error;
mod namespaces;
pub(crate) mod page;
pub(crate) mod parse;
mod tables;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::http::problem::Problem;
use crate::http::refusals::Reason;
use crate::table::catalog::EmbeddedCatalog;
use error::Failure;

/// Largest request body, in bytes, unless [`Options`] say otherwise.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// How the REST catalog presents itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// Handed to every client in its configuration and with every table: `s3.endpoint` as
    /// clients reach it, ... (`[catalog.client]`, rules 8.3). The client's own settings win.
    pub client_properties: BTreeMap<String, String>,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { client_properties: BTreeMap::new(), body_bytes_max: BODY_BYTES_MAX }
    }
}

#[derive(Clone)]
struct Server {
    catalog: EmbeddedCatalog,
    options: Arc<Options>,
}

/// What is answered where another catalog keeps the tables: where to go.
pub fn elsewhere(uri: &str) -> Router {
    let message = format!("the tables of this server are in the catalog at {uri}");
    Router::new().fallback(async move || Failure::elsewhere(message.clone()))
}

/// A refusal that came before the catalog's routes, in their form.
pub(super) fn refusal(problem: &Problem) -> Response {
    let native = problem.clone().into_response();
    let mut answer = Failure::before(native.status(), problem.detail()).into_response();
    Reason::mark(problem.code(), &mut answer);
    for name in [header::WWW_AUTHENTICATE, header::RETRY_AFTER, header::CONNECTION] {
        if let Some(value) = native.headers().get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

/// All routes, from `/v1/config` on.
pub fn router(catalog: EmbeddedCatalog, options: Options) -> Router {
    let limit = options.body_bytes_max;
    let server = Server { catalog, options: Arc::new(options) };
    let namespace = get(namespaces::load).head(namespaces::exists).delete(namespaces::drop);
    let table = get(tables::load).head(tables::exists).post(tables::commit).delete(tables::drop);
    let view = get(views::load).head(views::load).post(views::load).delete(views::load);
    Router::new()
        .route("/v1/config", get(config::load))
        .route("/v1/namespaces", get(namespaces::list).post(namespaces::create))
        .route("/v1/namespaces/{namespace}", namespace)
        .route("/v1/namespaces/{namespace}/properties", post(namespaces::update))
        .route("/v1/namespaces/{namespace}/tables", get(tables::list).post(tables::create))
        .route("/v1/namespaces/{namespace}/tables/{table}", table)
        .route("/v1/namespaces/{namespace}/tables/{table}/metrics", post(tables::metrics))
        .route("/v1/namespaces/{namespace}/register", post(tables::register))
        .route("/v1/namespaces/{namespace}/views", get(views::list).post(views::create))
        .route("/v1/namespaces/{namespace}/views/{view}", view)
        .route("/v1/tables/rename", post(tables::rename))
        .route("/v1/transactions/commit", post(tables::commit_all))
        .fallback(Failure::no_such_route)
        .method_not_allowed_fallback(Failure::no_such_method)
        .layer(DefaultBodyLimit::max(limit))
        .with_state(server)
}
