//! The dialect of Keboola Data Streams: sources, their sinks, settings, versions, tasks and statistics
//! under `/v1/branches`, and the ingest route `/stream/{project}/{source}/{secret}`.
//! Source: Keboola's documentation of Data Streams and the public behaviour of its Stream API.
//!
//! There is one project with one branch (`keboola.project.id`, `keboola.branch.id`). A source is one of
//! `source`, with a topic of its id; a sink is a mapped sink of that topic (`sink`). What changes
//! something is done when its answer is sent; the task of the answer tells so to whoever asks.
//!
//! Owns: routes, forms of bodies and answers, error names. Does not own: sources, sinks and their
//! versions (`source`, `sink`, `store::history`), mapping and tables (`sink::mapping`, `tier`).

mod failure;
mod files;
mod id;
mod ingest;
mod page;
mod path;
mod routes;
mod settings;
mod show;
mod sinks;
mod sources;
mod task;

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::auth::{Operation, Resource};
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::forwarded::Reached;
use crate::http::problem::Problem;

use failure::Failure;
pub(super) use routes::{managed, routes};

/// The ingest route, which has a secret instead of a token.
pub(super) const INGEST: &str = "/stream/";
/// Paths that need no token.
pub(super) const OPEN: [&str; 8] = [
    "/v1",
    "/health-check",
    "/v1/documentation",
    "/v1/documentation/",
    "/v1/documentation/openapi.json",
    "/v1/documentation/openapi3.json",
    "/v1/documentation/openapi.yaml",
    "/v1/documentation/openapi3.yaml",
];
/// Everything else needs one.
const MANAGED: [&str; 2] = ["/v1/branches/", "/v1/tasks/"];
/// Methods and headers that pages of other sites may use.
const INGEST_ALLOWED: (&str, &str) = ("OPTIONS, POST", "*");
const MANAGED_ALLOWED: (&str, &str) =
    ("GET, POST, PATCH, PUT, DELETE", "Content-Type, X-StorageApi-Token, X-KBC-ProjectId");

/// True for a path whose clients read errors in Keboola's form.
pub(super) fn is_route(path: &str) -> bool {
    path.starts_with(INGEST)
        || OPEN.contains(&path)
        || MANAGED.iter().any(|prefix| path.starts_with(prefix))
}

/// A problem in Keboola's form.
pub(super) fn refusal(path: &str, problem: &Problem) -> Response {
    if path.starts_with(INGEST) {
        return Failure::of_ingest(problem).into_response();
    }
    Failure::of_problem(problem).into_response()
}

async fn about(reached: Reached) -> Json<Value> {
    let document = format!("{}/v1/documentation/openapi.json", reached.base());
    Json(json!({ "api": "stream", "documentation": document }))
}

/// Checks that the caller may see and change sources, which hold secrets, and that the branch is the
/// one there is.
fn admit(api: &Api, caller: &Caller, branch: &str) -> Result<(), Failure> {
    if !caller.may(Operation::Alter, Resource::Cluster) {
        let refused = caller.refusal_text(Operation::Alter, Resource::Cluster);
        return Err(Failure::api(
            403,
            "forbidden",
            format!("only admin token can do write operations on streams: {refused}"),
        ));
    }
    if branch == "default" || branch == api.options.keboola_branch.to_string() {
        return Ok(());
    }
    let message = format!("branch {branch:?} not found in the project");
    Err(Failure::api(404, "branchNotFound", message))
}

/// What an answer of this dialect has besides its own.
pub(super) struct Dress {
    is_ingest: bool,
    is_preflight: bool,
}

impl Dress {
    /// None for a request that is not of this dialect.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let is_ingest = path.starts_with(INGEST);
        is_route(path).then(|| Self { is_ingest, is_preflight: *method == Method::OPTIONS })
    }

    /// The answer to what a browser asks before it sends: no token comes with that.
    pub(super) fn preflight(&self) -> Option<Response> {
        self.is_preflight.then(|| StatusCode::OK.into_response())
    }

    /// Names the server as Keboola's does, and lets pages of any site read the answer: what they send
    /// has a token or a secret in it, which no browser adds by itself.
    pub(super) fn on(self, api: &Api, response: Response) -> Response {
        let mut response = match (response.status(), self.is_ingest) {
            (StatusCode::METHOD_NOT_ALLOWED, true) => {
                Failure::ingest(404, "routeNotFound", "not found").into_response()
            }
            (StatusCode::METHOD_NOT_ALLOWED, false) => {
                let text = "the method is not allowed here";
                Failure::api(405, "methodNotAllowed", text).into_response()
            }
            _ => response,
        };
        // Where no token is needed, other sites are kept out before this.
        if !api.auth.is_required() && !self.is_ingest {
            return response;
        }
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        if self.is_ingest {
            headers.insert(header::SERVER, HeaderValue::from_static("Keboola/Stream/HTTPSource"));
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
        if self.is_preflight {
            let (methods, allowed) = match self.is_ingest {
                true => INGEST_ALLOWED,
                false => MANAGED_ALLOWED,
            };
            let methods = HeaderValue::from_static(methods);
            headers.insert(header::ALLOW, methods.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
            let allowed = HeaderValue::from_static(allowed);
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        response
    }
}
