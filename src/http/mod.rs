//! THE WEB: ingest, administration, the Iceberg REST catalog, probes, problem answers.
//!
//! Owns: routes, limits and answers of the HTTP side. Does not own: the log (events take the same
//! road as Kafka's batches), tables (`tier`, `table`).

pub mod admin;
pub mod iceberg;
pub mod ingest;
pub mod openapi;
mod origin;
mod probes;
pub mod problem;
pub mod request_id;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::config::Flush;
use crate::log::Log;
use crate::runtime::{Clock, Tasks, metrics};
use crate::store::{self, Store};
use crate::tier::Tiering;
use crate::topic::Topics;

pub use ingest::{IdLimits, OnceLimits};
pub use server::serve;

use problem::Problem;

/// Limits and switches of the HTTP side.
#[derive(Debug, Clone)]
pub struct Options {
    /// Largest body after decompression, bytes.
    pub body_max_bytes: usize,
    /// Most events of one request.
    pub events_max: usize,
    /// Memory for bodies, bytes.
    pub in_bytes: usize,
    /// A topic that is not there is made by its first event.
    pub auto_create_topics: bool,
    /// How much is remembered of requests that count once.
    pub once: OnceLimits,
    /// How much is remembered of events that count once.
    pub ids: IdLimits,
    /// What an answer to events means unless the sender asks for `ack=durable`.
    pub flush: Flush,
    /// Only requests meant for this machine are answered (loopback bind without auth).
    pub loopback_only: bool,
}

/// What the routes need; cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub(crate) log: Log,
    pub(crate) topics: Topics,
    pub(crate) tiering: Tiering,
    pub(crate) options: Arc<Options>,
    pub(crate) engine: ingest::Engine,
    metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    draining: Arc<AtomicBool>,
}

impl Api {
    /// Puts the parts together. `metrics` renders what is scraped.
    pub fn new(
        log: Log,
        topics: Topics,
        tiering: Tiering,
        store: Store,
        options: Options,
        clock: Clock,
        metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
    ) -> Self {
        let options = Arc::new(options);
        let (of_log, of_topics, limits) = (log.clone(), topics.clone(), Arc::clone(&options));
        let engine = ingest::Engine::new(of_log, of_topics, store, limits, clock);
        Self { log, topics, tiering, options, engine, metrics, draining: Arc::default() }
    }

    /// Reads back what is remembered of requests; before the first one.
    ///
    /// # Errors
    /// [`store::Error`].
    pub async fn load(&self) -> Result<(), store::Error> {
        let engine = self.engine.clone();
        let loaded = tokio::task::spawn_blocking(move || engine.load());
        loaded.await.map_err(|_| store::Error::Closed)?
    }

    /// Runs what is to be done from time to time until the tasks stop.
    pub fn spawn_chores(&self, tasks: &Tasks) {
        self.engine.spawn_chores(tasks);
    }

    /// From now on events are refused with 503, and `/readyz` says so.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn not_ready(&self) -> Option<Problem> {
        if self.draining.load(Ordering::Relaxed) {
            return Some(Problem::new("draining", "the server is shutting down").retry_after(5));
        }
        self.log.admission().err().map(|reason| Problem::new("storage_full", reason).retry_after(5))
    }
}

/// All routes. `iceberg` is the catalog's router, mounted under `/iceberg`.
pub fn router(api: Api, iceberg: Router) -> Router {
    let guarded = api.options.loopback_only;
    let native = Router::new()
        .route("/api/v1/topics", get(admin::topics::list).post(admin::topics::create))
        .route(
            "/api/v1/topics/{topic}",
            get(admin::topics::describe).patch(admin::topics::alter).delete(admin::topics::delete),
        )
        .route(
            "/api/v1/topics/{topic}/events",
            post(ingest::events).put(ingest::events).patch(ingest::events),
        )
        .route("/api/v1/topics/{topic}/channels/{channel}", get(ingest::channel))
        .route("/api/v1/tables", get(admin::tables::list))
        .route("/api/v1/tables/{table}", get(admin::tables::describe))
        .route("/api/v1/tables/{table}/flush", post(admin::tables::flush))
        .route("/api/v1/tables/{table}/resume", post(admin::tables::resume))
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/problems", get(openapi::problems))
        .route("/", get(openapi::welcome))
        .method_not_allowed_fallback(async || {
            Problem::new("method_not_allowed", "see /openapi.json for what is allowed here")
        })
        .fallback(async || Problem::new("not_found", "see /openapi.json for what is here"))
        .with_state(api)
        .layer(middleware::map_response(as_problem));
    Router::new()
        .nest("/iceberg", iceberg)
        .merge(native)
        .layer(middleware::from_fn_with_state(guarded, origin::layer))
        .layer(middleware::from_fn(measured))
        .layer(middleware::from_fn(request_id::layer))
}

/// The library's own refusals (a path that is not UTF-8, a body over its limit) are plain text;
/// clients get a problem all the same.
async fn as_problem(response: Response) -> Response {
    let plain = response.headers().get(header::CONTENT_TYPE);
    let plain = plain.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    match response.status() {
        StatusCode::BAD_REQUEST if plain => {
            Problem::new("bad_request", "the path or the body cannot be read").into_response()
        }
        StatusCode::PAYLOAD_TOO_LARGE if plain => {
            Problem::new("too_large", "the body is too large").into_response()
        }
        _ => response,
    }
}

/// Counts requests by route and status.
async fn measured(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    ::metrics::counter!(metrics::HTTP_REQUESTS, "route" => route, "status" => status).increment(1);
    response
}

/// Takes a name from the path or answers that there is no such thing.
pub(crate) fn unknown_topic(name: &str) -> Problem {
    Problem::new("unknown_topic", format!("topic {name:?} does not exist"))
}
